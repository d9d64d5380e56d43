//! What a campaign counts: tries, what was survived, what was lost, out of one seed.
//!
//! A try that fails is counted as lost and its reason kept, so that one run shows everything that is broken; a campaign
//! that lost anything fails when it ends. A row that was never tried fails it as well.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt::Display,
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Losses of one row after which it is given up: what comes then is mostly the same.
const ENOUGH: usize = 3;

/// Numbers that follow from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each `stream` of a seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = Self(seed ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let _ = mixed.number();
        mixed
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    /// Bytes that no compression makes shorter.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.number().to_le_bytes());
        words.take(length.div_ceil(8)).flatten().take(length).collect()
    }
}

/// The seed of this run: `SEALIFT_TEST_SEED`, or one that no run had before.
pub fn seed() -> u64 {
    if let Some(seed) = std::env::var("SEALIFT_TEST_SEED").ok().filter(|text| !text.is_empty()) {
        return seed.parse().unwrap_or_else(|_| panic!("SEALIFT_TEST_SEED is no number: {seed:?}"));
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Random::new(since.as_nanos() as u64, u64::from(std::process::id())).number() % 1_000_000_000
}

/// A row's counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How often it was tried.
    pub tried: usize,
    /// How often everything was as it must be afterwards.
    pub survived: usize,
}

/// The counts of a campaign, shared by its threads.
#[derive(Debug)]
pub struct Tally {
    /// What everything random follows from.
    pub seed: u64,
    name: &'static str,
    rows: Mutex<BTreeMap<String, Count>>,
    losses: Mutex<Vec<String>>,
}

/// What a panic said.
pub fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|why| (*why).to_owned())).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    /// Begins a campaign and says its seed.
    pub fn begin(name: &'static str) -> Self {
        let seed = seed();
        crate::tell(&format!("campaign: {name}: begins with seed {seed} (again: SEALIFT_TEST_SEED={seed})"));
        Self { seed, name, rows: Mutex::default(), losses: Mutex::default() }
    }

    /// One try of a row. A panic in it is a loss; `None` then. When a row lost too much, it ends: see [`Tally::given_up`].
    pub fn attempt<T>(&self, row: &str, what: impl Display, work: impl FnOnce() -> T) -> Option<T> {
        let result = catch_unwind(AssertUnwindSafe(work));
        let mut rows = lock(&self.rows);
        let count = rows.entry(row.to_owned()).or_default();
        count.tried += 1;
        match result {
            Ok(value) => {
                count.survived += 1;
                Some(value)
            }
            Err(panic) => {
                lock(&self.losses).push(format!("{row}: {what}: {}", said(&*panic)));
                None
            }
        }
    }

    /// What must hold besides the tries: a run without a fault. It counts only when it does not hold.
    pub fn hold(&self, row: &str, what: impl Display, work: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            self.lose(row, format!("{what}: {}", said(&*panic)));
        }
    }

    /// What happened outside of a try and must not have: a row that could not be prepared.
    pub fn lose(&self, row: &str, why: impl Display) {
        lock(&self.rows).entry(row.to_owned()).or_default().tried += 1;
        lock(&self.losses).push(format!("{row}: {why}"));
    }

    /// Whether a row lost so much that more tries say nothing new.
    pub fn given_up(&self, row: &str) -> bool {
        let count = self.count(row);
        count.tried - count.survived >= ENOUGH
    }

    /// The counts of a row so far.
    pub fn count(&self, row: &str) -> Count {
        lock(&self.rows).get(row).copied().unwrap_or_default()
    }

    /// The counts of all rows that begin with `prefix`.
    pub fn sum(&self, prefix: &str) -> Count {
        let rows = lock(&self.rows);
        rows.iter().filter(|(row, _)| row.starts_with(prefix)).fold(Count::default(), |sum, (_, count)| Count {
            tried: sum.tried + count.tried,
            survived: sum.survived + count.survived,
        })
    }

    /// Says each row, then the line `words` makes of all, and fails when anything was lost or a row of `must` never tried.
    pub fn end(self, must: &[&str], words: impl FnOnce(&Self, Count, usize) -> String) {
        for (row, count) in lock(&self.rows).iter() {
            crate::tell(&format!(
                "campaign: {}:   {row}: {} tried, {} survived",
                self.name, count.tried, count.survived
            ));
        }
        let (line, problem) = self.close(must, words);
        summary(&line);
        if let Some(problem) = problem {
            panic!("{line}\n\n{problem}");
        }
    }

    /// The line that sums it up, and what it fails with.
    fn close(&self, must: &[&str], words: impl FnOnce(&Self, Count, usize) -> String) -> (String, Option<String>) {
        let losses = lock(&self.losses).clone();
        let line = format!("campaign: {}: {}, seed {}", self.name, words(self, self.sum(""), losses.len()), self.seed);
        let untried: Vec<&&str> = must.iter().filter(|row| self.sum(row).tried == 0).collect();
        let problem = match (losses.is_empty(), untried.is_empty()) {
            (true, true) => None,
            (true, false) => Some(format!("never tried: {untried:?}")),
            (false, _) => Some(losses.join("\n\n")),
        };
        (line, problem)
    }
}

