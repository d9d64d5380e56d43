//! Measuring, judging, and the evidence that promotion asks for.
//!
//! A verdict is a signed verification summary (SLSA VSS v1) about the release's bundle, stored under
//! `attestations/<2>/<release digest>/<bundle digest>.sigstore.json` and noted in the environment's ledger. It counts for
//! one release, one environment and the thresholds that were sealed with the release; the newest one counts, whether it
//! is better or worse than those before. Its subjects are the release's bundle and its images, and its inputs the bundle and
//! the reports that it stands on, by digest; reports themselves are not stored, for some quote the secrets that they found.
//!
//! Smoke requests that were sent are evidence as well: a test result (in-toto test-result v0.1) under the digest of the image
//! that answered, or of the release's bundle where there is no image.
//!
//! Nothing here moves a release. Missing, old or thin evidence holds it.

mod examine;

pub use examine::sealed;

use crate::{
    error::{Doing, Error, Result},
    journal::{Journal, Record},
    releases::{self, Sealed},
    rollout::World,
    status,
};
use domain::{
    Digest, Event, Name, ReleaseName,
    config::{Environment, OnWarn},
    gate::{self, Baseline, CheckResult, GateResult, HttpRequest, Verdict},
    plan::Refusal,
    state::{Ending, Running, action},
    workload::SlotState,
};
use examine::{Examination, Input};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use ledger::{
    bundle::{self, Bundle},
    keys::{SigningKey, TrustedKeys},
    statement::{Statement, Subject, predicate_type},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use store::Store;

/// How many attestations are read at once.
const READERS: usize = 16;

/// A verdict about a release in an environment, as it was signed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evidence {
    /// Where it was measured.
    pub environment: Name,
    /// How the gate came out.
    pub result: GateResult,
    /// The digest of the thresholds that were applied.
    pub policy: Digest,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// The key that signed it.
    pub signer: Name,
    /// Where the bundle is.
    pub key: String,
}

/// The part of the predicate that a verification summary has no field for.
#[derive(Debug, Serialize, Deserialize)]
struct Detail {
    environment: Name,
    actor: String,
    result: GateResult,
}

/// What a gate run is about.
pub struct Subjects<'a> {
    /// The project.
    pub project: &'a Name,
    /// The environment.
    pub environment: &'a Environment,
    /// The environment that takes releases from this one: what serves there is the baseline.
    pub next: Option<&'a Environment>,
    /// The repository, for report files and commands.
    pub repository: &'a Path,
    /// The component.
    pub component: &'a Name,
}

/// How a gate run came out.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    /// The release that was judged.
    pub release: ReleaseName,
    /// The environment.
    pub environment: Name,
    /// The worst verdict.
    pub verdict: Verdict,
    /// Every gate.
    pub gates: Vec<GateResult>,
}

/// Measures and judges what serves an environment against its gates, signs the verdicts, and notes them in the ledger.
pub async fn run(world: &World, subjects: &Subjects<'_>) -> Result<Judged> {
    let environment = subjects.environment;
    let Serving { running, sealed, url } = serving(world, subjects).await?;
    let baseline = BaselineSource::new(world, subjects).await?;
    let mut examination = Examination::new(world, subjects, &sealed, &url);
    let mut gates = Vec::new();
    for name in &environment.gates {
        let mut inputs = Vec::new();
        let result = match sealed.manifest.gates.get(name) {
            Some(gate) => {
                let mut results = Vec::new();
                for check in &gate.checks {
                    let measurements = examination.measure(check).await?;
                    inputs.extend(examine::inputs(check, &measurements));
                    let result = gate::check(check, &measurements, &baseline.of(name, &check.name), world.clock.now());
                    world.events.emit(Event::Checked {
                        check: format!("{name}/{}", check.name),
                        verdict: result.verdict,
                        reasons: result.reasons.clone(),
                    });
                    results.push(result);
                }
                gate::gate(gate, results)
            }
            None => unsealed(name, &sealed),
        };
        gates.push((result, inputs));
    }
    let smoked = std::mem::take(&mut examination.smoked);
    let verdict = gates.iter().map(|(gate, _)| gate.verdict).max().unwrap_or(Verdict::Inconclusive);
    record(world, subjects, &running, &sealed, &gates).await?;
    let image = sealed.manifest.image(&crate::platform()).map(|image| image.manifest);
    for report in &smoked {
        let tested =
            Tested { environment: &environment.name, release: &sealed.manifest.release, bundle: sealed.digest, image };
        attest_tests(world, &tested, &TestRun::of(report)).await?;
    }
    let gates = gates.into_iter().map(|(gate, _)| gate).collect();
    Ok(Judged { release: sealed.manifest.release, environment: environment.name.clone(), verdict, gates })
}

