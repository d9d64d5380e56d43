//! Trying again: what is safe, in time, and not in step with others.
//!
//! What is sent again, and when:
//!
//! - Reads, listings and removals: after any failure that may pass.
//! - Writes without a condition: the same, unless the key is one of a reference (see [`MUTABLE`]) and the failure leaves open
//!   whether the write happened; a late repetition could undo what another writer did meanwhile.
//! - Writes with a condition: when the server says that it did not carry them out. When that is open, the object is read back
//!   first: our own bytes are success (they carry an operation UUID), the state that was expected before means that it may be
//!   sent again, and anything else is a lost race.
//! - Bodies that break off: from the byte that they reached, if the object still has the same entity tag. Those of at most
//!   [`WHOLE`] are fetched whole once more, and those of a certain version are handed on as they come.
//!
//! What stops it: the number of attempts, the total deadline, a server that asks for more patience than is left, and the
//! budget, which all operations of a store share: repetitions beyond [`BUDGET`] wait until [`REFILL`] a second allow them.

use crate::{Again, Body, ByteStream, Condition, Error, Meta, Objects, Page, Result, Settings, content::collect};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use std::{
    future::Future,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// The first segments of the keys of references, which more than one writer may write.
const MUTABLE: [&str; 6] = ["releases/", "ledger/", "envs/", "locks/", "outbox/", "gc/"];
/// How many repetitions all operations together may make at once.
const BUDGET: f64 = 64.0;
/// How many a second are added again.
const REFILL: f64 = 8.0;
/// The longest pause, unless the server asks for a longer one.
const LONGEST: Duration = Duration::from_secs(10);
/// Bodies up to this size are read whole before they are handed on, so that their request can be repeated as a whole.
const WHOLE: u64 = 1024 * 1024;
/// Where nobody is, nobody is asked more often.
const NOBODY: u32 = 5;

/// How often, how long and how densely is tried again. One for all operations of a store.
#[derive(Debug)]
pub(crate) struct Policy {
    settings: Settings,
    /// What is left of the budget, and since when. Below zero, repetitions wait.
    budget: Mutex<(f64, Option<Instant>)>,
}

impl Policy {
    pub(crate) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self { settings: settings.clone(), budget: Mutex::new((BUDGET, None)) })
    }

    /// Begins an operation that moves `size` bytes.
    pub(crate) fn begin(&self, size: u64) -> Trial<'_> {
        let begun = Instant::now();
        Trial { policy: self, begun, until: begun + self.settings.total(size), tried: 1 }
    }

    /// How long a repetition has to wait for its share of the budget.
    fn wait(&self) -> Duration {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = budget.1.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
        let left = (budget.0 + since * REFILL).min(BUDGET) - 1.0;
        *budget = (left, Some(now));
        if left >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-left / REFILL) }
    }
}

/// Half of it for certain, the other half by chance.
fn jittered(pause: Duration) -> Duration {
    let bytes = uuid::Uuid::new_v4().into_bytes();
    let chance = f64::from(u16::from_le_bytes([bytes[0], bytes[1]])) / f64::from(u16::MAX);
    pause.mul_f64(0.5 + chance / 2.0)
}

/// One operation that may take several attempts.
pub(crate) struct Trial<'a> {
    policy: &'a Policy,
    begun: Instant,
    until: Instant,
    tried: u32,
}

impl Trial<'_> {
    /// Waits before the next attempt. The failure is handed back, as final, when there is to be none.
    pub(crate) async fn again(&mut self, failure: Error) -> Result<()> {
        let attempts = self.policy.settings.attempts;
        let (attempts, after) = match failure.again() {
            Again::Never | Again::Open => (0, None),
            Again::Nobody => (attempts.min(NOBODY), None),
            Again::Rejected(after) | Again::Unknown(after) => (attempts, after),
        };
        if self.tried >= attempts {
            return Err(self.give_up(failure));
        }
        let pause = self.policy.settings.pause.saturating_mul(1 << (self.tried - 1).min(16)).min(LONGEST);
        let pause = jittered(pause).max(after.unwrap_or_default()).saturating_add(self.policy.wait());
        // A pause that no clock can hold is longer than any deadline.
        if Instant::now().checked_add(pause).is_none_or(|end| end >= self.until) {
            return Err(self.give_up(failure));
        }
        tokio::time::sleep(pause).await;
        self.tried += 1;
        Ok(())
    }

    fn give_up(&self, failure: Error) -> Error {
        failure.given_up(self.tried, self.begun.elapsed())
    }

    /// Runs one attempt within what is left of the deadline.
    pub(crate) async fn attempt<T>(
        &self,
        store: impl Fn() -> String,
        what: &str,
        attempt: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match timeout_at(self.until, attempt).await {
            Ok(result) => result,
            Err(_) => {
                let took = self.begun.elapsed().as_secs_f64();
                Err(Error::passing(store(), format!("did not finish {what} within {took:.1} s")))
            }
        }
    }
}

