//! The transfer under `#[transactional]`, once for each combination of options.

use retry_runtime::{Transaction, transactional};

use super::attempt::{Run, transfer};
use super::peers::RETRIES;
use super::scenario::Transfer;

/// The functions, each with its options.
macro_rules! transactional {
    ($($name:ident ($($option:meta),*);)*) => {$(
        #[transactional($($option),*)]
        pub(crate) async fn $name(tx: &mut Transaction<'_>, run: &Run, transfer: Transfer) -> anyhow::Result<()> {
            transfer!(tx, run, transfer)
        }
    )*};
}

transactional! {
    as_it_comes();
    default(deadlock_retries = RETRIES);
    lock_timeout(deadlock_retries = RETRIES, lock_timeout = "20ms");
}
