//! From an archive to the engine's id of exactly that image.

use super::{Docker, IMAGE_WORK};
use crate::{Error, Result};
use bollard::{
    errors::Error as Failure,
    query_parameters::{ImportImageOptionsBuilder, RemoveImageOptionsBuilder},
};
use domain::{Digest, workload::Workload};
use futures::{SinkExt, StreamExt, stream};
use std::{
    collections::HashMap,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

/// Configurations and manifests are small; anything longer in an exported archive is a layer and is passed over.
const DOCUMENT_LIMIT: u64 = 4 << 20;
/// How long the sending of an archive may take in all, as long as it goes on.
const LOAD: Duration = Duration::from_secs(24 * 3600);

impl Docker {
    /// The engine's id of the release's image, which is loaded if it is not there, and verified by its configuration digest.
    pub(super) async fn ensure_image(&self, workload: &Workload, archive: &Path) -> Result<String> {
        let Some(config) = workload.image_config else {
            let why = "the release does not say its configuration digest, so it cannot be verified".to_owned();
            return Err(Error::Image { place: workload.place.to_string(), why });
        };
        // What was verified before has an id that the engine derives from the content.
        let remembered = tokio::fs::read_to_string(self.remembered(&config).await?).await.ok();
        for id in [Some(config.to_string()), remembered.map(|id| id.trim().to_owned())].into_iter().flatten() {
            if self.has_image(&id).await? {
                return Ok(id);
            }
        }
        let said = self.load(workload, archive).await?;
        if self.has_image(&config.to_string()).await? {
            return Ok(config.to_string());
        }
        // What the engine says it loaded is only a hint where to look; the digest below is the proof.
        for name in &said {
            let Some(id) = self.image_id(name).await? else { continue };
            if self.exported_config(&id).await? == Some(config) {
                self.remember(&config, &id).await?;
                return Ok(id);
            }
        }
        for name in &said {
            if let Some(id) = self.image_id(name).await? {
                self.drop_image(&id).await?; // it is of no release that we know
            }
        }
        let what = if said.is_empty() { "nothing".to_owned() } else { said.join(", ") };
        let why = format!("the engine loaded {what}, none of which has the release's configuration {config}");
        Err(Error::Image { place: workload.place.to_string(), why })
    }

    /// Removes an image that no container uses and that has no name: one that we loaded.
    pub(super) async fn drop_image(&self, id: &str) -> Result<()> {
        let client = self.client().await?;
        match client.inspect_image(id).await {
            Ok(image) if image.repo_tags.iter().flatten().next().is_none() => {}
            Ok(_) | Err(Failure::DockerResponseServerError { .. }) => return Ok(()),
            Err(error) => return Err(self.failed("inspect image", id)(error)),
        }
        match client.remove_image(id, Some(RemoveImageOptionsBuilder::new().build()), None).await {
            // The engine refuses while a container needs it; then it stays.
            Ok(_) | Err(Failure::DockerResponseServerError { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove image", id)(error)),
        }
    }

    async fn has_image(&self, id: &str) -> Result<bool> {
        Ok(self.image_id(id).await?.as_deref() == Some(id))
    }

    async fn image_id(&self, name: &str) -> Result<Option<String>> {
        match self.client().await?.inspect_image(name).await {
            Ok(image) => Ok(image.id),
            Err(Failure::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.failed("inspect image", name)(error)),
        }
    }

    /// Loads an archive; returns the names and ids that the engine says it found there.
    async fn load(&self, workload: &Workload, archive: &Path) -> Result<Vec<String>> {
        let file = tokio::fs::File::open(archive).await.map_err(Error::file("open", archive))?;
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        // Its first answer comes after all was sent, so what is watched is the sending.
        let client = self.patient(LOAD).await?;
        let (progress, mut sent) = watch::channel(());
        let body =
            stream::unfold((ReaderStream::with_capacity(file, 1 << 18), progress), async |(mut file, progress)| {
                let chunk = file.next().await?;
                progress.send_replace(());
                Some((chunk, (file, progress)))
            });
        let mut answer = client.import_image_stream(options, Box::pin(body), None);
        let (mut found, mut sending) = (Vec::new(), true);
        loop {
            let patience = if sending { self.answer } else { IMAGE_WORK };
            tokio::select! {
                message = answer.next() => {
                    let Some(message) = message else { return Ok(found) };
                    let message = message.map_err(self.failed("load the image of", &workload.place))?;
                    for line in message.stream.as_deref().unwrap_or_default().lines() {
                        let name = line.strip_prefix("Loaded image ID: ").or_else(|| line.strip_prefix("Loaded image: "));
                        found.extend(name.map(|name| name.trim().to_owned()));
                    }
                }
                more = sent.changed(), if sending => sending = more.is_ok(),
                () = tokio::time::sleep(patience) => {
                    return Err(self.silent(patience, "load the image of", &workload.place));
                }
            }
        }
    }

    /// The digest of the configuration in an exported image.
    async fn exported_config(&self, id: &str) -> Result<Option<Digest>> {
        let client = self.patient(IMAGE_WORK).await?;
        let name = id.to_owned();
        let stream = async_stream(client, name, self.answer);
        let bridge = SyncIoBridge::new(StreamReader::new(stream));
        let read = tokio::task::spawn_blocking(move || config_of(bridge)).await;
        let failed = |why: String| Error::Engine { action: "export", object: format!("image {id}"), why };
        read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
    }

    async fn remembered(&self, config: &Digest) -> Result<PathBuf> {
        Ok(self.folder().await?.join("images").join(config.hex()))
    }

    async fn remember(&self, config: &Digest, id: &str) -> Result<()> {
        let path = self.remembered(config).await?;
        let parent = self.folder().await?.join("images");
        tokio::fs::create_dir_all(&parent).await.map_err(Error::file("create", &parent))?;
        let temporary = path.with_extension("new");
        tokio::fs::write(&temporary, id).await.map_err(Error::file("write", &temporary))?;
        tokio::fs::rename(&temporary, &path).await.map_err(Error::file("replace", path))
    }
}

/// An export as a stream that owns its client.
fn async_stream(
    client: bollard::Docker,
    name: String,
    answer: Duration,
) -> std::pin::Pin<Box<dyn futures::Stream<Item = std::io::Result<tokio_util::bytes::Bytes>> + Send>> {
    let (mut sender, receiver) = futures::channel::mpsc::channel(8);
    tokio::spawn(async move {
        let mut chunks = client.export_image(&name);
        let mut patience = IMAGE_WORK; // it packs all of it before it sends anything
        loop {
            let chunk = match tokio::time::timeout(patience, chunks.next()).await {
                Ok(None) => break,
                Ok(Some(chunk)) => chunk.map_err(|error| std::io::Error::other(super::said(&error))),
                Err(_) => Err(std::io::Error::other(format!("nothing came for {} s", patience.as_secs()))),
            };
            let over = chunk.is_err();
            // The reader may stop early; then nobody needs the rest.
            if sender.send(chunk).await.is_err() || over {
                break;
            }
            patience = answer;
        }
    });
    Box::pin(receiver)
}

/// `manifest.json` of a `docker save` archive names the configuration; its bytes are hashed.
fn config_of(archive: impl Read) -> std::io::Result<Option<Digest>> {
    let mut documents: HashMap<String, Vec<u8>> = HashMap::new();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        if entry.header().entry_type().is_file() && entry.size() <= DOCUMENT_LIMIT {
            let mut bytes = Vec::new();
            entry.take(DOCUMENT_LIMIT).read_to_end(&mut bytes)?;
            documents.insert(path, bytes);
        }
    }
    let manifest =
        documents.get("manifest.json").and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok());
    let named = manifest.as_ref().and_then(|manifest| manifest.pointer("/0/Config")?.as_str());
    Ok(named.and_then(|path| documents.get(path)).map(Digest::of))
}
