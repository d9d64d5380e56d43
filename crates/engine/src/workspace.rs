//! A repository with its `Sealift.toml`, and the host on which it is used.

use crate::{
    error::{Doing, Error, Result},
    keyring,
};
use domain::{
    Events,
    config::{Config, StoreConfig, Transfer},
    secret::Secret,
};
use ledger::keys::{SigningKey, TrustedKeys};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use store::{Location, Settings, Store};

/// The name of the configuration file.
pub const CONFIG: &str = "Sealift.toml";

/// What the shell knows of the machine and the person: read once, by `sealift`, from the environment.
#[derive(Debug, Clone)]
pub struct Host {
    /// The user's configuration folder (`$XDG_CONFIG_HOME` or `~/.config`).
    pub config_home: PathBuf,
    /// Who acts, when git does not know: `user@host`.
    pub actor: String,
}

/// The time. Tests give their own.
pub trait Clock: Send + Sync {
    /// Now, by the wall clock. Used for records, never for leases.
    fn now(&self) -> jiff::Timestamp;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

/// A repository that Sealift works in.
#[derive(Clone)]
pub struct Workspace {
    /// The folder of `Sealift.toml`.
    pub root: PathBuf,
    /// The validated configuration.
    pub config: Config,
    /// The machine and the person.
    pub host: Host,
    /// Where events go.
    pub events: Events,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Workspace {
    /// Looks for `Sealift.toml` in `start` and the folders above, and reads it.
    pub fn open(start: &Path, host: Host, events: Events) -> Result<Self> {
        let root = start
            .ancestors()
            .find(|folder| folder.join(CONFIG).is_file())
            .ok_or_else(|| Error::NoWorkspace { start: start.to_owned() })?;
        let path = root.join(CONFIG);
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let config = domain::config::parse(&text, CONFIG).map_err(|problems| Error::Config { problems })?;
        Ok(Self { root: root.to_owned(), config, host, events, clock: Arc::new(WallClock) })
    }

    /// The folder for caches and local state, ignored by git.
    pub fn state(&self) -> PathBuf {
        self.root.join(".sealift")
    }

    /// The cache of fetched and built things; removing it loses nothing.
    pub fn cache(&self) -> PathBuf {
        self.state().join("cache")
    }

    /// Opens the store of the configuration.
    pub async fn store(&self) -> Result<Store> {
        open_store(&self.config.store, &self.config.transfer, &self.root).await
    }

    /// Opens the store for what is created once or replaced by comparison: whether its conditional writes hold is found out
    /// once and remembered. Data needs none of that: it is kept under its digest, and a collection probes for itself.
    pub async fn store_for_writing(&self) -> Result<Store> {
        let store = self.store().await?;
        let mark = self.state().join("probed").join(domain::Digest::of(store.describe()).hex());
        if !mark.is_file() {
            store.probe_conditional_writes().await.doing("write to the store")?;
            crate::journal::write_atomically(&mark, store.describe().as_bytes())?;
        }
        Ok(store)
    }

    /// Opens a remote of `[store.remote.NAME]`.
    pub async fn remote(&self, name: &str) -> Result<Store> {
        let known = || self.config.remotes.keys().map(ToString::to_string);
        let Some(config) = self.config.remotes.get(name) else {
            return Err(domain::names::Unknown::new("remote", name, known()).into());
        };
        open_store(config, &self.config.transfer, &self.root).await
    }

    /// The folder where the newest ledger entries seen in this store are remembered.
    pub fn ledger_memory(&self, store: &Store) -> PathBuf {
        self.state().join("ledger").join(domain::Digest::of(store.describe()).short())
    }

    /// The key that signs, which is among the trusted ones.
    pub fn signing_key(&self) -> Result<SigningKey> {
        keyring::signing(&self.host, &self.config, &self.root)
    }

    /// The keys that are trusted.
    pub fn trusted_keys(&self) -> Result<TrustedKeys> {
        keyring::trusted(&self.root.join(&self.config.signing.trusted))
    }

    /// Who acts.
    pub async fn actor(&self) -> String {
        crate::git::user(&self.root).await.unwrap_or_else(|| self.host.actor.clone())
    }

    /// The time.
    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }
}

/// A path of the configuration, relative to `root`, without `.` and `..` in it, so that it reads well and is the same
/// however it was written. `root` has no symlinks in it.
pub fn resolve(root: &Path, path: &str) -> PathBuf {
    let mut resolved = PathBuf::new();
    for part in root.join(path).components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                resolved.pop();
            }
            part => resolved.push(part),
        }
    }
    resolved
}

/// Opens the store that a configuration describes; `root` is what relative paths are relative to.
pub async fn open_store(config: &StoreConfig, transfer: &Transfer, root: &Path) -> Result<Store> {
    let location = match config {
        StoreConfig::Embedded { path } => Location::Embedded { directory: resolve(root, path) },
        StoreConfig::S3 { bucket, prefix, endpoint, region, access_key, secret_key } => {
            let credentials = match (access_key, secret_key) {
                (Some(access), Some(secret)) => {
                    Some((keyring::read_secret(access, root)?, Secret::new(keyring::read_secret(secret, root)?)))
                }
                _ => None,
            };
            Location::S3 {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                endpoint: endpoint.clone(),
                region: region.clone(),
                credentials,
            }
        }
    };
    let settings = Settings {
        upload_limit: transfer.upload_limit,
        download_limit: transfer.download_limit,
        deadline: transfer.deadline,
        stall_timeout: transfer.stall_timeout,
        ..Settings::default()
    };
    Store::open_with(&location, &settings).await.doing("open the store")
}
