//! The transfer under `#[transactional]`, once for each combination of options.

use retry_runtime::{Transaction, transactional};

use super::attempt::{Run, transfer};
use super::peers::RETRIES;
use super::scenario::Transfer;

/// The functions, each with its options, which see the parameter under the name that they are told.
macro_rules! transactional {
    ($transfer:ident; $($name:ident ($($option:meta),*);)*) => {$(
        #[transactional($($option),*)]
        pub(crate) async fn $name(tx: &mut Transaction<'_>, run: &Run, $transfer: Transfer) -> anyhow::Result<()> {
            transfer!(tx, run, $transfer)
        }
    )*};
}

transactional! {
    transfer;
    as_it_comes();
    default(deadlock_retries = RETRIES);
    pipelined(deadlock_retries = RETRIES, begin = "pipelined");
    lock_timeout(deadlock_retries = RETRIES, lock_timeout = "20ms");
    pipelined_lock_timeout(deadlock_retries = RETRIES, lock_timeout = "20ms", begin = "pipelined");
    escalate(deadlock_retries = RETRIES, escalate_after = 2);
    pipelined_escalate(deadlock_retries = RETRIES, escalate_after = 2, begin = "pipelined");
    queue(deadlock_retries = RETRIES, queue_by = [transfer.from, transfer.to]);
    pipelined_queue(deadlock_retries = RETRIES, queue_by = [transfer.from, transfer.to], begin = "pipelined");
}
