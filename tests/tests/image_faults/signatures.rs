//! Row 24: bundles that are not what they should be, each refused in words of its own.

use crate::common::{objects, refused};
use e2e::{
    Project, Run, Settings,
    campaign::{Lane, Random, Tally},
};
use ledger::{
    bundle::{self, Bundle},
    keys::{SigningKey, TrustedKeys},
    statement::{Statement, Subject, predicate_type},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, sync::Mutex};

const ROW: &str = "row 24 signatures";

pub(crate) fn lanes() -> Vec<Lane<'static>> {
    vec![(ROW.to_owned(), Box::new(signatures))]
}

/// What was said of each fault: two of them may not be told in the same words.
struct Words(Mutex<BTreeMap<String, &'static str>>);

impl Words {
    fn own(&self, what: &'static str, said: &str) {
        let known = self.0.lock().unwrap().insert(said.to_owned(), what);
        assert!(
            known.is_none_or(|other| other == what),
            "{what} is told as {:?} is: {said}",
            known.unwrap_or_default()
        );
    }
}

fn signatures(tally: &Tally) {
    let words = Words(Mutex::default());
    let mut random = Random::new(tally.seed, 2400);
    let mut project = Project::service_with(Settings::default());
    project.run(["release", "cut"]).ok();
    project.run(["deploy", "staging"]).ok();
    project.run(["gate", "staging"]).ok();
    let _ = project.release("1.1.0", |settings| settings.env.push(("NOTE".into(), "\"second\"".into())));
    let store = project.store_folder();
    let good = objects::body(&objects::file(&store, "releases/svc/1.0.0.sigstore.json"));
    let bundle: Value = serde_json::from_slice(&good).unwrap();
    let key = "releases/svc/1.0.0.sigstore.json";
    // In the store, where somebody may write who may not sign, and as a file that somebody sent.
    let both = |what: &'static str, bytes: Vec<u8>, wanted: &str| {
        if tally.given_up(ROW) {
            return;
        }
        tally.attempt(ROW, format!("{what}, in the store"), || {
            objects::replace(&project, key, bytes.clone());
            let run = project.run(["release", "verify", "svc@1.0.0"]);
            let deployed = project.run(["deploy", "staging", "svc@1.0.0"]);
            objects::replace(&project, key, good.clone());
            let said = said(&run, wanted);
            let _ = said_of(&deployed);
            words.own(what, &said);
        });
        if what.contains("another release") {
            return; // As a file it is simply that release.
        }
        tally.attempt(ROW, format!("{what}, as a file"), || {
            fs::write(project.folder().join("bundle.json"), &bytes).unwrap();
            said(&offline(&project, "deploy/keys/release.pub", &[]), wanted);
        });
    };
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut other = bundle.clone();
        change(&mut other);
        other.to_string().into_bytes()
    };
    let signature = bundle["dsseEnvelope"]["signatures"][0].clone();
    both(
        "a signature twice",
        changed(&|other| other["dsseEnvelope"]["signatures"] = json!([signature, signature])),
        "2 signatures",
    );
    both("no signature", changed(&|other| other["dsseEnvelope"]["signatures"] = json!([])), "0 signatures");
    both(
        "another payload type",
        changed(&|other| other["dsseEnvelope"]["payloadType"] = json!("application/json")),
        "the payload type is \"application/json\"",
    );
    both("no bundle", b"{}".to_vec(), "it has no mediaType");
    both(
        "another release",
        objects::body(&objects::file(&store, "releases/svc/1.1.0.sigstore.json")),
        "the bundle of another release",
    );
    let verdict = objects::keys(&store, "attestations/").pop().expect("the gate has left a verdict");
    both("a verdict as a release", objects::body(&objects::file(&store, &verdict)), "predicate type");
    stranger(&project, &both);
    edits(tally, &project, &bundle, &good, &mut random);
    another_key(tally, &project, &good);
    subjects(tally, &words, &project, &good);
    environments(tally, &words, &mut project);
    quorum(tally, &words);
}

