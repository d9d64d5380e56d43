//! From sources to what is built of them, on this host. Nothing is published here.

use crate::{
    artifacts::{blocking, layout_path},
    cut::{component, version},
    error::{Doing, Error, Result},
    git::{self, Head},
    workspace::Workspace,
};
use domain::{
    Event, Name,
    config::{Builder, Component},
    event::Unit,
    manifest,
};
use semver::Version;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// How many lines of a failed command are shown.
const TAIL: usize = 20;

/// An image that was built.
#[derive(Debug, Clone, Serialize)]
pub struct BuiltComponent {
    /// The component.
    pub component: Name,
    /// Its version.
    pub version: Version,
    /// `docker`, `oci` or `none`.
    pub builder: String,
    /// The image; `None` for a component without a builder.
    pub image: Option<manifest::Image>,
    /// Its platform.
    pub platform: Option<String>,
    /// Its OCI layout on this host.
    pub layout: Option<PathBuf>,
}

/// Builds images, of all components when none is named. Nothing is published.
pub async fn build(workspace: &Workspace, wanted: &[String]) -> Result<Vec<BuiltComponent>> {
    let mut built = Vec::new();
    let head = git::head(&workspace.root).await.ok();
    let components: Vec<&Component> = match wanted {
        [] => workspace.config.components.values().collect(),
        names => names.iter().map(|name| component(workspace, Some(name))).collect::<Result<_>>()?,
    };
    for component in components {
        let version = version(workspace, component)?;
        built.push(build_one(workspace, component, &version, head.as_ref()).await?);
    }
    Ok(built)
}

pub(crate) async fn build_one(
    workspace: &Workspace,
    component: &Component,
    version: &Version,
    head: Option<&Head>,
) -> Result<BuiltComponent> {
    let folder = workspace.root.join(&component.path);
    for command in &component.build.prepare {
        prepare(workspace, &folder, command).await?;
    }
    let created = head.map(|head| head.committed).unwrap_or_default();
    let mut labels = BTreeMap::from([
        ("org.opencontainers.image.title".to_owned(), component.name.to_string()),
        ("org.opencontainers.image.version".to_owned(), version.to_string()),
        ("org.opencontainers.image.created".to_owned(), created.to_string()),
    ]);
    if let Some(head) = head {
        labels.insert("org.opencontainers.image.revision".to_owned(), head.commit.clone());
    }
    let images = workspace.cache().join("images");
    fs::create_dir_all(&images).map_err(Error::file("make the folder", &images))?;
    let temporary = tempfile::tempdir_in(&images).map_err(Error::file("make a folder in", &images))?;
    let doing = || format!("build the image of {}", component.name);
    let builder = &component.build.builder;
    let (word, built) = match builder {
        Builder::None => ("none", None),
        Builder::Docker(spec) => {
            let built = image::build_docker(spec, &folder, &labels, temporary.path(), &workspace.events).await;
            ("docker", Some(built.doing(doing())?))
        }
        Builder::Oci(spec) => {
            let (spec, to, events) = (spec.clone(), temporary.path().to_owned(), workspace.events.clone());
            let built = blocking(move || image::build_oci(&spec, &folder, &labels, created, &to, &events)).await?;
            ("oci", Some(built.doing(doing())?))
        }
        Builder::Nix(_) | Builder::Command(_) => {
            return Err(Error::bad_input(format!("the builder of {} is not there yet", component.name)));
        }
    };
    let Some(built) = built else {
        let component = component.name.clone();
        let version = version.clone();
        return Ok(BuiltComponent {
            component,
            version,
            builder: word.to_owned(),
            image: None,
            platform: None,
            layout: None,
        });
    };
    let layout = layout_path(&workspace.cache(), &built.manifest);
    if !layout.exists() {
        let kept = temporary.keep();
        if fs::rename(&kept, &layout).is_err() {
            // A concurrent build of the same image was quicker.
            fs::remove_dir_all(&kept).map_err(Error::file("remove", &kept))?;
        }
    }
    Ok(BuiltComponent {
        component: component.name.clone(),
        version: version.clone(),
        builder: word.to_owned(),
        image: Some(manifest::Image {
            manifest: built.manifest,
            config: built.config,
            layers: built.layers,
            bytes: built.bytes,
        }),
        platform: Some(built.platform),
        layout: Some(layout),
    })
}

/// Runs one command of `prepare`, its lines as events.
async fn prepare(workspace: &Workspace, folder: &Path, command: &[String]) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let shown = command.join(" ");
    let failed =
        |how: String, tail: Vec<String>| Error::Command { what: format!("the prepare command `{shown}`"), how, tail };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("it cannot be started: {error}"), Vec::new()))?;
    let task = workspace.events.task(format!("run {shown}"), None, Unit::Items);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (out, err, status) = tokio::join!(lines(workspace, program, out), lines(workspace, program, err), child.wait());
    let status = status.map_err(|error| failed(error.to_string(), Vec::new()))?;
    if status.success() {
        task.finish("done");
        return Ok(());
    }
    let mut tail: Vec<String> = out.into_iter().chain(err).collect();
    tail.drain(..tail.len().saturating_sub(TAIL));
    Err(failed(status.to_string(), tail))
}

/// Passes lines on as they come and keeps the last ones.
async fn lines(workspace: &Workspace, source: &str, stream: Option<impl AsyncRead + Unpin>) -> Vec<String> {
    let mut tail = Vec::new();
    let Some(stream) = stream else { return tail };
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(count) if count > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        workspace.events.emit(Event::Output { source: source.to_owned(), line: text.clone() });
        tail.push(text);
        if tail.len() > TAIL {
            tail.remove(0);
        }
        line.clear();
    }
    tail
}
