//! The `oci` builder: files in layers, without a daemon, the same bytes everywhere.
//!
//! One image for each platform, over the same files unless an entry names a platform; several make an image index. What decides a layer's
//! bytes is known before it is made (see `layercache`), so a build makes only the layers that changed, and hashes the others.

use crate::{
    base::{Base, parse_platform},
    error::{Error, Result, count},
    files::{Content, Item, hash_source, plan, write_layer},
    groups::{Split, groups},
    layer::{Written, in_parallel},
    layercache::{Key, LayerCache},
    layout::{self, Built},
    seen::{Seen, Stat},
    spec::{Descriptor, Empty, History, ImageConfig, LAYER_GZIP, Platform, RootFs, RunConfig},
};
use domain::{
    Digest, Events,
    config::{OciBuild, OciFile},
    event::{Task, Unit},
};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

/// What an `oci` build is made from.
#[derive(Debug, Clone, Copy)]
pub struct OciInputs<'a> {
    /// What the configuration says.
    pub spec: &'a OciBuild,
    /// The component's folder, which `files` are relative to.
    pub root: &'a Path,
    /// Labels, which win over those of the configuration.
    pub labels: &'a BTreeMap<String, String>,
    /// The time of the image and of every file in it; whole seconds count.
    pub created: jiff::Timestamp,
    /// What [`crate::fetch_base`] said.
    pub base: Option<&'a Path>,
    /// A folder for what makes the next build quicker. It decides nothing and may be removed at any time.
    pub cache: &'a Path,
}

impl OciInputs<'_> {
    /// Builds an image and writes it as a layout to `to`; see [`build_oci`].
    pub fn build(&self, to: &Path, events: &Events) -> Result<Built> {
        build(self, to, events)
    }
}

/// Labels that are annotations of the manifest and the index as well, where registries and people look.
const ANNOTATED: [&str; 4] = [
    "org.opencontainers.image.created",
    "org.opencontainers.image.revision",
    "org.opencontainers.image.source",
    "org.opencontainers.image.version",
];
const BASE_NAME: &str = "org.opencontainers.image.base.name";
const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";

/// Builds an image from files below `root` and writes it as a layout to `to`.
///
/// Each entry of `files` is one layer above the base, in the order given; a large folder is several, so that a changed file changes one of them (see `groups`).
/// A file goes to `to` (or into it, when it ends with a slash), the content of a folder below `to`. Every file has the time `created`, belongs to the
/// owner that the entry names, or 0:0, and has the mode that it names, or 755 and 644 by its executable bit;
/// folders have 755. Folders on the way are created where neither the base nor an earlier layer has them; symbolic links of the base on the way are followed.
/// Folders named `.sealift`, Sealift's own state, are left out. Several platforms make an image index.
///
/// The same inputs give the same digest, wherever, by whomever and whenever it is built.
///
/// This is for a base that is on this disk, and remembers nothing; [`OciInputs::build`] is for every other build.
pub fn build_oci(
    spec: &OciBuild,
    root: &Path,
    labels: &BTreeMap<String, String>,
    created: jiff::Timestamp,
    to: &Path,
    events: &Events,
) -> Result<Built> {
    layout::create(to)?;
    let cache = tempfile::tempdir_in(to).map_err(Error::file("create a folder in", to))?;
    OciInputs { spec, root, labels, created, base: None, cache: cache.path() }.build(to, events)
}

fn build(inputs: &OciInputs<'_>, to: &Path, events: &Events) -> Result<Built> {
    let OciInputs { spec, root, cache, .. } = *inputs;
    let platforms = platforms(spec)?;
    let blobs = layout::create(to)?;
    let mut seen = Seen::open(cache, root)?;
    let layer_cache = LayerCache::open(cache)?;
    let mut images = platforms.iter().map(|platform| prepare(inputs, platform, to)).collect::<Result<Vec<_>>>()?;
    let mut sources = HashMap::new();
    for item in images.iter().flat_map(|image| &image.layers).flat_map(|layer| &layer.items) {
        if let Content::File { from, stat, .. } = &item.content {
            sources.insert(from.clone(), *stat);
        }
    }
    let digests = hash_sources(&mut seen, &sources, events)?;
    let seconds = u64::try_from(inputs.created.as_second()).unwrap_or(0);
    let mut wanted: BTreeMap<Key, Vec<Item>> = BTreeMap::new();
    for layer in images.iter_mut().flat_map(|image| &mut image.layers) {
        let key = Key::of(&layer.items, seconds, &digests)?;
        layer.key = Some(key);
        wanted.insert(key, std::mem::take(&mut layer.items));
    }
    let total = wanted.values().flatten().map(Item::bytes).sum();
    let task =
        events.task(format!("build {}", count(wanted.len() as u64, "layer", "layers")), Some(total), Unit::Bytes);
    let work = Work { seconds, blobs: &blobs, digests: &digests, cache: &layer_cache, task: &task };
    let made = work.layers(wanted)?;
    let bytes: u64 = made.values().map(|layer| layer.written.size).sum();
    let again = made.values().filter(|layer| layer.again).count() as u64;
    let built = seal(inputs, images, &made, to)?;
    seen.save()?;
    layer_cache.trim(bytes)?;
    let compressed = count(bytes, "byte", "bytes");
    task.finish(format!("{}, {compressed} compressed, {} as before", built.root(), count(again, "layer", "layers")));
    Ok(built)
}

