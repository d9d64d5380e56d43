//! What of the data nobody needs any more: finding the roots, and collecting the rest.
//!
//! *Roots* are the snapshots that must stay: those of every release in the store, of every pointer in the whole history of
//! the branches and tags of `[policy.data]`, of HEAD, of stashes, of git's index, and of the work tree as it is. Everything
//! that these do not lead to, and that is older than the grace by the store's clock, is a candidate.
//!
//! What never happens: nothing is removed when any root cannot be found out (a shallow clone, a release that does not
//! verify, a snapshot whose layout is gone); a blob, a release, a model or a ledger is never touched; nothing is removed by
//! planning. How a collection beside a running push loses nothing is told in [`snapshot::gc`].

use crate::{
    artifacts::blocking,
    data,
    error::{Doing, Error, Result},
    git, releases,
    workspace::Workspace,
};
use domain::{Digest, Events, Name};
use serde::Serialize;
use snapshot::{Pointer, gc};

pub use snapshot::gc::Collected;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

/// Where to collect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The store of `[store]`, or the remote of that name.
    Store(Option<String>),
    /// This host's cache.
    Cache,
}

/// How many snapshots are kept because of what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Roots {
    /// Releases in the store.
    pub releases: usize,
    /// Snapshots that releases need.
    pub of_releases: usize,
    /// Snapshots of pointers in git's history.
    pub of_history: usize,
    /// Snapshots of pointers in the work tree.
    pub of_work_tree: usize,
    /// All of them, each once.
    #[serde(skip)]
    pub digests: BTreeSet<Digest>,
}

/// What a collection would do, or did.
#[derive(Debug, Clone, Serialize)]
pub struct Collection {
    /// Where.
    pub place: String,
    /// Why what is kept is kept.
    pub roots: Roots,
    /// What goes, and why.
    pub plan: gc::Plan,
    /// What went; `None` when it was only planned.
    pub collected: Option<Collected>,
}

impl Roots {
    /// Also what was asked for at another moment.
    fn join(&mut self, earlier: Roots) {
        self.digests.extend(earlier.digests);
    }
}

/// Finds the snapshots that must stay.
pub async fn roots(workspace: &Workspace) -> Result<Roots> {
    let mut roots = Roots::default();
    let mut of_releases = BTreeSet::new();
    let store = workspace.store().await?;
    let trusted = workspace.trusted_keys().or_else(|error| match error {
        Error::NotFound { .. } => Ok(ledger::keys::TrustedKeys::new()),
        other => Err(other),
    })?;
    let mut foreign: BTreeMap<Name, usize> = BTreeMap::new();
    for release in releases::list(&store, None).await? {
        let sealed = releases::read(&store, &trusted, &release).await?;
        of_releases.extend(sealed.manifest.data.values().map(|data| data.snapshot));
        of_releases.extend(sealed.manifest.models.values().flat_map(|model| model.lineage.data.values().copied()));
        roots.releases += 1;
        if !workspace.config.components.contains_key(release.component.as_str()) {
            *foreign.entry(release.component).or_default() += 1;
        }
    }
    if !foreign.is_empty() {
        let names: Vec<&str> = foreign.keys().map(Name::as_str).collect();
        workspace.events.warn(format!(
            "{} also holds releases of {}, which Sealift.toml does not have: if another repository uses this store, \
             what only its branches need is not known here; give every repository a prefix of its own",
            store.describe(),
            names.join(", ")
        ));
    }
    let policy = &workspace.config.policy.data;
    let history = git::small_files(&workspace.root, &policy.branches, &policy.tags).await?;
    let mut of_history = BTreeSet::new();
    for (id, bytes) in &history {
        of_history.extend(pointed(id, bytes, &workspace.events)?);
    }
    let mut of_work_tree = BTreeSet::new();
    for file in git::files(&workspace.root, ":/*.snapshot.toml").await? {
        let full = workspace.root.join(&file);
        // Listed in the index and removed from the tree is no reason to stop: history has it.
        if full.is_file() {
            let pointer = Pointer::read(&full).doing(format!("read {}", full.display()))?;
            of_work_tree.insert(pointer.digest);
        }
    }
    (roots.of_releases, roots.of_history, roots.of_work_tree) =
        (of_releases.len(), of_history.len(), of_work_tree.len());
    roots.digests = of_releases.into_iter().chain(of_history).chain(of_work_tree).collect();
    Ok(roots)
}

