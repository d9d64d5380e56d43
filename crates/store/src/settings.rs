//! How a store is talked to: limits and patience.

use crate::decorate::Sink;
use std::time::Duration;

/// The slowest rate at which a body may move over its whole length, in bytes a second, unless a limit asks for less.
const SLOWEST: u64 = 32 * 1024;
/// How many transfers may share a limit before the slowest of them counts as too slow.
const SHARED: u64 = 64;

/// How a store is talked to. Everything has a default.
#[derive(Clone)]
pub struct Settings {
    /// Bytes a second that all uploads take together; `None` is no limit.
    pub upload_limit: Option<u64>,
    /// Bytes a second that all downloads take together; `None` is no limit.
    pub download_limit: Option<u64>,
    /// How long one operation may take with everything that is tried again, besides what the size of its body allows it
    /// (32 KiB a second). Five minutes by default.
    pub deadline: Duration,
    /// How long a body may stand still in either direction, and how long an answer may be waited for. 30 seconds by default.
    pub stall_timeout: Duration,
    /// How often a request is sent at most. 8 by default, with pauses that add up to about ten seconds.
    pub attempts: u32,
    /// The first pause before something is tried again, doubled each time. 100 ms by default.
    pub pause: Duration,
    /// Hears of every request.
    pub log: Option<Sink>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            upload_limit: None,
            download_limit: None,
            deadline: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(30),
            attempts: 8,
            pause: Duration::from_millis(100),
            log: None,
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("upload_limit", &self.upload_limit)
            .field("download_limit", &self.download_limit)
            .field("deadline", &self.deadline)
            .field("stall_timeout", &self.stall_timeout)
            .field("attempts", &self.attempts)
            .field("pause", &self.pause)
            .field("log", &self.log.is_some())
            .finish()
    }
}

impl Settings {
    /// What a whole operation that moves `size` bytes may take.
    pub(crate) fn total(&self, size: u64) -> Duration {
        self.deadline.saturating_add(self.moving(size))
    }

    /// What the size of a body adds to a deadline.
    pub(crate) fn moving(&self, size: u64) -> Duration {
        let limits = [self.upload_limit, self.download_limit].into_iter().flatten();
        let slowest = limits.map(|limit| limit / SHARED).fold(SLOWEST, u64::min).max(1);
        Duration::from_secs(size / slowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_does_not_make_its_own_transfers_too_slow() {
        let free = Settings::default();
        assert_eq!(free.total(SLOWEST * 10), free.deadline + Duration::from_secs(10));
        let limited = Settings { upload_limit: Some(64 * 1024), ..Settings::default() };
        assert_eq!(limited.moving(64 * 1024), Duration::from_secs(64), "64 transfers share it");
        let crawling = Settings { download_limit: Some(1), ..Settings::default() };
        assert_eq!(crawling.moving(10), Duration::from_secs(10));
    }
}
