//! Functions and options that a `macro_rules!` macro writes.

macro_rules! function {
    (
        $(#[$meta:meta])* $vis:vis $name:ident($tx:ident: $tx_ty:ty, $arg:pat => $arg_ty:ty) -> $output:ty
        [$retries:expr, $delay:literal, $code:expr, $retry_if:expr, $source:expr] $body:block
    ) => {
        $(#[$meta])*
        #[$crate::transactional(
            retries = $retries, base_delay = $delay, retry_on = [$code], retry_if = $retry_if, source = $source,
            crate = $crate::runtime
        )]
        $vis async fn $name($tx: $tx_ty, $arg: $arg_ty) -> $output $body
    };
}

pub use retry_runtime as runtime;
pub use retry_runtime::transactional;

use retry_runtime::{Error, Transaction};

function! {
    /// Documented.
    pub(crate) touch(tx: &mut Transaction<'_>, mut ids => Vec<i64>) -> Result<usize, Error>
    [3, "2ms", "23505", |_| false, &pool()]
    {
        ids.push(i64::from(tx.attempt()));
        Ok(ids.len())
    }
}

fn pool() -> deadpool_postgres::Pool {
    unimplemented!()
}

fn main() {
    let _ = touch;
}
