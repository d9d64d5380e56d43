//! Bundles: exact bytes, and every way in which one must be refused, each in its own words.

// Helpers of tests are tests, which clippy cannot see.
#![allow(clippy::unwrap_used)]

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
};
use domain::{Class, Digest, Name};
use ledger::{
    Bundle, LedgerError, SigningKey, Statement, Subject, TrustedKeys, predicate_type, verify, verify_threshold,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

fn trusted(seeds: &[u8]) -> TrustedKeys {
    let mut keys = TrustedKeys::new();
    for seed in seeds {
        keys.insert(name(&format!("key-{seed}")), key(*seed).public()).unwrap();
    }
    keys
}

fn statement(content: &str) -> Statement {
    Statement {
        subjects: vec![Subject::new("wine.txt", Digest::of(content))],
        predicate_type: predicate_type::RELEASE.to_owned(),
        predicate: json!({"release": "wine@1.0.0", "v": 1}),
    }
}

fn signed(seed: u8, content: &str) -> Vec<u8> {
    Bundle::sign(&key(seed), &statement(content)).unwrap().into_bytes()
}

/// The bundle with one change to its JSON.
fn changed(bytes: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(bytes).unwrap();
    change(&mut value);
    serde_json::to_vec(&value).unwrap()
}

fn why(bytes: &[u8]) -> String {
    let error = verify(bytes, &trusted(&[1])).unwrap_err();
    assert_eq!(error.class(), Class::Integrity, "{error}");
    error.to_string()
}

// Seed 01 × 32. Key identity and signature were checked with `openssl pkey` and `openssl pkeyutl -verify -rawin`.
const GOLDEN: &str = r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"/RENMB0vB33hQUuPmfRBsUA/qyB7IFL70sBl5O6OfcI="}},"dsseEnvelope":{"payload":"eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJzdWJqZWN0IjpbeyJuYW1lIjoid2luZS50eHQiLCJkaWdlc3QiOnsic2hhMjU2IjoiYmE3ODE2YmY4ZjAxY2ZlYTQxNDE0MGRlNWRhZTIyMjNiMDAzNjFhMzk2MTc3YTljYjQxMGZmNjFmMjAwMTVhZCJ9fV0sInByZWRpY2F0ZVR5cGUiOiJ1cm46c2VhbGlmdDpyZWxlYXNlOnYxIiwicHJlZGljYXRlIjp7InJlbGVhc2UiOiJ3aW5lQDEuMC4wIiwidiI6MX19","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"iwwWTjzGvhoV44bGvq9VkaiprG5sGuzPTzmAnutegUa3oJnSKhwAhuD+ob7vovI1tL6a0riIvcJveO9AJU8UBA=="}]}}"#;

#[test]
fn the_bundle_is_exact_to_the_byte() {
    let bundle = Bundle::sign(&key(1), &statement("abc")).unwrap();
    assert_eq!(String::from_utf8(bundle.as_bytes().to_vec()).unwrap(), GOLDEN);
    assert_eq!(bundle.digest(), Digest::of(GOLDEN));
    let verified = verify(GOLDEN.as_bytes(), &trusted(&[2, 1])).unwrap();
    assert_eq!(verified.statement, statement("abc"));
    assert_eq!(verified.payload, statement("abc").to_payload().unwrap());
    assert_eq!(verified.key, name("key-1"));
    assert_eq!(verified.public_key, key(1).public());
    assert_eq!(verified.bundle_digest, Digest::of(GOLDEN));
    assert_eq!(verified.predicate::<Value>(predicate_type::RELEASE).unwrap()["release"], "wine@1.0.0");
}

#[test]
fn both_alphabets_with_and_without_padding_are_read() {
    // Characters of which one alphabet has no word: the name ends in bytes that encode to + and /.
    let mut original = statement("abc");
    original.subjects[0].name = "~~~???>>>ÿÿÿ".to_owned();
    let bytes = Bundle::sign(&key(1), &original).unwrap().into_bytes();
    let recoded = |encode: &dyn Fn(&[u8]) -> String| {
        changed(&bytes, |bundle| {
            for pointer in ["/dsseEnvelope/payload", "/dsseEnvelope/signatures/0/sig"] {
                let field = bundle.pointer_mut(pointer).unwrap();
                *field = json!(encode(&STANDARD.decode(field.as_str().unwrap()).unwrap()));
            }
        })
    };
    let url_safe = recoded(&|bytes| URL_SAFE.encode(bytes));
    assert_ne!(url_safe, recoded(&|bytes| STANDARD.encode(bytes)), "the vector must tell the alphabets apart");
    for other in [url_safe, recoded(&|bytes| URL_SAFE_NO_PAD.encode(bytes))] {
        assert_eq!(verify(&other, &trusted(&[1])).unwrap().statement, original);
    }
    let broken = changed(&bytes, |bundle| bundle["dsseEnvelope"]["payload"] = json!("a*b="));
    assert!(why(&broken).contains("payload is not base64"), "{}", why(&broken));
}

#[test]
fn a_wrong_key_and_an_edited_payload_are_told_apart() {
    assert!(why(&signed(2, "abc")).contains("signed by a key that is not trusted"));
    assert!(why(&signed(2, "abc")).ends_with("trusted are key-1"));
    let edited = changed(&signed(1, "abc"), |bundle| {
        let payload = statement("abd").to_payload().unwrap();
        bundle["dsseEnvelope"]["payload"] = json!(STANDARD.encode(payload));
    });
    assert!(why(&edited).contains("the signature of key-1 does not hold: the payload or the signature was changed"));
    // The hint of a trusted key does not help a stranger's signature.
    let posing = changed(&signed(2, "abc"), |bundle| {
        bundle["verificationMaterial"]["publicKey"]["hint"] = json!(key(1).public().key_id());
    });
    assert!(why(&posing).contains("does not hold"));
    // Nor does a wrong hint, or none, harm a good one.
    for hint in [json!({"hint": "nonsense"}), json!({})] {
        let hinted = changed(&signed(1, "abc"), |bundle| bundle["verificationMaterial"]["publicKey"] = hint);
        assert!(verify(&hinted, &trusted(&[1])).is_ok());
    }
    let nobody = verify(&signed(1, "abc"), &TrustedKeys::new()).unwrap_err().to_string();
    assert!(nobody.ends_with("trusted are no keys at all"), "{nobody}");
}

#[test]
fn a_swapped_payload_type_is_refused() {
    let swapped = changed(&signed(1, "abc"), |bundle| bundle["dsseEnvelope"]["payloadType"] = json!("text/plain"));
    assert!(why(&swapped).contains(r#"the payload type is "text/plain" and not "application/vnd.in-toto+json""#));
}

#[test]
fn another_content_or_another_claim_is_refused_although_the_signature_holds() {
    let verified = verify(&signed(1, "abc"), &trusted(&[1])).unwrap();
    assert_eq!(verified.require_subject(Digest::of("abc")).unwrap().name, "wine.txt");
    let other = verified.require_subject(Digest::of("abd")).unwrap_err().to_string();
    assert!(other.contains("validly signed by key-1, but is not about sha256:a52d159f"), "{other}");
    assert!(other.contains("it is about wine.txt (sha256:ba7816bf"), "{other}");
    let claim = verified.require_type(predicate_type::GATE_VERDICT).unwrap_err();
    assert_eq!(claim.class(), Class::Integrity);
    assert!(claim.to_string().contains(r#"predicate type is "urn:sealift:release:v1""#));
}

#[test]
fn exactly_one_signature() {
    let twice = changed(&signed(1, "abc"), |bundle| {
        let signature = bundle["dsseEnvelope"]["signatures"][0].clone();
        bundle["dsseEnvelope"]["signatures"] = json!([signature, signature]);
    });
    assert!(why(&twice).contains("has 2 signatures, and must have exactly one"));
    let none = changed(&signed(1, "abc"), |bundle| bundle["dsseEnvelope"]["signatures"] = json!([]));
    assert!(why(&none).contains("has 0 signatures"));
}

#[test]
fn what_is_no_bundle_is_told_so() {
    let without = |pointer: &'static str| {
        changed(&signed(1, "abc"), |bundle| {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            bundle.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field).unwrap();
        })
    };
    assert!(why(&without("/mediaType")).contains("no mediaType"));
    assert!(why(&without("/verificationMaterial/publicKey")).contains("no verificationMaterial.publicKey"));
    assert!(why(&without("/dsseEnvelope")).contains("no dsseEnvelope"));
    assert!(why(&without("/dsseEnvelope/payload")).contains("no payload"));
    assert!(why(&without("/dsseEnvelope/signatures/0/sig")).contains("no sig"));
    let older = changed(&signed(1, "abc"), |b| b["mediaType"] = json!("application/vnd.dev.sigstore.bundle.v0.2+json"));
    assert!(why(&older).contains("v0.2+json"));
    let short = changed(&signed(1, "abc"), |b| b["dsseEnvelope"]["signatures"][0]["sig"] = json!("AAAA"));
    assert!(why(&short).contains("its signature has 3 bytes"));
    assert!(why(b"not json").contains("the bundle is not acceptable JSON"));
    assert!(why(b"[]").contains("not a Sigstore bundle"));
    let text = String::from_utf8(signed(1, "abc")).unwrap();
    let double = text.replacen("\"payload\":", "\"payload\":\"AAAA\",\"payload\":", 1);
    assert!(why(double.as_bytes()).contains(r#"the key "payload" is given twice"#));
    let bomb = text.replacen("{", &format!("{{\"x\":{}{},", "[".repeat(10_000), "]".repeat(10_000)), 1);
    assert!(why(bomb.as_bytes()).contains("nested deeper than 64"));
    let large = vec![b' '; ledger::bundle::MAX_BUNDLE_BYTES + 1];
    assert!(why(&large).contains("more than the 16777216 that are ever read"));
}

#[test]
fn a_signed_payload_with_two_meanings_is_refused() {
    // A valid signature over a statement that names two digests for one key.
    let payload = String::from_utf8(statement("abc").to_payload().unwrap()).unwrap();
    let doubled = payload.replace(r#""v":1"#, r#""v":1,"v":2"#);
    let signature = {
        use ed25519_dalek::Signer as _;
        let message = format!("DSSEv1 28 application/vnd.in-toto+json {} {doubled}", doubled.len());
        ed25519_dalek::SigningKey::from_bytes(&[1; 32]).sign(message.as_bytes()).to_bytes()
    };
    let bundle = changed(&signed(1, "abc"), |bundle| {
        bundle["dsseEnvelope"]["payload"] = json!(STANDARD.encode(&doubled));
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = json!(STANDARD.encode(signature));
    });
    assert!(why(&bundle).contains(r#"the payload is not acceptable JSON: the key "v" is given twice"#));
}

#[test]
fn a_quorum_counts_keys_and_not_signatures() {
    let keys = trusted(&[1, 2, 3]);
    let ask = |bundles: &[Vec<u8>]| verify_threshold(bundles, &keys, predicate_type::RELEASE, 2);
    let quorum = ask(&[signed(1, "abc"), signed(2, "abc")]).unwrap();
    assert_eq!(quorum.accepted.iter().map(|v| v.key.as_str()).collect::<Vec<_>>(), ["key-1", "key-2"]);

    let twice = ask(&[signed(1, "abc"), signed(1, "abc")]).unwrap_err();
    assert_eq!(twice.class(), Class::NotPermitted);
    assert_eq!(
        twice.to_string(),
        "2 different trusted keys must sign, and 1 did (bundle 2: key-1 has signed already, and counts once)"
    );
    let other = ask(&[signed(1, "abc"), signed(2, "abd")]).unwrap_err().to_string();
    assert!(other.contains("bundle 2: key-2 signed other content"), "{other}");
    let stranger = ask(&[signed(1, "abc"), signed(9, "abc")]).unwrap_err().to_string();
    assert!(stranger.contains("bundle 2: signed by a key that is not trusted"), "{stranger}");
    // A bad bundle beside enough good ones is told, and no obstacle.
    let quorum = ask(&[signed(9, "abc"), signed(1, "abc"), signed(3, "abc")]).unwrap();
    assert_eq!((quorum.accepted.len(), quorum.refused.len()), (2, 1));

    let mut renamed = trusted(&[1]);
    renamed.insert(name("alias"), key(1).public()).unwrap();
    let bundles = [signed(1, "abc"), signed(1, "abc")];
    assert!(verify_threshold(&bundles, &renamed, predicate_type::RELEASE, 2).is_err());
    let wrong_type = verify_threshold(&bundles, &renamed, predicate_type::PROVENANCE, 1).unwrap_err();
    assert!(wrong_type.to_string().contains("and not \"https://slsa.dev/provenance/v1\""), "{wrong_type}");
    let nothing: [Vec<u8>; 0] = [];
    assert!(matches!(
        verify_threshold(&nothing, &renamed, predicate_type::RELEASE, 0),
        Err(LedgerError::Quorum { needed: 1, .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_edit_is_refused_or_changes_nothing_that_is_signed(
        position in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        kind in 0..3_u8,
    ) {
        let mut bytes = GOLDEN.as_bytes().to_vec();
        let at = position.index(bytes.len());
        match kind {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            _ => { bytes.remove(at); }
        }
        if let Ok(verified) = verify(&bytes, &trusted(&[1])) {
            prop_assert_eq!(verified.payload, statement("abc").to_payload().unwrap());
            prop_assert_eq!(verified.key, name("key-1"));
        }
    }

    #[test]
    fn any_statement_comes_back_as_it_was_signed(
        content in any::<Vec<u8>>(),
        subject in "\\PC{1,40}",
        text in any::<String>(),
        number in any::<i64>(),
        seed in any::<[u8; 32]>(),
    ) {
        let key = SigningKey::from_seed(seed);
        let original = Statement {
            subjects: vec![Subject::new(subject, Digest::of(&content))],
            predicate_type: predicate_type::RELEASE.to_owned(),
            predicate: json!({ "text": text.clone(), text: [number, null, {"deep": true}] }),
        };
        let bundle = Bundle::sign(&key, &original).unwrap();
        let again = Bundle::sign(&key, &original).unwrap();
        prop_assert_eq!(&bundle, &again);
        let keys = TrustedKeys::one(name("k"), key.public());
        let verified = verify(bundle.as_bytes(), &keys).unwrap();
        prop_assert_eq!(&verified.statement, &original);
        prop_assert!(verified.require_subject(Digest::of(&content)).is_ok());
    }
}
