//! An image into an engine: brought there, looked at, and only then named.
//!
//! An engine that keeps its images without containerd is sent one stream ([`crate::into`]), its layers unpacked already. One that keeps them with
//! containerd pulls from a registry of ours ([`super::loopback`]) if it is on this host, and is sent the stream, as it was sealed, if it cannot.
//!
//! What never happens here:
//!
//! - No name is given to an image before the engine has shown that it is the one that was asked for: an engine that keeps manifests
//!   (the containerd image store) by the manifest's digest, any other by the configuration's, which is what each calls the image's ID.
//!   What an engine says that it loaded is only a hint where to look, and what it loaded instead is removed again.
//! - No image that an engine could not unpack counts as loaded, although some engines keep it and answer well. What was loaded and failed is
//!   removed again, if it was not there before.
//! - An engine that keeps its images with containerd is not believed that it has an image: it registers one first and unpacks it then, and keeps
//!   the record of one whose layers it lost. So it is always asked to pull, and fetches and unpacks what it lacks; one elsewhere is sent all.
//! - No name of our registry stays: while it pulls, the image is called `127.0.0.1:PORT/UUID@DIGEST`. Each such name of it is taken away, also
//!   that of a run that was killed before it could.
//! - A blob that was read wrong is read once more; only if it holds then, the image is brought anew, once.

use super::{BUILD_TIMEOUT, Engine, Stopped, causes, loopback::Loopback};
use crate::{
    archive::tagged,
    error::{Error, Result, count},
    into::{self, Blobs, Broken, Form, Plan, Sizes},
    layer::Packing,
    spec::Platform,
};
use bollard::{
    errors::Error as Failure,
    models::ImageInspect,
    query_parameters::{
        CreateImageOptionsBuilder, ImportImageOptionsBuilder, RemoveImageOptions, TagImageOptionsBuilder,
    },
};
use domain::{Digest, Events, event::Unit};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How long the engine may take to begin to answer: it does so only after it has the whole archive, which may be large.
const LOAD: Duration = Duration::from_secs(24 * 3600);

/// What is true after every failure.
const UNNAMED: &str = "no name was given to it";

/// An image in an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Address of the engine.
    pub engine: String,
    /// Its name there.
    pub name: String,
    /// By which the engine knows it: the digest of its manifest, or of its configuration.
    pub id: Digest,
    /// What it runs on.
    pub platform: String,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Digest of its configuration.
    pub config: Digest,
    /// Whether nothing had to be sent.
    pub was_there: bool,
}

/// Brings the image `root` (a manifest, or an index over several platforms, of which the engine's is taken) into a Docker Engine and names it
/// `name`. `engine` is as for [`crate::docker_ping`].
///
/// No layer and no archive is written to this disk. A blob that is not what its digest says is [`Error::Damaged`], and the engine gets no end of an archive that
/// holds one; an engine that ends with another image is too. After an error no name was given: what `name` named before, it names still.
pub async fn load_docker(
    engine: Option<&str>,
    root: &Digest,
    name: &str,
    blobs: Arc<dyn Blobs>,
    events: &Events,
) -> Result<Loaded> {
    let name = tagged(name)?;
    let engine = Engine::connect(engine, BUILD_TIMEOUT).await?;
    let plan = Arc::new(into::plan(blobs.as_ref(), root, &engine.platform().await?).await?);
    let sealed = engine.keeps_images_with_containerd().await?;
    let form = if sealed { Form::Sealed } else { Form::Plain };
    let (manifest, config) = (plan.image.manifest_descriptor.digest, plan.image.manifest.config.digest);
    let id = if sealed { manifest } else { config };
    let had = engine.has(&id).await?;
    let bringing = Bringing { engine: &engine, blobs: &blobs, plan: &plan, form, id, had, events };
    let was_there = match bringing.bring().await {
        Err(error) => match misread(&error, &plan) {
            Some(digest) if blobs.holds(&digest).await => {
                events.note(format!("blob {digest} was read wrong and holds; the image is brought anew"));
                bringing.bring().await?
            }
            _ => return Err(error),
        },
        Ok(was_there) => was_there,
    };
    let named = engine.tag(&id, &name).await;
    if sealed {
        engine.forget_passing(&id).await?;
    }
    named?;
    let platform = plan.image.config.platform().text();
    Ok(Loaded { engine: engine.address.clone(), name, id, platform, manifest, config, was_there })
}