/// Verifies the bundle that lies beside the repository.
fn offline(project: &Project, key: &str, files: &[&str]) -> Run {
    let bundle = project.folder().join("bundle.json").display().to_string();
    let mut line = vec!["release", "verify", "--bundle", &bundle, "--key", key];
    line.extend(files);
    project.run(&line)
}

#[track_caller]
fn said_of(run: &Run) -> String {
    let code = run.code.filter(|code| matches!(code, 65 | 73)).unwrap_or(73);
    let refusal = refused(run, code);
    format!("{}: {}", refusal.what, refusal.why)
}

#[track_caller]
fn said(run: &Run, wanted: &str) -> String {
    let said = said_of(run);
    assert!(said.contains(wanted), "it does not say {wanted:?}: {}", run.told());
    said
}

/// The same release, signed by somebody who is not trusted here, under the hint of the key that is.
fn stranger(project: &Project, both: &impl Fn(&'static str, Vec<u8>, &str)) {
    let body = objects::body(&objects::file(&project.store_folder(), "releases/svc/1.0.0.sigstore.json"));
    let trusted = keys(project);
    let statement = bundle::verify(&body, &trusted).unwrap().statement;
    let forged = Bundle::sign(&SigningKey::from_seed([7; 32]), &statement).unwrap().into_bytes();
    both("a key that is not trusted", forged.clone(), "a key that is not trusted");
    let original: Value = serde_json::from_slice(&body).unwrap();
    let mut hinted: Value = serde_json::from_slice(&forged).unwrap();
    hinted["verificationMaterial"] = original["verificationMaterial"].clone();
    both("a stranger under a trusted name", hinted.to_string().into_bytes(), "does not hold");
}

fn keys(project: &Project) -> TrustedKeys {
    engine::keyring::trusted(&project.path("deploy/keys")).unwrap()
}

/// Any letter of payload or signature changed: never believed, whatever it is then taken for.
fn edits(tally: &Tally, project: &Project, bundle: &Value, good: &[u8], random: &mut Random) {
    let key = "releases/svc/1.0.0.sigstore.json";
    for try_ in 0..24 {
        if tally.given_up(ROW) {
            return;
        }
        let pointer = if try_ % 2 == 0 { "/dsseEnvelope/payload" } else { "/dsseEnvelope/signatures/0/sig" };
        let mut other = bundle.clone();
        let mut text = other.pointer(pointer).unwrap().as_str().unwrap().as_bytes().to_vec();
        // The last letters of base64 may hold bits that no byte has.
        let at = random.below(text.len() as u64 - 4) as usize;
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
        *other.pointer_mut(pointer).unwrap() = json!(String::from_utf8(text).unwrap());
        tally.attempt(ROW, format!("letter {at} of {pointer} edited"), || {
            objects::replace(project, key, other.to_string().into_bytes());
            let run = project.run(["release", "verify", "svc@1.0.0"]);
            objects::replace(project, key, good.to_vec());
            said(&run, "the signature of release does not hold");
        });
    }
    project.run(["release", "verify", "svc@1.0.0"]).ok();
}

/// The right bundle and another key of ours.
fn another_key(tally: &Tally, project: &Project, good: &[u8]) {
    tally.attempt(ROW, "verified with another key", || {
        let other = Project::service();
        fs::write(project.folder().join("bundle.json"), good).unwrap();
        let key = other.path("deploy/keys/release.pub").display().to_string();
        let said = said(&offline(project, &key, &[]), "not trusted");
        assert!(said.contains("trusted are"), "{said}");
        offline(project, "deploy/keys/release.pub", &[]).ok();
    });
}

/// A right signature about something else.
fn subjects(tally: &Tally, words: &Words, project: &Project, good: &[u8]) {
    tally.attempt(ROW, "a file that the release does not have", || {
        fs::write(project.folder().join("bundle.json"), good).unwrap();
        words.own(
            "another digest",
            &said(&offline(project, "deploy/keys/release.pub", &["pyproject.toml"]), "is no part of"),
        );
    });
    // The verdict about one release, laid down for another: it opens no gate.
    tally.attempt(ROW, "the verdict of another release", || {
        let store = project.store_folder();
        let digest = |version: &str| {
            let run = project.json(["release", "verify", &format!("svc@{version}")]).ok();
            run.result()["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned()
        };
        let (one, two) = (digest("1.0.0"), digest("1.1.0"));
        let verdicts = objects::keys(&store, &format!("attestations/{}/{one}/", &one[..2]));
        assert!(!verdicts.is_empty());
        for verdict in verdicts {
            let body = objects::body(&objects::file(&store, &verdict));
            let name = verdict.rsplit('/').next().unwrap();
            objects::replace(project, &format!("attestations/{}/{two}/{name}", &two[..2]), body);
        }
        project.run(["deploy", "staging", "svc@1.1.0"]).ok();
        let run = project.run(["promote", "svc@1.1.0", "--to", "production"]);
        assert_ne!(run.code, Some(0), "the verdict of another release opened the gate: {}", run.told());
        let _ = refused(&run, run.code.unwrap_or(-1));
        assert_eq!(project.answers("production"), None);
    });
}

/// The ledger entry of one environment in that of another, both signed by the same key.
fn environments(tally: &Tally, words: &Words, project: &mut Project) {
    tally.attempt(ROW, "the entry of another environment", || {
        project.run(["promote", "svc@1.0.0", "--to", "production"]).ok();
        let store = project.store_folder();
        let entries = |environment: &str| objects::keys(&store, &format!("ledger/{environment}/0"));
        let (staging, production) = (entries("staging"), entries("production"));
        let file = objects::file(&store, &production[2]);
        let original = fs::read(&file).unwrap();
        fs::copy(objects::file(&store, &staging[2]), &file).unwrap();
        let run = project.run(["audit", "verify", "production"]);
        fs::write(&file, original).unwrap();
        words.own("another environment", &said(&run, "3"));
        project.run(["audit", "verify"]).ok();
    });
}

/// A quorum of two, as the ledger counts it.
fn quorum(tally: &Tally, words: &Words) {
    let keys: Vec<SigningKey> = (1..=3).map(|seed| SigningKey::from_seed([seed; 32])).collect();
    let mut trusted = TrustedKeys::new();
    for (index, key) in keys.iter().take(2).enumerate() {
        trusted.insert(domain::Name::new(format!("key-{index}")).unwrap(), key.public()).unwrap();
    }
    let about = |text: &str| Statement {
        subjects: vec![Subject::new("what", domain::Digest::of(text.as_bytes()))],
        predicate_type: predicate_type::RELEASE.to_owned(),
        predicate: json!({}),
    };
    let sign = |key: &SigningKey, text: &str| Bundle::sign(key, &about(text)).unwrap().into_bytes();
    let count = |bundles: &[Vec<u8>]| bundle::verify_threshold(bundles, &trusted, predicate_type::RELEASE, 2);
    let (one, two) = (sign(&keys[0], "a"), sign(&keys[1], "a"));
    let mut spaced = one.clone();
    spaced.push(b'\n');
    let refusals: [(&'static str, Vec<Vec<u8>>, &str); 5] = [
        ("a bundle twice for a quorum", vec![one.clone(), one.clone()], "has signed already, and counts once"),
        ("a bundle twice in other bytes", vec![one.clone(), spaced], "has signed already, and counts once"),
        ("a stranger for a quorum", vec![one.clone(), sign(&keys[2], "a")], "not trusted"),
        ("two keys about two things", vec![one.clone(), sign(&keys[1], "b")], "signed other content"),
        ("one of two", vec![one.clone()], "2 different trusted keys must sign"),
    ];
    for (what, bundles, wanted) in refusals {
        tally.attempt(ROW, what, || {
            let error = count(&bundles).expect_err(what).to_string();
            assert!(error.contains(wanted), "{error}");
            if !what.contains("twice in") {
                words.own(what, &error);
            }
        });
    }
    tally.hold(ROW, "two keys about the same", || assert_eq!(count(&[one, two]).unwrap().accepted.len(), 2));
}
