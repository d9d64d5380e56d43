use super::{Detected, Listing, detect};
use crate::config::{self, Builder, Target};
use expect_test::{ExpectFile, expect_file};
use proptest::prelude::*;

fn listing(folder: &str, files: &[(&str, &str)]) -> Listing {
    Listing {
        folder: folder.to_owned(),
        files: files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (!text.is_empty()).then(|| (*text).to_owned())))
            .collect(),
        git_remote: None,
        docker: true,
    }
}

fn golden(listing: &Listing, expected: &ExpectFile) -> (Detected, config::Config) {
    let detected = detect(listing);
    expected.assert_eq(&detected.toml);
    let config = config::parse(&detected.toml, "Sealift.toml")
        .unwrap_or_else(|problems| panic!("{problems}\n{}", detected.toml));
    (detected, config)
}

#[test]
fn a_rust_service_without_docker() {
    let manifest = "[package]\nname = \"tally\"\nversion = \"0.3.0\"\n[dependencies]\naxum = \"0.8\"\n";
    let main = "let app = Router::new().route(\"/healthz\", get(health));\nTcpListener::bind(\"0.0.0.0:4000\")";
    let mut listing = listing("tally", &[("Cargo.toml", manifest), ("src/main.rs", main), ("CHANGELOG.md", "")]);
    listing.docker = false;
    listing.git_remote = Some("git@github.com:Acme/tally.git".to_owned());
    let (_, config) = golden(&listing, &expect_file!["golden/rust.toml"]);
    assert!(matches!(config.components["tally"].build.builder, Builder::Oci(_)));
    assert!(matches!(config.environments["staging"].target, Target::Process { .. }));
}

#[test]
fn a_python_service_with_dockerfile_and_data() {
    let dockerfile = "FROM python:3.11-slim AS build\nRUN pip install .\nFROM python:3.11-slim\nENV PORT=8000\nEXPOSE ${PORT}\nUSER app\nCMD [\"uvicorn\", \"churn.app:app\", \\\n  \"--port\", \"8000\"]\n";
    let files = [
        ("Dockerfile", dockerfile),
        (
            "pyproject.toml",
            "[project]\nname = \"churn\"\nversion = \"1.4.0\"\ndependencies = [\"fastapi\", \"uvicorn\"]\n",
        ),
        ("src/churn/__init__.py", "__version__ = \"1.4.0\"\n"),
        ("src/churn/app.py", "@app.get(\"/health\")\ndef health(): ...\n"),
        ("tests/test_app.py", "client.get(\"/ready\")"),
        ("data/raw/customers.csv", ""),
        ("data/raw/events.parquet", ""),
        ("models/churn.joblib", ""),
        ("models/metrics.json", ""),
        ("config/service.toml", ""),
    ];
    let (detected, config) = golden(&listing("Churn Service", &files), &expect_file!["golden/python.toml"]);
    assert_eq!(config.components["churn-service"].run.as_ref().unwrap().port, 8000);
    assert_eq!(config.data["data"].path, "data");
    // What a new user has to look at is short.
    assert!(detected.guessed.len() <= 8, "{:#?}", detected.guessed);
}

#[test]
fn a_node_service() {
    let files = [
        (
            "Dockerfile",
            "FROM node:20\nUSER root\nCMD [\"node\", \"server.js\"]\nHEALTHCHECK CMD curl -f http://localhost:3000/live || exit 1\n",
        ),
        ("package.json", "{\"name\": \"front\", \"version\": \"2.0.1\"}"),
        ("server.js", "app.listen(3000)"),
        ("node_modules/express/package.json", "{\"version\": \"9.9.9\"}"),
    ];
    let (_, config) = golden(&listing("front", &files), &expect_file!["golden/node.toml"]);
    let run = config.components["front"].run.as_ref().unwrap();
    assert_eq!((run.port, run.relax.len()), (3000, 1));
}

