//! What a push and a gc tell each other; the protocol and why it is safe is in [`crate::gc`].

use crate::{
    cache::{layout_key, manifest_key},
    error::{Error, Result},
    remote::failed,
};
use domain::{Digest, Events};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};
use store::{Body, Condition, Meta, Store};

/// Everything of a gc lies below this, which sorts before `layouts/`, `packs/` and `snapshots/`: one page of a listing that
/// begins here says of a gc first and of objects afterwards.
pub(crate) const PREFIX: &str = "gc/";
/// Replaced by every batch of every gc; only its entity tag matters.
pub(crate) const EPOCH: &str = "gc/epoch.json";
/// There while a gc removes: what it is about to remove.
pub(crate) const INTENT: &str = "gc/intent.json";
/// Written to learn the time of the server.
pub(crate) const CLOCK: &str = "gc/clock.json";
/// One small object for each snapshot that is being pushed or was pushed lately.
pub(crate) const CLAIMS: &str = "claims/";
/// The lease of a gc. No environment can have this name.
pub(crate) const LEASE: &str = "_gc";
/// How long a gc that shows no sign of life keeps its lease.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(30);

/// How long a push waits for a gc that removes what it needs. Longer than the lease of a dead one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(200);
/// How long an attempt to take over a lease is waited for that is not needed any more. It looks twice a second.
const PARTING: Duration = Duration::from_secs(1);
/// How often a push begins again because a gc looked meanwhile. A batch of a gc ends in seconds, and a survey in less.
pub(crate) const ROUNDS: usize = 20;

/// The body of [`INTENT`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Intent {
    pub(crate) v: u32,
    /// Makes every body, and so every entity tag, another.
    pub(crate) op: String,
    /// Epoch of the lease under which it was written.
    pub(crate) epoch: u64,
    /// What is about to be removed.
    pub(crate) keys: Vec<String>,
}

/// A body that no other is equal to.
pub(crate) fn unique() -> Body {
    Body::Bytes(format!("{{\"op\":\"{}\"}}\n", uuid::Uuid::new_v4()).into())
}

/// An entity tag as it can be compared between a listing and a single answer.
pub(crate) fn plain(etag: &str) -> String {
    etag.trim_start_matches("W/").trim_matches('"').to_owned()
}

/// The key of a snapshot's claim.
pub(crate) fn claim_key(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{CLAIMS}{}/{hex}", &hex[..2])
}

/// Says that a snapshot is about to be needed: no gc that looks from now on removes anything of it.
pub(crate) async fn claim(store: &Store, digest: &Digest) -> store::Result<()> {
    store.objects().put(&claim_key(digest), unique(), Condition::None).await.map(drop)
}

/// The state of gc as a survey saw it before it saw anything else: entity tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    epoch: Option<String>,
    intent: Option<String>,
}

impl Moment {
    /// Takes one entry of a listing.
    pub(crate) fn notice(&mut self, key: &str, meta: &Meta) {
        match key {
            EPOCH => self.epoch = Some(plain(&meta.etag)),
            INTENT => self.intent = Some(plain(&meta.etag)),
            _ => {}
        }
    }

    /// Asks for it alone.
    pub(crate) async fn ask(store: &Store) -> store::Result<Self> {
        let mut moment = Self::default();
        // In this order, as in a listing.
        for key in [EPOCH, INTENT] {
            if let Some(meta) = store.objects().head(key).await? {
                moment.notice(key, &meta);
            }
        }
        Ok(moment)
    }

    /// Whether no gc began to look since; if so, what was seen then is still there, or is protected by what we wrote since.
    pub(crate) async fn holds(&self, store: &Store) -> store::Result<bool> {
        Ok(store.objects().head(EPOCH).await?.map(|meta| plain(&meta.etag)) == self.epoch)
    }

    /// Whether the gc that was at work then leaves these objects alone. False after it was waited for: look again.
    pub(crate) async fn spares(
        &self,
        store: &Store,
        digest: &Digest,
        packs: &[crate::PackInfo],
        patience: Duration,
        events: &Events,
    ) -> Result<bool> {
        let lost = failed("push", digest);
        let Some(seen) = &self.intent else { return Ok(true) };
        let Some(there) = store.read(INTENT).await.map_err(&lost)? else { return Ok(false) };
        if plain(&there.etag) != *seen {
            return Ok(false);
        }
        let mut ours = BTreeSet::from([layout_key(digest), manifest_key(digest), claim_key(digest)]);
        ours.extend(packs.iter().map(|pack| Store::key(store::Family::Pack, &pack.digest)));
        // One that cannot be read names everything.
        let named = serde_json::from_slice::<Intent>(&there.bytes)
            .map_or(true, |intent| intent.v != 1 || intent.keys.iter().any(|key| ours.contains(key)));
        if !named {
            return Ok(true);
        }
        events.note(format!("waiting for a gc that removes what snapshot {} needs", digest.short()));
        wait(store, seen, digest, patience).await?;
        Ok(false)
    }
}

/// Waits until this intent is gone. When the gc that wrote it is dead, its lease is taken over and the intent cleared.
async fn wait(store: &Store, seen: &str, digest: &Digest, patience: Duration) -> Result<()> {
    let lost = failed("push", digest);
    let still = async || Ok(store.objects().head(INTENT).await?.is_some_and(|meta| plain(&meta.etag) == seen));
    let ended = async {
        while still().await? {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    };
    let busy = || Error::Busy { snapshot: *digest };
    let mut leasing = std::pin::pin!(store.lease(LEASE, "clear the intent of a dead gc", LEASE_TTL, patience));
    tokio::select! {
        ended = ended => {
            // The lease may just have become ours, and whoever drops it lets the next gc wait for nobody.
            if let Ok(Ok(lease)) = tokio::time::timeout(PARTING, &mut leasing).await {
                lease.release().await.map_err(&lost)?;
            }
            ended.map_err(&lost)
        }
        () = tokio::time::sleep(patience) => Err(busy()),
        lease = &mut leasing => {
            let lease = match lease {
                Ok(lease) => lease,
                Err(store::Error::Held { .. }) => return Err(busy()),
                Err(error) => return Err(lost(error)),
            };
            // Whoever wrote it is dead or has ended, and nobody else begins while we hold the lease.
            if still().await.map_err(&lost)? {
                crate::gc::in_time(store, &lease, store.objects().delete(INTENT)).await.map_err(&lost)?;
            }
            lease.release().await.map_err(&lost)
        }
    }
}