/// The snapshots that a file of history names, if it is a pointer. Of one that this version cannot read, such as that of a later
/// version or of a merge that was never ended, whatever looks like a digest stays; without any, nothing can be known.
fn pointed(id: &str, bytes: &[u8], events: &Events) -> Result<Vec<Digest>> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Ok(Vec::new()) };
    let why = match Pointer::parse(text, Path::new("pointer in git")) {
        Ok(pointer) => return Ok(vec![pointer.digest]),
        Err(error) => error,
    };
    if !text.lines().any(|line| line.starts_with(snapshot::POINTER_HEADER)) {
        return Ok(Vec::new());
    }
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != ':');
    let digests: Vec<Digest> = words.filter_map(|word| word.parse().ok()).collect();
    if digests.is_empty() && text.starts_with(snapshot::POINTER_HEADER) {
        return Err(Error::BadInput {
            message: format!("a data pointer in git's history cannot be read, so what it needs is not known: {why}"),
            next: Some(format!("git cat-file -p {id}   (then data gc with the version of sealift that wrote it)")),
        });
    }
    if !digests.is_empty() {
        events
            .warn(format!("a data pointer in git's history cannot be read ({id}: {why}); every digest in it is kept"));
    }
    Ok(digests)
}

/// Plans a collection, with `grace` instead of that of the policy. Of what it is about, nothing is written or removed.
pub async fn plan(workspace: &Workspace, place: &Place, grace: Option<Duration>) -> Result<Collection> {
    let roots = roots(workspace).await?;
    let grace = grace.unwrap_or(workspace.config.policy.data.grace);
    match place {
        Place::Cache => {
            let (repository, keep) = (data::repository(workspace), roots.digests.clone());
            let place = workspace.cache().join("data").display().to_string();
            let plan =
                blocking(move || repository.plan_cache_gc(&keep)).await?.doing("plan a collection of the cache")?;
            Ok(Collection { place, roots, plan, collected: None })
        }
        Place::Store(remote) => {
            // Planning writes one small object too: the store's clock is read off it.
            let store = data::place(workspace, remote.as_deref()).await?;
            let plan = gc::plan(&store, &roots.digests, grace, &workspace.events).await;
            let plan = plan.doing(format!("plan a collection of {}", store.describe()))?;
            Ok(Collection { place: store.describe(), roots, plan, collected: None })
        }
    }
}

/// Carries out a collection that was planned for this place.
pub async fn carry_out(workspace: &Workspace, place: &Place, mut planned: Collection) -> Result<Collection> {
    let collected = match place {
        Place::Cache => {
            let (repository, events, plan) =
                (data::repository(workspace), workspace.events.clone(), planned.plan.clone());
            blocking(move || repository.collect_cache(&plan, &events)).await?.doing("collect the cache")?
        }
        Place::Store(remote) => {
            let store = data::place(workspace, remote.as_deref()).await?;
            // A release that was sealed while the plan was made holds what it names since before the plan. One that is sealed
            // from now on holds it since after the plan, or looks again when it is sealed.
            let earlier = std::mem::replace(&mut planned.roots, roots(workspace).await?);
            planned.roots.join(earlier);
            let collected = gc::collect(&store, &planned.plan, &planned.roots.digests, &workspace.events).await;
            collected.doing(format!("collect {}", store.describe()))?
        }
    };
    planned.collected = Some(collected);
    Ok(planned)
}