/// How a smoke test of an environment came out.
#[derive(Debug, Clone, Serialize)]
pub struct Smoked {
    /// The release that was asked.
    pub release: ReleaseName,
    /// The environment.
    pub environment: Name,
    /// Where it answers.
    pub url: String,
    /// Whether all requests passed; a component without smoke requests has not.
    pub ok: bool,
    /// Every request.
    pub report: probe::SmokeReport,
}

/// Sends the smoke requests of what serves an environment, as they were sealed. Nothing is recorded.
pub async fn smoke(world: &World, subjects: &Subjects<'_>) -> Result<Smoked> {
    let Serving { sealed, url, .. } = serving(world, subjects).await?;
    let report = probe::smoke(&url, &sealed.manifest.smoke, &world.events).await;
    let environment = subjects.environment.name.clone();
    Ok(Smoked { release: sealed.manifest.release, environment, url, ok: report.ok(), report })
}

/// What serves a component of an environment: recorded, verified, and found running by the target itself.
struct Serving {
    running: Running,
    sealed: Sealed,
    url: String,
}

async fn serving(world: &World, subjects: &Subjects<'_>) -> Result<Serving> {
    let environment = subjects.environment;
    if let Some(open) = status::open_rollout(&world.log(&environment.name)).await? {
        return Err(Refusal::Open { environment: environment.name.clone(), op: open.op }.into());
    }
    let current = releases::current(&world.store, &environment.name).await?;
    let running = current.components.get(subjects.component).cloned().ok_or_else(|| Error::NotFound {
        message: format!("nothing serves {} for {}", environment.name, subjects.component),
        next: Some(format!("sealift deploy {}", environment.name)),
    })?;
    let sealed = releases::serving(&world.store, &world.trusted, &environment.name, &running).await?;
    let observed = world.target.observe(subjects.project, &environment.name, subjects.component).await;
    let observed = observed.doing(format!("observe {}", environment.name))?;
    match observed.slot(running.slot) {
        SlotState::Running { release_digest, .. } if *release_digest == running.digest => {}
        _ => {
            return Err(Error::NotFound {
                message: format!("{} is to serve {} but does not run", running.release, environment.name),
                next: Some("sealift status".to_owned()),
            });
        }
    }
    let side = domain::compose::side(&sealed.manifest, sealed.digest, environment, running.slot, &crate::platform())
        .map_err(|error| Error::bad_input(error.to_string()))?;
    Ok(Serving { url: side.workload.url(), running, sealed })
}

fn unsealed(name: &Name, sealed: &Sealed) -> GateResult {
    let reason =
        format!("{} was sealed without the gate {name}; its thresholds are not part of it", sealed.manifest.release);
    let check = CheckResult { check: name.clone(), verdict: Verdict::Inconclusive, value: None, reasons: vec![reason] };
    GateResult { gate: name.clone(), verdict: Verdict::Inconclusive, checks: vec![check] }
}

/// Where relative bounds find the running release's own values.
enum BaselineSource {
    First,
    Release { release: ReleaseName, values: BTreeMap<(Name, Name), f64> },
}

impl BaselineSource {
    async fn new(world: &World, subjects: &Subjects<'_>) -> Result<Self> {
        let Some(next) = subjects.next else { return Ok(Self::First) };
        let current = releases::current(&world.store, &next.name).await?;
        let Some(running) = current.components.get(subjects.component) else { return Ok(Self::First) };
        let mut values = BTreeMap::new();
        for evidence in evidence(&world.store, &world.trusted, &running.digest).await? {
            if evidence.environment == subjects.environment.name {
                for check in &evidence.result.checks {
                    if let Some(value) = check.value {
                        values.insert((evidence.result.gate.clone(), check.check.clone()), value);
                    }
                }
            }
        }
        Ok(Self::Release { release: running.release.clone(), values })
    }

    fn of(&self, gate: &Name, check: &Name) -> Baseline {
        match self {
            Self::First => Baseline::FirstRelease,
            Self::Release { release, values } => match values.get(&(gate.clone(), check.clone())) {
                Some(value) => Baseline::Value { release: release.to_string(), value: *value },
                None => Baseline::Unrecorded { release: release.to_string() },
            },
        }
    }
}

