/// What an account holds.
#[must_use]
/**
# Transaction

Runs as a transaction at the session's isolation level, and retries if it fails:

- up to 5 times after a conflict with a concurrent transaction (deadlock, serialization failure, lock not available), sleeping at most 79.6 ms in total;
- up to 2 times after a transient failure (connection closed before `COMMIT`, failover, no free connection), sleeping at most 1.1 s in total.

Inside an open transaction it runs as a savepoint, and only the outermost call retries.*/
pub(crate) async fn cents(&self, id: i64) -> anyhow::Result<i64> {
    let source = &self.pool;
    let mut __call = {
        #[allow(clippy::needless_update)]
        static __CALLSITE: ::retry_runtime::__private::Callsite = ::retry_runtime::__private::Callsite::new(
            ::core::concat!(::core::module_path!(), "::", "cents"),
            ::retry_runtime::__private::Policy::DEFAULT,
        );
        ::retry_runtime::__private::Call::new(
            ::core::convert::Into::into(source),
            &__CALLSITE,
        )
    };
    loop {
        let __attempt = match __call.begin().await {
            ::core::result::Result::Ok(mut tx) => {
                let __scope = tx.scope();
                let __lent = &mut tx;
                #[allow(unused_braces)]
                let __outcome: anyhow::Result<i64> = __scope
                    .body(async {
                        #[allow(unreachable_code)]
                        if false {
                            let __ret: anyhow::Result<i64> = loop {};
                            return __ret;
                        }
                        let tx: &Transaction<'_> = ::retry_runtime::__private::lend(
                            __lent,
                        );
                        { Ok(tx.query_one(self.sql, &[&id]).await?.get(0)) }
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