fn platforms(spec: &OciBuild) -> Result<Vec<Platform>> {
    let platforms = spec.platforms.iter().map(|text| parse_platform(text)).collect::<Result<Vec<_>>>()?;
    if platforms.is_empty() {
        return Err(Error::bad_with("the image has no platform", "write platforms = [\"linux/amd64\"]"));
    }
    for (number, platform) in platforms.iter().enumerate() {
        if platforms[..number].iter().any(|other| other.matches(platform)) {
            return Err(Error::bad(format!("platform {} is named twice", platform.text())));
        }
    }
    for file in &spec.files {
        let Some(text) = &file.platform else { continue };
        let only = parse_platform(text)?;
        if !platforms.iter().any(|platform| platform.matches(&only)) {
            let what = format!("files entry {:?} is for {text}, which is no platform of the image", file.from);
            return Err(Error::bad_with(what, format!("it is built for {}", spec.platforms.join(", "))));
        }
    }
    Ok(platforms)
}

/// The image of one platform before its layers are made.
struct Image {
    platform: Platform,
    base: Base,
    layers: Vec<Layer>,
}

/// One layer to be.
struct Layer {
    items: Vec<Item>,
    created_by: String,
    key: Option<Key>,
}

fn prepare(inputs: &OciInputs<'_>, platform: &Platform, to: &Path) -> Result<Image> {
    let OciInputs { spec, root, cache, .. } = *inputs;
    let mut base = Base::read(&spec.base, root, inputs.base, platform, cache, to)?;
    let is_for =
        |file: &&OciFile| file.platform.as_deref().and_then(Platform::parse).is_none_or(|only| only.matches(platform));
    let files: Vec<&OciFile> = spec.files.iter().filter(is_for).collect();
    let split = Split::for_folders(files.iter().filter(|file| root.join(&file.from).is_dir()).count());
    let mut layers = Vec::new();
    for file in files {
        let parts = groups(plan(file, root, &mut base.tree)?, split);
        let number = parts.len();
        layers.extend(parts.into_iter().enumerate().map(|(part, items)| Layer {
            items,
            created_by: match number {
                1 => format!("sealift: {} -> {}", file.from, file.to),
                _ => format!("sealift: {} -> {} ({} of {number})", file.from, file.to, part + 1),
            },
            key: None,
        }));
    }
    Ok(Image { platform: platform.clone(), base, layers })
}

fn hash_sources(
    seen: &mut Seen,
    sources: &HashMap<PathBuf, Stat>,
    events: &Events,
) -> Result<HashMap<PathBuf, Digest>> {
    let task = events.task("hash what changed", None, Unit::Items);
    let digests = seen.digests(sources, |path, size| {
        let digest = hash_source(path, size)?;
        task.advance(1);
        Ok(digest)
    })?;
    let changed = task.done();
    task.finish(format!("{} of {}", changed, count(sources.len() as u64, "file", "files")));
    Ok(digests)
}

struct Work<'a> {
    seconds: u64,
    blobs: &'a Path,
    digests: &'a HashMap<PathBuf, Digest>,
    cache: &'a LayerCache,
    task: &'a Task,
}

struct Made {
    written: Written,
    /// Whether it was made before.
    again: bool,
}

impl Work<'_> {
    fn layers(&self, wanted: BTreeMap<Key, Vec<Item>>) -> Result<BTreeMap<Key, Made>> {
        let mut wanted: Vec<(Key, Vec<Item>)> = wanted.into_iter().collect();
        // What takes longest first, so that none of it is begun when all else is done: a layer that must be made before those that are only hashed
        // again, which is quicker by more than ten times, and the large before the small.
        wanted.sort_by_cached_key(|(key, items)| {
            let bytes = items.iter().map(Item::bytes).sum::<u64>();
            (self.cache.knows(key), std::cmp::Reverse(bytes), *key)
        });
        let made = in_parallel(&wanted, |(key, items)| self.layer(key, items))?;
        Ok(wanted.into_iter().map(|(key, _)| key).zip(made).collect())
    }

    fn layer(&self, key: &Key, items: &[Item]) -> Result<Made> {
        if let Some(written) = self.cache.take(key, self.blobs)? {
            self.task.advance(items.iter().map(Item::bytes).sum());
            return Ok(Made { written, again: true });
        }
        let written = write_layer(items, self.seconds, self.blobs, self.digests, self.task)?;
        self.cache.keep(key, &written, self.blobs)?;
        Ok(Made { written, again: false })
    }
}

