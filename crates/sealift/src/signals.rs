//! SIGINT and SIGTERM: the first asks the verb to stop, the second ends the process at once.

use crate::exit::{Exit, Signal};
use engine::{Error, Result};
use std::future::Future;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Runs `work` until it ends or a signal comes. A verb that keeps a journal (`waits`) is asked to stop and waited for, so
/// that it can write where it was; any other is dropped where it stands, which leaves at most orphans.
pub(crate) async fn guard<T>(
    stop: CancellationToken,
    waits: bool,
    work: impl Future<Output = Result<T>>,
) -> (Result<T>, Option<Signal>) {
    tokio::pin!(work);
    let caught = tokio::select! {
        biased;
        result = &mut work => return (result, None),
        caught = next() => caught,
    };
    stop.cancel();
    if !waits {
        return (Err(Error::Stopped { signal: caught.name() }), Some(caught));
    }
    tokio::select! {
        result = &mut work => (result, Some(caught)),
        second = next() => std::process::exit(i32::from(Exit::Signal(second).code())),
    }
}

/// The next SIGINT or SIGTERM.
async fn next() -> Signal {
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => Signal::Interrupt,
                _ = terminate.recv() => Signal::Terminate,
            }
        }
        // Without handlers the system's own reaction to signals stays: the process ends.
        _ => std::future::pending().await,
    }
}
