//! A project with three releases, a store and a target in memory.

use async_trait::async_trait;
use cluster::{
    Target,
    testing::{Fault, FaultyTarget, InMemory},
};
use domain::{
    Digest, Events, Name, ReleaseName,
    manifest::{self, Manifest},
    plan::{Plan, Side, Verb},
    workload::{Place, SlotState},
};
use engine::{
    Host, Result, Workspace, releases,
    rollout::{self, Finished, Probes, RolloutRequest, World, execute},
    workspace::Clock,
};
use jiff::Timestamp;
use ledger::{
    bundle::Bundle,
    keys::{SigningKey, TrustedKeys},
    statement::{Statement, Subject, predicate_type},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use store::{
    Store,
    testing::{Faults, Faulty, Memory},
};
use tokio_util::sync::CancellationToken;

const CONFIG: &str = r#"
[project]
name = "cellar"

[component.wine]
version_files = ["Cargo.toml"]
[component.wine.build]
builder = "none"
[component.wine.run]
command = ["/wine"]
port = 8080
health = "/ready"
[[component.wine.smoke]]
name = "version"
path = "/version"

[environment.staging]
target = "process"
[environment.staging.component.wine]
port = 18080
"#;

/// A clock that goes on by a second each time it is read.
#[derive(Default)]
struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + self.0.fetch_add(1, Ordering::SeqCst)).unwrap()
    }
}

/// Asks the target in memory.
struct MemoryProbes(InMemory);

#[async_trait]
impl Probes for MemoryProbes {
    async fn wait_healthy(&self, side: &Side, _: &dyn Target) -> std::result::Result<(), String> {
        if self.0.is_healthy(&side.workload.place) { Ok(()) } else { Err("it does not answer".to_owned()) }
    }
    async fn smoke(&self, side: &Side, _: &Events) -> std::result::Result<(), String> {
        if self.0.is_healthy(&side.workload.place) { Ok(()) } else { Err("version: it does not answer".to_owned()) }
    }
}

/// Everything that a test of rollouts needs.
pub(crate) struct Scene {
    pub(crate) workspace: Workspace,
    pub(crate) environment: Name,
    pub(crate) memory: Arc<Memory>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) target: InMemory,
    pub(crate) world: World,
    digests: BTreeMap<String, Digest>,
    _folder: tempfile::TempDir,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = domain::config::parse(CONFIG, "Sealift.toml").unwrap_or_else(|problems| panic!("{problems}"));
        let clock: Arc<dyn Clock> = Arc::new(Ticking::default());
        let workspace = Workspace {
            root: folder.path().to_owned(),
            config,
            host: Host { config_home: folder.path().join("home"), actor: "tester@host".to_owned() },
            events: Events::nowhere(),
            clock: clock.clone(),
        };
        let key = SigningKey::from_seed([7; 32]);
        let trusted = TrustedKeys::one("release".parse().unwrap(), key.public());
        let memory = Memory::new();
        let plain = Store::over(memory.clone());
        let mut digests = BTreeMap::new();
        for version in ["1.0.0", "1.1.0", "1.2.0"] {
            let (name, digest) = seal(&plain, &key, &workspace, version).await;
            digests.insert(name, digest);
        }
        let faults = Faults::new();
        let target = InMemory::new();
        let world = World {
            store: Store::over(Faulty::new(memory.clone(), faults.clone())),
            target: Arc::new(target.clone()),
            probes: Arc::new(MemoryProbes(target.clone())),
            key: Ok(key),
            trusted,
            actor: "tester".to_owned(),
            clock,
            events: Events::nowhere(),
            cache: folder.path().join("cache"),
            memory: Some(folder.path().join("ledger")),
            lease_ttl: Duration::from_secs(2),
            patience: Duration::from_secs(20),
            stop: CancellationToken::new(),
        };
        let environment = "staging".parse().unwrap();
        Self { workspace, environment, memory, faults, target, world, digests, _folder: folder }
    }

    pub(crate) fn digest(&self, release: &str) -> Digest {
        self.digests[release]
    }

    pub(crate) async fn plan(&self, verb: Verb, release: &str) -> Result<Plan> {
        let request = RolloutRequest {
            verb,
            environment: self.environment.clone(),
            release: Some(release.parse::<ReleaseName>().unwrap()),
            component: "wine".parse().unwrap(),
            reason: "a test".to_owned(),
        };
        rollout::plan(&self.workspace, &self.world, request).await
    }

    pub(crate) async fn roll(&self, verb: Verb, release: &str) -> Result<Finished> {
        execute(&self.world, &self.plan(verb, release).await?).await
    }

    /// The release that answers on the environment's port.
    pub(crate) fn serving(&self) -> Option<String> {
        let digest = self.target.serving(18080)?;
        self.digests.iter().find(|(_, known)| **known == digest).map(|(name, _)| name.clone())
    }

    pub(crate) fn with_target(&self, target: Arc<dyn Target>) -> World {
        World { target, ..self.world.clone() }
    }

    /// The n-th call of one operation fails.
    pub(crate) fn with_target_fault(&self, operation: &'static str, n: u64, fault: Fault) -> World {
        let seen = AtomicU64::new(0);
        self.with_target(Arc::new(FaultyTarget::new(
            Arc::new(self.target.clone()),
            Arc::new(move |name: &str| {
                let hit = name == operation && seen.fetch_add(1, Ordering::SeqCst) + 1 == n;
                if hit { fault } else { Fault::None }
            }),
        )))
    }

    /// A world that does not wait for a lease.
    pub(crate) fn impatient(&self) -> World {
        World { patience: Duration::ZERO, lease_ttl: Duration::from_secs(15), ..self.world.clone() }
    }
}

