use super::{keys, parse, resolve};
use expect_test::{Expect, expect};
use std::collections::BTreeSet;

const EXAMPLE: &str = include_str!("../../../../deploy/Sealift.example.toml");

fn problems(text: &str) -> String {
    parse(text, "Sealift.toml").map_or_else(|problems| problems.to_string(), |_| "none".to_owned())
}

fn says(text: &str, expected: &Expect) {
    expected.assert_eq(&problems(text));
}

const GOOD: &str = r#"
[project]
name = "shop"
[component.api]
version_files = ["pyproject.toml"]
[component.api.build]
builder = "docker"
[component.api.run]
port = 8000
health = "/health"
[[component.api.smoke]]
path = "/health"
[gate.quality]
[[gate.quality.check]]
name = "smoke"
kind = "smoke"
[environment.staging]
target = "docker"
gates = ["quality"]
[environment.staging.component.api]
port = 18080
[environment.production]
target = "docker"
after = "staging"
[environment.production.component.api]
port = 18081
"#;

/// GOOD with one line in the place of another.
fn with(line: &str, instead: &str) -> String {
    assert!(GOOD.contains(line), "{line}");
    GOOD.replacen(line, instead, 1)
}

#[test]
fn the_example_is_valid() {
    let config = parse(EXAMPLE, "Sealift.example.toml").unwrap_or_else(|problems| panic!("{problems}"));
    let production = resolve(&config, "production").unwrap();
    assert_eq!(production.component("wine").unwrap().run.as_ref().unwrap().host_port, 18081);
}

/// Alternatives in comments are uncommented one by one in the place of what they contradict.
#[test]
fn the_alternatives_of_the_example_are_valid_too() {
    let uncommented = |keys: &[&str], without: &[&str]| -> String {
        let line = |line: &str| {
            let key = line.trim_start_matches("# ").split(" = ").next().unwrap_or_default().to_owned();
            match line.strip_prefix("# ") {
                Some(rest) if keys.contains(&key.as_str()) && line.contains(" = ") => format!("{rest}\n"),
                None if without.contains(&key.as_str()) => String::new(),
                _ => format!("{line}\n"),
            }
        };
        EXAMPLE.lines().map(line).collect()
    };
    let store = ["bucket", "prefix", "endpoint", "region", "access_key", "secret_key", "private"];
    let s3 = uncommented(&store, &[]).replacen("path = \".sealift/store\"", "# path", 1);
    assert!(matches!(parse(&s3, "s3").unwrap().store, super::StoreConfig::S3 { .. }));
    let docker = uncommented(
        &["context", "dockerfile", "target", "args"],
        &["base", "entrypoint", "cmd", "user", "workdir", "platform", "ports"],
    )
    .replacen("builder = \"oci\"", "builder = \"docker\"", 1)
    .replacen("env = { RUST_LOG = \"info\" }", "#", 1);
    let (before, rest) = docker.split_once("files = [\n").unwrap();
    let docker = format!("{before}{}", rest.split_once("\n]\n").unwrap().1);
    assert!(matches!(parse(&docker, "docker").unwrap().components["wine"].build.builder, super::Builder::Docker(_)));
}

#[test]
fn every_known_key_is_in_the_example() {
    let mut there: BTreeSet<(String, String)> = BTreeSet::new();
    let mut section = String::new();
    let name = regex::Regex::new(r"\b([a-z_]+) = ").unwrap();
    for line in EXAMPLE.lines() {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_start_matches('[').split(']').next().unwrap().to_owned();
            there.insert((String::new(), section.split('.').next().unwrap().to_owned()));
            for (index, _) in section.match_indices('.') {
                let rest = section[index + 1..].split('.').next().unwrap().to_owned();
                there.insert((pattern(&section[..index]), rest));
            }
            continue;
        }
        there.extend(name.captures_iter(line).map(|found| (pattern(&section), found[1].to_owned())));
    }
    let known =
        keys::ALL.iter().flat_map(|keys| keys.keys.iter().map(|key| (keys.section.to_owned(), (*key).to_owned())));
    let missing: Vec<_> = known.filter(|key| !there.contains(key)).collect();
    assert!(missing.is_empty(), "not in deploy/Sealift.example.toml: {missing:?}");
}

