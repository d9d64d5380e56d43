//! What an image is built on: nothing, an OCI layout on this disk, or an image of a registry, pinned by its digest.
//!
//! A base of a registry is fetched once and kept under `bases/` of the cache, as a layout. Its layers are verified whole (digest, and identity before
//! compression) when they are first met; what they hold is then remembered under `listings/`, so that a later build only hashes them.
//! A tag alone is refused: it would be another base tomorrow.

use crate::{
    error::{Error, Result, joined},
    layercache, layout,
    layout::Documents,
    registry::{self, Destination},
    spec::{Descriptor, ImageConfig, Platform},
    tree::{Listings, Tree},
    unpack::Limits,
};
use domain::{Digest, Events, config::OciBuild};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What `base` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BaseName {
    Scratch,
    Layout(String),
    Registry { repository: String, tag: Option<String>, digest: Option<Digest> },
}

impl BaseName {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text == "scratch" {
            return Ok(Self::Scratch);
        }
        if let Some(path) = text.strip_prefix("oci-layout:") {
            return Ok(Self::Layout(path.to_owned()));
        }
        let misread = |why: &str| {
            let hint = "write scratch, oci-layout:PATH, or REGISTRY/PATH@sha256:…";
            Error::bad_with(format!("base {text:?} is not understood: {why}"), hint)
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                (name, Some(digest.parse::<Digest>().map_err(|error| misread(&error.to_string()))?))
            }
            None => (text, None),
        };
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag.to_owned())),
            _ => (name, None),
        };
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '@' | '?' | '#' | '\\');
        if repository.is_empty() || repository.contains("://") || name.contains(odd) {
            return Err(misread("it names no repository"));
        }
        Ok(Self::Registry { repository: repository.to_owned(), tag, digest })
    }
}

/// Fetches the base of an `oci` build into the cache, when it has one that is not on this disk yet; says where it is. Scratch and layouts
/// are nowhere to be fetched from.
///
/// The base must name a digest; when it names only a tag, the error's hint says which digest that has at present.
pub async fn fetch_base(spec: &OciBuild, cache: &Path, events: &Events) -> Result<Option<PathBuf>> {
    let BaseName::Registry { repository, tag, digest } = BaseName::parse(&spec.base)? else { return Ok(None) };
    let from = Destination { repository, insecure: spec.base_insecure };
    let Some(digest) = digest else {
        let now = registry::resolve(&from, tag.as_deref().unwrap_or("latest")).await;
        let pinned = now.ok().flatten().map_or("sha256:…".to_owned(), |digest| digest.to_string());
        return Err(unpinned(&spec.base, &pinned));
    };
    let bases = cache.join("bases");
    fs::create_dir_all(&bases).map_err(Error::file("create", &bases))?;
    let platforms = spec.platforms.join("+").replace('/', "-");
    let kept = bases.join(format!("{}-{platforms}", digest.hex()));
    if kept.join("index.json").is_file() {
        let (checked, wanted) = (kept.clone(), spec.platforms.clone());
        let sound = tokio::task::spawn_blocking(move || sound(&checked, &wanted)).await;
        match joined("check the cached base", sound)? {
            Ok(()) => return Ok(Some(kept)),
            Err(error) => events.warn(format!("the cached base {} is fetched again: {error}", spec.base)),
        }
    }
    if kept.exists() {
        fs::remove_dir_all(&kept).map_err(Error::file("remove", &kept))?;
    }
    let staging = tempfile::tempdir_in(&bases).map_err(Error::file("create a folder in", &bases))?;
    registry::pull(&from, &digest.to_string(), &spec.platforms, staging.path(), events).await?;
    match fs::rename(staging.path(), &kept) {
        Ok(()) => drop(staging.keep()),
        // Another build fetched the same at the same time.
        Err(_) if kept.join("index.json").is_file() => {}
        Err(error) => return Err(Error::file("rename a folder to", &kept)(error)),
    }
    Ok(Some(kept))
}

/// Whether the documents of a cached base can be read and its layers are there, with their sizes. The build hashes them.
fn sound(layout: &Path, platforms: &[String]) -> Result<()> {
    for platform in platforms {
        let documents = layout::read_documents(layout, Some(&parse_platform(platform)?))?;
        for layer in &documents.manifest.layers {
            layout::check_blob(&layout::blobs_dir(layout), layer)?;
        }
    }
    Ok(())
}

pub(crate) fn parse_platform(text: &str) -> Result<Platform> {
    Platform::parse(text).ok_or_else(|| {
        Error::bad_with(
            format!("platform {text:?} is not understood"),
            "write os/architecture, for example linux/amd64",
        )
    })
}

fn unpinned(base: &str, digest: &str) -> Error {
    Error::bad_with(
        format!("base {base:?} names no digest, so it may be another image tomorrow"),
        format!("write {base}@{digest}"),
    )
}

