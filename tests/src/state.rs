//! What is in a project's store and what runs, as the crates say that own them.

use crate::project::{COMPONENT, Project};
use cluster::Target;
use domain::{
    state::{Current, action},
    workload::{Slot, SlotState},
};
use engine::{
    journal::{Log, Record},
    keyring, releases,
};
use std::{collections::BTreeMap, future::Future};
use store::{Location, Store};

/// What a slot holds, without what differs from run to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotIs {
    /// Nothing.
    Empty,
    /// A release that does not run.
    Stopped(String),
    /// A release that runs.
    Running(String),
}

/// Everything about an environment that must be the same however a rollout came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// `current.json`: release and slot.
    pub serving: Option<(String, Slot)>,
    /// The first slot.
    pub blue: SlotIs,
    /// The second slot.
    pub green: SlotIs,
    /// The last entry of the ledger: action and ending.
    pub last: Option<(String, String)>,
    /// Rollouts that were begun and not ended.
    pub open: usize,
    /// Whether nobody holds the lease.
    pub lease_free: bool,
    /// The version that answers.
    pub answers: Option<String>,
}

impl Project {
    /// Waits for a future of the store.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The embedded store.
    pub fn store(&self) -> Store {
        let location = Location::Embedded { directory: self.store_folder() };
        self.block_on(Store::open(&location)).expect("the store opens")
    }

    /// What `current.json` of an environment says.
    pub fn current(&self, environment: &str) -> Current {
        let name = Self::name(environment);
        self.block_on(releases::current(&self.store(), &name)).expect("current.json is readable")
    }

    /// The ledger of an environment.
    pub fn log(&self, environment: &str) -> Log {
        let trusted = keyring::trusted(&self.path("deploy/keys")).expect("the keys are readable");
        Log::new(self.store(), Self::name(environment), trusted, None)
    }

    /// The entries of an environment's ledger, verified as a chain.
    pub fn records(&self, environment: &str) -> Vec<Record> {
        self.block_on(self.log(environment).records()).expect("the ledger is whole")
    }

    /// Everything about an environment that a rollout makes.
    pub fn state(&self, environment: &str) -> State {
        let (records, _) = self.block_on(self.log(environment).verify(Vec::new())).expect("the ledger is whole");
        let current = self.current(environment);
        let word = |record: &Record| {
            let ending = record.entry.subject.get("ending").and_then(|ending| ending.as_str());
            (record.entry.action.clone(), ending.unwrap_or_default().to_owned())
        };
        let count = |wanted: &str| records.iter().filter(|record| record.entry.action == wanted).count();
        let lease = self.block_on(self.store().lease_holder(environment)).expect("the lease is readable");
        let serving = current.components.get(COMPONENT).map(|running| (running.release.to_string(), running.slot));
        let [blue, green] = self.slots(environment);
        State {
            serving,
            blue,
            green,
            last: records.last().map(word),
            open: count(action::BEGUN) - count(action::ENDED),
            lease_free: lease.is_none(),
            answers: self.answers(environment),
        }
    }

    /// What both slots hold, by observation.
    fn slots(&self, environment: &str) -> [SlotIs; 2] {
        let store = self.store();
        let trusted = keyring::trusted(&self.path("deploy/keys")).expect("the keys are readable");
        self.block_on(async {
            let component = Self::name(COMPONENT);
            let mut names = BTreeMap::new();
            for release in releases::list(&store, Some(&component)).await.expect("releases are listed") {
                let sealed = releases::read(&store, &trusted, &release).await.expect("a release is readable");
                names.insert(sealed.digest, release.to_string());
            }
            let target = cluster::Process::new(self.path(".sealift/run"), "127.0.0.1".to_owned());
            let observed = target.observe(&Self::name("fixture"), &Self::name(environment), &component).await;
            let observed = observed.expect("the slots are observed");
            let is = |state: &SlotState| {
                let name =
                    state.release_digest().map(|digest| names.get(digest).cloned().unwrap_or(digest.to_string()));
                match (name, state.is_running()) {
                    (None, _) => SlotIs::Empty,
                    (Some(name), true) => SlotIs::Running(name),
                    (Some(name), false) => SlotIs::Stopped(name),
                }
            };
            [is(&observed.blue), is(&observed.green)]
        })
    }
}
