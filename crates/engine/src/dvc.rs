//! The DVC bridge for a workspace: which data of DVC is meant, whose configuration counts, and which remote is asked.
//!
//! The work is done by `snapshot::dvc`. Nothing here writes into a DVC repository, except an export: the `.dvc` file of the
//! data, and a remote of `.dvc/config` when that is asked for.

use crate::{
    artifacts::blocking,
    data::{self, Set},
    error::{Doing, Error, Result},
    workspace::Workspace,
};
use domain::Digest;
use serde::Serialize;
use snapshot::dvc::{self, Config, Exporting, Importing, Opened, Out, Remote};
use std::path::{Path, PathBuf};

pub use snapshot::dvc::Surroundings;

/// What is to be imported.
#[derive(Debug, Clone, Copy)]
pub struct Import<'a> {
    /// `.dvc` files, `dvc.lock` files, stages or data, relative to the workspace; all that DVC keeps when there is none.
    pub targets: &'a [String],
    /// A remote of DVC's configuration, an S3 URL or a folder, instead of what DVC would ask.
    pub remote: Option<&'a str>,
    /// Where the one data set is to be, instead of where DVC has it.
    pub to: Option<&'a str>,
}

/// Where the files of an import came from.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sources {
    /// From where DVC has the data.
    pub workspace: u64,
    /// From DVC's cache.
    pub cache: u64,
    /// From what an import that was interrupted had fetched.
    pub earlier: u64,
    /// From the remote.
    pub remote: u64,
}

/// What an import did with one out of DVC.
#[derive(Debug, Clone, Serialize)]
pub struct ImportedData {
    /// Name, or path for one that the configuration does not have.
    pub name: String,
    /// Path of the data.
    pub path: String,
    /// The `.dvc` file or `dvc.lock` that tracks it.
    pub tracked_by: String,
    /// The pointer file, which is to be committed.
    pub pointer_file: String,
    /// The snapshot.
    pub digest: Digest,
    /// Bytes of all files.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
    /// Where they came from.
    pub from: Sources,
    /// The remote, if it was asked for anything.
    pub remote: Option<String>,
    /// Whether the pointer changed.
    pub changed: bool,
    /// Whether the data is in its place; otherwise `data checkout` writes it.
    pub in_place: bool,
}

/// Where an export goes.
#[derive(Debug, Clone, Copy)]
pub struct Export<'a> {
    /// Names or paths of data sets; without any, all of `Sealift.toml`.
    pub sets: &'a [String],
    /// A remote of DVC's configuration, an S3 URL or a folder; what DVC would ask when there is none.
    pub remote: Option<&'a str>,
    /// The endpoint of an S3 URL that is not AWS's.
    pub endpoint: Option<&'a str>,
    /// The region of an S3 URL.
    pub region: Option<&'a str>,
    /// Whether objects that are there are read back, and not only asked for their size.
    pub verify: bool,
    /// The name under which the remote is written into `.dvc/config`.
    pub save: Option<&'a str>,
}

/// What an export did with one data set.
#[derive(Debug, Clone, Serialize)]
pub struct ExportedData {
    /// Name.
    pub name: String,
    /// Path of the data.
    pub path: String,
    /// The `.dvc` file, which is to be committed.
    pub file: String,
    /// Whether it changed.
    pub changed: bool,
    /// What it names: an MD5, with `.dir` for a directory.
    pub md5: String,
    /// The remote.
    pub remote: String,
    /// Files as DVC has them.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Objects of the remote that were damaged, and were sent again.
    pub healed: u64,
    /// What DVC cannot hold.
    pub left_out: Vec<String>,
    /// The configuration of DVC, where the remote was written into it.
    pub saved: Option<String>,
    /// Whether a `dvc pull` looks into this remote by itself.
    pub is_default: bool,
}

/// A DVC repository and its configuration.
struct Home {
    root: PathBuf,
    config: Config,
}

impl Home {
    /// The repository that a path belongs to.
    fn of(path: &Path, surroundings: &Surroundings) -> Result<Self> {
        let root = dvc::root_of(path).ok_or_else(|| Error::NotFound {
            message: format!("{} is in no DVC repository: there is no folder .dvc in it or above", path.display()),
            next: Some("dvc init".to_owned()),
        })?;
        let config = Config::read(&root.join(".dvc"), surroundings).doing("read the configuration of DVC")?;
        Ok(Self { root, config })
    }

