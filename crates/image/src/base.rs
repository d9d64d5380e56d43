//! What an image is built on: nothing, an OCI layout on this disk, or an image of a registry, pinned by its digest.
//!
//! A base of a registry is fetched once and kept under `bases/` of the cache, as a layout, with the pinned document itself beside it (`pinned`): what is kept
//! is used only when that has the pinned digest and names every platform's image. Its layers are verified whole (digest, and identity before
//! compression) when they are first met; what they hold is then remembered under `listings/`, so that a later build only hashes them.
//! A tag alone is refused: it would be another base tomorrow.

use crate::{
    abandoned::remove_abandoned,
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
    io::Read,
    path::{Path, PathBuf},
};

/// The document that a cached base is pinned by, in its layout.
const PINNED: &str = "pinned";

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
    remove_abandoned(&bases);
    let platforms = spec.platforms.join("+").replace('/', "-");
    let kept = bases.join(format!("{}-{platforms}", digest.hex()));
    if kept.join("index.json").is_file() {
        let (checked, wanted) = (kept.clone(), spec.platforms.clone());
        let sound = tokio::task::spawn_blocking(move || sound(&checked, &wanted, &digest)).await;
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
    let pinned = staging.path().join(PINNED);
    fs::write(&pinned, registry::document(&from, &digest).await?).map_err(Error::file("write", &pinned))?;
    match fs::rename(staging.path(), &kept) {
        Ok(()) => drop(staging.keep()),
        // Another build fetched the same at the same time.
        Err(_) if kept.join("index.json").is_file() => {}
        Err(error) => return Err(Error::file("rename a folder to", &kept)(error)),
    }
    Ok(Some(kept))
}

