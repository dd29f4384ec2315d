use retry_runtime::{Error, Transaction, transactional};

#[transactional]
async fn reference(_tx: &Transaction<'_>, seen: &mut Vec<i64>) -> Result<(), Error> {
    seen.push(1);
    Ok(())
}

#[transactional]
async fn in_a_tuple(_tx: &Transaction<'_>, (a, b): (&mut i64, i64)) -> Result<(), Error> {
    *a += b;
    Ok(())
}

#[transactional]
async fn pattern(_tx: &Transaction<'_>, (ref mut count, by): (i64, i64)) -> Result<i64, Error> {
    *count += by;
    Ok(*count)
}

fn main() {}
