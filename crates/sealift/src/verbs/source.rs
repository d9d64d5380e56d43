//! Where releases are read from when there may be no repository: a store and public keys, typed or configured.

use crate::shell::Shell;
use domain::{
    Name, ReleaseName,
    config::{StoreConfig, Transfer},
};
use engine::{Error, Result, Store, TrustedKeys, keyring, releases, workspace::open_store};
use std::path::{Path, PathBuf};

/// Options of verbs that need no Sealift.toml.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// The store: a folder, or s3://BUCKET/PREFIX; without it that of Sealift.toml
    #[arg(long, value_name = "DIR|s3://BUCKET/PREFIX")]
    store: Option<String>,
    /// The S3 endpoint; without it AWS
    #[arg(long, value_name = "URL", requires = "store")]
    endpoint: Option<String>,
    /// The S3 region
    #[arg(long, value_name = "NAME", requires = "store")]
    region: Option<String>,
    /// A public key that is trusted; without it those of Sealift.toml
    #[arg(long = "key", value_name = "PUB.pem")]
    keys: Vec<PathBuf>,
}

impl Source {
    /// Where the store is, as it was typed or configured.
    pub(super) fn place(&self, shell: &Shell) -> Result<StoreConfig> {
        match &self.store {
            None => match shell.workspace_if_any()? {
                Some(workspace) => Ok(workspace.config.store),
                None => Err(Error::Usage { message: no_default("--store", &shell.start) }),
            },
            Some(text) => match text.strip_prefix("s3://") {
                Some(place) => s3(place, self.endpoint.clone(), self.region.clone()),
                None => folder(&shell.path(Path::new(text))),
            },
        }
    }

    /// Opens the store. One that is not there is not made.
    pub(super) async fn open_store(&self, shell: &Shell) -> Result<Store> {
        if self.store.is_none() {
            return match shell.workspace_if_any()? {
                Some(workspace) => workspace.store().await,
                None => Err(Error::Usage { message: no_default("--store", &shell.start) }),
            };
        }
        let config = self.place(shell)?;
        // A store that was typed is used also where Sealift.toml cannot be read: nothing is taken from it.
        open_store(&config, &Transfer::default(), &shell.start).await
    }

    /// Whether the store was typed, not configured.
    pub(super) fn is_typed(&self) -> bool {
        self.store.is_some()
    }

    /// The trusted keys.
    pub(super) fn trusted(&self, shell: &Shell) -> Result<TrustedKeys> {
        if self.keys.is_empty() {
            return match shell.workspace_if_any()? {
                Some(workspace) => workspace.trusted_keys(),
                None => Err(Error::Usage { message: no_default("--key", &shell.start) }),
            };
        }
        trusted_files(shell, &self.keys)
    }

    /// The file of a trusted key as a person would type it.
    pub(super) fn key_file(&self, shell: &Shell, signer: &str) -> Result<String> {
        let typed = self.keys.iter().find(|file| file.file_stem().is_some_and(|stem| stem == signer));
        if let Some(file) = typed {
            return Ok(file.display().to_string());
        }
        let folder = shell.workspace_if_any()?.map(|workspace| workspace.config.signing.trusted.clone());
        Ok(format!("{}/{signer}.pub", folder.unwrap_or_else(|| "deploy/keys".to_owned())))
    }

    /// The release that is meant.
    pub(super) async fn resolve(&self, shell: &Shell, store: &Store, text: &str) -> Result<ReleaseName> {
        let configured = if self.store.is_none() { shell.workspace_if_any()? } else { None };
        let components: Vec<Name> = match configured {
            Some(workspace) => workspace.config.components.keys().cloned().collect(),
            None => {
                let mut names: Vec<Name> =
                    releases::list(store, None).await?.into_iter().map(|release| release.component).collect();
                names.dedup();
                names
            }
        };
        releases::resolve(store, text, &components).await
    }
}

/// The keys in `.pub` files.
pub(super) fn trusted_files(shell: &Shell, files: &[PathBuf]) -> Result<TrustedKeys> {
    use engine::error::Doing;
    let mut trusted = TrustedKeys::new();
    for file in files {
        for (name, key) in keyring::trusted_file(&shell.path(file))?.iter() {
            trusted.insert(name.clone(), key.clone()).doing(format!("trust {}", file.display()))?;
        }
    }
    Ok(trusted)
}

fn no_default(option: &str, start: &Path) -> String {
    format!("{option} is needed, because there is no Sealift.toml in {} or above it", start.display())
}

fn folder(path: &Path) -> Result<StoreConfig> {
    if !path.is_dir() {
        return Err(Error::NotFound { message: format!("there is no store in {}", path.display()), next: None });
    }
    let text = path.to_str().ok_or_else(|| Error::Usage { message: format!("{} is not UTF-8", path.display()) })?;
    Ok(StoreConfig::Embedded { path: text.to_owned() })
}

fn s3(place: &str, endpoint: Option<String>, region: Option<String>) -> Result<StoreConfig> {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() {
        return Err(Error::Usage { message: "--store s3://BUCKET/PREFIX names no bucket".to_owned() });
    }
    Ok(StoreConfig::S3 {
        bucket: bucket.to_owned(),
        prefix: prefix.trim_matches('/').to_owned(),
        endpoint,
        region,
        access_key: None,
        secret_key: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_and_its_prefix() {
        let read = |place: &str| match s3(place, None, None) {
            Ok(StoreConfig::S3 { bucket, prefix, .. }) => Some((bucket, prefix)),
            _ => None,
        };
        assert_eq!(read("b"), Some(("b".to_owned(), String::new())));
        assert_eq!(read("b/x/y/"), Some(("b".to_owned(), "x/y".to_owned())));
        assert_eq!(read("/x"), None);
    }
}
