//! What every target must do, asked of each of them in the same way.

use crate::{Error, ImagePath, Target};
use async_trait::async_trait;
use domain::{
    Class, Digest,
    workload::{Observed, Place, Slot, SlotState, Workload},
};
use std::{
    any::Any,
    path::PathBuf,
    time::{Duration, Instant},
};

/// A target under test, with what the suite needs to know and do beside it.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The target.
    fn target(&self) -> &dyn Target;
    /// A workload that starts on this target, prints `listening` and stays. Releases differ by name only.
    fn workload(&self, slot: Slot, release: &str, port: u16) -> Workload;
    /// The image of such a workload.
    fn image(&self) -> ImagePath<'_>;
    /// The files of its mounts.
    fn mounts(&self) -> Vec<(String, PathBuf)>;
    /// Makes a running workload end by itself.
    async fn crash(&self, workload: &Workload);
    /// Takes a port until the answer is dropped.
    async fn occupy(&self, port: u16) -> Box<dyn Any + Send>;
    /// Whether a running workload answers. `None` where nothing can be asked.
    async fn answers(&self, workload: &Workload) -> Option<bool>;
}

/// The digest that the suite uses for a release.
fn digest(release: &str) -> Digest {
    Digest::of(release)
}

struct Suite<'a> {
    subject: &'a dyn Subject,
    target: &'a dyn Target,
    place: Place,
}

/// Short: the server of the tests has no handler for SIGTERM, which the first process of a container therefore ignores.
const STOP: Duration = Duration::from_secs(1);

/// Runs the suite. It panics at the first thing that is not as it must be.
pub async fn conformance(subject: &dyn Subject) {
    let place = subject.workload(Slot::Blue, "one", 1).place;
    let suite = Suite { subject, target: subject.target(), place };
    suite.one_life_of_a_slot().await;
    suite.slots_are_independent().await;
    suite.an_older_writer_is_fenced_off().await;
    suite.what_runs_is_not_replaced().await;
    suite.a_port_in_use_is_named().await;
    suite.a_crash_is_seen().await;
    suite.the_policy_holds().await;
    for slot in [Slot::Blue, Slot::Green] {
        suite.target.remove(&suite.at(slot), 99).await.expect("remove");
    }
}

