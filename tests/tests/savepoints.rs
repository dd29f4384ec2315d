//! Savepoints that a body begins itself.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use retry_runtime::{Class, Error, Transaction, classify, transactional};
use retry_tests::Database;
use retry_tests::calls::dropped_after;
use retry_tests::rival::Rival;

async fn database() -> Database {
    let db = Database::create().await;
    db.setup("CREATE TABLE names (id int PRIMARY KEY)").await;
    db.accounts(2, 100).await;
    db
}

async fn names(db: &Database) -> Vec<i32> {
    db.value("SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM names").await
}

#[derive(Clone, Copy, Debug)]
enum End {
    Commit,
    RollBack,
    Drop,
    MarkAndCommit,
}

/// Inserts each id in a savepoint of its own.
#[transactional]
async fn insert(tx: &mut Transaction<'_>, ids: &[(i32, End)], named: bool) -> Result<u32, Error> {
    for (id, end) in ids {
        let savepoint = if named { tx.savepoint("item").await? } else { tx.transaction().await? };
        let inserted = savepoint.execute("INSERT INTO names VALUES ($1)", &[id]).await;
        match end {
            End::Commit if inserted.is_ok() => savepoint.commit().await?,
            End::RollBack => savepoint.rollback().await?,
            End::MarkAndCommit => {
                savepoint.set_rollback_only();
                savepoint.commit().await?;
            }
            End::Commit | End::Drop => drop(savepoint),
        }
    }
    Ok(tx.attempt())
}

#[tokio::test]
async fn only_committed_savepoints_stay() {
    let ids = [(1, End::Commit), (1, End::Commit), (2, End::RollBack), (3, End::Drop), (4, End::MarkAndCommit)];
    let ids = [&ids[..], &[(5, End::Commit)]].concat();
    for named in [false, true] {
        let db = database().await;
        let pool = db.pool(1);
        assert_eq!(insert(&pool, &ids, named).await.unwrap(), 1);
        assert_eq!(names(&db).await, [1, 5]);
        db.setup("TRUNCATE names").await;
        assert_eq!(insert(&mut db.client().await, &ids, named).await.unwrap(), 1);
        assert_eq!(names(&db).await, [1, 5]);
        assert_eq!((db.open_transactions().await, pool.status().available), (0, 1));
    }
}

#[transactional]
async fn insert_one(tx: &mut Transaction<'_>, id: i32) -> Result<(), Error> {
    tx.execute("INSERT INTO names VALUES ($1)", &[&id]).await?;
    Ok(())
}

#[transactional]
async fn nest(tx: &mut Transaction<'_>) -> Result<(), Error> {
    let mut outer = tx.transaction().await?;
    insert_one(&mut *outer, 1).await?;
    let mut inner = outer.transaction().await?;
    insert_one(&mut *inner, 2).await?;
    inner.rollback().await?;
    outer.commit().await?;
    insert_one(&mut *tx, 3).await
}

#[tokio::test]
async fn savepoints_and_nested_calls_can_be_mixed() {
    let db = database().await;
    nest(&db.pool(1)).await.unwrap();
    assert_eq!(names(&db).await, [1, 3]);
}

/// Commits a savepoint in which a statement had failed.
#[transactional]
async fn commit_after_a_failure(tx: &mut Transaction<'_>, go_on: bool) -> Result<(), Error> {
    tx.execute("INSERT INTO names VALUES (1)", &[]).await?;
    let savepoint = tx.transaction().await?;
    let _ = savepoint.execute("INSERT INTO names VALUES (1)", &[]).await;
    let committed = savepoint.commit().await;
    let Err(Error::Aborted { source: Some(first), .. }) = &committed else { panic!("{committed:?}") };
    assert_eq!(first.code().code(), "23505");
    if go_on { Ok(()) } else { committed }
}

