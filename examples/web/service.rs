//! The service: a route, the deadline of a request, and the status of an error.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use deadpool_postgres::Pool;
use retry_runtime::{Class, Error, Transaction, classify, transactional, with_deadline};
use tokio::time::Instant;

pub(crate) fn router(pool: Pool) -> Router {
    Router::new()
        .route("/transfer/{from}/{to}/{cents}", post(post_transfer))
        .layer(from_fn(limit_time))
        .with_state(pool)
}

/// The client says how many milliseconds it waits. No call of the request takes longer.
async fn limit_time(request: Request, next: Next) -> Response {
    let header = request.headers().get("timeout-ms").and_then(|millis| millis.to_str().ok()?.parse().ok());
    let deadline = Instant::now() + Duration::from_millis(header.unwrap_or(30_000).min(30_000));
    with_deadline(deadline, next.run(request)).await
}

type Transfer = (i64, i64, i64);

async fn post_transfer(State(pool): State<Pool>, Path((from, to, cents)): Path<Transfer>) -> Result<(), ApiError> {
    transfer(&pool, from, to, cents).await
}

// The load in `main` is far more than a few accounts can take, so the budget is large.
#[transactional(isolation = "serializable", deadlock_retries = 100)]
async fn transfer(tx: &mut Transaction<'_>, from: i64, to: i64, cents: i64) -> Result<(), ApiError> {
    let balance: i64 = tx.query_one("SELECT cents FROM accounts WHERE id = $1", &[&from]).await?.get(0);
    if balance < cents {
        return Err(ApiError::InsufficientFunds);
    }
    tx.execute("UPDATE accounts SET cents = cents - $1 WHERE id = $2", &[&cents, &from]).await?;
    tx.execute("UPDATE accounts SET cents = cents + $1 WHERE id = $2", &[&cents, &to]).await?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("insufficient funds")]
    InsufficientFunds,
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Transaction(#[from] Error),
}

impl ApiError {
    fn status(&self) -> StatusCode {
        let class = match self {
            Self::InsufficientFunds => return StatusCode::UNPROCESSABLE_ENTITY,
            Self::Transaction(Error::DeadlineExceeded { .. }) => return StatusCode::GATEWAY_TIMEOUT,
            Self::Transaction(error) => error.class(),
            Self::Postgres(error) => classify(error).unwrap_or(Class::Fatal),
        };
        match class {
            // The client must not simply try again: the transfer may be committed, or it fails every time.
            Class::CommitUnknown | Class::Fatal => StatusCode::INTERNAL_SERVER_ERROR,
            // A conflict or a transient failure. All retries are used up, but later the request may succeed.
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self.status() {
            // The text of a database error is for the log, not for the client.
            status @ StatusCode::INTERNAL_SERVER_ERROR => status.into_response(),
            status => (status, self.to_string()).into_response(),
        }
    }
}
