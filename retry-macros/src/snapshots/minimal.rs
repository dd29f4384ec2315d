async fn touch(
    source: impl ::core::convert::Into<::retry_runtime::__private::Source<'_>>,
    id: i64,
) -> Result<(), Error> {
    let mut __call = {
        #[allow(clippy::needless_update)]
        static __CALLSITE: ::retry_runtime::__private::Callsite = ::retry_runtime::__private::Callsite::new(
            ::core::concat!(::core::module_path!(), "::", "touch"),
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
                let __outcome: Result<(), Error> = __scope
                    .body(async {
                        #[allow(unreachable_code)]
                        if false {
                            let __ret: Result<(), Error> = loop {};
                            return __ret;
                        }
                        let tx: &mut Transaction<'_> = ::retry_runtime::__private::lend(
                            __lent,
                        );
                        {
                            tx.execute(
                                    "UPDATE accounts SET cents = cents WHERE id = $1",
                                    &[&id],
                                )
                                .await?;
                            Ok(())
                        }
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