#[tokio::test]
async fn a_savepoint_with_a_failed_statement_is_rolled_back() {
    let db = database().await;
    let pool = db.pool(1);
    let error = commit_after_a_failure(&pool, false).await.unwrap_err();
    assert!(matches!(error, Error::Aborted { .. }), "{error:?}");
    assert_eq!(names(&db).await, [0; 0]);
    commit_after_a_failure(&pool, true).await.unwrap();
    assert_eq!(names(&db).await, [1]);
}

/// Conflicts with a rival in a savepoint, and swallows that.
#[transactional(isolation = "repeatable read", deadlock_retries = 2)]
async fn conflict(tx: &mut Transaction<'_>, rival: &Rival, conflicts: u32) -> Result<u32, Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if tx.attempt() <= conflicts {
        rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    let attempt = tx.attempt();
    let savepoint = tx.transaction().await?;
    if savepoint.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await.is_ok() {
        savepoint.commit().await?;
    }
    Ok(attempt)
}

#[tokio::test]
async fn a_conflict_in_a_savepoint_ends_the_attempt() {
    let db = database().await;
    let (pool, rival) = (db.pool(1), Rival::connect(&db).await);
    assert_eq!(conflict(&pool, &rival, 1).await.unwrap(), 2);
    assert_eq!(db.cents(1).await, 111);
    let error = conflict(&pool, &rival, u32::MAX).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Serialization));
}

#[transactional]
async fn with_hooks(tx: &mut Transaction<'_>, commit: bool, hooks: &Arc<AtomicU32>) -> Result<(), Error> {
    let savepoint = tx.transaction().await?;
    let (committed, rolled_back) = (hooks.clone(), hooks.clone());
    savepoint.on_commit(async move {
        committed.fetch_add(1, Ordering::Relaxed);
    });
    savepoint.on_rollback(async move {
        rolled_back.fetch_add(10, Ordering::Relaxed);
    });
    if commit { savepoint.commit().await } else { savepoint.rollback().await }
}

#[tokio::test]
async fn hooks_follow_the_savepoint() {
    let db = database().await;
    for (commit, expected) in [(true, 1), (false, 10)] {
        let hooks = Arc::default();
        with_hooks(&db.pool(1), commit, &hooks).await.unwrap();
        assert_eq!(hooks.load(Ordering::Relaxed), expected);
    }
}

#[tokio::test]
async fn a_call_dropped_at_any_poll_commits_all_or_nothing() {
    let db = database().await;
    let pool = db.pool(1);
    let ids = [(1, End::Commit), (2, End::RollBack), (3, End::Drop), (4, End::Commit)];
    let mut polls = 0;
    while !dropped_after(insert(&pool, &ids, false), polls).await {
        polls += 1;
        drop(pool.get().await.unwrap());
        let names = names(&db).await;
        assert!(names.is_empty() || names == [1, 4], "after {polls} polls: {names:?}");
        assert_eq!(db.open_transactions().await, 0, "after {polls} polls");
        db.setup("TRUNCATE names").await;
    }
    assert!(polls > 8, "only {polls} polls");
}

/// Drops what it does in a savepoint after a number of polls, and commits the rest.
#[transactional]
async fn drop_inside(tx: &mut Transaction<'_>, polls: u32) -> Result<bool, Error> {
    let work = async {
        let savepoint = tx.transaction().await?;
        savepoint.execute("INSERT INTO names VALUES (1)", &[]).await?;
        savepoint.commit().await
    };
    Ok(dropped_after(work, polls).await)
}

#[tokio::test]
async fn work_dropped_at_any_poll_inside_a_body_is_never_half_committed() {
    let db = database().await;
    let pool = db.pool(1);
    for polls in 0.. {
        let done = drop_inside(&pool, polls).await;
        let expected: &[i32] = if let Ok(true) = done { &[1] } else { &[] };
        assert_eq!(names(&db).await, expected, "after {polls} polls: {done:?}");
        if let Ok(true) = done {
            assert!(polls > 2, "only {polls} polls");
            return;
        }
    }
}
