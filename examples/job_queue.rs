//! A job queue in a table: several workers claim jobs with `FOR UPDATE SKIP LOCKED`, and no two complete the same job.
//!
//! A worker claims a job in one transaction, works with no transaction open, and writes the result in another. If it
//! crashes, another worker claims the job after five minutes. The `attempt` of a job tells claims apart: if the first
//! worker was only slow, it can no longer complete the job. A job that fails goes back to the queue until its attempts
//! are used up.
//!
//! Prints:
//!
//! ```text
//! the worker that claimed job 1 ten minutes ago: job 1 was claimed again
//! done: 39 jobs, with 39 results for 39 jobs
//! failed: job 13 after 3 attempts: 13 is unlucky
//! ```

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use tokio::task::JoinSet;

const SCHEMA: &str = "
    CREATE TABLE jobs (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, payload bigint NOT NULL,
        state text NOT NULL DEFAULT 'queued', attempt int NOT NULL DEFAULT 0, claimed_at timestamptz, error text);
    CREATE INDEX ON jobs (id) WHERE state IN ('queued', 'running');
    CREATE TABLE results (job bigint NOT NULL, result bigint NOT NULL)";

#[derive(Debug, thiserror::Error)]
enum QueueError {
    #[error("job {0} was claimed again")]
    ClaimedAgain(i64),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Transaction(#[from] Error),
}

#[derive(Clone, Copy)]
struct Job {
    id: i64,
    attempt: i32,
    payload: i64,
}

#[transactional]
async fn enqueue(tx: &mut Transaction<'_>, payload: i64) -> Result<i64, QueueError> {
    Ok(tx.query_one("INSERT INTO jobs (payload) VALUES ($1) RETURNING id", &[&payload]).await?.get(0))
}

/// The next job that is queued, or whose worker has said nothing for five minutes.
#[transactional]
async fn claim(tx: &mut Transaction<'_>) -> Result<Option<Job>, QueueError> {
    let claim = "WITH next AS (
                     SELECT id FROM jobs
                     WHERE state = 'queued' OR state = 'running' AND claimed_at < now() - interval '5 minutes'
                     ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
                 UPDATE jobs SET state = 'running', attempt = attempt + 1, claimed_at = now()
                 FROM next WHERE jobs.id = next.id RETURNING jobs.id, attempt, payload";
    let row = tx.query_opt(claim, &[]).await?;
    Ok(row.map(|row| Job { id: row.get(0), attempt: row.get(1), payload: row.get(2) }))
}

#[transactional]
async fn complete(tx: &mut Transaction<'_>, job: Job, result: i64) -> Result<(), QueueError> {
    let done = "UPDATE jobs SET state = 'done' WHERE id = $1 AND attempt = $2 AND state = 'running'";
    if tx.execute(done, &[&job.id, &job.attempt]).await? == 0 {
        return Err(QueueError::ClaimedAgain(job.id));
    }
    tx.execute("INSERT INTO results VALUES ($1, $2)", &[&job.id, &result]).await?;
    Ok(())
}

#[transactional]
async fn fail(tx: &mut Transaction<'_>, job: Job, error: &str) -> Result<(), QueueError> {
    let failed = "UPDATE jobs SET state = CASE WHEN attempt < 3 THEN 'queued' ELSE 'failed' END, error = $3
                  WHERE id = $1 AND attempt = $2 AND state = 'running'";
    match tx.execute(failed, &[&job.id, &job.attempt, &error]).await? {
        0 => Err(QueueError::ClaimedAgain(job.id)),
        _ => Ok(()),
    }
}

async fn work(pool: deadpool_postgres::Pool) -> Result<(), QueueError> {
    while let Some(job) = claim(&pool).await? {
        match job.payload {
            13 => fail(&pool, job, "13 is unlucky").await?,
            number => complete(&pool, job, number * number).await?,
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), QueueError> {
    let database = Database::create().await;
    database.setup(SCHEMA).await;
    let pool = database.pool(4);

    for payload in 1..=40 {
        enqueue(&pool, payload).await?;
    }
    let crashed = claim(&pool).await?.expect("40 jobs are queued");
    database.setup("UPDATE jobs SET claimed_at = now() - interval '10 minutes' WHERE state = 'running'").await;

    let workers: JoinSet<_> = (0..4).map(|_| work(pool.clone())).collect();
    workers.join_all().await.into_iter().collect::<Result<(), QueueError>>()?;

    let late = complete(&pool, crashed, 0).await.expect_err("another worker has done it");
    println!("the worker that claimed job {} ten minutes ago: {late}", crashed.id);
    let done: i64 = database.value("SELECT count(*) FROM jobs WHERE state = 'done'").await;
    let results: i64 = database.value("SELECT count(*) FROM results").await;
    let jobs: i64 = database.value("SELECT count(DISTINCT job) FROM results").await;
    println!("done: {done} jobs, with {results} results for {jobs} jobs");
    let failed = "SELECT format('job %s after %s attempts: %s', id, attempt, error) FROM jobs WHERE state = 'failed'";
    println!("failed: {}", database.value::<String>(failed).await);
    Ok(())
}