/// Signs and stores the verdicts, then notes them in the ledger under the lease.
async fn record(
    world: &World,
    subjects: &Subjects<'_>,
    measured: &Running,
    sealed: &Sealed,
    gates: &[(GateResult, Vec<Input>)],
) -> Result<()> {
    let environment = &subjects.environment.name;
    let op = uuid::Uuid::new_v4().to_string();
    let lease = world
        .store
        .lease(environment.as_str(), &format!("gate {environment} ({op})"), world.lease_ttl, world.patience)
        .await
        .doing(format!("take the lease of {environment}"))?;
    let result = async {
        // Under the lease nothing moves: what was measured must still be what serves.
        let now = serving(world, subjects).await?.running;
        if now != *measured {
            let what = format!("{} served when it was measured, and {} does now", measured.release, now.release);
            return Err(Error::Stale { environment: environment.to_string(), what });
        }
        let key = world.signing_key()?;
        let log = world.log(environment);
        let mut journal =
            Journal::open(log, key.clone(), world.actor.clone(), op, lease.epoch, world.clock.clone()).await?;
        for (result, inputs) in gates {
            let (stored, digest) = attest(world, key, environment, sealed, (result, inputs)).await?;
            let subject = BTreeMap::from([
                ("release".to_owned(), json!(sealed.manifest.release)),
                ("digest".to_owned(), json!(sealed.digest)),
                ("gate".to_owned(), json!(result.gate)),
                ("verdict".to_owned(), json!(result.verdict)),
                ("evidence".to_owned(), json!(stored)),
            ]);
            let artifact = Subject::new(format!("verdict/{}", result.gate), digest);
            journal.append(action::JUDGED, subject, "", vec![artifact]).await?;
        }
        Ok(())
    }
    .await;
    if let Err(error) = lease.release().await {
        world.events.warn(format!("the lease was not given back and will expire: {error}"));
    }
    result
}

async fn attest(
    world: &World,
    key: &SigningKey,
    environment: &Name,
    sealed: &Sealed,
    (result, inputs): (&GateResult, &[Input]),
) -> Result<(String, Digest)> {
    let release = &sealed.manifest.release;
    let passed = matches!(result.verdict, Verdict::Ok | Verdict::Warn);
    let detail = Detail { environment: environment.clone(), actor: world.actor.clone(), result: result.clone() };
    let predicate = json!({
        "verifier": {"id": "urn:sealift:gate", "version": {"sealift": env!("CARGO_PKG_VERSION")}},
        "timeVerified": world.clock.now(),
        "resourceUri": format!("urn:sealift:{}:{environment}:{release}", sealed.manifest.project),
        "policy": {"uri": format!("urn:sealift:gate:{}", result.gate), "digest": {"sha256": sealed.manifest.gates_digest.hex()}},
        "inputAttestations": inputs_of(sealed, inputs),
        "verificationResult": if passed { "PASSED" } else { "FAILED" },
        "verifiedLevels": [],
        "sealift": detail,
    });
    let doing = || format!("record the verdict of {}", result.gate);
    let statement =
        Statement { subjects: subjects_of(sealed), predicate_type: predicate_type::GATE_VERDICT.to_owned(), predicate };
    let bundle = Bundle::sign(key, &statement).doing(doing())?;
    let digest = bundle.digest();
    let stored = format!("{}{}.sigstore.json", prefix(&sealed.digest), digest.hex());
    world.store.create(&stored, bundle.into_bytes().into()).await.doing(doing())?;
    Ok((stored, digest))
}

/// The release's bundle, and its images, so that the verdict can be attached to them.
fn subjects_of(sealed: &Sealed) -> Vec<Subject> {
    let manifest = &sealed.manifest;
    let mut subjects = vec![Subject::new(manifest.release.to_string(), sealed.digest)];
    subjects.extend(manifest.index.iter().map(|index| Subject::new("image", index.digest)));
    let images = manifest.images.iter();
    subjects.extend(
        images.map(|(platform, image)| Subject::new(format!("image/{}", platform.replace('/', "-")), image.manifest)),
    );
    subjects
}

fn inputs_of(sealed: &Sealed, inputs: &[Input]) -> Vec<serde_json::Value> {
    let bundle = Input { uri: releases::key(&sealed.manifest.release), digest: sealed.digest };
    let all = std::iter::once(&bundle).chain(inputs);
    all.map(|input| json!({"uri": input.uri, "digest": {"sha256": input.digest.hex()}})).collect()
}

