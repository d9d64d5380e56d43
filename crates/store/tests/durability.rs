//! SIGKILL of the embedded server at random moments: the old object or the new one, never a torn one, nothing half-done in a
//! listing, and no temporary of the dead left by the next start, while those of the living stay.
//!
//! The seed is printed; `SEALIFT_TEST_SEED` runs a campaign again (its threads may be scheduled otherwise).

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod raw;

use raw::{Client, ServedApart};
use std::{
    collections::BTreeMap,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const KILLS: usize = 100;
const WRITERS: usize = 3;
const KEYS: usize = 4;
/// The longest life of a server once it listens.
const LIFE: u64 = 200;
/// A campaign ends after this time even if it has killed less often than it should; then it fails.
const BOUND: Duration = Duration::from_secs(240);

/// Not a test of its own: what the children run.
#[test]
fn child_serves() {
    raw::serve_if_apart();
}

/// A generator that is good enough for choices.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The bytes of a version: nothing of one is found in another one.
fn content(version: u64, length: usize) -> Vec<u8> {
    let mut dice = Dice(version);
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(|| dice.next().to_le_bytes()).take(length / 8 + 1).flatten().collect();
    bytes.truncate(length);
    bytes
}

/// What is at a key: a version and its length, or nothing.
type State = Option<(u64, usize)>;

/// What one writer knows of its keys; nobody else writes them.
#[derive(Default)]
struct Model {
    /// What was answered to be there.
    certain: BTreeMap<String, State>,
    /// What may be there, because the answer never came.
    perhaps: Option<(String, State)>,
    /// An unfinished upload whose part was answered to be there: key, id, document, state.
    upload: Option<(String, String, String, State)>,
    acknowledged: usize,
    versions: u64,
}

impl Model {
    fn write(&mut self, client: &mut Client, dice: &mut Dice, writer: usize) -> std::io::Result<()> {
        let number = dice.below(KEYS as u64);
        let path = match number {
            0 => format!("/sealift/w{writer}/a"),
            1 => format!("/sealift/w{writer}/a/below"),
            _ => format!("/sealift/w{writer}/{number}"),
        };
        self.versions += 1;
        let version = (writer as u64) << 32 | self.versions;
        let length = match dice.below(5) {
            0 => 3_000_000 + dice.below(100_000),
            1 => 1 << 20,
            _ => dice.below(60_000),
        };
        let length = usize::try_from(length).unwrap();
        let state = Some((version, length));
        match dice.below(8) {
            0 => self.certainly(path.clone(), None, || client.call("DELETE", &path, "", &[])),
            1 | 2 => self.in_parts(client, dice, path, state),
            _ => {
                let body = content(version, length);
                self.certainly(path.clone(), state, || client.call("PUT", &path, "", &body))
            }
        }
    }

    /// Does what leads to a state; when no answer comes, either may be there.
    fn certainly(
        &mut self,
        path: String,
        state: State,
        work: impl FnOnce() -> std::io::Result<raw::Answer>,
    ) -> std::io::Result<()> {
        self.perhaps = Some((path.clone(), state));
        let answer = work()?;
        assert!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
        self.perhaps = None;
        self.certain.insert(path, state);
        self.acknowledged += 1;
        Ok(())
    }

    fn in_parts(&mut self, client: &mut Client, dice: &mut Dice, path: String, state: State) -> std::io::Result<()> {
        let (path, id, document, state) = match self.upload.take() {
            // Perhaps one of an earlier life.
            Some(upload) => upload,
            None => {
                let body = content(state.unwrap().0, state.unwrap().1);
                let begun = client.call("POST", &format!("{path}?uploads"), "", &[])?;
                let id = begun.between("UploadId").unwrap();
                let part = client.call("PUT", &format!("{path}?partNumber=1&uploadId={id}"), "", &body)?;
                assert_eq!(part.status, 200, "{}", part.text());
                self.acknowledged += 2;
                let etag = part.field("etag").unwrap();
                let document = format!(
                    "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
                );
                (path, id, document, state)
            }
        };
        match dice.below(4) {
            0 => {
                let kept = (path.clone(), id.clone(), document, state);
                self.upload = Some(kept);
            }
            1 => {
                let aborted = client.call("DELETE", &format!("{path}?uploadId={id}"), "", &[])?;
                assert_eq!(aborted.status, 204, "{}", aborted.text());
                self.acknowledged += 1;
            }
            _ => {
                let target = format!("{path}?uploadId={id}");
                self.certainly(path, state, || client.call("POST", &target, "", document.as_bytes()))?;
            }
        }
        Ok(())
    }

    /// Compares with what is there. Whether what was not answered had happened.
    fn verify(&mut self, client: &mut Client) -> Option<bool> {
        let perhaps = self.perhaps.take();
        if let Some((path, _)) = &perhaps {
            self.certain.entry(path.clone()).or_default();
        }
        let mut happened = None;
        for (path, certain) in &mut self.certain {
            let answer = client.call("GET", path, "", &[]).unwrap();
            let is = |state: &State| match state {
                None => answer.status == 404,
                Some((version, length)) => answer.status == 200 && answer.body == content(*version, *length),
            };
            let may_be = perhaps.as_ref().filter(|(perhaps, _)| perhaps == path);
            if let Some((_, state)) = may_be {
                happened = Some(is(state));
                if is(state) {
                    *certain = *state;
                }
            }
            assert!(is(certain), "{path} is neither old nor new: {} with {} bytes", answer.status, answer.body.len());
        }
        happened
    }
}

/// Every key that is there, and its size, as a listing shows it.
fn listed(client: &mut Client) -> BTreeMap<String, usize> {
    let answer = client.call("GET", "/sealift?list-type=2", "", &[]).unwrap();
    let text = answer.text();
    let between = |text: &str, tag: &str| {
        text.split_once(&format!("<{tag}>")).unwrap().1.split_once(&format!("</{tag}>")).unwrap().0.to_owned()
    };
    let entries = text.split("<Contents>").skip(1);
    entries.map(|it| (format!("/sealift/{}", between(it, "Key")), between(it, "Size").parse().unwrap())).collect()
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// How many temporaries a kill left behind, those of the one that lives not counted.
fn left_behind(directory: &Path, living: &str) -> usize {
    let dead = names(&directory.join("tmp")).into_iter().filter(|session| session != living);
    dead.map(|session| names(&directory.join("tmp").join(session)).len() - 1).sum()
}

/// What a start leaves: the sessions of the living, and whole uploads.
fn is_clean(directory: &Path, living: &str) {
    let sessions = names(&directory.join("tmp"));
    assert_eq!(sessions.len(), 2, "the session of the one that lives and of the one that began: {sessions:?}");
    assert!(sessions.iter().any(|session| session == living), "the one that lives");
    for session in sessions.iter().filter(|session| *session != living) {
        assert_eq!(names(&directory.join("tmp").join(session)), ["lock"], "no temporary is left");
    }
    for upload in names(&directory.join("uploads")) {
        let files = names(&directory.join("uploads").join(&upload));
        assert!(files.contains(&"meta.json".to_owned()), "an upload without its description: {files:?}");
        assert!(files.iter().all(|file| file == "meta.json" || file == "00001@"), "{files:?}");
    }
}

/// Lets every writer write until the server is killed, after a life of this many milliseconds.
fn one_life(served: ServedApart, models: &mut [Model], dice: &mut Dice) {
    let address = served.address;
    let seeds: Vec<u64> = models.iter().map(|_| dice.next()).collect();
    let life = Duration::from_micros(dice.below(LIFE * 1000));
    let killed = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writers: Vec<_> = models
            .iter_mut()
            .zip(seeds)
            .enumerate()
            .map(|(writer, (model, seed))| {
                let killed = killed.clone();
                scope.spawn(move || write_until_killed(address, model, &mut Dice(seed), writer, &killed))
            })
            .collect();
        let end = Instant::now() + life;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
        killed.store(true, Ordering::SeqCst);
        served.kill();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

fn write_until_killed(address: SocketAddr, model: &mut Model, dice: &mut Dice, writer: usize, killed: &AtomicBool) {
    let Ok(mut client) = Client::try_new(address) else { return };
    while model.write(&mut client, dice, writer).is_ok() {}
    assert!(killed.load(Ordering::SeqCst), "a connection ends only when the server is killed");
}

#[test]
fn a_hundred_kills_leave_old_or_new() {
    let seed = std::env::var("SEALIFT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 ^ 0x5ea1);
    println!("seed {seed}");
    let begun = Instant::now();
    let directory = tempfile::tempdir().unwrap();
    let living = ServedApart::start("child_serves", directory.path());
    let session = names(&directory.path().join("tmp")).pop().unwrap();
    // A body that is under way in the process that lives through all of it.
    let slow = content(7, 2_500_000);
    let mut under_way = Client::new(living.address);
    let head = format!("PUT /sealift/slow HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", slow.len());
    under_way.stream.write_all(head.as_bytes()).unwrap();
    under_way.stream.write_all(&slow[..1_200_000]).unwrap();
    let mut dice = Dice(seed);
    let mut models: Vec<Model> = (0..WRITERS).map(|_| Model::default()).collect();
    let (mut kills, mut old, mut new, mut left) = (0, 0, 0, 0);
    loop {
        let served = ServedApart::start("child_serves", directory.path());
        is_clean(directory.path(), &session);
        let mut client = Client::new(served.address);
        for model in &mut models {
            match model.verify(&mut client) {
                Some(true) => new += 1,
                Some(false) => old += 1,
                None => {}
            }
        }
        let expected: BTreeMap<String, usize> = models
            .iter()
            .flat_map(|model| &model.certain)
            .filter_map(|(path, state)| Some((path.clone(), state.as_ref()?.1)))
            .collect();
        assert_eq!(listed(&mut client), expected, "a listing names what is there and nothing else");
        if kills == KILLS {
            served.kill();
            break;
        }
        assert!(begun.elapsed() < BOUND, "only {kills} of {KILLS} kills in {BOUND:?}");
        one_life(served, &mut models, &mut dice);
        kills += 1;
        left += left_behind(directory.path(), &session);
        // The slow one lives on, with a little more of its body each time, so that it counts as moving.
        let at = 1_200_000 + kills * 10_000;
        under_way.stream.write_all(&slow[at - 10_000..at]).unwrap();
    }
    under_way.stream.write_all(&slow[1_200_000 + kills * 10_000..]).unwrap();
    let kept = under_way.answer(false).unwrap();
    assert_eq!(kept.status, 200, "what was under way in a living process is not disturbed: {}", kept.text());
    let mut client = Client::new(living.address);
    assert_eq!(client.call("GET", "/sealift/slow", "", &[]).unwrap().body, slow);
    let acknowledged: usize = models.iter().map(|model| model.acknowledged).sum();
    assert!(acknowledged > KILLS, "it was killed while it worked: {acknowledged}");
    assert!(old + new > KILLS / 10, "it was killed in the middle of requests: {old} and {new}");
    assert!(left > 0, "there was something to clean");
    println!(
        "{kills} kills, {acknowledged} answered writes kept, {} unanswered ({old} old, {new} new), none torn, {left} temporaries cleaned, in {:?}; seed {seed}",
        old + new,
        begun.elapsed()
    );
    living.kill();
}