/// What must be the same whether or not something failed on the way: what is recorded, what runs, how it ended. A lease
/// whose release was lost is left to expire, so it is not part of it.
#[derive(Debug, PartialEq)]
pub(crate) struct EndState {
    pub(crate) serving: BTreeMap<Name, (ReleaseName, Digest, domain::workload::Slot)>,
    pub(crate) slots: BTreeMap<Place, (bool, Option<Digest>)>,
    pub(crate) rollouts: Vec<(ReleaseName, Option<domain::state::Ending>)>,
}

pub(crate) async fn end_state(scene: &Scene) -> EndState {
    let store = Store::over(scene.memory.clone());
    let current = releases::current(&store, &scene.environment).await.unwrap();
    let history = engine::status::history(&scene.world.log(&scene.environment)).await.unwrap();
    EndState {
        serving: current.components.into_iter().map(|(name, r)| (name, (r.release, r.digest, r.slot))).collect(),
        slots: scene
            .target
            .slots()
            .into_iter()
            .map(|(place, state): (Place, SlotState)| (place, (state.is_running(), state.release_digest().copied())))
            .collect(),
        rollouts: history.into_iter().map(|rollout| (rollout.release, rollout.ending)).collect(),
    }
}

/// Seals a release that consists of nothing but how it runs.
async fn seal(store: &Store, key: &SigningKey, workspace: &Workspace, version: &str) -> (String, Digest) {
    let component = &workspace.config.components["wine"];
    let release = ReleaseName { component: "wine".parse().unwrap(), version: version.parse().unwrap() };
    let run = component.run.clone().unwrap();
    let at = Timestamp::from_second(1_690_000_000).unwrap();
    let gates = BTreeMap::new();
    let manifest = Manifest {
        schema: manifest::SCHEMA,
        project: workspace.config.project.clone(),
        release: release.clone(),
        key: manifest::VersionKey {
            release: release.clone(),
            logic_version: None,
            config_hash: manifest::config_hash(&BTreeMap::new()),
        },
        source: manifest::Source { commit: "0".repeat(40), dirty: false, branch: None, committed: at },
        images: BTreeMap::new(),
        index: None,
        artifacts: BTreeMap::new(),
        sbom: None,
        evidence: Vec::new(),
        published: Vec::new(),
        configuration: BTreeMap::new(),
        data: BTreeMap::new(),
        models: BTreeMap::new(),
        contracts: BTreeMap::new(),
        run: Some(manifest::Run {
            command: run.command,
            port: run.port,
            env: run.env,
            secrets: run.secrets,
            models: run.models,
            configs: run.configs,
            health: run.health,
            stop_timeout: run.stop_timeout,
            memory: run.memory,
            pids: run.pids,
            relax: run.relax,
        }),
        smoke: component.smoke.clone(),
        gates_digest: manifest::gates_digest(&gates),
        gates,
        previous: None,
        anchors: BTreeMap::new(),
        provenance: manifest::Provenance {
            tool: "sealift test".to_owned(),
            builder: "none".to_owned(),
            prepare: Vec::new(),
            actor: "tester".to_owned(),
            started: at,
            sealed: at,
        },
    };
    let statement = Statement {
        subjects: manifest.subjects().into_iter().map(|s| Subject::new(s.name, s.digest)).collect(),
        predicate_type: predicate_type::RELEASE.to_owned(),
        predicate: &manifest,
    };
    let bundle = Bundle::sign(key, &statement).unwrap();
    let digest = bundle.digest();
    store.create(&releases::key(&release), bundle.into_bytes().into()).await.unwrap();
    (release.to_string(), digest)
}