/// What the decorator and the bodies that it hands out share.
struct Core {
    inner: Arc<dyn Objects>,
    policy: Arc<Policy>,
}

impl Core {
    fn short(&self, key: &str, arrived: u64, announced: u64) -> Error {
        Error::passing(self.inner.describe(), format!("sent {arrived} of the {announced} bytes of {key}"))
    }

    /// Repeats a request that is safe to repeat.
    async fn repeat<T, F>(&self, what: &str, size: u64, request: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let mut trial = self.policy.begin(size);
        loop {
            match trial.attempt(|| self.inner.describe(), what, request()).await {
                Ok(value) => return Ok(value),
                Err(failure) => trial.again(failure).await?,
            }
        }
    }

    /// What became of a conditional write whose answer is missing. `None` is that it did not happen, as far as can be seen.
    async fn read_back(&self, key: &str, ours: &Bytes, condition: &Condition) -> Result<Option<Meta>> {
        let found = self
            .repeat("reading back", 0, || async {
                let Some((meta, body)) = self.inner.get(key, None).await? else { return Ok(None) };
                // Another size is not ours, whatever is in it.
                let bytes = if meta.size == ours.len() as u64 { collect(body, meta.size).await? } else { Bytes::new() };
                Ok(Some((meta, bytes)))
            })
            .await?;
        match (found, condition) {
            (Some((meta, bytes)), _) if meta.size == ours.len() as u64 && bytes == *ours => Ok(Some(meta)),
            (Some((meta, _)), Condition::Match(etag)) if meta.etag == *etag => Ok(None),
            (None, Condition::Absent) => Ok(None),
            _ => Err(Error::Precondition { key: key.to_owned() }),
        }
    }
}

/// Tries again what may pass.
pub struct Retry {
    core: Arc<Core>,
}

impl Retry {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Objects>, settings: &Settings) -> Arc<Self> {
        Self::with(inner, Policy::new(settings))
    }

    /// Wraps `inner`, which shares the budget.
    pub(crate) fn with(inner: Arc<dyn Objects>, policy: Arc<Policy>) -> Arc<Self> {
        Arc::new(Self { core: Arc::new(Core { inner, policy }) })
    }
}

#[async_trait]
impl Objects for Retry {
    fn describe(&self) -> String {
        self.core.inner.describe()
    }