/// The layer that was not read as it should be.
fn misread(error: &Error, plan: &Plan) -> Option<Digest> {
    let digest = match error {
        Error::Damaged { what, .. } => what.parse().ok()?,
        Error::Source { digest, .. } => *digest,
        _ => return None,
    };
    plan.image.manifest.layers.iter().any(|layer| layer.digest == digest).then_some(digest)
}

/// An image on its way into an engine.
struct Bringing<'a> {
    engine: &'a Engine,
    blobs: &'a Arc<dyn Blobs>,
    plan: &'a Arc<Plan>,
    form: Form,
    id: Digest,
    /// Whether the engine said before that it has it.
    had: bool,
    events: &'a Events,
}

impl Bringing<'_> {
    /// Whether nothing had to be sent.
    async fn bring(&self) -> Result<bool> {
        let (engine, sealed) = (self.engine, self.form == Form::Sealed);
        if self.had && !sealed {
            return Ok(true);
        }
        if sealed
            && engine.is_near()
            && let Some(pieces) = engine.pull(self.blobs, self.plan, &self.id, self.events).await?
        {
            return Ok(self.had && pieces == 0);
        }
        self.load().await.map(|()| false)
    }

    /// Sends it, once more if a size was misjudged, and looks whether it is there.
    async fn load(&self) -> Result<()> {
        let (engine, id) = (self.engine, &self.id);
        let said = match self.send().await {
            Ok(said) => said,
            Err(error) => {
                self.undo().await;
                return Err(error);
            }
        };
        if said.broken.is_none() && engine.has(id).await? {
            return Ok(());
        }
        self.undo().await;
        if let Some(cause) = said.broken {
            let address = &engine.address;
            let next = format!("docker -H {address} system df   (whether its disk is full; the digests hold)");
            return Err(Error::NotUnpacked { engine: address.clone(), cause, next });
        }
        for name in &said.loaded {
            engine.remove_unnamed(name).await?; // it is of no release that we know
        }
        let what = if said.loaded.is_empty() { "nothing".to_owned() } else { said.loaded.join(", ") };
        Err(Error::damaged(id, format!("the Docker Engine at {} loaded {what} instead; {UNNAMED}", engine.address)))
    }

    async fn send(&self) -> Result<Said> {
        let (engine, blobs, plan, form, events) = (self.engine, self.blobs, self.plan, self.form, self.events);
        let zstd = |layer| matches!(Packing::of(layer), Ok(Packing::Zstd));
        let unknown = form == Form::Plain && plan.image.manifest.layers.iter().any(zstd);
        let sizes = if unknown { into::measure(blobs, plan).await? } else { Sizes::new() };
        let said = match engine.load_once(blobs, plan, form, sizes, events).await {
            Err(Broken::Misjudged) => {
                events.note("a layer has another size than it says; all are measured, and sent again".to_owned());
                let sizes = into::measure(blobs, plan).await?;
                engine.load_once(blobs, plan, form, sizes, events).await
            }
            other => other,
        };
        said.map_err(|broken| match broken {
            Broken::Failed(error) => error,
            Broken::Misjudged => Error::damaged(self.id, "the sizes of its layers change while they are read"),
            Broken::Unread => engine.refused("it stopped reading"),
        })
    }

    /// Removes what a load that failed left behind. What was there before stays: the next run does not believe in it.
    async fn undo(&self) {
        if !self.had {
            // Why it failed is to be said, not that the engine cannot be asked any more.
            drop(self.engine.remove_unnamed(&self.id.to_string()).await);
        }
    }
}

impl Engine {
    /// What its containers run on.
    async fn platform(&self) -> Result<Platform> {
        let version = self.ask("say its version", self.docker.version()).await?;
        let version = version.map_err(|error| self.lost("say its version", &error))?;
        let host = Platform::host();
        Ok(Platform {
            os: version.os.filter(|os| !os.is_empty()).unwrap_or(host.os),
            architecture: version.arch.filter(|arch| !arch.is_empty()).unwrap_or(host.architecture),
            variant: None,
        })
    }

