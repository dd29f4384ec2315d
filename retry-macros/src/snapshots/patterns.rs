async fn drain(
    source: impl ::core::convert::Into<::retry_runtime::__private::Source<'_>>,
    ids: Vec<i64>,
    (a, b): (i64, i64),
) -> Result<i64, Error> {
    let mut __call = {
        #[allow(clippy::needless_update)]
        static __CALLSITE: ::retry_runtime::__private::Callsite = ::retry_runtime::__private::Callsite::new(
            ::core::concat!(::core::module_path!(), "::", "drain"),
            ::retry_runtime::__private::Policy::DEFAULT,
        );
        ::retry_runtime::__private::Call::new(
            ::core::convert::Into::into(source),
            &__CALLSITE,
        )
    };
    loop {
        let __attempt = match __call.begin().await {
            ::core::result::Result::Ok(mut __tx) => {
                let __scope = __tx.scope();
                let __lent = &mut __tx;
                #[allow(unused_braces)]
                let __outcome: Result<i64, Error> = __scope
                    .body(async {
                        #[allow(unreachable_code)]
                        if false {
                            let __ret: Result<i64, Error> = loop {};
                            return __ret;
                        }
                        let mut ids = ::core::clone::Clone::clone(&ids);
                        let mut a = ::core::clone::Clone::clone(&a);
                        let _: &mut Transaction<'_> = ::retry_runtime::__private::lend(
                            __lent,
                        );
                        {
                            a += ids.pop().unwrap_or(b);
                            Ok(a)
                        }
                    })
                    .await;
                let __outcome = ::retry_runtime::__private::Outcome::into_result(
                    __outcome,
                );
                let __body_error = ::retry_runtime::__private::body_error!(
                    __tx, & __outcome
                );
                ::core::result::Result::Ok(__tx.finish(__outcome, __body_error).await)
            }
            ::core::result::Result::Err(__error) => ::core::result::Result::Err(__error),
        };
        if let ::core::ops::ControlFlow::Break(__result) = __call.next(__attempt).await {
            return ::retry_runtime::__private::Outcome::from_result(__result);
        }
    }
}
