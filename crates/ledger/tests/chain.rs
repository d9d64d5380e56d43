//! The chain: golden entry, and every attack of the fault catalogue with the exact sequence that is reported.

// Helpers of tests are tests, which clippy cannot see.
#![allow(clippy::unwrap_used)]

use domain::{Class, Digest, Name};
use ledger::{
    Anchor, Chain, ChainFault, Draft, Entry, Head, LedgerError, LogId, NextEntry, SigningKey, Subject, Summary,
    TrustedKeys, entry_key, head_key, next_entry, parse_entry_key, verify,
};
use serde_json::json;

const UUID: &str = "0190a6c4-3b5e-7c11-8a4e-1d2f3a4b5c6d";
const OTHER_UUID: &str = "ffffffff-3b5e-7c11-8a4e-1d2f3a4b5c6d";

fn environment(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn log(name: &str) -> LogId {
    LogId::new(environment(name), UUID).unwrap()
}

fn key() -> SigningKey {
    SigningKey::from_seed([7; 32])
}

fn trusted() -> TrustedKeys {
    TrustedKeys::one(Name::new("deployer").unwrap(), key().public())
}

fn draft(reason: &str, epoch: u64) -> Draft {
    Draft {
        epoch,
        actor: "ada".to_owned(),
        action: "deploy.outcome".to_owned(),
        subject: [("release".to_owned(), json!("wine@1.0.0"))].into(),
        reason: reason.to_owned(),
        ts: "2026-02-03T04:05:06.789Z".parse().unwrap(),
        op: "3f2504e0-4f89-41d3-9a0c-0305e82c3301".to_owned(),
        artifacts: vec![],
    }
}

fn write(log: &LogId, previous: Option<&Head>, draft: Draft) -> NextEntry {
    next_entry(log, previous, draft, &key()).unwrap()
}

/// Five entries, of epochs 1, 1, 2, 2, 3.
fn ledger_of(log: &LogId, reasons: [&str; 5]) -> Vec<NextEntry> {
    let mut entries: Vec<NextEntry> = Vec::new();
    for (index, reason) in reasons.into_iter().enumerate() {
        let previous = entries.last().map(|entry| entry.head.clone());
        entries.push(write(log, previous.as_ref(), draft(reason, index as u64 / 2 + 1)));
    }
    entries
}

fn honest() -> Vec<NextEntry> {
    ledger_of(&log("production"), ["a", "b", "c", "d", "e"])
}

fn objects(entries: &[NextEntry]) -> Vec<(u64, Vec<u8>)> {
    entries.iter().map(|entry| (parse_entry_key(&entry.key).unwrap().1, entry.bytes.clone())).collect()
}

fn audit(objects: &[(u64, Vec<u8>)], anchors: Vec<Anchor>, head: Option<&Head>) -> Result<Summary, LedgerError> {
    let mut chain = Chain::verifier(environment("production"), trusted(), anchors);
    for (seq, bytes) in objects {
        chain.push(*seq, bytes)?;
    }
    chain.finish(head)
}

/// The sequence and the fault.
#[track_caller]
fn broken(result: Result<Summary, LedgerError>) -> (u64, ChainFault, String) {
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Integrity);
    let (text, seq) = (error.to_string(), error.seq().unwrap());
    assert!(text.starts_with(&format!("the ledger of production does not hold at entry {seq}: ")), "{text}");
    match error {
        LedgerError::Chain { fault, .. } => (seq, *fault, text),
        other => panic!("{other}"),
    }
}

#[test]
fn an_entry_is_exact_to_the_byte() {
    let first = write(&log("production"), None, draft("first", 1));
    let second = write(&log("production"), Some(&first.head), draft("second", 1));
    assert_eq!(second.key, "ledger/production/00000000000000000002.sigstore.json");
    let payload = verify(&second.bytes, &trusted()).unwrap().payload;
    assert_eq!(String::from_utf8(payload).unwrap(), GOLDEN_PAYLOAD);
    assert_eq!(second.head.digest.to_string(), GOLDEN_DIGEST);
    assert_eq!(
        String::from_utf8(first.head.to_bytes().unwrap()).unwrap(),
        format!(
            r#"{{"digest":"{}","epoch":1,"log_id":"production/{UUID}","op":"3f2504e0-4f89-41d3-9a0c-0305e82c3301","seq":1,"v":1}}"#,
            Digest::of(&first.bytes)
        )
    );
    assert_eq!(Head::parse(&first.head.to_bytes().unwrap()).unwrap(), first.head);
}

