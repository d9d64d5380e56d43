//! What the `Sealift.toml` of the service says.

use std::{fmt::Write as _, path::Path};

/// How the service behaves; see `tests/fixtures/service.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// It works.
    Ok,
    /// It never gets ready.
    Unhealthy,
    /// It ends at once.
    Exits,
    /// It is ready once [`crate::Project::let_start`] was called.
    SlowStart,
    /// Its predictions fail.
    BadSmoke,
    /// Its predictions fail, but not the first one: it passes its smoke requests and no gate.
    Errors,
}

impl Behaviour {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unhealthy => "unhealthy",
            Self::Exits => "exits",
            Self::SlowStart => "slow-start",
            Self::BadSmoke => "bad-smoke",
            Self::Errors => "errors",
        }
    }
}

/// What differs between projects and between releases of one project. Ports and folders are the project's own.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How the service behaves; sealed into the release.
    pub behaviour: Behaviour,
    /// How long it may take to get ready; sealed into the release.
    pub start_timeout: String,
    /// The body of `[store]`; empty is the embedded store at its default place.
    pub store: String,
    /// How long a lease lasts without renewal.
    pub lease_ttl: String,
    /// Whether the release has the data set `raw` (`data/raw`).
    pub data: bool,
    /// Whether the release has the model `price` (`models/price.json` with `models/metrics.json`).
    pub model: bool,
    /// Whether staging has the gate `quality`, and production takes releases only through it.
    pub gate: bool,
    /// Variables of the service; sealed into the release. TOML values.
    pub env: Vec<(String, String)>,
    /// Lines for `[environment.staging]`, instead of `target = "process"`.
    pub staging: String,
    /// Lines for `[environment.production]`, instead of `target = "process"`.
    pub production: String,
    /// Lines for `[component.svc]`.
    pub component: String,
    /// The body of `[component.svc.build]`.
    pub build: String,
    /// Sections at the end of the file.
    pub more: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            behaviour: Behaviour::Ok,
            start_timeout: "30s".to_owned(),
            store: String::new(),
            lease_ttl: "15s".to_owned(),
            data: false,
            model: false,
            gate: true,
            env: Vec::new(),
            staging: "target = \"process\"".to_owned(),
            production: "target = \"process\"".to_owned(),
            component: String::new(),
            build: BUILD.to_owned(),
            more: String::new(),
        }
    }
}

const BUILD: &str = r#"builder = "oci"
files = [{ from = "build/service", to = "/service", mode = "0755" }]
entrypoint = ["/service"]"#;

const SMOKE: &str = r#"
[[component.svc.smoke]]
name = "predict"
path = "/predict"
json = { x = 2 }
expect_json = { "/y" = { between = [0, 1000] } }

[[component.svc.smoke]]
path = "/version"
"#;

const GATE: &str = r#"
[[gate.quality.check]]
name = "smoke"
kind = "smoke"

[[gate.quality.check]]
name = "errors"
kind = "load"
path = "/predict"
json = { x = 3 }
requests = 20
concurrency = 2
statistic = "error-rate"
crit_above = 0.05

[[gate.quality.check]]
name = "accuracy"
kind = "report"
path = "reports/evaluation.json"
value = "/accuracy"
samples = "/samples"
warn_below = 0.7
crit_below = 0.5
relative = { better = "higher", warn_worse = 0.1, crit_worse = 0.2 }
required_samples = 10
"#;

impl Settings {
    /// With a data set and a model.
    pub fn full() -> Self {
        Self { data: true, model: true, ..Self::default() }
    }

    /// The file, for a project in `root` with these ports in staging and production.
    pub(crate) fn toml(&self, root: &Path, ports: [u16; 2]) -> String {
        let mut text = String::from("[project]\nname = \"fixture\"\n");
        if !self.store.is_empty() {
            let _ = write!(text, "\n[store]\n{}\n", self.store);
        }
        let _ = write!(
            text,
            "\n[component.svc]\nversion_files = [\"pyproject.toml\"]\n{}\n{}{}\n[component.svc.build]\n{}\n",
            self.component,
            if self.data { "data = [\"raw\"]\n" } else { "" },
            if self.model { "models = [\"price\"]\n" } else { "" },
            self.build
        );
        let mut env = vec![
            ("BEHAVIOUR".to_owned(), format!("{:?}", self.behaviour.word())),
            ("LISTEN".to_owned(), "\"127.0.0.1:{port}\"".to_owned()),
            ("VERSION".to_owned(), "\"{version}\"".to_owned()),
        ];
        if self.model {
            env.push(("MODEL".to_owned(), "\"{model:price}\"".to_owned()));
        }
        for (name, value) in &self.env {
            env.retain(|(known, _)| known != name);
            env.push((name.clone(), value.clone()));
        }
        let env: Vec<String> = env.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let _ = write!(
            text,
            "\n[component.svc.run]\nport = 8080\nenv = {{ {} }}\nhealth = \"/ready\"\nstart_timeout = \"{}\"\nmemory = \"256MiB\"\n{}{SMOKE}",
            env.join(", "),
            self.start_timeout,
            if self.model { "models = { price = \"/models/price.json\" }\n" } else { "" },
        );
        if self.data {
            text.push_str("\n[data.raw]\npath = \"data/raw\"\n");
        }
        if self.model {
            text.push_str("\n[model.price]\nfile = \"models/price.json\"\nmetrics = \"models/metrics.json\"\n");
            text.push_str("command = [\"python3\", \"train.py\"]\n");
            text.push_str(if self.data { "data = [\"raw\"]\n" } else { "" });
        }
        if self.gate {
            text.push_str(GATE);
        }
        let gates = if self.gate { "gates = [\"quality\"]\n" } else { "" };
        for (name, lines, port) in [("staging", &self.staging, ports[0]), ("production", &self.production, ports[1])] {
            let after = if name == "production" { "after = \"staging\"\n" } else { "" };
            let gates = if name == "staging" { gates } else { "" };
            let _ = write!(
                text,
                "\n[environment.{name}]\n{lines}\n{after}{gates}lease_ttl = \"{}\"\n\n[environment.{name}.component.svc]\nport = {port}\nenv = {{ READY_FILE = \"{}\" }}\n",
                self.lease_ttl,
                root.join("ready").display()
            );
        }
        text.push_str(&self.more);
        text
    }
}
