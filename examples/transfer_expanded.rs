//! The code that `#[transactional]` generates for the function in `transfer.rs`, as `cargo expand` would show it.
//!
//! A test compares it with the macro's output, apart from comments and layout. It is for reading, not for copying:
//! `__private` is not a public API.

// Clippy does not report this in code that a macro generates.
#![allow(clippy::empty_loop)]

use retry_runtime::Transaction;
use retry_tests::Database;

#[derive(Debug, thiserror::Error)]
enum BankError {
    #[error("insufficient funds")]
    InsufficientFunds,
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Transaction(#[from] retry_runtime::Error),
}

async fn transfer(
    // Replaces `tx`: a pool, a client, or an open transaction.
    source: impl ::core::convert::Into<::retry_runtime::__private::Source<'_>>,
    from: i64,
    to: i64,
    cents: i64,
) -> Result<(), BankError> {
    let mut __call = {
        // The attribute's options, checked at compile time. The others have their defaults.
        #[allow(clippy::needless_update)]
        static __CALLSITE: ::retry_runtime::__private::Callsite = ::retry_runtime::__private::Callsite::new(
            ::core::concat!(::core::module_path!(), "::", "transfer"),
            ::retry_runtime::__private::Policy {
                retries: 5,
                deadlock_retries: ::core::option::Option::Some(5),
                isolation: ::core::option::Option::Some(::retry_runtime::__private::Isolation::Serializable),
                ..::retry_runtime::__private::Policy::DEFAULT
            },
        );
        ::retry_runtime::__private::Call::new(::core::convert::Into::into(source), &__CALLSITE)
    };
    loop {
        // Takes a connection, unless the call already has one, and sends BEGIN.
        let __attempt = match __call.begin().await {
            ::core::result::Result::Ok(mut tx) => {
                // Enforces the deadline, and detects calls that are made inside the body.
                let __scope = tx.scope();
                let __lent = &mut tx;
                // The `async` block lets `return` and `?` in the body end the attempt and not the loop.
                #[allow(unused_braces)]
                let __outcome: Result<(), BankError> = __scope
                    .body(async {
                        // Never runs. It tells the compiler the type that `?` converts to.
                        #[allow(unreachable_code)]
                        if false {
                            let __ret: Result<(), BankError> = loop {};
                            return __ret;
                        }
                        let tx: &mut Transaction<'_> = ::retry_runtime::__private::lend(__lent);
                        // The body, unchanged.
                        {
                            let balance: i64 =
                                tx.query_one("SELECT balance FROM accounts WHERE id = $1", &[&from]).await?.get(0);
                            if balance < cents {
                                return Err(BankError::InsufficientFunds); // rolled back, not retried
                            }
                            tx.execute("UPDATE accounts SET balance = balance - $1 WHERE id = $2", &[&cents, &from])
                                .await?;
                            tx.execute("UPDATE accounts SET balance = balance + $1 WHERE id = $2", &[&cents, &to])
                                .await?;
                            Ok(())
                        }
                    })
                    .await;
                // Does nothing to a `Result`. For any other return type, the compile error is reported here, once.
                let __outcome = ::retry_runtime::__private::Outcome::into_result(__outcome);
                // The database's error, if the body's error has one in its chain of sources.
                let __body_error = ::retry_runtime::__private::body_error!(tx, &__outcome);
                // Sends COMMIT or ROLLBACK.
                ::core::result::Result::Ok(tx.finish(__outcome, __body_error).await)
            }
            ::core::result::Result::Err(__error) => ::core::result::Result::Err(__error),
        };
        // Returns the call's result; or gives the connection back, sleeps, and lets the next attempt begin.
        if let ::core::ops::ControlFlow::Break(__result) = __call.next(__attempt).await {
            return ::retry_runtime::__private::Outcome::from_result(__result);
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BankError> {
    let database = Database::create().await;
    database
        .setup(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
             INSERT INTO accounts VALUES (1, 1000), (2, 0)",
        )
        .await;
    transfer(&database.pool(1), 1, 2, 500).await?;
    println!("500 cents moved from account 1 to account 2");
    Ok(())
}