const GOLDEN_PAYLOAD: &str = r#"{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"production/0190a6c4-3b5e-7c11-8a4e-1d2f3a4b5c6d","digest":{"sha256":"e515e0a9ceac4fc8317539417425e56f00a88bb43ec0124fda873d7416643100"}}],"predicateType":"urn:sealift:ledger-entry:v1","predicate":{"action":"deploy.outcome","actor":"ada","epoch":1,"log_id":"production/0190a6c4-3b5e-7c11-8a4e-1d2f3a4b5c6d","op":"3f2504e0-4f89-41d3-9a0c-0305e82c3301","prev":"sha256:f4d2667763aea187bb550f44d744fa03baeb9144be880a846a9e212f21f3870b","reason":"second","seq":2,"subject":{"release":"wine@1.0.0"},"ts":"2026-02-03T04:05:06.789Z","v":1}}"#;
const GOLDEN_DIGEST: &str = "sha256:c0f93724c1ee4fb94a76b0d6a916d8cef79168be0257608e59bad8a9b08b647b";

#[test]
fn keys_read_back_and_others_do_not() {
    let env = environment("production");
    assert_eq!(parse_entry_key(&entry_key(&env, 42)), Some((env.clone(), 42)));
    assert_eq!(parse_entry_key(&entry_key(&env, u64::MAX)), Some((env.clone(), u64::MAX)));
    assert_eq!(head_key(&env), "ledger/production/head.json");
    for other in [
        "ledger/production/head.json",
        "ledger/production/42.sigstore.json",
        "ledger/production/0000000000000000004x.sigstore.json",
        "ledger/production/99999999999999999999.sigstore.json",
        "ledger/../00000000000000000042.sigstore.json",
        "releases/production/00000000000000000042.sigstore.json",
    ] {
        assert_eq!(parse_entry_key(other), None, "{other}");
    }
}

#[test]
fn an_honest_ledger_holds() {
    let entries = honest();
    let head = &entries[4].head;
    let anchors = vec![entries[2].head.anchor()];
    let summary = audit(&objects(&entries), anchors.clone(), Some(head)).unwrap();
    assert_eq!(summary, Summary { entries: 5, last: Some(head.clone()), anchored: 5, head_lag: 0 });
    // A crash between the entry and the head leaves the head behind.
    let summary = audit(&objects(&entries), anchors.clone(), Some(&entries[3].head)).unwrap();
    assert_eq!((summary.anchored, summary.head_lag), (4, 1));
    // Without a head only the anchor proves the length.
    assert_eq!(audit(&objects(&entries), anchors, None).unwrap().anchored, 3);
    let empty = audit(&[], vec![], None).unwrap();
    assert_eq!(empty, Summary { entries: 0, last: None, anchored: 0, head_lag: 0 });
}

#[test]
fn every_edited_entry_is_named() {
    for victim in 0..5 {
        let mut stored = objects(&honest());
        let text = String::from_utf8(stored[victim].1.clone()).unwrap();
        let at = text.find("\"payload\":\"").unwrap() + 400;
        let bytes = &mut stored[victim].1;
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let (seq, fault, text) = broken(audit(&stored, vec![], None));
        assert_eq!(seq, victim as u64 + 1);
        assert!(matches!(fault, ChainFault::Edited(_)), "{text}");
        assert!(text.contains("it was edited: the signature of deployer does not hold"), "{text}");
    }
}

#[test]
fn an_entry_with_other_bytes_but_the_same_payload_is_named() {
    // The hint is not signed; the chain covers it all the same.
    let entries = honest();
    let mut stored = objects(&entries);
    stored[2].1 = String::from_utf8(stored[2].1.clone()).unwrap().replace("\"hint\":\"", "\"hint\":\"x").into_bytes();
    let (seq, fault, _) = broken(audit(&stored, vec![], None));
    assert!(matches!((seq, fault), (3, ChainFault::Forked { next: 4, .. })));
    stored.truncate(3);
    let (seq, fault, _) = broken(audit(&stored, vec![], Some(&entries[2].head)));
    assert!(matches!((seq, fault), (3, ChainFault::Rewritten { by: "the head", .. })));
}

#[test]
fn every_deleted_entry_is_named() {
    for victim in 0..4 {
        let mut stored = objects(&honest());
        stored.remove(victim);
        let (seq, fault, text) = broken(audit(&stored, vec![], None));
        assert_eq!((seq, fault), (victim as u64 + 1, ChainFault::Deleted { next: victim as u64 + 2 }), "{text}");
    }
}

#[test]
fn entries_moved_over_a_gap_are_named() {
    let mut stored = objects(&honest());
    stored.remove(1);
    for (index, object) in stored.iter_mut().enumerate() {
        object.0 = index as u64 + 1;
    }
    assert!(matches!(broken(audit(&stored, vec![], None)), (2, ChainFault::Reordered { holds: 3 }, _)));
}

