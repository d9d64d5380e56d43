//! The parsers of `fuzz/`, driven by seeded mutations of valid inputs, on stable Rust and on every test run.
//!
//! What must hold for any bytes: no panic, an end within [`DEADLINE`], memory within a bound that follows from the input's size, and
//! the invariants that the parser itself checks of what it accepts. `SEALIFT_TEST_SEED` repeats a run, and
//! `SEALIFT_FUZZ_TIMES` makes it longer.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

#[path = "image_faults/layouts.rs"]
#[allow(dead_code, reason = "the campaign uses all of it")]
mod layouts;
#[path = "../../fuzz/src/parsers.rs"]
#[allow(dead_code, unreachable_pub, reason = "libFuzzer's targets use the rest, as a crate of its own")]
mod parsers;

use e2e::campaign::{Random, said, seed};
use parsers::Parser;
use peak_alloc::PeakAlloc;
use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What one input may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);
/// Memory that any input may take, and that each of its bytes may take besides.
const MEMORY: (usize, usize) = (48 << 20, 512);
/// Inputs are not made longer.
const LONGEST: usize = 64 * 1024;

/// What is being parsed, since when.
static RUNNING: Mutex<Option<(Instant, String)>> = Mutex::new(None);

#[test]
fn no_bytes_break_a_parser() {
    let seed = seed();
    let times: u32 = std::env::var("SEALIFT_FUZZ_TIMES").ok().map_or(1, |text| text.parse().unwrap());
    e2e::tell(&format!("fuzzing: begins with seed {seed} (again: SEALIFT_TEST_SEED={seed})"));
    let only = std::env::var("SEALIFT_FUZZ_ONLY").ok();
    assert!(only.is_none() || std::env::var("CI").as_deref() != Ok("true"), "SEALIFT_FUZZ_ONLY leaves out the others");
    let ended = AtomicBool::new(false);
    let (mut tried, mut failures) = (0_u64, Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| watch(&ended));
        for (index, parser) in parsers::all().into_iter().enumerate() {
            if only.as_deref().is_some_and(|only| only != parser.name) {
                continue;
            }
            let begun = Instant::now();
            let mut random = Random::new(seed, index as u64);
            let runs = parser.runs * times;
            match drive(&parser, runs, &mut random) {
                Ok(accepted) => e2e::tell(&format!(
                    "fuzzing:   {}: {runs} inputs, {accepted} accepted, {:.1?}",
                    parser.name,
                    begun.elapsed()
                )),
                Err(failure) => failures.push(format!("{}: {failure}", parser.name)),
            }
            tried += u64::from(runs);
        }
        ended.store(true, Ordering::SeqCst);
    });
    assert!(failures.is_empty(), "with seed {seed}:\n{}", failures.join("\n"));
    e2e::tell(&format!("fuzzing: {tried} inputs of {} parsers, none broke one, seed {seed}", parsers::all().len()));
}

/// A loop without an end cannot be stopped, but it can be told.
fn watch(ended: &AtomicBool) {
    while !ended.load(Ordering::SeqCst) {
        if let Some((since, what)) = &*RUNNING.lock().unwrap()
            && since.elapsed() > 2 * DEADLINE
        {
            e2e::tell(&format!("fuzzing: no end after {:?}: {what}", since.elapsed()));
            std::process::abort();
        }
        thread::park_timeout(Duration::from_millis(50));
    }
}

/// Runs one parser; how many inputs it accepted.
fn drive(parser: &Parser, runs: u32, random: &mut Random) -> Result<u32, String> {
    let seeds = (parser.seeds)();
    for seed in &seeds {
        if !one(parser, seed)? {
            return Err(format!("a seed is not accepted: {}", shown(seed)));
        }
    }
    // Every beginning of a small seed, because that is how files are torn.
    for seed in seeds.iter().filter(|seed| seed.len() < 600) {
        for end in (0..seed.len()).step_by(3) {
            one(parser, &seed[..end])?;
        }
    }
    let mut accepted = 0;
    for _ in 0..runs {
        let mut bytes = seeds[random.below(seeds.len() as u64) as usize].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut bytes, &seeds, parser.words, random);
        }
        bytes.truncate(LONGEST);
        if let Some(mend) = parser.mend
            && random.below(4) > 0
        {
            mend(&mut bytes);
        }
        accepted += u32::from(one(parser, &bytes)?);
    }
    Ok(accepted)
}