/// Says a line, and appends it to the file that `SEALIFT_TEST_SUMMARY` names.
pub fn summary(line: &str) {
    crate::tell(line);
    let Some(path) = std::env::var_os("SEALIFT_TEST_SUMMARY").filter(|path| !path.is_empty()) else { return };
    let file = std::fs::File::options().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.unwrap_or_else(|error| panic!("SEALIFT_TEST_SUMMARY ({}) cannot be written: {error}", path.display()));
}

/// One lane of a campaign: its name, and a sequence of tries that share a project.
pub type Lane<'a> = (String, Box<dyn FnOnce(&Tally) + Send + 'a>);

/// Runs lanes side by side, so many at once; a lane that cannot go on is a loss. The longest come first. Says which took long.
pub fn side_by_side(tally: &Tally, lanes: Vec<Lane<'_>>, at_once: usize) {
    let lanes: Vec<Mutex<Option<Lane<'_>>>> = lanes.into_iter().map(|lane| Mutex::new(Some(lane))).collect();
    let next = AtomicUsize::new(0);
    let times = Mutex::new(Vec::<(Duration, String)>::new());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(lane) = lanes.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let Some((name, work)) = lock(lane).take() else { continue };
                    let begun = Instant::now();
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(tally))) {
                        tally.lose(&name, format!("the lane could not go on: {}", said(&*panic)));
                    }
                    lock(&times).push((begun.elapsed(), name));
                }
            });
        }
    });
    let mut times = times.into_inner().unwrap_or_else(PoisonError::into_inner);
    times.sort();
    for (took, name) in times.iter().rev().take(6) {
        crate::tell(&format!("campaign: {}:   {took:.1?} in {name}", tally.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(_: &Tally, all: Count, lost: usize) -> String {
        format!("{} tried, {} survived, {lost} lost", all.tried, all.survived)
    }

    fn tally() -> Tally {
        Tally { seed: 7, name: "example", rows: Mutex::default(), losses: Mutex::default() }
    }

    #[test]
    fn a_campaign_without_a_loss_passes() {
        let tally = tally();
        assert_eq!(tally.attempt("row 02", "one", || 5), Some(5));
        tally.hold("row 02", "besides", || ());
        let (line, problem) = tally.close(&["row 02"], words);
        assert_eq!((line.as_str(), problem), ("campaign: example: 1 tried, 1 survived, 0 lost, seed 7", None));
    }

    #[test]
    fn whatever_panics_is_lost_and_named_and_fails_it() {
        let tally = tally();
        assert!(tally.attempt("row 02", "one", || assert!(tally.seed == 0, "a byte is gone")).is_none());
        tally.attempt("row 03", "two", || ());
        tally.hold("row 03", "besides", || panic!("it is not tidy"));
        tally.lose("row 04", "not begun");
        let (line, problem) = tally.close(&["row 02"], words);
        assert_eq!(line, "campaign: example: 4 tried, 1 survived, 3 lost, seed 7");
        let problem = problem.expect("it fails");
        for why in ["row 02: one: a byte is gone", "row 03: besides: it is not tidy", "row 04: not begun"] {
            assert!(problem.contains(why), "{problem}");
        }
    }

    #[test]
    fn a_row_that_was_never_tried_fails_it() {
        let tally = tally();
        tally.attempt("row 02", "one", || ());
        let (_, problem) = tally.close(&["row 02", "row 03"], words);
        assert_eq!(problem.as_deref(), Some("never tried: [\"row 03\"]"));
    }

    #[test]
    fn a_row_is_given_up_when_it_lost_enough() {
        let tally = tally();
        for _ in 0..ENOUGH {
            assert!(!tally.given_up("row 02"));
            tally.attempt("row 02", "one", || panic!("lost"));
        }
        assert!(tally.given_up("row 02") && !tally.given_up("row 03"));
    }

    #[test]
    fn numbers_follow_from_seed_and_stream() {
        let draw = |seed, stream| Random::new(seed, stream).bytes(20);
        assert_eq!(draw(1, 1), draw(1, 1));
        assert!(draw(1, 1) != draw(2, 1) && draw(1, 1) != draw(1, 2));
    }
}