#[test]
fn reordered_entries_are_named() {
    let mut stored = objects(&honest());
    let (second, fourth) = (stored[1].1.clone(), stored[3].1.clone());
    stored[1].1 = fourth;
    stored[3].1 = second;
    assert!(matches!(broken(audit(&stored, vec![], None)), (2, ChainFault::Reordered { holds: 4 }, _)));
    // The same object given twice.
    let mut stored = objects(&honest());
    stored.insert(2, stored[1].clone());
    assert!(matches!(broken(audit(&stored, vec![], None)), (2, ChainFault::OutOfOrder { after: 2 }, _)));
}

#[test]
fn a_truncated_ledger_is_named_by_the_head_or_an_anchor() {
    let entries = honest();
    for kept in 0..5 {
        let stored = &objects(&entries)[..kept];
        let (seq, fault, text) = broken(audit(stored, vec![], Some(&entries[4].head)));
        assert_eq!((seq, fault), (kept as u64 + 1, ChainFault::Truncated { by: "the head", named: 5 }));
        assert!(text.contains("truncated: it is missing, although the head names entry 5"), "{text}");
        // The head was turned back too, or is gone; the anchor in a manifest remembers.
        let anchors = vec![entries[4].head.anchor()];
        let turned_back = kept.checked_sub(1).map(|last| &entries[last].head);
        let (seq, fault, _) = broken(audit(stored, anchors, turned_back));
        assert_eq!((seq, fault), (kept as u64 + 1, ChainFault::Truncated { by: "an anchor", named: 5 }));
    }
}

#[test]
fn a_fork_is_named_where_the_histories_part() {
    let entries = honest();
    let fork = ledger_of(&log("production"), ["a", "b", "another", "d", "e"]);
    assert_eq!(entries[1].bytes, fork[1].bytes);
    // One entry, validly signed again with other words.
    let mut stored = objects(&entries);
    stored[2].1 = fork[2].bytes.clone();
    let (seq, fault, text) = broken(audit(&stored, vec![], None));
    assert_eq!(seq, 3);
    let (follows, found) = (Some(entries[2].head.digest), Some(fork[2].head.digest));
    assert_eq!(fault, ChainFault::Forked { next: 4, follows, stored: found });
    assert!(text.contains("the history forks here: entry 4 follows sha256:"), "{text}");
    // If an anchor vouches for the third, it is the fourth that does not belong.
    let mut stored = objects(&entries);
    stored[3].1 = fork[3].bytes.clone();
    let (seq, _, _) = broken(audit(&stored, vec![entries[2].head.anchor()], None));
    assert_eq!(seq, 4);
    // The whole rest: consistent in itself, and refused by anchor and head.
    let mut stored = objects(&entries);
    stored.splice(2.., objects(&fork).drain(2..));
    assert!(audit(&stored, vec![], None).is_ok(), "this is what anchors are for");
    let (seq, fault, _) = broken(audit(&stored, vec![entries[3].head.anchor()], None));
    assert!(matches!((seq, fault), (4, ChainFault::Rewritten { by: "an anchor", .. })));
    let (seq, fault, _) = broken(audit(&stored, vec![], Some(&entries[4].head)));
    assert!(matches!((seq, fault), (5, ChainFault::Rewritten { by: "the head", .. })));
}

#[test]
fn entries_of_another_environment_or_log_are_named() {
    let staging = ledger_of(&log("staging"), ["a", "b", "c", "d", "e"]);
    let mut stored = objects(&honest());
    stored[3].1 = staging[3].bytes.clone();
    let (seq, fault, text) = broken(audit(&stored, vec![], None));
    assert_eq!((seq, fault), (4, ChainFault::OtherEnvironment { found: environment("staging") }));
    assert!(text.contains("it belongs to the environment staging: it was swapped in"), "{text}");

    let begun_anew = LogId::new(environment("production"), OTHER_UUID).unwrap();
    let other = ledger_of(&begun_anew, ["a", "b", "c", "d", "e"]);
    stored[3].1 = other[3].bytes.clone();
    assert!(matches!(broken(audit(&stored, vec![], None)), (4, ChainFault::OtherLog { .. }, _)));
    // The whole ledger replaced: refused by whoever knows the log, or by the head.
    let mut chain = Chain::verifier(environment("production"), trusted(), vec![]).expect_log(log("production"));
    assert_eq!(chain.push(1, &other[0].bytes).unwrap_err().seq(), Some(1));
    let swapped_head = audit(&objects(&honest()), vec![], Some(&other[4].head));
    assert!(matches!(broken(swapped_head), (5, ChainFault::OtherLog { .. }, _)));
}