    /// Whether it may be on this host, and so may reach what listens here.
    fn is_near(&self) -> bool {
        let near = ["unix://", "tcp://127.", "tcp://localhost:", "http://127.", "http://localhost:"];
        near.iter().any(|begin| self.address.starts_with(begin))
    }

    /// Lets it pull from a registry of ours: how many pieces of layers it took, or nothing if it cannot.
    async fn pull(
        &self,
        blobs: &Arc<dyn Blobs>,
        plan: &Arc<Plan>,
        id: &Digest,
        events: &Events,
    ) -> Result<Option<u64>> {
        let bytes = plan.image.manifest.layers.iter().map(|layer| layer.size).sum();
        let task = events.task("let the engine pull the image", Some(bytes), Unit::Bytes);
        let moved = Arc::new(AtomicU64::new(0));
        let registry = Loopback::open(blobs, plan, task, moved.clone()).await?;
        let repository = registry.name();
        let options = CreateImageOptionsBuilder::new().from_image(&repository).tag(&id.to_string()).build();
        let patient = self.docker.clone().with_timeout(LOAD);
        let mut answer = Box::pin(patient.create_image(Some(options), None, None));
        let pulling = async {
            loop {
                match self.next(&mut answer, || moved.load(Ordering::Relaxed)).await {
                    Ok(None) => return None,
                    Ok(Some(_)) => {}
                    Err(Stopped::Failed(error)) => return Some(causes(&error)),
                    Err(Stopped::Silent(cause)) => return Some(cause),
                }
            }
        };
        let refused = tokio::select! {
            refused = pulling => refused,
            () = registry.failed() => Some("a blob does not hold".to_owned()),
        };
        drop(answer);
        let reference = format!("{repository}@{id}");
        if refused.is_some() {
            // It may have been named before it failed.
            drop(self.forget(&reference).await);
        }
        if let Some(error) = registry.failure() {
            return Err(error);
        }
        registry.finish(if refused.is_none() { "pulled" } else { "not pulled" });
        drop(registry);
        if let Some(cause) = refused {
            events.note(format!(
                "the Docker Engine at {} cannot pull from here, and is sent the image: {cause}",
                self.address
            ));
            return Ok(None);
        }
        if self.has(id).await? {
            return Ok(Some(moved.load(Ordering::Relaxed)));
        }
        self.forget(&reference).await?;
        let why = format!("the Docker Engine at {} pulled it and does not have it; {UNNAMED}", self.address);
        Err(Error::damaged(id, why))
    }

