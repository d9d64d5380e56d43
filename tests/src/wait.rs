//! Waiting for conditions, never for time to pass.

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it, on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Waits until `condition` gives a value; panics with `what` when the deadline is over.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain: {what}", DEADLINE.as_secs());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