/// Writes the documents over the layers.
fn seal(inputs: &OciInputs<'_>, images: Vec<Image>, made: &BTreeMap<Key, Made>, to: &Path) -> Result<Built> {
    let blobs = layout::blobs_dir(to);
    let labels: BTreeMap<String, String> =
        inputs.spec.labels.iter().chain(inputs.labels).map(|(k, v)| (k.clone(), v.clone())).collect();
    let annotations: BTreeMap<String, String> =
        ANNOTATED.iter().filter_map(|key| Some(((*key).to_owned(), labels.get(*key)?.clone()))).collect();
    let mut manifests = Vec::new();
    for image in images {
        let layers: Vec<&Written> =
            image.layers.iter().filter_map(|layer| Some(&made.get(&layer.key?)?.written)).collect();
        let history = image.layers.iter().map(|layer| layer.created_by.clone()).collect();
        let mut annotations = annotations.clone();
        annotations.extend(image.base.name.clone().map(|name| (BASE_NAME.to_owned(), name)));
        annotations.extend(image.base.digest.map(|digest| (BASE_DIGEST.to_owned(), digest.to_string())));
        let config = configuration(inputs, &labels, image.base.config, &image.platform, &layers, history);
        let mut descriptors = image.base.layers;
        descriptors.extend(layers.iter().map(|layer| Descriptor::new(LAYER_GZIP, layer.digest, layer.size)));
        manifests.push(layout::put_image(
            &blobs,
            &layout::to_json(&config)?,
            descriptors,
            image.platform,
            annotations,
        )?);
    }
    let root = match <[Descriptor; 1]>::try_from(manifests) {
        Ok([only]) => only,
        Err(several) => layout::put_index(&blobs, several, annotations)?,
    };
    layout::seal_hashed(to, root)
}

fn configuration(
    inputs: &OciInputs<'_>,
    labels: &BTreeMap<String, String>,
    base: Option<ImageConfig>,
    platform: &Platform,
    layers: &[&Written],
    created_by: Vec<String>,
) -> ImageConfig {
    let whole_second = jiff::Timestamp::from_second(inputs.created.as_second()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let created = Some(whole_second.to_string());
    let (mut run, mut diff_ids, mut history) = match base {
        Some(base) => (base.config.unwrap_or_default(), base.rootfs.diff_ids, base.history.unwrap_or_default()),
        None => Default::default(),
    };
    // One entry of the history for each layer: not every tool that makes bases writes one.
    let told = history.iter().filter(|entry| entry.empty_layer != Some(true)).count();
    let untold = History { created_by: Some("sealift: a layer of the base".to_owned()), ..History::default() };
    history.extend(std::iter::repeat_n(untold, diff_ids.len().saturating_sub(told)));
    diff_ids.extend(layers.iter().map(|layer| layer.diff_id));
    history.extend(created_by.into_iter().map(|created_by| History {
        created: created.clone(),
        created_by: Some(created_by),
        ..History::default()
    }));
    run_configuration(&mut run, inputs.spec, labels);
    ImageConfig {
        created,
        author: None,
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        config: Some(run),
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids },
        history: Some(history),
    }
}

/// Lays the specification over what the base says; what only the base says (volumes, health check, stop signal) stays.
/// A new entrypoint voids the base's command, as in a Dockerfile.
fn run_configuration(run: &mut RunConfig, spec: &OciBuild, labels: &BTreeMap<String, String>) {
    if !spec.entrypoint.is_empty() {
        run.entrypoint = Some(spec.entrypoint.clone());
        run.cmd = None;
    }
    if !spec.cmd.is_empty() {
        run.cmd = Some(spec.cmd.clone());
    }
    let env = run.env.get_or_insert_default();
    for (key, value) in &spec.env {
        let assignment = format!("{key}={value}");
        let prefix = format!("{key}=");
        match env.iter_mut().find(|there| there.starts_with(&prefix)) {
            Some(there) => *there = assignment,
            None => env.push(assignment),
        }
    }
    if env.is_empty() {
        run.env = None;
    }
    for port in &spec.ports {
        let port = if port.contains('/') { port.clone() } else { format!("{port}/tcp") };
        run.exposed_ports.get_or_insert_default().insert(port, Empty {});
    }
    run.user = Some(spec.user.clone());
    if let Some(workdir) = &spec.workdir {
        run.working_dir = Some(workdir.clone());
    }
    let all = run.labels.get_or_insert_default();
    all.extend(labels.clone());
    if all.is_empty() {
        run.labels = None;
    }
}
