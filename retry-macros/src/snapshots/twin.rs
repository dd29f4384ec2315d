/// Takes money.
#[must_use]
/**
# Transaction

Runs as a transaction at the session's isolation level, and retries if it fails:

- up to 5 times after a conflict with a concurrent transaction (deadlock, serialization failure, lock not available), sleeping at most 79.6 ms in total;
- up to 2 times after a transient failure (connection closed before `COMMIT`, failover, no free connection), sleeping at most 1.1 s in total.

Calls with a key in common wait for each other. Inside an open transaction it runs as a savepoint, and only the outermost call retries.*/
pub async fn debit(&self, id: i64) -> Result<u64, Error> {
    let source = &self.pool;
    let mut __call = {
        ::retry_runtime::__private::Call::new(
                ::core::convert::Into::into(source),
                Self::__debit_within_callsite(),
            )
            .queue_by([::retry_runtime::__private::QueueKey::of(&(id))])
    };
    loop {
        let __attempt = match __call.begin().await {
            ::core::result::Result::Ok(mut tx) => {
                let __scope = tx.scope();
                let __lent = &mut tx;
                #[allow(unused_braces)]
                let __outcome: Result<u64, Error> = __scope
                    .body(async {
                        #[allow(unreachable_code)]
                        if false {
                            let __ret: Result<u64, Error> = loop {};
                            return __ret;
                        }
                        let tx: &mut Transaction<'_> = ::retry_runtime::__private::lend(
                            __lent,
                        );
                        { Ok(tx.execute(self.sql, &[&id]).await?) }
                    })
                    .await;
                let __outcome = ::retry_runtime::__private::Outcome::into_result(
                    __outcome,
                );
                let __body_error = ::retry_runtime::__private::body_error!(
                    tx, & __outcome
                );
                ::core::result::Result::Ok(tx.finish(__outcome, __body_error).await)
            }
            ::core::result::Result::Err(__error) => ::core::result::Result::Err(__error),
        };
        if let ::core::ops::ControlFlow::Break(__result) = __call.next(__attempt).await {
            return ::retry_runtime::__private::Outcome::from_result(__result);
        }
    }
}
#[must_use]
/// The twin of [`debit`](Self::debit) that takes a source: `&mut *tx`, in which the call is nested, a pool or a client.
#[allow(dead_code)]
/**
# Transaction

Runs as a transaction at the session's isolation level, and retries if it fails:

- up to 5 times after a conflict with a concurrent transaction (deadlock, serialization failure, lock not available), sleeping at most 79.6 ms in total;
- up to 2 times after a transient failure (connection closed before `COMMIT`, failover, no free connection), sleeping at most 1.1 s in total.

Calls with a key in common wait for each other. Inside an open transaction it runs as a savepoint, and only the outermost call retries.*/
pub async fn debit_within(
    &self,
    source: impl ::core::convert::Into<::retry_runtime::__private::Source<'_>>,
    id: i64,
) -> Result<u64, Error> {
    let mut __call = {
        ::retry_runtime::__private::Call::new(
                ::core::convert::Into::into(source),
                Self::__debit_within_callsite(),
            )
            .queue_by([::retry_runtime::__private::QueueKey::of(&(id))])
    };
    loop {
        let __attempt = match __call.begin().await {
            ::core::result::Result::Ok(mut tx) => {
                let __scope = tx.scope();
                let __lent = &mut tx;
                #[allow(unused_braces)]
                let __outcome: Result<u64, Error> = __scope
                    .body(async {
                        #[allow(unreachable_code)]
                        if false {
                            let __ret: Result<u64, Error> = loop {};
                            return __ret;
                        }
                        let tx: &mut Transaction<'_> = ::retry_runtime::__private::lend(
                            __lent,
                        );
                        { Ok(tx.execute(self.sql, &[&id]).await?) }
                    })
                    .await;
                let __outcome = ::retry_runtime::__private::Outcome::into_result(
                    __outcome,
                );
                let __body_error = ::retry_runtime::__private::body_error!(
                    tx, & __outcome
                );
                ::core::result::Result::Ok(tx.finish(__outcome, __body_error).await)
            }
            ::core::result::Result::Err(__error) => ::core::result::Result::Err(__error),
        };
        if let ::core::ops::ControlFlow::Break(__result) = __call.next(__attempt).await {
            return ::retry_runtime::__private::Outcome::from_result(__result);
        }
    }
}
#[doc(hidden)]
#[allow(dead_code)]
fn __debit_within_callsite() -> &'static ::retry_runtime::__private::Callsite {
    #[allow(clippy::needless_update)]
    static __CALLSITE: ::retry_runtime::__private::Callsite = ::retry_runtime::__private::Callsite::new(
        ::core::concat!(::core::module_path!(), "::", "debit"),
        ::retry_runtime::__private::Policy::DEFAULT,
    );
    &__CALLSITE
}
