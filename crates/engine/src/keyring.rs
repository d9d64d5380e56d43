//! Signing keys and trusted keys as files.
//!
//! A private key is a PKCS#8 PEM file with mode 0600 under the user's configuration folder, never in the repository;
//! public keys are PEM files `<name>.pub` in the repository's folder of trusted keys (`deploy/keys`). Both are what
//! `openssl` and `cosign` read. This module knows nothing of what is signed.

use crate::{
    error::{Doing, Error, Result},
    workspace::Host,
};
use domain::{Name, config::Config, config::Signing, secret::SecretRef};
use ledger::keys::{PublicKey, SigningKey, TrustedKeys};
use serde::Serialize;
use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// One key as `sealift keys list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// Its name.
    pub name: String,
    /// Short fingerprint for people.
    pub fingerprint: String,
    /// The bundle's hint: base64 of the SHA-256 of the public key.
    pub key_id: String,
    /// The public file.
    pub public: PathBuf,
    /// The private file, when it is on this host.
    pub private: Option<PathBuf>,
    /// Whether `[signing] key` names it.
    pub signs: bool,
}

/// Where the private half of a key of a project is kept on this host.
pub fn private_path(host: &Host, project: &Name, key: &Name) -> PathBuf {
    host.config_home.join("sealift/keys").join(project.as_str()).join(format!("{key}.pem"))
}

/// Makes a key pair. Refuses to replace either half.
pub fn create(host: &Host, config: &Config, root: &Path, name: &Name) -> Result<KeyInfo> {
    let private = private_path(host, &config.project, name);
    let public = root.join(&config.signing.trusted).join(format!("{name}.pub"));
    for path in [&private, &public] {
        if path.exists() {
            return Err(Error::BadInput {
                message: format!("the key {name} exists already: {}", path.display()),
                next: Some("sealift keys list".to_owned()),
            });
        }
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| Error::Internal { message: format!("this machine gives no random numbers: {error}") })?;
    let key = SigningKey::from_seed(seed);
    let doing = || format!("encode the key {name}");
    write_new(&private, key.to_pem().doing(doing())?.reveal().as_bytes(), 0o600)?;
    write_new(&public, key.public().to_pem().doing(doing())?.as_bytes(), 0o644)?;
    Ok(info(name, &key.public(), public, Some(private), *name == config.signing.key))
}

/// The trusted keys of a repository, and which of their private halves are here.
pub fn list(host: &Host, config: &Config, root: &Path) -> Result<Vec<KeyInfo>> {
    let mut keys = Vec::new();
    for (name, path, key) in public_files(&root.join(&config.signing.trusted))? {
        let private = private_path(host, &config.project, &name);
        let signs = name == config.signing.key;
        keys.push(info(&name, &key, path, private.exists().then_some(private), signs));
    }
    Ok(keys)
}

/// The trusted keys of a folder of `.pub` files.
pub fn trusted(folder: &Path) -> Result<TrustedKeys> {
    let mut trusted = TrustedKeys::new();
    for (name, _, key) in public_files(folder)? {
        trusted.insert(name, key).doing(format!("trust the keys in {}", folder.display()))?;
    }
    if trusted.is_empty() {
        return Err(Error::NotFound {
            message: format!("there is no trusted key in {}", folder.display()),
            next: Some("sealift keys new".to_owned()),
        });
    }
    Ok(trusted)
}

/// The trusted key in one `.pub` file, for `--key`.
pub fn trusted_file(path: &Path) -> Result<TrustedKeys> {
    Ok(TrustedKeys::one(key_name(path)?, read_public(path)?))
}

/// The key that signs, which must be among the trusted ones. An error names the command that makes one.
pub fn signing(host: &Host, config: &Config, root: &Path) -> Result<SigningKey> {
    let Signing { key, private, .. } = &config.signing;
    let (text, origin) = match private {
        Some(reference) => (read_secret(reference, root)?, reference.to_string()),
        None => {
            let path = private_path(host, &config.project, key);
            let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Error::NotFound {
                    message: format!("the signing key {key} has no private half on this host ({})", path.display()),
                    next: Some(format!("sealift keys new {key}")),
                },
                _ => Error::File { action: "read the private key", path: path.clone(), source: error },
            })?;
            (text, path.display().to_string())
        }
    };
    let signing = SigningKey::from_pem(&text)
        .map_err(|error| Error::bad_input(format!("the private key of {key} ({origin}) cannot be used: {error}")))?;
    // What nobody believes must never be written: a ledger entry by an unknown key could not be taken back.
    let believed = public_files(&root.join(&config.signing.trusted))?;
    if !believed.iter().any(|(_, _, known)| known.key_id() == signing.public().key_id()) {
        return Err(Error::NotPermitted {
            message: format!(
                "the signing key {key} ({}, {origin}) is not among the trusted keys in {}",
                signing.public().fingerprint(),
                config.signing.trusted
            ),
            next: Some("sealift keys list".to_owned()),
        });
    }
    Ok(signing)
}

/// The value behind a secret reference. The value is in no error.
pub fn read_secret(reference: &SecretRef, root: &Path) -> Result<String> {
    let value = match reference {
        SecretRef::Env(name) => std::env::var(name).map_err(|_| Error::NotFound {
            message: format!("the environment variable {name} is not set"),
            next: None,
        })?,
        SecretRef::File(path) => {
            let path = root.join(path);
            fs::read_to_string(&path).map_err(Error::file("read the secret in", &path))?
        }
        SecretRef::Command(command) => {
            let output = std::process::Command::new("sh")
                .args(["-c", command])
                .current_dir(root)
                .output()
                .map_err(Error::file("run a shell in", root))?;
            if !output.status.success() {
                return Err(Error::Command {
                    what: format!("the secret command {command:?}"),
                    how: output.status.to_string(),
                    tail: Vec::new(),
                });
            }
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
    };
    Ok(value.strip_suffix('\n').map(str::to_owned).unwrap_or(value))
}

fn info(name: &Name, key: &PublicKey, public: PathBuf, private: Option<PathBuf>, signs: bool) -> KeyInfo {
    KeyInfo { name: name.to_string(), fingerprint: key.fingerprint(), key_id: key.key_id(), public, private, signs }
}

fn public_files(folder: &Path) -> Result<Vec<(Name, PathBuf, PublicKey)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(Error::File { action: "read the folder", path: folder.to_owned(), source: error }),
    };
    for entry in entries {
        let path = entry.map_err(Error::file("read the folder", folder))?.path();
        if path.extension().is_some_and(|extension| extension == "pub") {
            let key = read_public(&path)?;
            found.push((key_name(&path)?, path, key));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// The name of a key is that of its file.
fn key_name(path: &Path) -> Result<Name> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Name::new(stem)
        .map_err(|error| Error::bad_input(format!("the file {} does not name a key: {error}", path.display())))
}

fn read_public(path: &Path) -> Result<PublicKey> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!("there is no public key at {}", path.display())),
        _ => Error::File { action: "read the public key", path: path.to_owned(), source: error },
    })?;
    PublicKey::from_pem(&text)
        .map_err(|error| Error::bad_input(format!("the public key {} cannot be used: {error}", path.display())))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file("make the folder", parent))?;
        if mode == 0o600 {
            fs::set_permissions(parent, fs::Permissions::from_mode(0o700))
                .map_err(Error::file("protect the folder", parent))?;
        }
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(Error::file("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::file("write", path))
}
