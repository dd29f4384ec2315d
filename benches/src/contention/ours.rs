//! The transfer with `#[transactional]`, once per combination of options.

use retry_runtime::{Transaction, transactional};

use super::attempt::{Run, transfer, transfer_sent};
use super::peers::RETRIES;
use super::scenario::Transfer;

/// Declares a function per combination. The options refer to the parameter by the given name.
macro_rules! transactional {
    ($statements:ident, $transfer:ident; $($name:ident ($($option:meta),*);)*) => {$(
        #[transactional($($option),*)]
        pub(crate) async fn $name(tx: &mut Transaction<'_>, run: &Run, $transfer: Transfer) -> anyhow::Result<()> {
            $statements!(tx, run, $transfer)
        }
    )*};
}

transactional! {
    transfer_sent, transfer;
    sent(deadlock_retries = RETRIES, begin = "pipelined");
    queue_sent(
        deadlock_retries = RETRIES,
        queue_by = [transfer.from, transfer.to],
        begin = "pipelined",
        early_release
    );
    server_queue_sent(
        deadlock_retries = RETRIES,
        queue_by = [transfer.from, transfer.to],
        queue = "server",
        begin = "pipelined",
        early_release
    );
}

transactional! {
    transfer, transfer;
    as_it_comes();
    default(deadlock_retries = RETRIES);
    pipelined(deadlock_retries = RETRIES, begin = "pipelined");
    lock_timeout(deadlock_retries = RETRIES, lock_timeout = "20ms");
    escalate(deadlock_retries = RETRIES, escalate_after = 2);
    queue(deadlock_retries = RETRIES, queue_by = [transfer.from, transfer.to]);
    early_release(deadlock_retries = RETRIES, early_release);
    queue_early_release(deadlock_retries = RETRIES, queue_by = [transfer.from, transfer.to], early_release);
    server_queue(deadlock_retries = RETRIES, queue_by = [transfer.from, transfer.to], queue = "server");
    server_queue_pipelined(
        deadlock_retries = RETRIES,
        queue_by = [transfer.from, transfer.to],
        queue = "server",
        begin = "pipelined"
    );
    server_queue_early_release(
        deadlock_retries = RETRIES,
        queue_by = [transfer.from, transfer.to],
        queue = "server",
        begin = "pipelined",
        early_release
    );
}
