//! Threads with a runtime of their own: what hangs on one of them stops nothing else.

use std::thread;

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// Runs what `work` makes on a thread and runtime of its own. What comes of it is sent; an error is a panic there.
/// The thread ends with the process, however long a disk may hold it.
///
/// # Errors
/// When there is no thread or runtime.
pub(super) fn apart<T, F>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> anyhow::Result<oneshot::Receiver<T>>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.with_context(|| format!("a runtime for {name}"))?;
    let (ended, end) = oneshot::channel();
    let run = move || {
        let result = runtime.block_on(async { work().await });
        // Who waits for it may have given up.
        let _ = ended.send(result);
        // Not dropped: that would wait for whatever hangs.
        runtime.shutdown_background();
    };
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .with_context(|| format!("a thread for {name}"))?;
    Ok(end)
}