/// What is below the new layers, for one platform.
#[derive(Debug, Default)]
pub(crate) struct Base {
    pub(crate) tree: Tree,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) config: Option<ImageConfig>,
    /// Reference by which it can be had, and digest, for the annotations.
    pub(crate) name: Option<String>,
    pub(crate) digest: Option<Digest>,
}

impl Base {
    /// Reads and verifies the base and puts its layers into the layout. `fetched` is what [`fetch_base`] said.
    pub(crate) fn read(
        text: &str,
        root: &Path,
        fetched: Option<&Path>,
        platform: &Platform,
        cache: &Path,
        to: &Path,
    ) -> Result<Self> {
        match BaseName::parse(text)? {
            BaseName::Scratch => Ok(Self::default()),
            BaseName::Layout(path) => {
                let path = root.join(path);
                if !path.join("index.json").is_file() {
                    let what = format!("base {text}: {} is no OCI layout (it has no index.json)", path.display());
                    return Err(Error::bad_with(what, "make one with: skopeo copy docker://IMAGE oci:PATH"));
                }
                // It is the user's, who may change it in place: copied, not linked.
                Self::of_layout(&path, platform, cache, to, layercache::copy)
            }
            BaseName::Registry { digest: None, .. } => Err(unpinned(text, "sha256:…")),
            BaseName::Registry { repository, tag, digest: Some(digest) } => {
                let Some(layout) = fetched else {
                    return Err(Error::bad(format!("base {text} was not fetched")));
                };
                let base = Self::of_layout(layout, platform, cache, to, layercache::link)?;
                let name = tag.map_or_else(|| repository.clone(), |tag| format!("{repository}:{tag}"));
                Ok(Self { name: Some(name), digest: Some(digest), ..base })
            }
        }
    }

    fn of_layout(
        layout: &Path,
        platform: &Platform,
        cache: &Path,
        to: &Path,
        put: fn(&Path, &Path) -> Result<()>,
    ) -> Result<Self> {
        let limits = Limits::default();
        let documents = layout::read_documents(layout, Some(platform))?;
        let listings = Listings::open(cache)?;
        verify(layout, &documents, &listings, &limits)?;
        let tree = Tree::of(layout, &documents, &limits, Some(&listings))?;
        for layer in &documents.manifest.layers {
            let name = layer.digest.hex();
            let (from, to) = (layout::blobs_dir(layout).join(&name), layout::blobs_dir(to).join(&name));
            if !to.exists() {
                put(&from, &to)?;
            }
        }
        let digest = Some(documents.manifest_descriptor.digest);
        Ok(Self { tree, layers: documents.manifest.layers, config: Some(documents.config), name: None, digest })
    }
}

/// Verifies the layers. One whose content is known under its digest and identity was verified whole then, and is hashed now.
fn verify(layout: &Path, documents: &Documents, listings: &Listings, limits: &Limits) -> Result<()> {
    let known = |layer: &Descriptor, identity: &Digest| listings.known(layer, identity);
    let pairs = documents.manifest.layers.iter().zip(&documents.config.rootfs.diff_ids);
    if !pairs.clone().all(|(layer, identity)| known(layer, identity)) {
        return layout::verify_layers(layout, documents, limits);
    }
    let layers: Vec<&Descriptor> = pairs.map(|(layer, _)| layer).collect();
    crate::layer::in_parallel(&layers, |layer| layout::check_blob(&layout::blobs_dir(layout), layer)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_named_by_its_digest() {
        let digest = Digest::of(b"base");
        let registry = |repository: &str, tag: Option<&str>, digest| BaseName::Registry {
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        };
        for (text, wanted) in [
            ("scratch".to_owned(), BaseName::Scratch),
            ("oci-layout:a/b".to_owned(), BaseName::Layout("a/b".to_owned())),
            ("debian:12".to_owned(), registry("debian", Some("12"), None)),
            ("localhost:5000/a/b".to_owned(), registry("localhost:5000/a/b", None, None)),
            (format!("reg.example:5000/b:1.2@{digest}"), registry("reg.example:5000/b", Some("1.2"), Some(digest))),
            (format!("reg.example/b@{digest}"), registry("reg.example/b", None, Some(digest))),
        ] {
            assert_eq!(BaseName::parse(&text).unwrap(), wanted, "{text}");
        }
        for text in ["", "https://reg.example/b", "a b", "reg.example/b@sha256:12", "b@c@d", ":tag"] {
            let error = BaseName::parse(text).unwrap_err();
            assert!(error.to_string().contains("is not understood") && error.hint().is_some(), "{text}: {error}");
        }
        let error = unpinned("debian:12", &digest.to_string());
        assert_eq!(error.hint().unwrap(), format!("write debian:12@{digest}"));
    }
}