    /// Takes a name of ours away again.
    async fn forget(&self, reference: &str) -> Result<()> {
        let action = format!("remove the name {reference}");
        match self.ask(&action, self.docker.remove_image(reference, None::<RemoveImageOptions>, None)).await? {
            Ok(_) | Err(Failure::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(error) => Err(self.lost(action, &error)),
        }
    }

    /// Takes every name away that a registry of ours gave to the image, in this run or in one that was killed.
    async fn forget_passing(&self, id: &Digest) -> Result<()> {
        let names = self.shown(&id.to_string()).await?.and_then(|image| image.repo_digests).unwrap_or_default();
        for name in names.iter().filter(|name| is_passing(name, id)) {
            self.forget(name).await?;
        }
        Ok(())
    }

    async fn shown(&self, name: &str) -> Result<Option<ImageInspect>> {
        let action = format!("show image {name}");
        match self.ask(&action, self.docker.inspect_image(name)).await? {
            Ok(image) => Ok(Some(image)),
            Err(Failure::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.lost(action, &error)),
        }
    }

    /// Whether it has the image, by the only proof that there is: it calls it so.
    async fn has(&self, id: &Digest) -> Result<bool> {
        Ok(self.shown(&id.to_string()).await?.and_then(|image| image.id) == Some(id.to_string()))
    }

    fn refused(&self, cause: &str) -> Error {
        Error::Engine { engine: self.address.clone(), action: "load the image".to_owned(), cause: cause.to_owned() }
    }

    async fn load_once(
        &self,
        blobs: &Arc<dyn Blobs>,
        plan: &Arc<Plan>,
        form: Form,
        sizes: Sizes,
        events: &Events,
    ) -> Result<Said, Broken> {
        let layers = &plan.image.manifest.layers;
        let bytes = layers.iter().map(|layer| layer.size).sum();
        let task = Arc::new(events.task("send the image to the engine", Some(bytes), Unit::Bytes));
        let moved = Arc::new(AtomicU64::new(0));
        let (body, sending) = into::send(blobs, plan, form, sizes, task.clone(), moved.clone());
        let answered = self.answer(body, &moved).await;
        let sent = sending.end().await;
        if sent.is_ok()
            && answered.is_ok()
            && let Some(task) = Arc::into_inner(task)
        {
            task.finish(count(layers.len() as u64, "layer", "layers"));
        }
        // Why it broke off here is why the engine failed; that it stopped reading is for the engine to say.
        match (sent, answered) {
            (Ok(()), Ok(said)) => Ok(said),
            (Err(Broken::Unread), Err(error)) | (Ok(()), Err(error)) => Err(Broken::Failed(error)),
            (Err(broken), _) => Err(broken),
        }
    }

    /// Sends the archive and reads what the engine says of it.
    async fn answer(
        &self,
        body: impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static,
        moved: &AtomicU64,
    ) -> Result<Said> {
        let patient = self.docker.clone().with_timeout(LOAD);
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let mut answer = Box::pin(patient.import_image_stream(options, Box::pin(body), None));
        let mut said = Said::default();
        loop {
            match self.next(&mut answer, || moved.load(Ordering::Relaxed)).await {
                Ok(None) => return Ok(said),
                Ok(Some(message)) => {
                    message.stream.as_deref().unwrap_or_default().lines().for_each(|line| said.line(line));
                }
                Err(Stopped::Failed(error)) => return Err(self.refused(&causes(&error))),
                Err(Stopped::Silent(cause)) => return Err(self.refused(&cause)),
            }
        }
    }

    async fn tag(&self, id: &Digest, name: &str) -> Result<()> {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let options = TagImageOptionsBuilder::new().repo(repository).tag(tag).build();
        let action = format!("name the image {name}");
        let named = self.ask(&action, self.docker.tag_image(&id.to_string(), Some(options))).await?;
        named.map_err(|error| self.lost(action, &error))
    }

    /// Removes what was loaded instead, unless it has a name or a container uses it.
    async fn remove_unnamed(&self, name: &str) -> Result<()> {
        let Some(image) = self.shown(name).await? else { return Ok(()) };
        let Some(id) = image.id.filter(|_| image.repo_tags.iter().flatten().next().is_none()) else { return Ok(()) };
        let action = format!("remove image {id}");
        match self.ask(&action, self.docker.remove_image(&id, None::<RemoveImageOptions>, None)).await? {
            Ok(_) | Err(Failure::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
            Err(error) => Err(self.lost(action, &error)),
        }
    }
}

/// Whether a name is one that a registry of ours gives: `127.0.0.1:PORT/UUID@DIGEST`.
fn is_passing(name: &str, id: &Digest) -> bool {
    let repository = name.strip_prefix("127.0.0.1:").and_then(|rest| rest.strip_suffix(&format!("@{id}")));
    let parts = repository.and_then(|repository| repository.split_once('/'));
    parts.is_some_and(|(port, name)| port.parse::<u16>().is_ok() && uuid::Uuid::try_parse(name).is_ok())
}

/// What an engine says of an archive.
#[derive(Debug, Default, PartialEq)]
struct Said {
    /// Names and IDs that it found there.
    loaded: Vec<String>,
    /// Why it could not unpack one.
    broken: Option<String>,
}

impl Said {
    fn line(&mut self, line: &str) {
        let name = line.strip_prefix("Loaded image ID: ").or_else(|| line.strip_prefix("Loaded image: "));
        self.loaded.extend(name.map(|name| name.trim().to_owned()));
        if line.starts_with("Error unpacking image") {
            self.broken = Some(line.to_owned());
        }
    }
}
