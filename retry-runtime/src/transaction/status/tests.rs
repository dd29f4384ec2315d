//! What an attempt knows of its statements, savepoints and failures.

use super::*;
use crate::classify::Class;

fn conflict() -> Failure {
    Failure::of_statement(Class::Deadlock)
}

fn other() -> Failure {
    Failure::of_statement(Class::Fatal)
}

fn symptom() -> Failure {
    Failure::of_code("25P02")
}

fn class(status: &AttemptStatus) -> Option<Class> {
    status.failure().map(|failure| failure.class)
}

#[test]
fn a_doubt_lasts_until_a_statement_sent_later_succeeds() {
    let status = AttemptStatus::default();
    let mut earlier = status.send(BlindSpots::default());
    drop(status.send(BlindSpots::default()));
    earlier.proves_all_before();
    assert!(!status.all_is_well(), "it was sent before the doubt");
    let mut later = status.send(BlindSpots::default());
    assert!(!status.all_is_well(), "it has not ended");
    later.proves_all_before();
    drop(later);
    assert!(status.all_is_well());
}

#[test]
fn a_statement_that_may_have_been_commit_cannot_be_proved_harmless() {
    let status = AttemptStatus::default();
    status.send(BlindSpots { command: true, ..BlindSpots::default() }).gave_nothing();
    status.send(BlindSpots::default()).proves_all_before();
    assert!(!status.all_is_well());
}

#[test]
fn a_cached_statement_was_not_sent() {
    let status = AttemptStatus::default();
    status.send(BlindSpots::default()).prepared(true);
    assert!(status.all_is_well());
    assert_eq!(status.lock().sent, 0);
    status.send(BlindSpots::default()).prepared(false);
    assert!(!status.all_is_well(), "the driver may have looked up types");
}

#[test]
fn the_first_failure_decides_unless_a_later_one_is_a_conflict() {
    let status = AttemptStatus::default();
    status.record(Failure::of_statement(Class::StalePlan));
    status.record(other());
    assert_eq!(class(&status), Some(Class::StalePlan));
    status.record(conflict());
    status.record(Failure::of_statement(Class::Serialization));
    assert_eq!(class(&status), Some(Class::Deadlock));
}

#[test]
fn the_cause_of_a_symptom_is_unseen_if_a_statement_before_it_has_no_reply() {
    let status = AttemptStatus::default();
    status.send(BlindSpots::default()).prepared(false);
    status.lock().record(0, symptom());
    drop(status.send(BlindSpots::default()));
    assert!(!status.cause_unseen(), "it came before that statement");
    let status = AttemptStatus::default();
    drop(status.send(BlindSpots::default()));
    status.record(symptom());
    assert!(status.cause_unseen());
    status.record(other());
    assert!(!status.cause_unseen(), "it was seen later");
    let status = AttemptStatus::default();
    status.use_raw_client();
    status.record(symptom());
    assert!(status.cause_unseen(), "the driver's client is not watched");
}

#[test]
fn the_symptom_of_a_forgiven_failure_is_forgiven() {
    let status = AttemptStatus::default();
    let mark = status.mark();
    status.record(other());
    status.roll_back_to(mark);
    drop(status.send(BlindSpots::default()));
    status.record_of_body(symptom());
    assert!(status.failure().is_none() && !status.cause_unseen());
    status.use_raw_client();
    status.record_of_body(symptom());
    assert!(status.cause_unseen(), "it may be of a statement of the driver's client");
    let status = AttemptStatus::default();
    let mark = status.mark();
    status.record(symptom());
    status.roll_back_to(mark);
    drop(status.send(BlindSpots::default()));
    status.record_of_body(symptom());
    assert!(status.cause_unseen(), "no failure was seen");
}

#[test]
fn the_first_sent_error_stands_against_a_commit_unless_its_statement_is_undone() {
    let status = AttemptStatus::default();
    let error = || Error::OnCommitUnseen { function: "f" };
    status.send(BlindSpots::default()).stands_against_commit(error());
    status.send(BlindSpots::default()).stands_against_commit(Error::EndedByBody);
    assert!(status.has_sent_error() && !status.is_ready_to_commit());
    let mark = status.mark();
    assert!(status.take_sent_error(Some(&mark)).is_none(), "it came before the savepoint");
    assert!(matches!(status.take_sent_error(None), Some(Error::OnCommitUnseen { .. })));
    assert!(!status.has_sent_error());
    let undone = status.send(BlindSpots::default());
    undone.stands_against_commit(error());
    status.roll_back_to(mark);
    assert!(!status.has_sent_error());
    undone.stands_against_commit(error());
    assert!(!status.has_sent_error(), "the reply was read after the rollback to the savepoint");
    let mark = status.mark();
    status.send(BlindSpots::default()).stands_against_commit(error());
    assert!(status.take_sent_error(Some(&mark)).is_some());
}