    /// A remote by its name, or by where it is.
    fn remote(&self, wanted: &str, endpoint: Option<&str>, region: Option<&str>) -> Result<Remote> {
        let known = self.config.remotes().iter().any(|name| name.eq_ignore_ascii_case(wanted));
        let place = wanted.contains("://") || wanted.starts_with('/');
        let given = endpoint.map(|_| "--endpoint").or(region.map(|_| "--region"));
        if let Some(option) = given.filter(|_| !place || known) {
            let message = format!("{option} is about an S3 URL; the remote {wanted} has its own in .dvc/config");
            return Err(Error::Usage { message });
        }
        let remote = if place && !known { Remote::at(wanted, endpoint, region) } else { self.config.remote(wanted) };
        match remote {
            Err(error @ snapshot::Error::DvcMissing { .. }) => {
                Err(Error::NotFound { message: error.to_string(), next: Some("dvc remote list".to_owned()) })
            }
            remote => remote.doing(format!("use the DVC remote {wanted}")),
        }
    }
}

/// Takes data that DVC keeps into snapshots, and writes their pointer files. Nothing of DVC's changes.
pub async fn import(
    workspace: &Workspace,
    surroundings: &Surroundings,
    import: &Import<'_>,
) -> Result<Vec<ImportedData>> {
    let outs = outs(workspace, import.targets).await?;
    if let (Some(_), true) = (import.to, outs.len() > 1) {
        let paths: Vec<String> = outs.iter().map(|out| relative(workspace, &out.path)).collect();
        return Err(Error::Usage { message: format!("--to is about one data set; say which: {}", paths.join(", ")) });
    }
    let mut all = Vec::new();
    for out in &outs {
        all.push(import_one(workspace, surroundings, import, out).await?);
    }
    Ok(all)
}

/// The outs that are meant. What DVC leaves to git is left to git, unless it is named itself.
async fn outs(workspace: &Workspace, targets: &[String]) -> Result<Vec<Out>> {
    let (root, wanted) = (workspace.root.clone(), targets.to_vec());
    let mut outs = match blocking(move || dvc::find(&root, &wanted)).await? {
        Err(error @ snapshot::Error::DvcMissing { .. }) => {
            let next = if targets.is_empty() { "sealift data add PATH" } else { "dvc list . --dvc-only --recursive" };
            return Err(Error::NotFound { message: error.to_string(), next: Some(next.to_owned()) });
        }
        found => found.doing("find data of DVC")?,
    };
    // Whoever names the data itself, or its own file, wants it.
    let is_named = |out: &Out| {
        let own = out.stage.is_none().then(|| relative(workspace, &out.file));
        targets.iter().any(|target| *target == relative(workspace, &out.path) || own.as_ref() == Some(target))
    };
    let left = outs.extract_if(.., |out| !out.kept && !is_named(out)).map(|out| relative(workspace, &out.path));
    let left: Vec<String> = left.collect();
    if !left.is_empty() {
        workspace.events.note(format!("left to git, as DVC does (cache: false): {}", left.join(", ")));
    }
    for pair in outs.windows(2) {
        if pair[0].path == pair[1].path {
            return Err(Error::BadInput {
                message: format!(
                    "{} is tracked twice, by {} and by {}",
                    relative(workspace, &pair[0].path),
                    relative(workspace, &pair[0].file),
                    relative(workspace, &pair[1].file)
                ),
                next: Some("the same command with the one of them that is meant".to_owned()),
            });
        }
    }
    if outs.is_empty() {
        return Err(Error::NotFound {
            message: "DVC keeps no data here: it leaves all of it to git".to_owned(),
            next: Some("sealift data add PATH".to_owned()),
        });
    }
    Ok(outs)
}

async fn import_one(
    workspace: &Workspace,
    surroundings: &Surroundings,
    import: &Import<'_>,
    out: &Out,
) -> Result<ImportedData> {
    let path = relative(workspace, &out.path);
    let home = Home::of(out.file.parent().unwrap_or(&workspace.root), surroundings)?;
    let wanted = import.remote.or(out.remote.as_deref()).or(home.config.default_remote());
    let opened = match wanted {
        None => Ok(None),
        Some(name) => open(&home, name, surroundings).await.map(Some),
    };
    // A remote that nobody asked for by name matters only when something must come from it.
    let (remote, useless) = match opened {
        Ok(remote) => (remote, None),
        Err(error) if import.remote.is_none() => (None, Some(error)),
        Err(error) => return Err(error),
    };
    let importing = Importing {
        root: home.root,
        config: home.config,
        remote,
        to: import.to.map(|to| PathBuf::from(to.trim_end_matches('/'))),
    };
    let done = dvc::import(&data::repository(workspace), out, &importing, &workspace.events).await;
    let done = match (done, useless) {
        (Err(snapshot::Error::DvcMissing { .. }), Some(error)) => return Err(error),
        (done, _) => done.doing(format!("import {path} from DVC"))?,
    };
    let added = done.added;
    let at = import.to.map_or(path, |to| to.trim_end_matches('/').to_owned());
    Ok(ImportedData {
        name: data::name_of(workspace, &at),
        tracked_by: relative(workspace, &out.file),
        pointer_file: relative(workspace, &added.pointer_path),
        path: at,
        digest: added.pointer.digest,
        bytes: added.pointer.bytes,
        files: added.pointer.files,
        from: Sources {
            workspace: done.from.workspace,
            cache: done.from.cache,
            earlier: done.from.earlier,
            remote: done.from.remote,
        },
        remote: done.remote,
        changed: added.changed,
        in_place: done.in_place,
    })
}