#[test]
fn an_epoch_that_goes_down_is_named() {
    let entries = honest();
    // A fenced writer does not ask `next_entry`; it signs with an older head's epoch.
    let fenced_head = Head { epoch: 1, ..entries[3].head.clone() };
    let fenced = write(&log("production"), Some(&fenced_head), draft("too late", 1));
    let mut stored = objects(&entries);
    stored[4].1 = fenced.bytes;
    assert!(matches!(broken(audit(&stored, vec![], None)), (5, ChainFault::EpochDown { epoch: 1, before: 2 }, _)));
    let error = next_entry(&log("production"), Some(&entries[3].head), draft("too late", 1), &key()).unwrap_err();
    assert_eq!(error.to_string(), "cannot sign: epoch 1 is below the ledger's 2");
}

#[test]
fn a_wrong_key_and_another_kind_of_bundle_are_named() {
    let entries = honest();
    let stranger = SigningKey::from_seed([9; 32]);
    let forged = next_entry(&log("production"), Some(&entries[1].head), draft("c", 2), &stranger).unwrap();
    let mut stored = objects(&entries);
    stored[2].1 = forged.bytes;
    let (seq, fault, text) = broken(audit(&stored, vec![], None));
    assert!(matches!((seq, fault), (3, ChainFault::WrongKey(_))), "{text}");

    let release = ledger::Statement {
        subjects: vec![Subject::new("x", Digest::of("x"))],
        predicate_type: ledger::predicate_type::RELEASE.to_owned(),
        predicate: json!({}),
    };
    stored[2].1 = ledger::Bundle::sign(&key(), &release).unwrap().into_bytes();
    let (seq, _, text) = broken(audit(&stored, vec![], None));
    assert_eq!(seq, 3);
    assert!(text.contains("predicate type is \"urn:sealift:release:v1\""), "{text}");
}

#[test]
fn a_first_entry_has_no_previous_one_and_a_later_one_has() {
    let entries = honest();
    let late = Head { seq: 1, ..entries[3].head.clone() };
    let second = write(&log("production"), Some(&late), draft("b", 2));
    let stored = [(1, entries[0].bytes.clone()), (2, second.bytes)];
    assert!(matches!(broken(audit(&stored, vec![], None)), (1, ChainFault::Forked { next: 2, .. }, _)));
    let orphan = Head { seq: 0, ..entries[3].head.clone() };
    let first = write(&log("production"), Some(&orphan), draft("a", 2));
    let (seq, fault, _) = broken(audit(&[(1, first.bytes)], vec![], None));
    assert!(matches!((seq, fault), (1, ChainFault::Forked { next: 1, stored: None, .. })));
}

#[test]
fn a_head_that_says_something_else_is_refused() {
    let entries = honest();
    let head = Head { epoch: 9, ..entries[4].head.clone() };
    assert!(matches!(broken(audit(&objects(&entries), vec![], Some(&head))), (5, ChainFault::HeadDiffers, _)));
    let text = String::from_utf8(entries[4].head.to_bytes().unwrap()).unwrap();
    for (from, to, why) in [
        ("\"v\":1", "\"v\":2", "its version is 2"),
        ("\"seq\":5", "\"seq\":0", "counted from 1"),
        ("\"seq\":5", "\"seq\":5,\"seq\":6", "given twice"),
        ("\"seq\":5", "\"seq\":5,\"extra\":6", "unknown field"),
        ("production/0190", "production/zz90", "not a log identity"),
    ] {
        let error = Head::parse(text.replace(from, to).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn an_entry_names_its_artifacts_or_else_its_log() {
    let plain = write(&log("production"), None, draft("a", 1));
    let verified = verify(&plain.bytes, &trusted()).unwrap();
    assert!(verified.require_subject(Digest::of(format!("production/{UUID}"))).is_ok());
    let artifacts = vec![Subject::new("wine@1.0.0", Digest::of("bundle"))];
    let about = write(&log("production"), None, Draft { artifacts: artifacts.clone(), ..draft("a", 1) });
    let verified = verify(&about.bytes, &trusted()).unwrap();
    assert_eq!(verified.statement.subjects, artifacts);
    let entry: Entry = verified.predicate(ledger::predicate_type::LEDGER_ENTRY).unwrap();
    assert_eq!(entry, about.entry);
    let mut nameless = draft("a", 1);
    nameless.actor = String::new();
    let error = next_entry(&log("production"), None, nameless, &key()).unwrap_err();
    assert_eq!(error.to_string(), "cannot sign: a ledger entry needs its actor");
}