/// What smoke requests were sent to.
#[derive(Debug, Clone, Copy)]
pub struct Tested<'a> {
    /// The environment.
    pub environment: &'a Name,
    /// The release.
    pub release: &'a ReleaseName,
    /// SHA-256 of its bundle.
    pub bundle: Digest,
    /// The image that answered, if it is one.
    pub image: Option<Digest>,
}

/// What smoke requests came to, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestRun {
    /// Those that passed.
    pub passed: Vec<String>,
    /// Those that did not.
    pub failed: Vec<String>,
}

impl TestRun {
    /// Of a report.
    pub fn of(report: &probe::SmokeReport) -> Self {
        let named = |ok: bool| report.outcomes.iter().filter(|one| one.ok == ok).map(|one| one.name.clone()).collect();
        Self { passed: named(true), failed: named(false) }
    }

    /// Of a smoke test that only says whether all passed, and else why not: a sentence for each request that did not.
    pub fn said(requests: &[HttpRequest], outcome: &std::result::Result<(), String>) -> Self {
        let fails = |name: &str| {
            outcome.as_ref().is_err_and(|why| why.split("; ").any(|one| one.starts_with(&format!("{name}: "))))
        };
        let (failed, passed) = requests.iter().map(|request| request.name.clone()).partition(|name| fails(name));
        match outcome {
            // What failed is not known by name: then nothing is known to have passed.
            Err(_) if Vec::is_empty(&failed) => Self { passed: Vec::new(), failed: passed },
            _ => Self { passed, failed },
        }
    }
}

/// Signs and stores what smoke requests came to. A run without requests tested nothing, and nothing is stored.
pub async fn attest_tests(world: &World, tested: &Tested<'_>, run: &TestRun) -> Result<Option<String>> {
    if run.passed.is_empty() && run.failed.is_empty() {
        return Ok(None);
    }
    let Tested { environment, release, bundle, image } = *tested;
    let doing = || format!("record the smoke test of {release} in {environment}");
    let subject = image.unwrap_or(bundle);
    let mut subjects = vec![Subject::new(release.to_string(), bundle)];
    subjects.extend(image.map(|image| Subject::new("image", image)));
    let statement = Statement {
        subjects,
        predicate_type: predicate_type::TEST_RESULT.to_owned(),
        predicate: json!({
            "result": if run.failed.is_empty() { "PASSED" } else { "FAILED" },
            "configuration": [{"name": "smoke", "uri": releases::key(release), "digest": {"sha256": bundle.hex()}}],
            "passedTests": run.passed,
            "warnedTests": [],
            "failedTests": run.failed,
            "sealift": {"environment": environment, "actor": world.actor, "at": world.clock.now()},
        }),
    };
    let signed = Bundle::sign(world.signing_key()?, &statement).doing(doing())?;
    let stored = format!("{}{}.sigstore.json", prefix(&subject), signed.digest().hex());
    world.store.create(&stored, signed.into_bytes().into()).await.doing(doing())?;
    Ok(Some(stored))
}

/// What smoke requests came to, as it was signed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TestEvidence {
    /// Where they were sent.
    pub environment: Name,
    /// Those that passed.
    pub passed: Vec<String>,
    /// Those that did not.
    pub failed: Vec<String>,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// The key that signed it.
    pub signer: Name,
    /// Where the bundle is.
    pub key: String,
}

/// The predicate of a test result, as far as it is ours.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TestPredicate {
    passed_tests: Vec<String>,
    failed_tests: Vec<String>,
    sealift: TestDetail,
}

#[derive(Deserialize)]
struct TestDetail {
    environment: Name,
    actor: String,
    at: Timestamp,
}

/// All test results of a release, oldest first. Whatever lies beside them about its images is verified too: an object that
/// is not validly signed is an integrity failure.
pub async fn tests(store: &Store, trusted: &TrustedKeys, sealed: &Sealed) -> Result<Vec<TestEvidence>> {
    let manifest = &sealed.manifest;
    let images =
        manifest.images.values().map(|image| image.manifest).chain(manifest.index.iter().map(|one| one.digest));
    let subjects: BTreeSet<Digest> = images.chain([sealed.digest]).collect();
    let mut found = Vec::new();
    for subject in subjects {
        let keys = store.list(&prefix(&subject)).await.doing("list the test results")?;
        let read = |key: String| async move { read_test(store, trusted, &sealed.digest, &subject, key).await };
        let read: Vec<Option<TestEvidence>> =
            stream::iter(keys.into_iter().map(|(key, _)| read(key))).buffered(READERS).try_collect().await?;
        found.extend(read.into_iter().flatten());
    }
    found.sort_by_key(|test| test.at);
    Ok(found)
}

