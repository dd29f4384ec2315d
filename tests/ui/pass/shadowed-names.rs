//! Items with the same names as those in the expansion do not change its meaning.

#![allow(dead_code, unused_macros, non_snake_case, clippy::never_loop)]

use retry_runtime::{Transaction, transactional};

mod core {}
mod std {}
mod retry {}

struct Option;
struct Policy;
struct Call;
struct Callsite;
struct Source;
struct Duration;
enum ControlFlow {}
trait Into {}
trait Clone {}
trait Default {}

const __CALLSITE: i64 = 1;

macro_rules! concat {
    () => {};
}

macro_rules! module_path {
    () => {};
}

macro_rules! seen {
    () => {};
}

fn Ok<T>(value: T) -> Result<T> {
    Result::Ok(value)
}

fn Err() {}

type Result<T> = ::core::result::Result<T, retry_runtime::Error>;

#[transactional(retries = 3, isolation = "serializable", base_delay = "2ms")]
async fn touch(tx: &Transaction<'_>, source: i64, mut __tx: Vec<i64>) -> Result<i64> {
    struct Call;
    enum Result {}
    let __outcome = __CALLSITE + source;
    __tx.push(tx.attempt().into());
    'outer: loop {
        let _ = Call;
        break 'outer Ok(__outcome + __tx[0]);
    }
}

fn main() {
    let _ = |pool: &deadpool_postgres::Pool| drop(touch(pool, 1, Vec::new()));
}
