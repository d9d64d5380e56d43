//! Tests of JavaScript's lock files.

use super::*;
use crate::sbom::tests::never_panics;

const SUM: &str = "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==";

fn bill(read: impl FnOnce(&mut Bill) -> Result<(), String>) -> Bill {
    let mut bill = Bill::default();
    read(&mut bill).unwrap();
    bill
}

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|text| (*text).to_owned()).collect()
}

const LEFT: &str = "pkg:npm/left@1.0.0";
const OLD: &str = "pkg:npm/%40x/right@1.0.0";
const NEW: &str = "pkg:npm/%40x/right@2.0.0";

/// All fixtures say: the root needs left and right 2; left needs right 1.
fn assert_same(found: &Bill) {
    assert_eq!(found.parts.keys().cloned().collect::<BTreeSet<_>>(), set(&[LEFT, OLD, NEW]));
    assert_eq!(found.needs[LEFT], set(&[OLD]));
    assert!(found.roots.contains(LEFT) && found.roots.contains(NEW) && !found.roots.contains(OLD), "{:?}", found.roots);
    assert_eq!(found.parts[OLD].group.as_deref(), Some("@x"));
}

#[test]
fn npm_locks_of_all_versions_say_the_same() {
    let flat = format!(
        r#"{{"lockfileVersion": 3, "packages": {{"": {{"name": "app", "dependencies": {{"left": "^1", "@x/right": "^2"}}}},
        "node_modules/left": {{"version": "1.0.0", "resolved": "https://r/left.tgz", "integrity": "{SUM}", "license": "MIT", "dependencies": {{"@x/right": "^1"}}}},
        "node_modules/left/node_modules/@x/right": {{"version": "1.0.0"}},
        "node_modules/@x/right": {{"version": "2.0.0", "peerDependencies": {{"gone": "*"}}}}}}}}"#
    );
    let found = bill(|bill| npm(&flat, "package-lock.json", bill));
    assert_same(&found);
    assert_eq!(found.parts[LEFT].licenses, set(&["MIT"]));
    assert_eq!(found.parts[LEFT].hashes.iter().next().unwrap().algorithm, "SHA-512");
    let nested = format!(
        r#"{{"lockfileVersion": 1, "dependencies": {{"left": {{"version": "1.0.0", "integrity": "{SUM}", "requires": {{"@x/right": "^1"}},
        "dependencies": {{"@x/right": {{"version": "1.0.0"}}}}}}, "@x/right": {{"version": "2.0.0"}}}}}}"#
    );
    assert_same(&bill(|bill| npm(&nested, "package-lock.json", bill)));
    for text in [&flat, &nested] {
        never_panics(text, |text| npm(text, "l", &mut Bill::default()));
    }
    let with = |text: &str| npm(text, "l", &mut Bill::default()).unwrap_err();
    assert!(with("{}").contains("neither"));
    assert!(with(r#"{"packages": {"node_modules/a": {}}}"#).contains("a has no version"));
    assert!(with(&flat.replace(SUM, "sha512-abc")).contains("left: \"sha512-abc\" is no integrity hash"));
}

#[test]
fn workspaces_are_parts_of_the_repository_and_are_followed() {
    let text = r#"{"lockfileVersion": 3, "packages": {"": {"dependencies": {"web": "*"}}, "node_modules/web": {"resolved": "apps/web", "link": true},
        "apps/web": {"name": "web", "version": "0.1.0", "dependencies": {"left": "1"}}, "node_modules/left": {"version": "1.0.0"}}}"#;
    let found = bill(|bill| npm(text, "package-lock.json", bill));
    assert_eq!(found.roots, set(&["application:web@0.1.0"]));
    assert_eq!(found.needs["application:web@0.1.0"], set(&[LEFT]));
}

