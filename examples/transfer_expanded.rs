//! What `#[transactional]` makes of the function in `transfer.rs`, as `cargo expand` would show it.
//!
//! A test compares the two, comments and layout aside. What `__private` holds is no public interface: this is for
//! reading, not for copying.

// As the macro writes it; what a macro writes is exempt from style lints.
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
    // In place of `tx`: a pool, a client, or an open transaction.
    source: impl ::core::convert::Into<::retry_runtime::__private::Source<'_>>,
    from: i64,
    to: i64,
    cents: i64,
) -> Result<(), BankError> {
    let mut __call = {
        // The attribute's options, checked while compiling; the others have their defaults.
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
        // Takes a connection, unless the call has one, and sends BEGIN.
        let __attempt = match __call.begin().await {
            ::core::result::Result::Ok(mut tx) => {
                // Ends the body at the deadline, and knows of calls that are made inside it.
                let __scope = tx.scope();
                let __lent = &mut tx;
                // A block of its own, so that `return` and `?` in the body end the attempt, not the loop.
                #[allow(unused_braces)]
                let __outcome: Result<(), BankError> = __scope
                    .body(async {
                        // Never runs: it tells the compiler what `?` converts to.
                        #[allow(unreachable_code)]
                        if false {
                            let __ret: Result<(), BankError> = loop {};
                            return __ret;
                        }
                        let tx: &mut Transaction<'_> = ::retry_runtime::__private::lend(__lent);
                        // The body, untouched.
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
                // No more than itself: a return type that is no `Result` is reported here, once.
                let __outcome = ::retry_runtime::__private::Outcome::into_result(__outcome);
                // The database's failure, if there is one in the error's chain of sources.
                let __body_error = ::retry_runtime::__private::body_error!(tx, &__outcome);
                // Sends COMMIT, or ROLLBACK.
                ::core::result::Result::Ok(tx.finish(__outcome, __body_error).await)
            }
            ::core::result::Result::Err(__error) => ::core::result::Result::Err(__error),
        };
        // The call's result; or the connection is given back and, after a short sleep, another attempt follows.
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
