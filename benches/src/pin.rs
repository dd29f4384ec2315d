//! Runs client and server on one core.

use anyhow::Context;

/// Moves this process to one core. Call it before there are other threads: threads and child processes started later
/// inherit the core, and so does the server.
#[cfg(target_os = "linux")]
pub(crate) fn pin_to(core: usize) -> anyhow::Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};

    anyhow::ensure!(core < CpuSet::MAX_CPU, "core {core} does not exist");
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("cannot run on core {core}"))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin_to(_core: usize) -> anyhow::Result<()> {
    anyhow::bail!("--pin works on Linux only")
}