async fn read_test(
    store: &Store,
    trusted: &TrustedKeys,
    release: &Digest,
    subject: &Digest,
    key: String,
) -> Result<Option<TestEvidence>> {
    let Some(object) = store.read(&key).await.doing(format!("read {key}"))? else { return Ok(None) };
    let verified = bundle::verify(&object.bytes, trusted).doing(format!("verify {key}"))?;
    verified.require_subject(*subject).doing(format!("verify {key}"))?;
    // Releases with the same image share the folder.
    let ours = verified.statement.subjects.iter().any(|subject| subject.sha256 == *release);
    if verified.statement.predicate_type != predicate_type::TEST_RESULT || !ours {
        return Ok(None);
    }
    let predicate: TestPredicate = serde_json::from_value(verified.statement.predicate.clone())
        .map_err(|_| Error::Integrity { message: format!("{key} has no readable test result") })?;
    let TestPredicate { passed_tests, failed_tests, sealift: TestDetail { environment, actor, at } } = predicate;
    Ok(Some(TestEvidence {
        environment,
        passed: passed_tests,
        failed: failed_tests,
        at,
        actor,
        signer: verified.key,
        key,
    }))
}

fn prefix(release: &Digest) -> String {
    let hex = release.hex();
    format!("attestations/{}/{hex}/", &hex[..2])
}

/// All verdicts about a release, oldest first. An object that is not validly signed is an integrity failure, not nothing.
pub async fn evidence(store: &Store, trusted: &TrustedKeys, release: &Digest) -> Result<Vec<Evidence>> {
    let keys = store.list(&prefix(release)).await.doing("list the evidence")?;
    let mut all: Vec<Evidence> = stream::iter(keys)
        .map(|(key, _)| async move { read(store, trusted, release, key).await })
        .buffered(READERS)
        .try_filter_map(|evidence| async move { Ok(evidence) })
        .try_collect()
        .await?;
    all.sort_by_key(|evidence| evidence.at);
    Ok(all)
}

async fn read(store: &Store, trusted: &TrustedKeys, release: &Digest, key: String) -> Result<Option<Evidence>> {
    let Some(object) = store.read(&key).await.doing(format!("read {key}"))? else { return Ok(None) };
    let verified = bundle::verify(&object.bytes, trusted).doing(format!("verify {key}"))?;
    if verified.statement.predicate_type != predicate_type::GATE_VERDICT {
        return Ok(None); // Other kinds of attestation share the folder.
    }
    verified.require_subject(*release).doing(format!("verify {key}"))?;
    let predicate = &verified.statement.predicate;
    let unreadable = |what: &str| Error::Integrity { message: format!("{key} has no readable {what}") };
    let detail: Detail = serde_json::from_value(predicate["sealift"].clone()).map_err(|_| unreadable("verdict"))?;
    let policy = predicate["policy"]["digest"]["sha256"].as_str().and_then(|text| text.parse().ok());
    let at = predicate["timeVerified"].as_str().and_then(|text| text.parse().ok());
    Ok(Some(Evidence {
        environment: detail.environment,
        result: detail.result,
        policy: policy.ok_or_else(|| unreadable("policy"))?,
        at: at.ok_or_else(|| unreadable("time"))?,
        actor: detail.actor,
        signer: verified.key,
        key,
    }))
}

/// Whether a release may leave an environment: the reasons why, or [`Error::GateHolds`].
pub async fn permit(world: &World, environment: &Environment, sealed: &Sealed) -> Result<Vec<String>> {
    let name = &environment.name;
    let records = world.log(name).records().await?;
    let served = status::rollouts(&records)?
        .iter()
        .any(|rollout| rollout.digest == sealed.digest && rollout.ending == Some(Ending::Succeeded));
    let mut holds: Vec<(Verdict, String)> = Vec::new();
    let mut reasons = Vec::new();
    let mut gates = Vec::new();
    if served {
        reasons.push(format!("it has served {name}"));
    } else {
        holds.push((Verdict::Inconclusive, format!("it has never served {name}")));
    }
    let all = evidence(&world.store, &world.trusted, &sealed.digest).await?;
    for gate in &environment.gates {
        match newest_verdict(&records, &all, name, gate, sealed)? {
            None => holds.push((Verdict::Inconclusive, format!("gate {gate} has not judged it in {name}"))),
            Some(evidence) => {
                gates.push(evidence.result.clone());
                match weigh(evidence, sealed, environment, world.clock.now()) {
                    Ok(reason) => reasons.push(reason),
                    Err(hold) => holds.push(hold),
                }
            }
        }
    }
    match holds.iter().map(|(verdict, _)| *verdict).max() {
        None => Ok(reasons),
        Some(verdict) => Err(Error::GateHolds {
            release: sealed.manifest.release.clone(),
            environment: name.to_string(),
            verdict,
            why: holds.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; "),
            gates,
        }),
    }
}