async fn open(home: &Home, name: &str, surroundings: &Surroundings) -> Result<Opened> {
    let remote = home.remote(name, None, None)?;
    Opened::open(&remote, surroundings).await.doing(format!("open the DVC remote {name}"))
}

/// Brings snapshots into a DVC remote, and writes the `.dvc` files that lead to them.
pub async fn export(
    workspace: &Workspace,
    surroundings: &Surroundings,
    export: &Export<'_>,
) -> Result<Vec<ExportedData>> {
    let mut all = Vec::new();
    for set in data::sets(workspace, export.sets)? {
        all.push(export_one(workspace, surroundings, export, set).await?);
    }
    Ok(all)
}

async fn export_one(
    workspace: &Workspace,
    surroundings: &Surroundings,
    export: &Export<'_>,
    set: Set,
) -> Result<ExportedData> {
    let pointer = data::pointer(&workspace.root, &set.path)?;
    let full = workspace.root.join(&set.path);
    let home = Home::of(full.parent().unwrap_or(&workspace.root), surroundings)?;
    let of_out = dvc::remote_of(&full).doing(format!("read {}.dvc", set.path))?;
    let Some(wanted) = export.remote.or(of_out.as_deref()).or(home.config.default_remote()) else {
        return Err(Error::Usage {
            message: "no DVC remote is configured; say which with --remote NAME or --remote s3://BUCKET/PREFIX"
                .to_owned(),
        });
    };
    let mut remote = home.remote(wanted, export.endpoint, export.region)?;
    let ignored = remote.not_honoured().join(", ");
    if !ignored.is_empty() {
        workspace.events.warn(format!("the DVC remote {wanted} has settings that Sealift does not use: {ignored}"));
    }
    if let Some(name) = export.save {
        name.clone_into(&mut remote.name);
    }
    let opened = Opened::open(&remote, surroundings).await.doing(format!("open the DVC remote {wanted}"))?;
    let exporting = Exporting { root: home.root.clone(), remote: opened.clone(), verify: export.verify };
    let done = dvc::export(&data::repository(workspace), &pointer, &exporting, &workspace.events).await;
    opened.settle().await;
    let done = done.doing(format!("export {} to DVC", set.path))?;
    let saved = export.save.map(|name| save(&home, name, &remote, export)).transpose()?;
    let is_default = match (&saved, home.config.default_remote()) {
        (Some(_), None) => true,
        (_, default) => of_out.is_some() || default.is_some_and(|default| default.eq_ignore_ascii_case(&remote.name)),
    };
    Ok(ExportedData {
        name: set.name,
        path: set.path,
        file: relative(workspace, &done.file),
        changed: done.changed,
        md5: done.md5,
        remote: opened.describe(),
        files: done.files,
        bytes: done.bytes,
        sent: done.sent,
        sent_bytes: done.sent_bytes,
        healed: done.healed,
        left_out: done.left_out,
        saved: saved.map(|file| relative(workspace, &file)),
        is_default,
    })
}

/// Writes a remote into `.dvc/config`. What else is in it stays as it is.
fn save(home: &Home, name: &str, remote: &Remote, export: &Export<'_>) -> Result<PathBuf> {
    let file = home.root.join(".dvc/config");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::file("read", &file)(error)),
    };
    let url = remote.url();
    let mut settings = vec![("url", url.as_str())];
    settings.extend(export.endpoint.map(|endpoint| ("endpointurl", endpoint)));
    settings.extend(export.region.map(|region| ("region", region)));
    let written = dvc::with_remote(&text, name, &settings)
        .map_err(|why| Error::BadInput { message: format!("{} {why}", file.display()), next: None })?;
    if written != text {
        crate::journal::write_atomically(&file, written.as_bytes())?;
    }
    Ok(file)
}

fn relative(workspace: &Workspace, path: &Path) -> String {
    path.strip_prefix(&workspace.root).unwrap_or(path).display().to_string()
}