/// `environment.staging.component.wine` as the key tables call it.
fn pattern(section: &str) -> String {
    if section.starts_with("store.remote.") {
        return "store.remote.*".to_owned();
    }
    if section == "policy.data" {
        return section.to_owned();
    }
    let named = ["component", "data", "model", "environment", "gate"];
    let mut parts: Vec<&str> = Vec::new();
    for part in section.split('.') {
        let after_kind =
            parts.last().is_some_and(|last| named.contains(last)) && (parts.len() == 1 || parts[0] == "environment");
        parts.push(if after_kind { "*" } else { part });
    }
    parts.join(".")
}

#[test]
fn a_small_file_gets_the_defaults() {
    let config = parse(GOOD, "Sealift.toml").unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.environments["staging"].on_warn, super::OnWarn::Block);
    assert_eq!(config.environments["production"].on_warn, super::OnWarn::Alert);
    assert_eq!(config.environments["production"].lease_ttl.as_secs(), 15);
    assert_eq!(config.signing.trusted, "deploy/keys");
    let run = config.components["api"].run.as_ref().unwrap();
    assert_eq!((run.memory, run.pids, run.stop_timeout.as_secs()), (512 << 20, 256, 10));
    assert_eq!(config.gates["quality"].checks[0].bounds.crit_below, Some(1.0));
    assert_eq!(config.components["api"].smoke[0].name, "GET /health");
}