    async fn head(&self, key: &str) -> Result<Option<Meta>> {
        self.core.repeat(&format!("a question about {key}"), 0, || self.core.inner.head(key)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Option<(Meta, ByteStream)>> {
        let asked = range.clone();
        let opened = || async {
            let Some((meta, body)) = self.core.inner.get(key, asked.clone()).await? else { return Ok(None) };
            let end = asked.as_ref().map_or(meta.size, |range| range.end.min(meta.size));
            let length = end.saturating_sub(asked.as_ref().map_or(0, |range| range.start));
            if length > WHOLE {
                return Ok(Some((meta, body, end)));
            }
            // More than was announced is left to the reader to refuse.
            let whole = collect(body, length).await?;
            if (whole.len() as u64) < length {
                return Err(self.core.short(key, whole.len() as u64, length));
            }
            Ok(Some((meta, stream::iter([Ok(whole)]).boxed(), 0)))
        };
        let found = self.core.repeat(&format!("reading {key}"), 0, opened).await?;
        Ok(found.map(|(meta, body, end)| {
            let at = range.map_or(0, |range| range.start);
            if end <= at {
                return (meta, body);
            }
            let resuming = Resuming {
                core: self.core.clone(),
                key: key.to_owned(),
                etag: meta.etag.clone(),
                body,
                at,
                end,
                tried: 1,
            };
            (meta, resuming.stream())
        }))
    }

    async fn get_version(&self, key: &str, version: &str) -> Result<Option<(Meta, ByteStream)>> {
        self.core.repeat(&format!("reading {key}"), 0, || self.core.inner.get_version(key, version)).await
    }

    async fn put(&self, key: &str, body: Body, condition: Condition) -> Result<Meta> {
        let what = format!("writing {key}");
        let mut trial = self.core.policy.begin(body.length());
        let conditional = condition != Condition::None;
        let mutable = MUTABLE.iter().any(|prefix| key.starts_with(prefix));
        loop {
            let written = self.core.inner.put(key, body.clone(), condition.clone());
            let failure = match trial.attempt(|| self.core.inner.describe(), &what, written).await {
                Ok(meta) => return Ok(meta),
                Err(failure) => failure,
            };
            if matches!(failure.again(), Again::Unknown(_)) {
                match (&body, conditional) {
                    (_, false) if mutable => return Err(trial.give_up(failure)),
                    (_, false) => {}
                    (Body::Bytes(ours), true) => {
                        let reading = self.core.read_back(key, ours, &condition);
                        match trial.attempt(|| self.core.inner.describe(), &what, reading).await {
                            Ok(Some(meta)) => return Ok(meta),
                            Ok(None) => {}
                            Err(lost @ Error::Precondition { .. }) => return Err(lost),
                            Err(_) => return Err(trial.give_up(failure)),
                        }
                    }
                    // A file is no reference, and not compared in memory: its caller reads back.
                    (_, true) => return Err(trial.give_up(failure)),
                }
            }
            trial.again(failure).await?;
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        let what = if prefix.is_empty() { "a listing" } else { &format!("a listing of {prefix}") };
        self.core.repeat(what, 0, || self.core.inner.list(prefix, after)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.core.repeat(&format!("removing {key}"), 0, || self.core.inner.delete(key)).await
    }

    async fn settle(&self) {
        self.core.inner.settle().await;
    }
}

/// A body that goes on from where it broke off.
struct Resuming {
    core: Arc<Core>,
    key: String,
    etag: String,
    body: ByteStream,
    at: u64,
    end: u64,
    tried: u32,
}

impl Resuming {
    fn stream(self) -> ByteStream {
        let until = Instant::now() + self.core.policy.settings.total(self.end - self.at);
        stream::try_unfold((Some(self), until), |(resuming, until)| async move {
            let Some(mut resuming) = resuming else { return Ok(None) };
            match resuming.next(until).await? {
                Some(chunk) => Ok(Some((chunk, (Some(resuming), until)))),
                None => Ok(None),
            }
        })
        .boxed()
    }

    async fn next(&mut self, until: Instant) -> Result<Option<Bytes>> {
        loop {
            let failure = match self.body.next().await {
                Some(Ok(chunk)) => {
                    self.at += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                None if self.at >= self.end => return Ok(None),
                None => self.core.short(&self.key, self.at, self.end),
                Some(Err(failure)) => failure,
            };
            let policy = self.core.policy.clone();
            let mut trial = Trial { policy: &policy, begun: Instant::now(), until, tried: self.tried };
            trial.again(failure).await?;
            self.tried = trial.tried;
            let rest = Some(self.at..self.end);
            let what = format!("reading {}", self.key);
            let opened = self.core.repeat(&what, 0, || self.core.inner.get(&self.key, rest.clone())).await?;
            match opened {
                Some((meta, body)) if meta.etag == self.etag => self.body = body,
                Some(_) => {
                    let what = format!("has another {} than when its reading began", self.key);
                    return Err(Error::unavailable(self.core.inner.describe(), what));
                }
                None => return Err(Error::Missing { key: self.key.clone() }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_beyond_the_budget_wait_their_turn() {
        let policy = Policy::new(&Settings::default());
        let waits: Vec<Duration> = (0..80).map(|_| policy.wait()).collect();
        let free = waits.iter().filter(|wait| wait.is_zero()).count();
        assert!((64..=66).contains(&free), "{free} at once");
        let last = waits[79].as_secs_f64();
        assert!((1.0..=16.0 / REFILL).contains(&last), "and the others at {REFILL} a second: {last} s");
    }
}
