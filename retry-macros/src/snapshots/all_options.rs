async fn report(totals: &mut Vec<i64>) -> Result<(), BankError> {
    let source = &POOL;
    let mut __call = {
        #[allow(clippy::needless_update)]
        static __CALLSITE: bank::retry::__private::Callsite = bank::retry::__private::Callsite::new(
            "report",
            bank::retry::__private::with_retry_if(bank::retry::__private::Policy {
                retries: 5,
                deadlock_retries: ::core::option::Option::Some(LIMIT),
                isolation: ::core::option::Option::Some(
                    bank::retry::__private::Isolation::Serializable,
                ),
                read_only: true,
                deferrable: true,
                base_delay: ::core::time::Duration::from_micros(250u64),
                max_delay: ::core::option::Option::Some(limits::CAP),
                jitter: bank::retry::__private::Jitter::Equal,
                statement_timeout: ::core::option::Option::Some(
                    ::core::time::Duration::from_micros(2000000u64),
                ),
                lock_timeout: ::core::option::Option::Some(
                    ::core::time::Duration::from_micros(20000u64),
                ),
                idle_timeout: ::core::option::Option::Some(
                    ::core::time::Duration::from_micros(60000000u64),
                ),
                deadline: ::core::option::Option::Some(
                    ::core::time::Duration::from_micros(3000000u64),
                ),
                unknown_commit: bank::retry::__private::UnknownCommit::Retry,
                retry_on: &["23505", "23P01"],
                queue: bank::retry::__private::Queue::Process,
                escalate_after: ::core::option::Option::Some(2),
                damping: bank::retry::__private::Damping::Off,
                begin: ::core::option::Option::Some(
                    bank::retry::__private::Begin::Awaited,
                ),
                ..bank::retry::__private::Policy::DEFAULT
            }),
        );
        bank::retry::__private::Call::new(
                ::core::convert::Into::into(source),
                &__CALLSITE,
            )
            .queue_by([
                bank::retry::__private::QueueKey::of(&(totals.len())),
                bank::retry::__private::QueueKey::of(&(totals.capacity())),
            ])
    };
    loop {
        let __attempt = match __call.begin().await {
            ::core::result::Result::Ok(mut tx) => {
                let __scope = tx.scope();
                let __lent = &mut tx;
                #[allow(unused_braces)]
                let __outcome: Result<(), BankError> = __scope
                    .body(async {
                        #[allow(unreachable_code)]
                        if false {
                            let __ret: Result<(), BankError> = loop {};
                            return __ret;
                        }
                        let tx: &Transaction<'_> = bank::retry::__private::lend(__lent);
                        {
                            totals
                                .push(
                                    tx
                                        .query_one("SELECT sum(cents) FROM accounts", &[])
                                        .await?
                                        .get(0),
                                );
                            Ok(())
                        }
                    })
                    .await;
                let __outcome = bank::retry::__private::Outcome::into_result(__outcome);
                let __body_error = bank::retry::__private::body_error!(
                    tx, & __outcome, | error | error.is_stale()
                );
                ::core::result::Result::Ok(tx.finish(__outcome, __body_error).await)
            }
            ::core::result::Result::Err(__error) => ::core::result::Result::Err(__error),
        };
        if let ::core::ops::ControlFlow::Break(__result) = __call.next(__attempt).await {
            return bank::retry::__private::Outcome::from_result(__result);
        }
    }
}