impl Suite<'_> {
    fn at(&self, slot: Slot) -> Place {
        Place { slot, ..self.place.clone() }
    }

    fn workload(&self, slot: Slot, release: &str, port: u16) -> Workload {
        let workload = self.subject.workload(slot, release, port);
        assert_eq!(workload.release_digest, digest(release), "the subject names releases by the digest of their name");
        workload
    }

    async fn observe(&self) -> Observed {
        let place = &self.place;
        self.target.observe(&place.project, &place.environment, &place.component).await.expect("observe")
    }

    async fn prepare(&self, workload: &Workload, epoch: u64) -> crate::Result<()> {
        self.target.prepare(workload, epoch, self.subject.image(), &self.subject.mounts()).await
    }

    async fn up(&self, workload: &Workload, epoch: u64) {
        self.prepare(workload, epoch).await.expect("prepare");
        self.target.start(workload, epoch).await.expect("start");
        self.until_it_answers(workload).await;
    }

    async fn until_it_answers(&self, workload: &Workload) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.subject.answers(workload).await == Some(false) {
            let log = self.target.logs(&workload.place, 20).await.expect("logs");
            assert!(Instant::now() < deadline, "it never answered; its log: {log:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn one_life_of_a_slot(&self) {
        let target = self.target;
        let blue = self.at(Slot::Blue);
        assert_eq!(self.observe().await, Observed { blue: SlotState::Empty, green: SlotState::Empty });
        target.stop(&blue, 2, STOP).await.expect("stopping nothing is nothing");
        target.remove(&blue, 2).await.expect("removing nothing is nothing");
        let workload = self.workload(Slot::Blue, "one", free_port());
        let nothing = target.start(&workload, 1).await.expect_err("nothing was prepared");
        assert!(matches!(nothing, Error::NotPrepared { .. }) && !nothing.is_workloads_fault(), "{nothing}");

        for _ in 0..2 {
            self.prepare(&workload, 1).await.expect("prepare, and again");
            let stopped = SlotState::Stopped { release_digest: digest("one"), epoch: 1, ended: None };
            assert_eq!(self.observe().await.blue, stopped);
        }
        assert!(target.alive(&blue).await.expect("alive").is_some(), "it was not started yet");
        let mut ids = Vec::new();
        for _ in 0..2 {
            target.start(&workload, 1).await.expect("start, and again");
            let observed = self.observe().await.blue;
            let SlotState::Running { release_digest, epoch: 1, id } = observed else { panic!("it runs: {observed:?}") };
            assert_eq!(release_digest, digest("one"));
            ids.push(id);
        }
        assert_eq!(ids[0], ids[1], "the second start left it alone");
        self.until_it_answers(&workload).await;
        self.prepare(&workload, 1).await.expect("preparing what runs is nothing");
        assert!(self.observe().await.blue.is_running());
        assert_eq!(target.alive(&blue).await.expect("alive"), None);
        assert!(target.logs(&blue, 5).await.expect("logs").iter().any(|line| line.contains("listening")));

        for _ in 0..2 {
            target.stop(&blue, 2, STOP).await.expect("stop, and again");
            let observed = self.observe().await.blue;
            assert!(matches!(&observed, SlotState::Stopped { epoch: 1, ended: Some(_), .. }), "{observed:?}");
        }
        assert!(self.subject.answers(&workload).await != Some(true), "nothing answers any more");
        target.start(&workload, 2).await.expect("what was stopped is started again, by a later writer");
        self.until_it_answers(&workload).await;
        for _ in 0..2 {
            target.remove(&blue, 2).await.expect("remove, and again");
            assert_eq!(self.observe().await.blue, SlotState::Empty);
        }
        assert!(target.logs(&blue, 5).await.expect("logs").is_empty());
    }

    async fn slots_are_independent(&self) {
        let target = self.target;
        let (blue, green) =
            (self.workload(Slot::Blue, "one", free_port()), self.workload(Slot::Green, "two", free_port()));
        self.up(&blue, 3).await;
        let before = self.observe().await.blue;
        self.up(&green, 4).await;
        assert_eq!(self.observe().await.blue, before);
        let observed = self.observe().await.green;
        assert!(matches!(observed, SlotState::Running { epoch: 4, .. }), "{observed:?}");
        target.stop(&green.place, 4, STOP).await.expect("stop");
        target.remove(&green.place, 4).await.expect("remove");
        assert_eq!(self.observe().await, Observed { blue: before, green: SlotState::Empty });
        target.remove(&blue.place, 4).await.expect("remove");
    }

    async fn an_older_writer_is_fenced_off(&self) {
        let workload = self.workload(Slot::Blue, "one", free_port());
        self.prepare(&workload, 7).await.expect("prepare");
        for running in [false, true] {
            let results = [
                self.prepare(&workload, 6).await,
                self.target.start(&workload, 6).await,
                self.target.stop(&workload.place, 6, STOP).await,
                self.target.remove(&workload.place, 6).await,
            ];
            for result in results {
                let error = result.expect_err("a lower epoch");
                assert!(matches!(error, Error::Fenced { epoch: 6, found: 7, .. }), "{error}");
                assert_eq!((error.class(), error.is_workloads_fault()), (Class::Busy, false));
            }
            assert_eq!(self.observe().await.blue.is_running(), running);
            self.target.start(&workload, 7).await.expect("the writer itself is not fenced off");
        }
        self.target.remove(&workload.place, 7).await.expect("remove");
    }

    async fn what_runs_is_not_replaced(&self) {
        let port = free_port();
        let (one, two) = (self.workload(Slot::Blue, "one", port), self.workload(Slot::Blue, "two", port));
        self.up(&one, 8).await;
        let error = self.prepare(&two, 9).await.expect_err("another release runs there");
        assert!(matches!(error, Error::Occupied { .. }) && !error.is_workloads_fault(), "{error}");
        self.target.stop(&one.place, 9, STOP).await.expect("stop");
        self.prepare(&two, 9).await.expect("what is stopped is replaced");
        let error = self.target.start(&one, 9).await.expect_err("the other release is not there any more");
        assert!(matches!(error, Error::NotPrepared { .. }), "{error}");
        self.target.start(&two, 9).await.expect("start");
        assert_eq!(self.observe().await.blue.release_digest(), Some(&digest("two")));
        self.target.remove(&two.place, 9).await.expect("remove");
    }

    async fn a_port_in_use_is_named(&self) {
        let port = free_port();
        let workload = self.workload(Slot::Blue, "one", port);
        self.prepare(&workload, 10).await.expect("prepare");
        let occupied = self.subject.occupy(port).await;
        let error = self.target.start(&workload, 10).await.expect_err("the port is taken");
        assert!(matches!(error, Error::Refused { .. }) && error.is_workloads_fault(), "{error}");
        assert!(error.to_string().contains(&port.to_string()), "{error}");
        assert!(!self.observe().await.blue.is_running());
        drop(occupied);
        self.target.start(&workload, 10).await.expect("the port is free again");
        self.target.remove(&workload.place, 10).await.expect("remove");
    }

    async fn a_crash_is_seen(&self) {
        let workload = self.workload(Slot::Blue, "one", free_port());
        self.up(&workload, 11).await;
        assert_eq!(self.target.alive(&workload.place).await.expect("alive"), None);
        let deadline = Instant::now() + Duration::from_secs(20);
        // Some targets restart what crashed after a moment: it is crashed until the end is seen.
        loop {
            match self.target.alive(&workload.place).await.expect("alive") {
                None => self.subject.crash(&workload).await,
                // Whoever started it may hear of the manner a moment after the end.
                Some(how) if how.contains("code 3") => break,
                Some(_) => {}
            }
            assert!(Instant::now() < deadline, "the crash was never seen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.target.stop(&workload.place, 11, STOP).await.expect("what crashed can be stopped");
        let observed = self.observe().await.blue;
        assert!(matches!(&observed, SlotState::Stopped { ended: Some(_), .. }), "{observed:?}");
        self.target.remove(&workload.place, 11).await.expect("remove");
    }

    async fn the_policy_holds(&self) {
        let workload = self.workload(Slot::Blue, "one", free_port());
        self.up(&workload, 12).await;
        let policy = self.target.inspect_policy(&workload.place).await.expect("policy");
        assert_eq!(policy.deviations(&workload), Vec::<String>::new(), "{policy:?}");
        let mut stricter = workload.clone();
        stricter.memory -= 1;
        assert_eq!(policy.deviations(&stricter).len(), 1, "a deviation is found");
        self.target.remove(&workload.place, 12).await.expect("remove");
        let error = self.target.inspect_policy(&workload.place).await.expect_err("nothing is there");
        assert!(matches!(error, Error::NotPrepared { .. }), "{error}");
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
