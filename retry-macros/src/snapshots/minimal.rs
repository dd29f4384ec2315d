async fn touch(
    source: impl ::core::convert::Into<::retry_runtime::__private::Source<'_>>,
    id: i64,
) -> Result<(), Error> {
    let mut __run = {
        #[allow(clippy::needless_update)]
        static __SITE: ::retry_runtime::__private::Site = ::retry_runtime::__private::Site::new(
            ::core::concat!(::core::module_path!(), "::", "touch"),
            ::retry_runtime::__private::Policy::DEFAULT,
        );
        ::retry_runtime::__private::Run::new(
            ::core::convert::Into::into(source),
            &__SITE,
        )
    };
    loop {
        let __ended = match __run.begin().await {
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
                let __seen = ::retry_runtime::__private::seen!(tx, & __outcome);
                ::core::result::Result::Ok(tx.settle(__outcome, __seen).await)
            }
            ::core::result::Result::Err(__error) => ::core::result::Result::Err(__error),
        };
        if let ::core::ops::ControlFlow::Break(__result) = __run.next(__ended).await {
            return ::retry_runtime::__private::Outcome::from_result(__result);
        }
    }
}
