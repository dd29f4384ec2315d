//! What an attempt knows of its statements, savepoints and failures.

use std::fmt;
use std::sync::Arc;

use super::*;
use crate::classify::{Class, Report, Severity};

fn conflict() -> Failure {
    Failure::of_statement(Class::Deadlock)
}

fn other() -> Failure {
    Failure::of_statement(Class::Fatal)
}

fn symptom() -> Failure {
    let (severity, code, message) = (Severity::Error, "25P02".into(), "".into());
    let error = Arc::new(fmt::Error);
    Failure::reported(Report { severity, is_severity_exact: true, code, message, routine: None, error })
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
