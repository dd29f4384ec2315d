//! The classes of failures, and what else their codes say.

use super::*;

#[derive(Clone, Debug)]
struct Sent;

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sent by a server")
    }
}

impl StdError for Sent {}

/// What a server sends.
fn server(severity: Severity, code: &str, message: &str, routine: &str) -> Failure {
    let (code, message, routine) = (code.into(), message.into(), Some(routine.into()));
    Failure::reported(Report { severity, is_severity_exact: true, code, message, routine, error: Arc::new(Sent) })
}

impl Failure {
    /// What a server sends with this code.
    pub(crate) fn of_code(code: &str) -> Self {
        server(Severity::Error, code, "", "")
    }
}

/// What a pooler sends.
fn pooler(severity: Severity, code: &str, message: &str) -> Failure {
    let (code, message) = (code.into(), message.into());
    Failure::reported(Report {
        severity,
        is_severity_exact: false,
        code,
        message,
        routine: None,
        error: Arc::new(Sent),
    })
}

#[test]
fn errors_are_classified_by_code() {
    let class = |code| server(Severity::Error, code, "", "exec_simple_query").class;
    for (codes, expected) in [
        (&["40001", "CR000", "OC000", "OC001"][..], Class::Serialization),
        (&["40P01"], Class::Deadlock),
        (&["55P03", "55006"], Class::Lock),
        (&["08006", "57P01", "57P03", "25P03"], Class::Connection),
        (&["53300"], Class::Capacity),
        (&["25006"], Class::ReadOnly),
        (&["26000"], Class::StalePlan),
        (&["08007", "40003"], Class::CommitUnknown),
        (&["23505", "42601", "25P02", "57014", "0A000", "XX000", "53100"], Class::Fatal),
    ] {
        for code in codes {
            assert_eq!(class(code), expected, "{code}");
        }
    }
}

#[test]
fn some_codes_need_the_routine_or_the_text() {
    let class = |code, message, routine| server(Severity::Error, code, message, routine).class;
    assert_eq!(class("55006", "", "CheckTableNotInUse"), Class::Fatal);
    assert_eq!(class("0A000", "", "RevalidateCachedQuery"), Class::StalePlan);
    assert_eq!(class("0A000", "", "call_enum_check_hook"), Class::ReadOnly);
    assert_eq!(class("0A000", "", "GetSerializableTransactionSnapshot"), Class::ReadOnly);
    assert_eq!(class("0A000", "cached plan must not change result type", ""), Class::StalePlan);
    let citus = "could not commit transaction for shard 102008 on at least one active node";
    assert_eq!(class("XX000", citus, ""), Class::Serialization);
    assert_eq!(class("XX000", "could not commit transaction for shard 102008 on another node", ""), Class::Fatal);
    assert_eq!(class("XX000", "no connection on at least one active node", ""), Class::Fatal);
    assert_eq!(pooler(Severity::Error, "08P01", "query_wait_timeout").class, Class::Capacity);
    assert_eq!(pooler(Severity::Fatal, "08P01", "server conn crashed?").class, Class::Connection);
    assert_eq!(pooler(Severity::Fatal, "08P01", "something else").class, Class::Fatal);
}

#[test]
fn fatal_ends_the_session_whatever_its_code() {
    for (code, expected) in [
        ("40001", Class::Connection),
        ("53100", Class::Connection),
        ("53300", Class::Capacity),
        ("40003", Class::CommitUnknown),
        ("25P04", Class::Fatal),
        ("28P01", Class::Fatal),
        ("3D000", Class::Fatal),
    ] {
        let failure = server(Severity::Fatal, code, "", "ProcessInterrupts");
        assert_eq!((failure.class, failure.ends_session), (expected, true), "{code}");
    }
    assert_eq!(server(Severity::Panic, "XX000", "", "").class, Class::Connection);
}

#[test]
fn a_failure_tells_what_its_code_says() {
    type Question = fn(&Failure) -> bool;
    let questions: [(Question, &[&str]); 9] = [
        (Failure::is_symptom, &["25P02"]),
        (Failure::is_refused_write, &["25006"]),
        (Failure::is_open_transaction, &["25001", "25P02"]),
        (Failure::is_unsupported, &["42883", "42P01", "42501"]),
        (Failure::is_unknown_to_server, &["0A000", "42704", "42883", "42501"]),
        (Failure::is_missing_table, &["42P01", "3F000", "42501"]),
        (Failure::is_no_transaction, &["25P01"]),
        (Failure::is_invalid_value, &["22023"]),
        (Failure::is_canceled, &["57014"]),
    ];
    let codes: Vec<&str> = questions.iter().flat_map(|(_, codes)| *codes).copied().chain(["23505"]).collect();
    for (index, (question, yes)) in questions.iter().enumerate() {
        for code in &codes {
            let failure = server(Severity::Error, code, "", "x");
            assert_eq!(question(&failure), yes.contains(code), "question {index}: {code}");
        }
        assert!(!question(&Failure::of_statement(Class::Fatal)), "question {index}: the driver's own error");
    }
    assert!(!server(Severity::Error, "0A000", "", "RevalidateCachedQuery").is_unknown_to_server(), "a stale plan");
}

#[test]
fn messages_that_may_quote_data_are_not_public() {
    assert_eq!(server(Severity::Error, "40P01", "deadlock detected", "x").public_message(), Some("deadlock detected"));
    assert_eq!(server(Severity::Error, "22P02", "invalid input: \"secret\"", "x").public_message(), None);
    assert_eq!(Failure::of_statement(Class::Deadlock).public_message(), None);
    let source = server(Severity::Error, "40P01", "", "x").to_source();
    assert_eq!(source.expect("the server's error").to_string(), "sent by a server");
    assert_eq!(Class::Deadlock.to_string(), Class::Deadlock.as_str());
}

#[test]
fn only_a_server_proves_a_rollback_by_a_closed_connection() {
    assert!(server(Severity::Error, "23505", "", "x").proves_rollback());
    assert!(server(Severity::Error, "08006", "", "postgres_fdw").proves_rollback());
    assert!(!pooler(Severity::Error, "08006", "").proves_rollback());
    for (is_severity_exact, routine) in [(true, None), (false, Some("x".into()))] {
        let (code, message) = ("08006".into(), "".into());
        let report =
            Report { severity: Severity::Error, is_severity_exact, code, message, routine, error: Arc::new(Sent) };
        assert!(!Failure::reported(report).proves_rollback());
    }
    assert!(!server(Severity::Error, "40003", "", "x").proves_rollback());
    assert!(server(Severity::Fatal, "57P01", "", "ProcessInterrupts").proves_rollback());
    assert!(!pooler(Severity::Fatal, "57P01", "").proves_rollback());
    assert!(!server(Severity::Fatal, "57P02", "", "quickdie").proves_rollback());
    assert!(!Failure::of_session(Class::Connection).proves_rollback());
}

#[test]
fn a_cancel_may_come_before_commit_runs() {
    assert!(server(Severity::Error, "23505", "", "_bt_check_unique").is_of_commit());
    assert!(!server(Severity::Error, "57014", "", "ProcessInterrupts").is_of_commit());
    assert!(!server(Severity::Error, "40001", "", "ProcessRecoveryConflictInterrupts").is_of_commit());
    assert!(!server(Severity::Fatal, "57P01", "", "x").is_of_commit());
    assert!(!pooler(Severity::Error, "40001", "").is_of_commit());
}