#[test]
fn pnpm_locks_of_three_generations_say_the_same() {
    let nine = format!(
        "lockfileVersion: '9.0'\nimporters:\n  .:\n    dependencies:\n      left:\n        specifier: ^1\n        version: 1.0.0(@x/right@2.0.0)\n      '@x/right':\n        specifier: ^2\n        version: 2.0.0\n\
         packages:\n  left@1.0.0:\n    resolution: {{integrity: {SUM}}}\n  '@x/right@1.0.0':\n    resolution: {{integrity: {SUM}}}\n  '@x/right@2.0.0':\n    resolution: {{integrity: {SUM}}}\n\
         snapshots:\n  left@1.0.0(@x/right@2.0.0):\n    dependencies:\n      '@x/right': 1.0.0\n  '@x/right@1.0.0': {{}}\n  '@x/right@2.0.0': {{}}\n"
    );
    let six = format!(
        "lockfileVersion: '6.0'\ndependencies:\n  left:\n    specifier: ^1\n    version: 1.0.0\n  '@x/right':\n    specifier: ^2\n    version: 2.0.0\n\
         packages:\n  /left@1.0.0:\n    resolution: {{integrity: {SUM}}}\n    dependencies:\n      '@x/right': 1.0.0\n  /@x/right@1.0.0:\n    resolution: {{integrity: {SUM}}}\n  /@x/right@2.0.0:\n    resolution: {{integrity: {SUM}}}\n"
    );
    let five = format!(
        "lockfileVersion: 5.4\ndependencies:\n  left: 1.0.0_peer\n  '@x/right': 2.0.0\n\
         packages:\n  /left/1.0.0_peer:\n    resolution: {{integrity: {SUM}}}\n    dependencies:\n      '@x/right': 1.0.0\n  /@x/right/1.0.0:\n    resolution: {{integrity: {SUM}}}\n  /@x/right/2.0.0:\n    resolution: {{integrity: {SUM}}}\n"
    );
    for text in [&nine, &six, &five] {
        assert_same(&bill(|bill| pnpm(text, "pnpm-lock.yaml", bill)));
    }
    never_panics(&nine, |text| pnpm(text, "l", &mut Bill::default()));
    assert!(pnpm("a: b", "l", &mut Bill::default()).unwrap_err().contains("lockfileVersion"));
}

#[test]
fn yarn_locks_of_both_kinds_say_the_same() {
    let one = format!(
        "# yarn lockfile v1\n\n\n\"@x/right@^1\":\n  version \"1.0.0\"\n\n\"@x/right@^2\", \"@x/right@^2.0.0\":\n  version \"2.0.0\"\n  resolved \"https://r/right.tgz#abc\"\n\nleft@^1:\n  version \"1.0.0\"\n  integrity {SUM}\n  dependencies:\n    \"@x/right\" \"^1\"\n"
    );
    let found = bill(|bill| yarn(&one, "yarn.lock", bill));
    assert_same(&found);
    assert_eq!(found.parts[LEFT].hashes.len(), 1);
    let berry = "__metadata:\n  version: 8\n\n\"@x/right@npm:^1\":\n  version: 1.0.0\n  resolution: \"@x/right@npm:1.0.0\"\n  checksum: 10c0/abc\n\n\"@x/right@npm:^2\":\n  version: 2.0.0\n  resolution: \"@x/right@npm:2.0.0\"\n\n\"left@npm:^1\":\n  version: 1.0.0\n  resolution: \"left@npm:1.0.0\"\n  dependencies:\n    \"@x/right\": \"npm:^1\"\n";
    assert_same(&bill(|bill| yarn(berry, "yarn.lock", bill)));
    for text in [one.as_str(), berry] {
        never_panics(text, |text| yarn(text, "l", &mut Bill::default()));
    }
    let with = |text: &str| yarn(text, "l", &mut Bill::default()).unwrap_err();
    assert!(with("left@^1\n  version \"1\"").contains("line 1"));
    assert!(with("left@^1:\n  resolved \"x\"\n").contains("left has no version"));
    assert!(with("").contains("no lock of yarn"));
}