/// One input, within time and memory.
fn one(parser: &Parser, bytes: &[u8]) -> Result<bool, String> {
    let begun = Instant::now();
    *RUNNING.lock().unwrap() = Some((begun, format!("{} of {}", parser.name, shown(bytes))));
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let result = catch_unwind(AssertUnwindSafe(|| (parser.parse)(bytes)));
    let took = ALLOCATOR.peak_usage().saturating_sub(before);
    *RUNNING.lock().unwrap() = None;
    let result = result.map_err(|panic| format!("{} with {}", said(&*panic), shown(bytes)))?;
    if took > MEMORY.0 + MEMORY.1 * bytes.len() {
        return Err(format!("{took} bytes of memory for {} with {}", bytes.len(), shown(bytes)));
    }
    if begun.elapsed() > DEADLINE {
        return Err(format!("{:?} with {}", begun.elapsed(), shown(bytes)));
    }
    Ok(result)
}

/// Enough to try it again: text as text.
fn shown(bytes: &[u8]) -> String {
    let text: String =
        bytes.iter().take(3000).flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect();
    format!("{} bytes b\"{text}\"", bytes.len())
}

/// One change: a bit, a byte, a run, a word, a number, another seed's part.
fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&str], random: &mut Random) {
    let length = bytes.len() as u64;
    let at = |random: &mut Random| random.below(length + 1) as usize;
    let (one, two) = (at(random), at(random));
    let (from, to) = (one.min(two), one.max(two));
    match random.below(12) {
        0 | 1 if from < bytes.len() => bytes[from] ^= 1 << random.below(8),
        2 if from < bytes.len() => {
            bytes[from] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'7', b'"', b'/'][random.below(9) as usize]
        }
        3 => bytes.truncate(one),
        4 => drop(bytes.drain(from..to.min(from + 64))),
        5 => {
            let part = bytes[from..to.min(from + 512)].to_vec();
            let times = 1 + random.below(8) as usize;
            drop(bytes.splice(two.min(bytes.len())..two.min(bytes.len()), part.repeat(times)));
        }
        6 | 7 => {
            let word = words[random.below(words.len() as u64) as usize].as_bytes().to_vec();
            drop(bytes.splice(from..if random.below(2) == 0 { from } else { to.min(from + word.len()) }, word));
        }
        8 => {
            let word = words[random.below(words.len() as u64) as usize].as_bytes();
            let times = 1 << random.below(12);
            drop(bytes.splice(from..from, word.repeat(times)));
        }
        9 => number(bytes, from, random),
        10 => {
            let other = &seeds[random.below(seeds.len() as u64) as usize];
            let (start, end) =
                (random.below(other.len() as u64 + 1) as usize, random.below(other.len() as u64 + 1) as usize);
            drop(bytes.splice(from..to, other[start.min(end)..start.max(end)].to_vec()));
        }
        _ => {
            let count = random.below(16) as usize;
            let noise = random.bytes(count);
            drop(bytes.splice(from..from, noise));
        }
    }
}

/// The number at or after a place becomes another one.
fn number(bytes: &mut Vec<u8>, from: usize, random: &mut Random) {
    const NUMBERS: [&str; 9] = [
        "0",
        "1",
        "-1",
        "00000000000",
        "77777777777",
        "4294967296",
        "9223372036854775807",
        "18446744073709551615",
        "1e308",
    ];
    let Some(start) = bytes[from..].iter().position(u8::is_ascii_digit).map(|place| from + place) else { return };
    let end = bytes[start..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |place| start + place);
    let other = NUMBERS[random.below(NUMBERS.len() as u64) as usize].bytes();
    drop(bytes.splice(start..end, other));
}

/// libFuzzer and this driver run the same parsers.
#[test]
fn every_parser_has_a_fuzz_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let named: BTreeSet<String> = parsers::all().iter().map(|parser| parser.name.to_owned()).collect();
    let targets: BTreeSet<String> = fs::read_dir(folder.join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(named, targets);
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for name in named {
        let text = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(text.contains(&format!("sealift_fuzz::run(\"{name}\", bytes)")), "{name} runs another parser");
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "{name} is no target of fuzz/Cargo.toml"
        );
        assert!(parsers::all().iter().any(|parser| parser.name == name && parser.runs > 0 && !parser.words.is_empty()));
    }
}