#[test]
fn several_folders_with_dockerfiles() {
    let files = [
        ("services/api/Dockerfile", "FROM python:3.11\nEXPOSE 8000\nCMD [\"gunicorn\"]\nLABEL version=\"1.0.0\"\n"),
        ("services/api/pyproject.toml", "[project]\nversion = \"1.0.0\"\ndependencies = [\"flask\"]\n"),
        ("services/worker/docker/Dockerfile", "FROM rust\nENTRYPOINT [\"/worker\"]\n"),
        ("services/worker/Cargo.toml", "[package]\nname = \"worker\"\nversion.workspace = true\n"),
        ("Cargo.toml", "[workspace]\nmembers = [\"services/worker\"]\n[workspace.package]\nversion = \"0.2.0\"\n"),
        ("services/worker/src/main.rs", "\"/readyz\""),
        ("k8s/api.yaml", "readinessProbe:\n  httpGet:\n    path: /nowhere\n"),
        ("data/train.csv.dvc", "outs:\n- path: train.csv\n"),
    ];
    let (_, config) = golden(&listing("shop", &files), &expect_file!["golden/several.toml"]);
    assert_eq!(config.components.len(), 2);
    assert_eq!(config.components["worker"].version_files[0].path, "../../Cargo.toml");
}

#[test]
fn a_compose_file_names_the_services() {
    let compose =
        "services:\n  web:\n    build: .\n    ports:\n      - \"18080:5000\"\n  db:\n    image: postgres:16\n";
    let files = [
        ("compose.yaml", compose),
        ("Dockerfile", "FROM python:3.11\nCMD python app.py\n"),
        ("requirements.txt", "flask\n"),
    ];
    let (_, config) = golden(&listing("notes", &files), &expect_file!["golden/compose.toml"]);
    assert_eq!(config.components["web"].run.as_ref().unwrap().port, 5000);
    assert_eq!(config.environments["staging"].components["web"].port, 18081);
}

#[test]
fn an_empty_folder() {
    let (detected, config) = golden(&listing("", &[]), &expect_file!["golden/empty.toml"]);
    assert!(config.components.is_empty());
    assert_eq!(detected.guessed.len(), 2);
}

fn some_file() -> impl Strategy<Value = (String, Option<String>)> {
    let folder = prop_oneof![
        Just(String::new()),
        prop::sample::select(vec![
            "api/",
            "services/a b/",
            "data/",
            "data/raw/",
            "models/",
            "k8s/",
            "docker/",
            "config/",
            "Ünïcode \"x\"/",
            "a'b/data/",
            ".dvc/",
            "..",
            "-/",
            "x/y/z/",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z0-9._ -]{1,20}/",
    ];
    let file = prop_oneof![
        prop::sample::select(vec![
            "Dockerfile",
            "Dockerfile.dev",
            "Cargo.toml",
            "pyproject.toml",
            "package.json",
            "requirements.txt",
            "compose.yaml",
            "x.dvc",
            "app.py",
            "src/main.rs",
            "m.pkl",
            "q.json",
            "metrics.json",
            "deployment.yaml",
            "s.toml",
            "VERSION",
            "__init__.py",
            "line\nbreak.csv",
        ])
        .prop_map(str::to_owned),
        "[^/]{1,12}",
    ];
    let text = prop_oneof![
        Just(None),
        prop::sample::select(vec![
            "FROM x\nEXPOSE 80 443\nCMD a",
            "FROM x\nEXPOSE $P\nUSER 0:0\nENTRYPOINT [\"a\"]\nLABEL version=1.2.3",
            "FROM x",
            "[package]\nname = \"a\"\nversion = \"1.0.0\"\n[dependencies]\nhyper = \"1\"",
            "{\"version\": \"1.0.0\"}",
            "1.2.3",
            "fastapi",
            "[project]\nversion = \"0.1.0\"",
            "__version__ = \"3.0.0\"",
            "services:\n  a b:\n    build: api\n    ports: [80:80]\n  \"\":\n    build: .\n",
            "port = 99999 \"/health\"",
            "readinessProbe:\n  path: /x\n",
            "HEALTHCHECK CMD curl http://x:1/\"\n",
        ])
        .prop_map(|text| Some(text.to_owned())),
        any::<String>().prop_map(Some),
    ];
    (folder, file, text).prop_map(|(folder, file, text)| (format!("{folder}{file}"), text))
}

proptest! {
    #[test]
    fn every_output_is_valid(
        folder in any::<String>(),
        files in proptest::collection::vec(some_file(), 0..12),
        git_remote in proptest::option::of(prop_oneof![any::<String>(), Just("https://github.com/a/b\"c".to_owned())]),
        docker in any::<bool>(),
    ) {
        let detected = detect(&Listing { folder, files, git_remote, docker });
        let parsed = config::parse(&detected.toml, "Sealift.toml");
        prop_assert!(parsed.is_ok(), "{}\n{}", parsed.unwrap_err(), detected.toml);
    }
}