#[test]
fn a_failed_statement_before_the_savepoint_keeps_its_error() {
    let status = AttemptStatus::default();
    status.send(BlindSpots::default()).stands_against_commit(Error::EndedByBody);
    let mark = status.mark();
    status.roll_back_to(mark);
    assert!(status.has_sent_error());
}

#[test]
fn the_deadline_cuts_a_statement_off_if_one_is_open() {
    let status = AttemptStatus::default();
    assert!(!status.has_expired() && !status.has_expired_in_statement() && status.is_ready_to_commit());
    status.expire();
    assert!(status.has_expired() && !status.has_expired_in_statement() && !status.is_ready_to_commit());
    status.expire_in_statement();
    assert!(status.has_expired_in_statement());
    let status = AttemptStatus::default();
    let first = status.send(BlindSpots::default());
    let second = status.send(BlindSpots::default());
    status.expire();
    assert!(status.has_expired() && status.has_expired_in_statement());
    drop((first, second));
}

#[test]
fn only_an_open_statement_is_cancelled() {
    let status = AttemptStatus::default();
    assert!(!status.begin_interrupt() && !status.is_interrupted() && !status.has_cancel_on_its_way());
    let statements = [status.send(BlindSpots::default()), status.send(BlindSpots::default())];
    assert!(status.begin_interrupt() && status.is_interrupted() && status.has_cancel_on_its_way());
    status.end_interrupt();
    assert!(status.is_interrupted() && !status.has_cancel_on_its_way());
    drop(statements);
}

#[test]
fn a_statement_without_an_error_has_succeeded_unless_the_driver_stops_reading() {
    let status = AttemptStatus::default();
    assert_eq!(status.send(BlindSpots::default()).statement, 0);
    assert_eq!(status.send(BlindSpots::default()).statement, 1);
    let status = AttemptStatus::default();
    let mut statement = status.send(BlindSpots::default());
    statement.answered(None);
    assert!(status.is_ready_to_commit());
    statement.answered(None);
    drop(statement);
    assert!(status.is_ready_to_commit(), "a second call and the drop change nothing");
    let mut cut_short = status.send(BlindSpots { end: true, ..BlindSpots::default() });
    cut_short.answered(None);
    assert!(!status.is_ready_to_commit());
    drop(cut_short);
    let status = AttemptStatus::default();
    status.send(BlindSpots { types: true, ..BlindSpots::default() }).answered(None);
    assert!(!status.is_ready_to_commit(), "a look-up of types may have failed");
}

#[test]
fn a_statement_waits_for_begin_unless_it_is_the_first() {
    let status = AttemptStatus::default();
    let poll_send = || {
        let cx = Context::from_waker(std::task::Waker::noop());
        status.poll_send(&cx, BlindSpots::default()).map(drop)
    };
    status.lock().begin = BeginReply::unanswered();
    assert!(status.is_begin_pending() && !status.is_ready_to_commit());
    assert!(poll_send().is_ready(), "BEGIN is already on its way");
    assert!(poll_send().is_pending());
    status.lock().sent = 2;
    assert!(poll_send().is_pending());
    status.expire();
    assert!(status.has_expired_in_statement(), "the body waits for BEGIN");
    status.lock().begin = BeginReply::default();
    assert!(poll_send().is_ready() && !status.holds_back());
    *status.lock() = Status { begin: BeginReply::unanswered(), ..Status::default() };
    assert!(status.holds_back(), "a sent statement waits even if it is the first");
    assert!(poll_send().is_pending(), "it must not overtake one that is held back");
}

#[test]
fn a_savepoint_forgives_a_failure_but_no_conflict() {
    let status = AttemptStatus::default();
    let mark = status.mark();
    status.record(other());
    status.roll_back_to(mark);
    assert_eq!(class(&status), None);
    let mark = status.mark();
    status.record(conflict());
    status.roll_back_to(mark);
    assert_eq!(class(&status), Some(Class::Deadlock));
}
