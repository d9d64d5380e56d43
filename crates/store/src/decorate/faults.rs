//! Fault injection around any store: the k-th operation, or a seeded choice of them.

use crate::{Body, ByteStream, Condition, Error, Meta, Objects, Page, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use std::{
    future::Future,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How the k-th operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It fails before it acts.
    #[default]
    Before,
    /// It acts, and its answer is lost.
    After,
    /// It fails before it acts, and so does every later one: the network is cut.
    Down,
    /// The first byte of the body that a `get` returns is flipped. Only `get`s are counted.
    Flip,
    /// The body that a `get` returns ends early. Only `get`s are counted.
    Truncate,
    /// The body that a `get` returns breaks off with an error. Only `get`s are counted.
    Break,
    /// It never answers; a `get` answers, and its body never comes.
    Stall,
    /// It answers, each piece of a body after a pause.
    Slow,
}

/// How long [`Mode::Slow`] pauses.
const PAUSE: Duration = Duration::from_millis(20);

/// The shared handle to what [`Faulty`] does: tests arm it for each k, also while a second run resumes.
#[derive(Debug, Default)]
pub struct Faults {
    /// Which operation fails, counted from 1; 0 is none.
    pub fail_at: AtomicU64,
    /// How many operations were seen since it was armed.
    pub seen: AtomicU64,
    mode: Mutex<Mode>,
    /// The state of the generator and one in how many operations fails, when the choice is seeded.
    seeded: Mutex<Option<(u64, u64)>>,
    injected: AtomicU64,
}

impl Faults {
    /// Unarmed.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Arms it: the `k`-th operation from now on (from 1) fails in this way.
    pub fn arm(&self, k: u64, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
        *self.seeded.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.seen.store(0, Ordering::SeqCst);
        self.fail_at.store(k, Ordering::SeqCst);
    }

    /// Arms it: about one in `one_in` operations fails in some way that may pass, by a choice that depends on the seed and
    /// the order of operations alone.
    pub fn arm_seeded(&self, seed: u64, one_in: u64) {
        self.disarm();
        self.seen.store(0, Ordering::SeqCst);
        *self.seeded.lock().unwrap_or_else(PoisonError::into_inner) = Some((seed, one_in.max(1)));
    }

    /// Lets everything pass from now on.
    pub fn disarm(&self) {
        self.fail_at.store(0, Ordering::SeqCst);
        *self.seeded.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How many operations were seen since it was armed.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// How many faults were injected in all.
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::SeqCst)
    }

    /// Whether the fault has happened. When not, the run came through clean and the campaign is over.
    pub fn fired(&self) -> bool {
        let at = self.fail_at.load(Ordering::SeqCst);
        at > 0 && self.seen() >= at
    }

    fn step(&self, is_get: bool) -> Option<Mode> {
        let fault = self.chosen(is_get);
        if fault.is_some() {
            self.injected.fetch_add(1, Ordering::SeqCst);
        }
        fault
    }

    fn chosen(&self, is_get: bool) -> Option<Mode> {
        if let Some((state, one_in)) = self.seeded.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            self.seen.fetch_add(1, Ordering::SeqCst);
            return (next(state).is_multiple_of(*one_in)).then(|| {
                let bodies = [Mode::Before, Mode::After, Mode::Slow, Mode::Truncate, Mode::Break];
                let among = if is_get { &bodies[..] } else { &bodies[..3] };
                among[usize::try_from(next(state) % among.len() as u64).unwrap_or(0)]
            });
        }
        let mode = *self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(mode, Mode::Flip | Mode::Truncate | Mode::Break) && !is_get {
            return None;
        }
        let at = self.fail_at.load(Ordering::SeqCst);
        let seen = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
        (at > 0 && (seen == at || (seen > at && mode == Mode::Down))).then_some(mode)
    }
}

/// SplitMix64, by Steele, Lea and Flood.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Wraps any store, counts its operations and fails the one that [`Faults`] names.
pub struct Faulty {
    inner: Arc<dyn Objects>,
    faults: Arc<Faults>,
}

impl Faulty {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Objects>, faults: Arc<Faults>) -> Arc<Self> {
        Arc::new(Self { inner, faults })
    }

    fn injected(&self) -> Error {
        Error::passing(self.inner.describe(), "does not answer (injected fault)")
    }

    /// Runs one operation that is not a `get`.
    async fn run<T>(&self, operation: impl Future<Output = Result<T>> + Send) -> Result<T> {
        match self.faults.step(false) {
            Some(Mode::Before | Mode::Down) => Err(self.injected()),
            Some(Mode::After) => {
                operation.await?;
                Err(self.injected())
            }
            Some(Mode::Stall) => std::future::pending().await,
            Some(Mode::Slow) => {
                tokio::time::sleep(PAUSE).await;
                operation.await
            }
            _ => operation.await,
        }
    }

    async fn opened(
        &self,
        operation: impl Future<Output = Result<Option<(Meta, ByteStream)>>> + Send,
    ) -> Result<Option<(Meta, ByteStream)>> {
        let fault = self.faults.step(true);
        if matches!(fault, Some(Mode::Before | Mode::Down | Mode::After)) {
            return Err(self.injected());
        }
        let Some((meta, body)) = operation.await? else { return Ok(None) };
        let half = |body: ByteStream| body.take(1).map(|chunk| chunk.map(|chunk| chunk.slice(..chunk.len() / 2)));
        let broken = self.injected();
        let mut first = true;
        let body = match fault {
            Some(Mode::Flip) => body
                .map(move |chunk| {
                    let mut chunk = chunk?.to_vec();
                    if let (true, Some(byte)) = (std::mem::take(&mut first), chunk.first_mut()) {
                        *byte ^= 1;
                    }
                    Ok(Bytes::from(chunk))
                })
                .boxed(),
            Some(Mode::Truncate) => half(body).boxed(),
            Some(Mode::Break) => half(body).chain(stream::iter([Err(broken)])).boxed(),
            Some(Mode::Stall) => stream::pending().boxed(),
            Some(Mode::Slow) => body
                .then(|chunk| async {
                    tokio::time::sleep(PAUSE).await;
                    chunk
                })
                .boxed(),
            _ => body,
        };
        Ok(Some((meta, body)))
    }
}

#[async_trait]
impl Objects for Faulty {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn head(&self, key: &str) -> Result<Option<Meta>> {
        self.run(self.inner.head(key)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Option<(Meta, ByteStream)>> {
        self.opened(self.inner.get(key, range)).await
    }

    async fn get_version(&self, key: &str, version: &str) -> Result<Option<(Meta, ByteStream)>> {
        self.opened(self.inner.get_version(key, version)).await
    }

    async fn put(&self, key: &str, body: Body, condition: Condition) -> Result<Meta> {
        self.run(self.inner.put(key, body, condition)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        self.run(self.inner.list(prefix, after)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.run(self.inner.delete(key)).await
    }

    async fn settle(&self) {
        self.inner.settle().await;
    }
}