#[test]
fn all_problems_are_told_at_once_with_their_places() {
    says(
        r#"[project]
nmae = "Shop"
[stor]
[component.api]
version_files = []
logic_version = 3
[component.api.run]
port = "8000"
health = "health"
memory = "lots"
relax = ["root"]
env = { API_TOKEN = "hunter2" }
secrets = { DATABASE_URL = "postgres://user:hunter2@host/db" }
[environment.staging]
target = "dokcer"
gates = ["qualty"]
lease_ttl = "15"
[gate.quality]
[[gate.quality.check]]
name = "accuracy"
kind = "report"
path = "../metrics.json"
value = "accuracy"
warn_below = 0.5
crit_below = 0.7
"#,
        &expect![[r#"
            Sealift.toml:1:2: project.name: is missing; write name = "my-service"
            Sealift.toml:2:1: project.nmae: unknown key; did you mean name?
            Sealift.toml:3:2: stor: unknown key; did you mean store?
            Sealift.toml:5:1: component.api.version_files: must name at least one file that bears the version
            Sealift.toml:6:1: component.api.logic_version: must be a string, not a whole number
            Sealift.toml:7:16: component.api.run: there is nothing to run: the component has no builder, and run has no command
            Sealift.toml:8:1: component.api.run.port: must be a whole number, not a string
            Sealift.toml:9:1: component.api.run.health: must be a path that begins with /, for example "/health"
            Sealift.toml:10:1: component.api.run.memory: is no amount of memory: write 512MiB, 2GiB or 500MB
            Sealift.toml:11:10: component.api.run.relax[0]: there is no "root"; did you mean run-as-root or writable-root?
            Sealift.toml:12:9: component.api.run.env.API_TOKEN: looks like a secret in the clear; move it to secrets, as a reference: secrets = { API_TOKEN = "env:API_TOKEN" }
            Sealift.toml:13:13: component.api.run.secrets.DATABASE_URL: not a secret reference: write env:NAME, file:PATH or cmd:COMMAND, never the secret itself
            Sealift.toml:14:14: environment.staging: says nothing of component api; add the lines [environment.staging.component.api] and port = 18080
            Sealift.toml:15:1: environment.staging.target: there is no "dokcer"; did you mean docker?
            Sealift.toml:16:10: environment.staging.gates[0]: there is no gate "qualty"; did you mean quality?
            Sealift.toml:17:1: environment.staging.lease_ttl: is no duration: write 500ms, 30s, 5m, 2h or 7d
            Sealift.toml:22:1: gate.quality.check[0].path: leads out of the repository
            Sealift.toml:23:1: gate.quality.check[0].value: must be a JSON pointer, for example "/metrics/accuracy"
            Sealift.toml:25:1: gate.quality.check[0].crit_below: 0.7 is above warn_below 0.5: a value would be critical before it is a warning"#]],
    );
}

#[test]
fn a_syntax_error_alone_is_one_problem() {
    says(
        &with("port = 8000", "port = "),
        &expect!["Sealift.toml:9:8: not TOML: string values must be quoted, expected literal string"],
    );
    says(
        &with("name = \"shop\"", "name = \"shop"),
        &expect![[r#"Sealift.toml:3:13: not TOML: invalid basic string, expected `"`"#]],
    );
    says(
        &with("[component.api.run]", "[component.api.run"),
        &expect!["Sealift.toml:8:19: not TOML: unclosed table, expected `]`"],
    );
    says(&with("port = 8000", "port = 8000\nport = 8001"), &expect!["Sealift.toml:10:1: not TOML: duplicate key"]);
}

#[test]
fn what_needs_two_sections_is_checked() {
    says(
        &with("port = 18081", "port = 18080"),
        &expect![
            "Sealift.toml:26:1: environment.production.component.api.port: 18080 is already the port of api in staging (line 21), on the same host; take 18081"
        ],
    );
    says(
        &with("target = \"docker\"\ngates", "target = \"docker\"\nafter = \"production\"\ngates"),
        &expect![
            "Sealift.toml:25:1: environment.production.after: goes in a circle: production after staging after production; nothing could ever be deployed"
        ],
    );
    says(
        &with("[environment.production.component.api]\nport = 18081", ""),
        &expect![
            "Sealift.toml:22:14: environment.production: says nothing of component api; add the lines [environment.production.component.api] and port = 18081"
        ],
    );
    says(
        &with("after = \"staging\"", "after = \"stagign\""),
        &expect![[
            r#"Sealift.toml:24:1: environment.production.after: there is no environment "stagign"; did you mean staging?"#
        ]],
    );
    says(
        &with("builder = \"docker\"", "builder = \"none\""),
        &expect![[r#"
        Sealift.toml:8:16: component.api.run: there is nothing to run: the component has no builder, and run has no command
        Sealift.toml:17:14: environment.staging: target "docker" runs images, and component api has no builder
        Sealift.toml:22:14: environment.production: target "docker" runs images, and component api has no builder"#]],
    );
    says(
        &with("port = 8000", "port = 8000\nenv = { MODEL = \"{model:quality}\" }\nmodels = { quality = \"models/q\" }"),
        &expect![[r#"
        Sealift.toml:11:12: component.api.run.models.quality: must be an absolute path without . and .., for example "/app"
        Sealift.toml:11:12: component.api.run.models.quality: there is no model of this component "quality"; there are none yet; name it in component.api.models"#]],
    );
    says(
        &with("[[component.api.smoke]]\npath = \"/health\"", ""),
        &expect![
            "Sealift.toml:18:1: environment.staging.gates: gate quality asks for smoke requests, and component api has none; add [[component.api.smoke]]"
        ],
    );
    says(
        &with(
            "[[component.api.smoke]]\npath = \"/health\"",
            "[[component.api.smoke]]\npath = \"/a\"\n[[component.api.smoke]]\npath = \"/a\"",
        ),
        &expect![[r#"Sealift.toml:13:1: component.api.smoke[1].name: a second smoke request is named "GET /a""#]],
    );
    says(
        &format!("{GOOD}[data.a]\npath = \"data\"\n[data.b]\npath = \"./data/raw\"\n"),
        &expect!["Sealift.toml:30:1: data.b.path: is the same place as data.a, or one is inside the other"],
    );
    says(
        &format!("{GOOD}[environment.\"Q A\"]\ntarget = \"docker\"\n"),
        &expect![[
            r#"Sealift.toml:27:14: environment."Q A": "Q A" is not a name: use 1 to 63 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit"#
        ]],
    );
}

#[test]
fn keys_of_another_choice_are_told_so() {
    says(
        &with("builder = \"docker\"", "builder = \"docker\"\nentrypoint = [\"/app\"]\nlabels = { a = 1 }"),
        &expect![[r#"Sealift.toml:8:1: component.api.build.entrypoint: belongs to builder "oci""#]],
    );
    says(
        &with("target = \"docker\"\ngates", "target = \"docker\"\nroot = \"/srv\"\ngates"),
        &expect![[r#"Sealift.toml:19:1: environment.staging.root: belongs to target "process""#]],
    );
    says(
        &with("kind = \"smoke\"", "kind = \"load\"\nrun = [\"x\"]"),
        &expect![[r#"
        Sealift.toml:14:1: gate.quality.check[0].statistic: is missing; write statistic = "p95" (milliseconds) or "error-rate" (0 to 1)
        Sealift.toml:14:1: gate.quality.check[0].path: is missing; write path = "/health"
        Sealift.toml:14:1: gate.quality.check[0].crit_below: a check needs a bound, or it says nothing: crit_below, crit_above, warn_… or relative
        Sealift.toml:17:1: gate.quality.check[0].run: kind "load" has no such key"#]],
    );
    says(
        &with("kind = \"smoke\"", "kind = \"command\"\nrun = []\nwarn_above = 1"),
        &expect![[r#"
        Sealift.toml:17:1: gate.quality.check[0].run: must be a command as an array of words, for example run = ["make", "dist"]
        Sealift.toml:18:1: gate.quality.check[0].warn_above: has no effect: a command judges by its exit code"#]],
    );
}

#[test]
fn hostile_text_is_refused_not_survived_by_luck() {
    for text in ["\0", "[", "a.", "=", "\u{feff}[project]", "[project]\r\nname='x'\r", "[project]\nname = 1979-05-27"] {
        let _ = parse(text, "x");
    }
    let deep = format!("a = {}", "[".repeat(10_000));
    assert!(parse(&deep, "x").is_err());
    let nested = format!("[project]\nname = \"x\"\n[component{}]\n", ".a".repeat(100_000));
    assert!(parse(&nested, "x").is_err());
    assert!(parse(&"#".repeat(1 << 20), "x").is_err());
}

#[test]
fn an_environment_wins_over_the_component() {
    let text = with("port = 8000", "port = 8000\nenv = { A = \"1\", B = 2 }\nsecrets = { C = \"env:C\" }").replacen(
        "port = 18080",
        "port = 18080\nenv = { C = \"3\" }\nsecrets = { A = \"file:/a\" }",
        1,
    );
    let config = parse(&text, "x").unwrap_or_else(|problems| panic!("{problems}"));
    let staging = resolve(&config, "staging").unwrap();
    let run = staging.component("api").unwrap().run.as_ref().unwrap();
    assert_eq!(format!("{:?} {:?}", run.run.env, run.run.secrets), r#"{"B": "2", "C": "3"} {"A": File("/a")}"#);
    expect![[r#"there is no environment "prod"; did you mean production?"#]]
        .assert_eq(&resolve(&config, "prod").unwrap_err().to_string());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whatever is done to the example, it is read or refused with places that exist, and never a panic.
    #[test]
    fn a_damaged_example_is_read_or_refused(
        damage in proptest::collection::vec((proptest::prelude::any::<proptest::prelude::prop::sample::Index>(), 0..4_u8, "[\\PC\n]{0,3}"), 1..6),
    ) {
        let mut lines: Vec<String> = EXAMPLE.lines().map(str::to_owned).collect();
        for (index, kind, text) in damage {
            let at = index.index(lines.len());
            match kind {
                0 => lines[at].clear(),
                1 => lines[at].push_str(&text),
                2 => lines[at] = lines[at].replacen('"', &text, 1),
                _ => lines[at] = lines[at].replacen(" = ", &format!(" = {text}"), 1),
            }
        }
        let text = lines.join("\n");
        if let Err(problems) = parse(&text, "x") {
            proptest::prop_assert!(!problems.list.is_empty());
            let most = text.lines().count() + 1;
            proptest::prop_assert!(problems.list.iter().all(|problem| (1..=most).contains(&problem.line) && problem.column >= 1));
        }
    }
}

#[test]
fn remotes_transfer_and_policy_have_defaults_and_are_checked() {
    let config = parse(GOOD, "Sealift.toml").unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.remotes.is_empty());
    assert_eq!((config.transfer.upload_limit, config.transfer.deadline.as_secs()), (None, 300));
    assert_eq!((&config.policy.data.tags[..], config.policy.data.grace.as_secs()), (&["*".to_owned()][..], 604_800));
    let with = |text: &str| problems(&format!("{GOOD}\n{text}"));
    let good =
        "[store]\nupload_limit = \"1MiB\"\n[store.remote.backup]\npath = \"/mnt/backup\"\n[policy.data]\ntags = []";
    let config = parse(&format!("{GOOD}\n{good}"), "Sealift.toml").unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.remotes["backup"], super::StoreConfig::Embedded { path: "/mnt/backup".to_owned() });
    assert!(config.policy.data.tags.is_empty() && config.transfer.upload_limit == Some(1 << 20));
    let bad = with(
        "[store]\nupload_limit = \"1\"\ndeadline = \"0s\"\n[store.remote.a]\nregion = \"x\"\n[store.remote.b]\n\
         [store.remote.c]\nbuckets = \"x\"\n[policy.dat]\n",
    );
    for part in [
        "store.upload_limit: is no limit of bytes a second",
        "store.deadline: must be longer than nothing",
        "store.remote.a.region: belongs to a bucket",
        "store.remote.b.path: is missing",
        "store.remote.c.buckets: unknown key; did you mean bucket?",
        "policy.dat: unknown key; did you mean data?",
    ] {
        assert!(bad.contains(part), "{part}: {bad}");
    }
}
