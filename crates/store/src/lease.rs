//! Leases: who may write an environment, and which writer is newest.
//!
//! `locks/<env>.json` is acquired, renewed and released by compare-and-swap and never deleted, so its epoch never falls.
//! Nobody reads a wall clock. A waiter takes over when the etag stood still for the holder's TTL on the waiter's own
//! monotonic clock, or at once when the holder is provably dead: same boot, same PID namespace, and the process with that
//! start time is gone. A holder measures with the clock that also runs while the machine sleeps, and fails
//! [`Lease::check`] at TTL/2 without a renewal, so that it stops before anyone can take over.

use crate::{Error, Result, Store, Swap, Versioned};
use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The body of `locks/<env>.json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LeaseState {
    /// Rises with every acquisition, never falls.
    pub epoch: u64,
    /// Who holds it; `None` when it was released.
    pub holder: Option<Holder>,
    /// What the holder is doing, for people, and its operation UUID.
    pub op: String,
    /// Milliseconds without renewal after which it may be taken over.
    pub ttl_ms: u64,
    /// How often it was renewed; changes the etag.
    pub renewals: u64,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    /// `user@host pid 123`.
    pub name: String,
    /// Unique to this acquisition.
    pub uuid: String,
    /// Boot id and PID namespace: the same only on the same running host.
    pub host: String,
    /// Process id there.
    pub pid: u32,
    /// Start time of that process in clock ticks since boot, against reuse of the id.
    pub started: u64,
}

impl Holder {
    /// This process.
    fn this_process() -> Self {
        let pid = std::process::id();
        let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
        let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
        let uuid = uuid::Uuid::new_v4().to_string();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let namespace = std::fs::read_link("/proc/self/ns/pid").ok();
        let (host, started) = match (boot, namespace, process_start(pid)) {
            (Some(boot), Some(namespace), Some((started, _))) => {
                (format!("{} {}", boot.trim(), namespace.display()), started)
            }
            // Where nothing can be proven, nobody is ever on the same host.
            _ => (uuid.clone(), 0),
        };
        let name = format!("{user}@{} pid {pid}", gethostname::gethostname().display());
        Self { name, uuid, host, pid, started }
    }

    /// Whether the holder ran on this host and is gone, so that its lease can be taken over at once. Doubt is no.
    pub fn is_provably_dead(&self) -> bool {
        self.provably_dead(&Self::this_process())
    }

    /// Whether the holder ran on this same boot and PID namespace and is gone. Doubt is no.
    fn provably_dead(&self, us: &Self) -> bool {
        if self.host != us.host {
            return false;
        }
        if self.pid == us.pid && self.started == us.started {
            return !living().contains(&self.uuid);
        }
        match process_start(self.pid) {
            Some((started, state)) => started != self.started || matches!(state, 'Z' | 'X' | 'x'),
            // Its entry in /proc may be hidden from us; the kernel still answers whether there is such a process.
            None => {
                let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
                pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
            }
        }
    }
}

impl Holder {
    /// Whether the holder is a process of this same boot and PID namespace that runs. One that was stopped does not.
    fn provably_runs(&self, us: &Self) -> bool {
        if self.host != us.host {
            return false;
        }
        if self.pid == us.pid && self.started == us.started {
            return living().contains(&self.uuid);
        }
        process_start(self.pid)
            .is_some_and(|(started, state)| started == self.started && matches!(state, 'R' | 'S' | 'D' | 'I'))
    }
}

/// The acquisitions of this process that are held or being tried for. One that is not here was dropped, or its attempt
/// failed: nobody in this process acts under it any more.
fn living() -> MutexGuard<'static, BTreeSet<String>> {
    static LIVING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    LIVING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps an acquisition among the living.
struct Living(String);

impl Living {
    fn new(uuid: &str) -> Self {
        living().insert(uuid.to_owned());
        Self(uuid.to_owned())
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        living().remove(&self.0);
    }
}

/// Start time in ticks since boot, and the state's letter (`Z` is a zombie, `T` is stopped), from proc(5).
fn process_start(pid: u32) -> Option<(u64, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command, in brackets, may hold anything; the fields after it are numbered from 3.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

/// A clock that nobody sets and that runs on while the machine sleeps.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// What the holder and its renewing task share.
#[derive(Debug)]
struct Shared {
    state: LeaseState,
    etag: String,
    /// When the last successful renewal was begun.
    renewed: Duration,
    /// The epoch that overtook us.
    newest: Option<u64>,
}

struct Core {
    store: Store,
    environment: String,
    ttl: Duration,
    shared: Mutex<Shared>,
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fenced(&self, ours: u64, newest: u64) -> Error {
        Error::Fenced { environment: self.environment.clone(), ours, newest }
    }

    /// Writes the next state of our own lease. An earlier write of ours whose answer was lost is adopted, not a loss.
    async fn write(&self, change: impl Fn(&mut LeaseState)) -> Result<()> {
        let (mut state, mut etag) = {
            let shared = self.lock();
            (shared.state.clone(), shared.etag.clone())
        };
        let ours = state.holder.as_ref().map(|holder| holder.uuid.clone());
        let epoch = state.epoch;
        loop {
            change(&mut state);
            let begun = since_boot();
            match self.store.swap(&key(&self.environment), Some(&etag), encode(&state)).await? {
                Swap::Swapped(etag) => {
                    let mut shared = self.lock();
                    (shared.state, shared.etag, shared.renewed) = (state, etag, begun);
                    return Ok(());
                }
                Swap::Lost(there) => {
                    let there = there.map(|there| decode(&self.environment, &there).map(|s| (s, there.etag)));
                    match there.transpose()? {
                        Some((found, new)) if found.holder.as_ref().map(|h| &h.uuid) == ours.as_ref() => {
                            (state, etag) = (found, new);
                        }
                        other => {
                            let newest = other.map_or(epoch, |(state, _)| state.epoch);
                            self.lock().newest = Some(newest);
                            return Err(self.fenced(epoch, newest));
                        }
                    }
                }
            }
        }
    }

    /// Renews at every sixth of the TTL, and quicker after a failure, until it was overtaken. One that is not answered is given
    /// up so early that the next can be answered before [`Lease::check`] fails; if it was carried out, the next adopts it. Both
    /// have an eighth of the TTL: a disk that is busy for that long is not rare.
    async fn renew_for_ever(self: Arc<Self>) {
        let mut wait = self.ttl / 6;
        loop {
            tokio::time::sleep(wait).await;
            let renewal = self.write(|state| state.renewals += 1);
            wait = match tokio::time::timeout(self.ttl / 8, renewal).await {
                Ok(Ok(())) => self.ttl / 6,
                Ok(Err(Error::Fenced { .. })) => return,
                Ok(Err(_)) | Err(_) => self.ttl / 24,
            };
        }
    }
}

/// A held lease. It renews itself in the background; dropped without [`Lease::release`] it is left to expire.
pub struct Lease {
    /// The epoch of this acquisition.
    pub epoch: u64,
    core: Arc<Core>,
    renewing: tokio::task::JoinHandle<()>,
    _living: Living,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({} epoch {})", self.core.environment, self.epoch)
    }
}

impl Lease {
    /// Fails with [`Error::Fenced`] or [`Error::Unavailable`] once TTL/2 has passed without a renewal (monotonic
    /// clock), or another epoch was seen. Call before every change of the world.
    pub fn check(&self) -> Result<()> {
        let shared = self.core.lock();
        if let Some(newest) = shared.newest {
            return Err(self.core.fenced(self.epoch, newest));
        }
        let silent = since_boot().saturating_sub(shared.renewed);
        if silent > self.core.ttl / 2 {
            let environment = &self.core.environment;
            let what = format!(
                "has not confirmed the lease of {environment} (epoch {}) for {:.1} s, so this writer stops",
                self.epoch,
                silent.as_secs_f64()
            );
            return Err(Error::unavailable(self.core.store.describe(), what));
        }
        Ok(())
    }

    /// Gives it back.
    pub async fn release(mut self) -> Result<()> {
        self.renewing.abort();
        // Its last request must not be under way beside ours; an abort is not an error.
        let _ = (&mut self.renewing).await;
        let ours = self.core.lock().state.clone();
        let released = LeaseState { holder: None, ..ours };
        // When someone took over, there is nothing left to give back, and the caller hears of it.
        self.core.write(|state| *state = LeaseState { renewals: state.renewals, ..released.clone() }).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

fn key(environment: &str) -> String {
    format!("locks/{environment}.json")
}

fn encode(state: &LeaseState) -> Bytes {
    // A struct of text and numbers has no way to fail to become JSON.
    Bytes::from(serde_json::to_vec(state).unwrap_or_default())
}

fn decode(environment: &str, there: &Versioned) -> Result<LeaseState> {
    serde_json::from_slice(&there.bytes)
        .map_err(|error| Error::Damaged { key: key(environment), what: format!("it is not a lease: {error}") })
}

impl Store {
    /// Acquires the lease of an environment. A holder that is provably dead on this host is taken over at once; any other
    /// is watched until it shows that it lives (it renews, or it is a running process of this host), or until it has
    /// stood still for its TTL and is taken over. For one that lives, `patience` is waited, then it is [`Error::Held`].
    pub async fn lease(&self, environment: &str, op: &str, ttl: Duration, patience: Duration) -> Result<Lease> {
        let us = Holder::this_process();
        let alive = Living::new(&us.uuid);
        let begun = Instant::now();
        let mut watched: Option<(String, Instant)> = None;
        let mut renewed_meanwhile = false;
        loop {
            let reading = Instant::now();
            let there = self.read(&key(environment)).await?;
            let state = there.as_ref().map(|there| decode(environment, there)).transpose()?;
            if let (Some(state), Some(there)) = (&state, &there)
                && let Some(holder) = &state.holder
            {
                // Still means: seen at the end of one read and again at the beginning of another, a TTL later.
                let still = match &watched {
                    Some((etag, since)) if *etag == there.etag => reading.saturating_duration_since(*since),
                    seen => {
                        renewed_meanwhile |= seen.is_some();
                        watched = Some((there.etag.clone(), Instant::now()));
                        Duration::ZERO
                    }
                };
                let expired = still >= Duration::from_millis(state.ttl_ms);
                if !expired && !holder.provably_dead(&us) {
                    let left = patience.saturating_sub(begun.elapsed());
                    if left.is_zero() && (renewed_meanwhile || holder.provably_runs(&us)) {
                        return Err(held(environment, state, holder));
                    }
                    tokio::time::sleep(Duration::from_millis((state.ttl_ms / 10).clamp(10, 500))).await;
                    continue;
                }
            }
            let epoch = state.as_ref().map_or(0, |state| state.epoch) + 1;
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            let next = LeaseState { epoch, holder: Some(us.clone()), op: op.to_owned(), ttl_ms, renewals: 0 };
            let expected = there.as_ref().map(|there| there.etag.as_str());
            let renewed = since_boot();
            match self.swap(&key(environment), expected, encode(&next)).await? {
                Swap::Swapped(etag) => {
                    let shared = Mutex::new(Shared { state: next, etag, renewed, newest: None });
                    let core = Core { store: self.clone(), environment: environment.to_owned(), ttl, shared };
                    let core = Arc::new(core);
                    let renewing = tokio::spawn(core.clone().renew_for_ever());
                    return Ok(Lease { epoch, core, renewing, _living: alive });
                }
                // The winner is seen by the next read, which also decides whether there is patience left.
                Swap::Lost(_) => {}
            }
        }
    }

    /// Who holds the lease now, for `status`.
    pub async fn lease_holder(&self, environment: &str) -> Result<Option<LeaseState>> {
        let there = self.read(&key(environment)).await?;
        let state = there.as_ref().map(|there| decode(environment, there)).transpose()?;
        Ok(state.filter(|state| state.holder.is_some()))
    }
}

fn held(environment: &str, state: &LeaseState, holder: &Holder) -> Error {
    Error::Held {
        environment: environment.to_owned(),
        holder: holder.name.clone(),
        epoch: state.epoch,
        op: state.op.clone(),
    }
}