/// The newest verdict by the ledger's order: neither a clock nor a missing object makes an older one count again.
fn newest_verdict<'a>(
    records: &[Record],
    all: &'a [Evidence],
    environment: &Name,
    gate: &Name,
    sealed: &Sealed,
) -> Result<Option<&'a Evidence>> {
    let digest = sealed.digest.to_string();
    let judged = records.iter().rev().find_map(|record| {
        let text = |key: &str| record.entry.subject.get(key).and_then(serde_json::Value::as_str);
        let about = record.entry.action == action::JUDGED
            && text("digest") == Some(&digest)
            && text("gate") == Some(gate.as_str());
        about.then(|| (record.entry.seq, text("evidence").unwrap_or_default().to_owned()))
    });
    let Some((seq, key)) = judged else { return Ok(None) };
    let found = all.iter().find(|evidence| evidence.key == key && evidence.environment == *environment);
    found.map(Some).ok_or_else(|| Error::Integrity {
        message: format!(
            "entry {seq} of the ledger of {environment} names the verdict {key}, which is not in the store"
        ),
    })
}

/// Whether one verdict lets a release pass now.
fn weigh(
    evidence: &Evidence,
    sealed: &Sealed,
    environment: &Environment,
    now: Timestamp,
) -> std::result::Result<String, (Verdict, String)> {
    let gate = &evidence.result.gate;
    if evidence.policy != sealed.manifest.gates_digest {
        return Err((Verdict::Inconclusive, format!("gate {gate} was judged by other thresholds than were sealed")));
    }
    let age = now.duration_since(evidence.at);
    if age.is_negative() {
        return Err((
            Verdict::Inconclusive,
            format!("gate {gate} was judged at {}, which is not over yet", evidence.at),
        ));
    }
    if age.unsigned_abs() > environment.evidence_max_age {
        let limit = domain::config::duration::format(&environment.evidence_max_age);
        return Err((Verdict::Inconclusive, format!("the verdict of gate {gate} is older than {limit}")));
    }
    let why = || {
        let bad = evidence.result.checks.iter().filter(|check| check.verdict != Verdict::Ok);
        let reasons: Vec<String> = bad.flat_map(|check| check.reasons.clone()).collect();
        format!("gate {gate} is {}: {}", evidence.result.verdict, reasons.join("; "))
    };
    match evidence.result.verdict {
        Verdict::Ok => Ok(format!("gate {gate} is ok")),
        Verdict::Warn if environment.on_warn == OnWarn::Alert => Ok(why()),
        verdict => Err((verdict, why())),
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn requests(names: &[&str]) -> Vec<HttpRequest> {
        let text = |name: &&str| {
            json!({"name": name, "method": "GET", "path": "/", "headers": {}, "body": null, "status": null,
                "expect_headers": {}, "expect_json": {}, "timeout": "1s"})
        };
        names.iter().map(|name| serde_json::from_value(text(name)).expect("a request")).collect()
    }

    fn came_to(names: &[&str], outcome: std::result::Result<(), &str>) -> (String, String) {
        let run = TestRun::said(&requests(names), &outcome.map_err(str::to_owned));
        (run.passed.join(","), run.failed.join(","))
    }

    #[test]
    fn what_failed_is_known_by_its_name_and_else_nothing_has_passed() {
        let both = ["predict", "version"];
        assert_eq!(came_to(&both, Ok(())), ("predict,version".to_owned(), String::new()));
        let one = came_to(&both, Err("predict: status 500 expected, found 200"));
        assert_eq!(one, ("version".to_owned(), "predict".to_owned()));
        assert_eq!(came_to(&both, Err("it died")), (String::new(), "predict,version".to_owned()));
        assert_eq!(came_to(&[], Err("it died")), (String::new(), String::new()));
    }
}
