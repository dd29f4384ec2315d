//! The expansion does not need the prelude.

#![no_implicit_prelude]

use ::retry_runtime::{Error, Transaction, transactional};
use ::std::result::Result;
use ::std::string::String;

#[transactional(retries = 3, isolation = "serializable", base_delay = "2ms", retry_if = |_| false)]
async fn touch(tx: &mut Transaction<'_>, mut name: String) -> Result<String, Error> {
    name.push('!');
    tx.execute("SELECT $1", &[&name]).await?;
    Result::Ok(name)
}

fn main() {
    let _ = |pool: &::deadpool_postgres::Pool| ::std::mem::drop(touch(pool, String::new()));
}
