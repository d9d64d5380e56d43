//! The formats as they are on the wire, and what must never be accepted.
#![allow(clippy::unwrap_used)]

use domain::Digest;
use proptest::prelude::*;
use snapshot::{Entry, Kind, Manifest, Shape, diff};
use std::collections::BTreeMap;

fn example() -> Manifest {
    let file = |path: &[u8], content: &str, executable| Entry {
        path: path.to_vec(),
        kind: Kind::File { executable, size: content.len() as u64, digest: Digest::of(content) },
    };
    Manifest {
        shape: Shape::Tree,
        entries: vec![
            file(b"a b", "abc", false),
            file(b"a-b/x", "", true),
            Entry { path: b"a/empty".to_vec(), kind: Kind::EmptyDirectory },
            Entry { path: b"a/link\n".to_vec(), kind: Kind::Symlink { target: b"../x y".to_vec() } },
            file(b"na\xc3\xafve-\xff%", "abc", false),
        ],
    }
}

#[test]
fn the_text_of_a_manifest_and_so_every_digest_is_fixed() {
    let (digest, totals, text) = example().write().unwrap();
    expect_test::expect![[r#"
        sealift-snapshot 1 tree
        f 3 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad a%20b
        x 0 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 a-b/x
        d a/empty
        l ../x%20y a/link%0A
        f 3 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad na%C3%AFve-%FF%25
        end 5 3 6
    "#]]
    .assert_eq(std::str::from_utf8(&text).unwrap());
    expect_test::expect!["sha256:ca8f6a2754abfdbfb556b06125b287b143fe6de1ad0ed2ec1171c8101967bae0"]
        .assert_eq(&digest.to_string());
    assert_eq!(digest, Digest::of(&text));
    assert_eq!((totals.entries, totals.files, totals.bytes), (5, 3, 6));
    assert_eq!(Manifest::read(text.as_slice(), "test").unwrap(), example());
}

#[test]
fn every_cut_and_every_flipped_bit_gives_an_error_or_another_manifest() {
    let (_, _, text) = example().write().unwrap();
    for length in 0..text.len() {
        assert!(Manifest::read(&text[..length], "test").is_err(), "{length}");
    }
    for position in 0..text.len() {
        for bit in 0..8 {
            let mut changed = text.clone();
            changed[position] ^= 1 << bit;
            if let Ok(manifest) = Manifest::read(changed.as_slice(), "test") {
                // Whatever is accepted has one spelling, which is what was read.
                assert_eq!(manifest.write().unwrap().2, changed);
            }
        }
    }
    let more = [text.as_slice(), b"x"].concat();
    assert!(Manifest::read(more.as_slice(), "test").is_err());
}

#[test]
fn a_snapshot_of_one_file_holds_one_file() {
    let one = Manifest { shape: Shape::File, entries: example().entries[..1].to_vec() };
    let (_, _, text) = one.write().unwrap();
    assert_eq!(Manifest::read(text.as_slice(), "test").unwrap(), one);
    for entries in [&example().entries[2..3], &example().entries[1..2], &example().entries[..2]] {
        assert!(Manifest { shape: Shape::File, entries: entries.to_vec() }.write().is_err());
    }
    assert!(Manifest::read(&b"sealift-snapshot 1 file\nend 0 0 0\n"[..], "test").is_err());
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (any::<bool>(), 0u64..1 << 40, any::<[u8; 32]>()).prop_map(|(executable, size, digest)| Kind::File {
            executable,
            size,
            digest: Digest::from_bytes(digest)
        }),
        proptest::collection::vec(1u8.., 1..20).prop_map(|target| Kind::Symlink { target }),
        Just(Kind::EmptyDirectory),
    ]
}

/// Trees with few, colliding names; whatever would lie below another entry is left out.
fn tree() -> impl Strategy<Value = Manifest> {
    let component = proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'-'), Just(b'0'), 1u8..=255], 1..4);
    let path = proptest::collection::vec(component, 1..4).prop_map(|components| components.join(&b'/'));
    proptest::collection::btree_map(path, kind(), 0..20).prop_map(|all| {
        let legal = |path: &Vec<u8>| {
            path.split(|byte| *byte == b'/').all(|part| !part.is_empty() && part != b"." && part != b"..")
        };
        let mut kept: BTreeMap<Vec<u8>, Kind> = BTreeMap::new();
        for (path, kind) in all.into_iter().filter(|(path, _)| legal(path)) {
            let below = (0..path.len()).any(|end| path[end] == b'/' && kept.contains_key(&path[..end]));
            if !below {
                kept.insert(path, kind);
            }
        }
        let entries = kept.into_iter().map(|(path, kind)| Entry { path, kind }).collect();
        Manifest { shape: Shape::Tree, entries }
    })
}

proptest! {
    #[test]
    fn manifests_round_trip(manifest in tree()) {
        let (digest, _, text) = manifest.write().unwrap();
        prop_assert_eq!(digest, Digest::of(&text));
        prop_assert!(text.is_ascii());
        prop_assert_eq!(Manifest::read(text.as_slice(), "test").unwrap(), manifest);
    }

    #[test]
    fn an_entry_below_another_is_refused(manifest in tree(), below in "[a-z]{1,3}") {
        prop_assume!(!manifest.entries.is_empty());
        for place in 0..manifest.entries.len() {
            let mut hostile = manifest.clone();
            let path = [hostile.entries[place].path.as_slice(), b"/", below.as_bytes()].concat();
            hostile.entries.push(Entry { path, kind: Kind::EmptyDirectory });
            hostile.entries.sort_by(|a, b| a.path.cmp(&b.path));
            prop_assert!(hostile.write().is_err());
        }
    }

    #[test]
    fn a_diff_says_how_to_get_from_one_to_the_other(a in tree(), b in tree()) {
        let map = |manifest: &Manifest| manifest.entries.iter().map(|e| (e.path.clone(), e.kind.clone())).collect::<BTreeMap<_, _>>();
        let found = diff(&a, &b);
        let (mut from, to) = (map(&a), map(&b));
        for path in &found.removed {
            prop_assert!(from.remove(path).is_some());
        }
        for path in found.added.iter().chain(&found.changed) {
            prop_assert!(from.insert(path.clone(), to[path].clone()) != Some(to[path].clone()));
        }
        prop_assert_eq!(from, to);
        prop_assert!(diff(&a, &a).is_empty());
    }

    #[test]
    fn no_input_makes_the_reader_panic(lines in "(sealift-snapshot 1 (tree|file)\n)?([fxldp] [0-9a-f%/. ]{0,80}\n){0,4}(end [0-9]+ [0-9]+ [0-9]+\n)?") {
        if let Ok(manifest) = Manifest::read(lines.as_bytes(), "test") {
            prop_assert_eq!(manifest.write().unwrap().2, lines.as_bytes());
        }
    }
}