/// Whether a cached base is what `digest` pins: the document of that digest, the images of the platforms, which it is or names, and their layers.
fn sound(layout: &Path, platforms: &[String], digest: &Digest) -> Result<()> {
    let damaged = |why: String| Error::damaged(layout.display(), why);
    let path = layout.join(PINNED);
    let mut bytes = Vec::new();
    let file = fs::File::open(&path).map_err(Error::file("open", &path))?;
    file.take(layout::MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(Error::file("read", &path))?;
    let is = Digest::of(&bytes);
    if is != *digest {
        return Err(damaged(format!("it was kept as {digest}, and its document is {is}")));
    }
    let mut allowed = registry::listed(bytes.into()).map_err(|why| damaged(format!("{digest} {why}")))?;
    allowed.push(*digest);
    for platform in platforms {
        let documents = layout::read_documents(layout, Some(&parse_platform(platform)?))?;
        let image = documents.manifest_descriptor.digest;
        if !allowed.contains(&image) {
            return Err(damaged(format!("it holds {image}, which {digest} does not name")));
        }
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
                Self::of_layout(&path, platform, cache, to, copied)
            }
            BaseName::Registry { digest: None, .. } => Err(unpinned(text, "sha256:…")),
            BaseName::Registry { repository, tag, digest: Some(digest) } => {
                let Some(layout) = fetched else {
                    return Err(Error::bad(format!("base {text} was not fetched")));
                };
                let base = Self::of_layout(layout, platform, cache, to, linked)?;
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
        put: fn(&Path, &Path, &Descriptor) -> Result<()>,
    ) -> Result<Self> {
        let limits = Limits::default();
        let documents = layout::read_documents(layout, Some(platform))?;
        let listings = Listings::open(cache)?;
        verify(layout, &documents, &listings, &limits)?;
        let tree = Tree::of(layout, &documents, &limits, Some(&listings))?;
        for layer in &documents.manifest.layers {
            let (from, to) = (layout::blobs_dir(layout), layout::blobs_dir(to));
            if !to.join(layer.digest.hex()).exists() {
                put(&from, &to, layer)?;
            }
        }
        let digest = Some(documents.manifest_descriptor.digest);
        Ok(Self { tree, layers: documents.manifest.layers, config: Some(documents.config), name: None, digest })
    }
}

fn linked(from: &Path, to: &Path, layer: &Descriptor) -> Result<()> {
    let name = layer.digest.hex();
    layercache::link(&from.join(&name), &to.join(&name))
}

/// What was copied is hashed: it may have been changed since it was verified.
fn copied(from: &Path, to: &Path, layer: &Descriptor) -> Result<()> {
    let name = layer.digest.hex();
    layercache::copy(&from.join(&name), &to.join(&name))?;
    layout::check_blob(to, layer)
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
    use crate::spec::{CONFIG, INDEX, LAYER_TAR, MANIFEST};
    use serde_json::json;
    use std::collections::BTreeMap;

    /// A layout with a good image whose layer is an empty archive; its manifest's bytes.
    fn image(to: &Path, author: &str) -> Vec<u8> {
        let blobs = layout::create(to).unwrap();
        let layer = tar::Builder::new(Vec::new()).into_inner().unwrap();
        let config = json!({"architecture": "amd64", "os": "linux", "author": author,
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}})
        .to_string();
        let layer = layout::put(&blobs, LAYER_TAR, &layer).unwrap();
        let config = layout::put(&blobs, CONFIG, config.as_bytes()).unwrap();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
        let bytes = manifest.to_string().into_bytes();
        let root = layout::put(&blobs, MANIFEST, &bytes).unwrap();
        layout::assemble(&root.digest, to).unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_cached_base_is_the_one_that_is_pinned_or_is_fetched_again() {
        let folder = tempfile::tempdir().unwrap();
        let platforms = vec!["linux/amd64".to_owned()];
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let (first, second) = (image(&a, "a"), image(&b, "b"));
        let (pinned, other) = (Digest::of(&first), Digest::of(&second));
        let held = |layout: &Path, document: &[u8]| {
            fs::write(layout.join(PINNED), document).unwrap();
            sound(layout, &platforms, &Digest::of(document)).map_err(|error| error.to_string())
        };
        assert!(sound(&a, &platforms, &pinned).is_err(), "without the pinned document");
        assert_eq!(held(&a, &first), Ok(()));
        let entry = json!({"mediaType": MANIFEST, "digest": pinned, "size": first.len()});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
        assert_eq!(held(&a, index.as_bytes()), Ok(()));
        let error = held(&b, index.as_bytes()).unwrap_err();
        assert!(error.contains("does not name") && error.contains(&other.hex()), "{error}");
        assert!(held(&b, &first).unwrap_err().contains("does not name"));
        fs::write(b.join(PINNED), &second).unwrap();
        assert!(sound(&b, &platforms, &pinned).unwrap_err().to_string().contains("was kept as"));
        // Another image at the place of the first: the registry is asked, and is not there.
        let cache = folder.path().join("cache");
        let kept = cache.join("bases").join(format!("{}-linux-amd64", pinned.hex()));
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        let spec = OciBuild {
            base: format!("127.0.0.1:1/a@{pinned}"),
            base_insecure: true,
            files: Vec::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: BTreeMap::new(),
            user: "1000".to_owned(),
            workdir: None,
            labels: BTreeMap::new(),
            platforms,
            ports: Vec::new(),
        };
        fs::rename(&b, &kept).unwrap();
        let error = fetch_base(&spec, &cache, &Events::nowhere()).await.unwrap_err();
        assert_eq!(error.class(), domain::Class::Unavailable, "{error}");
        // And the first itself is used without it.
        drop(fs::remove_dir_all(&kept));
        fs::write(a.join(PINNED), &first).unwrap();
        fs::rename(&a, &kept).unwrap();
        assert_eq!(fetch_base(&spec, &cache, &Events::nowhere()).await.unwrap(), Some(kept));
    }

    #[test]
    fn a_layer_that_was_changed_before_it_was_copied_is_refused() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let layer = layout::put(from.path(), LAYER_TAR, b"layer").unwrap();
        copied(from.path(), to.path(), &layer).unwrap();
        fs::write(from.path().join(layer.digest.hex()), b"lay3r").unwrap();
        assert!(matches!(copied(from.path(), to.path(), &layer), Err(Error::Damaged { .. })));
    }

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
