//! The chapters. Each types what a person would type, and asks the running service what it is.

use super::{
    Layout,
    http::ask,
    seconds,
    stage::Stage,
    wine::{self, EXAMPLE, Ports, Target},
};
use crate::shell::Outcome;
use serde_json::{Value, json};
use std::{fs, path::Path, time::Duration};

/// The first line of every trainer's command: the example's own program.
const TRAINER: [&str; 7] = ["cargo", "run", "--quiet", "--release", "--bin", "wine-trainer", "--"];
/// How long a restored service may take to answer.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What was measured in this run.
#[derive(Debug, Default)]
pub(super) struct Figures {
    compiled: Duration,
    accuracy: Vec<(String, f64, u64)>,
    rollback: Duration,
    restore: Duration,
    restored: (u64, u64),
    store: (u64, u64),
}

impl Figures {
    /// Prints them; `whole` is the time of the whole run.
    pub(super) fn print(&self, whole: Duration) {
        println!("\nMeasured in this run:");
        for (release, accuracy, samples) in &self.accuracy {
            println!(
                "  accuracy of {release:<11} {accuracy:.3} on {samples} held-out wines, asked of the running service"
            );
        }
        println!("  rollback, as typed      {}", seconds(self.rollback));
        let (files, bytes) = self.restored;
        println!("  restore, as typed       {} for {files} files on disk, {}", seconds(self.restore), size(bytes));
        let (files, bytes) = self.store;
        println!("  the store               {files} objects and notes, {}", size(bytes));
        println!("  first compilation       {}", seconds(self.compiled));
        println!("  everything else         {}", seconds(whole.saturating_sub(self.compiled)));
    }
}

/// What every chapter needs.
struct Play<'a> {
    stage: &'a mut Stage,
    layout: &'a Layout,
    target: Target,
    ports: Ports,
    /// A held-out wine: what to ask for, and what its tasters said.
    wine: Option<(String, String)>,
    figures: Figures,
}

/// Plays the story; `why` says why it is this target.
pub(super) fn play(stage: &mut Stage, layout: &Layout, target: Target, ports: Ports, why: &str) -> Outcome<Figures> {
    println!("Sealift: a service with a trained model, from a commit to production, and back.");
    println!("  target  {} ({why})", target.word());
    println!("  folder  {}", layout.shown);
    println!("  Lines after $ are typed and run as they stand, with XDG_CONFIG_HOME (keys), GIT_CONFIG_GLOBAL and");
    println!("  CARGO_TARGET_DIR inside that folder. Lines after # are the demo's own words.");
    let mut play = Play { stage, layout, target, ports, wine: None, figures: Figures::default() };
    play.repository()?;
    play.build()?;
    play.intake()?;
    play.first_release()?;
    play.better_release()?;
    play.bad_release()?;
    play.way_back()?;
    play.restoring()?;
    play.proof()?;
    play.figures.store = measure_folder(&layout.folder.join("store"))?;
    Ok(play.figures)
}

impl Play<'_> {
    fn typed(&self, words: &[&str]) -> Outcome<Duration> {
        self.stage.typed(words)
    }

    fn trainer(&self, words: &[&str]) -> Outcome {
        self.typed(&[&TRAINER, words].concat()).map(drop)
    }

    fn say(&self, text: &str) {
        println!();
        self.stage.say(text);
    }

    /// A service as somebody has it in git.
    fn repository(&mut self) -> Outcome {
        self.stage.chapter("A service in a git repository");
        let changes = wine::copy(&self.layout.repository, self.target, &self.layout.project, self.ports)?;
        self.stage.say(&format!(
            "{EXAMPLE} is copied to {}/wine: an HTTP service in Rust, its trainer,\n\
             and a Sealift.toml (for your own repository, `sealift init` writes one). Changed in that for this demo:",
            self.layout.shown
        ));
        for (old, new) in changes {
            self.stage.say(&format!("  {old}   ->   {}", new.replace('\n', "; ")));
        }
        let repository = self.layout.repository.clone();
        self.stage.enter(&repository, &format!("{}/wine", self.layout.shown));
        self.typed(&["git", "init", "--quiet"])?;
        self.typed(&["git", "add", "--all"])?;
        self.typed(&["git", "commit", "--quiet", "--message", "feat: a service that predicts the quality of a wine"])?;
        self.typed(&["git", "init", "--quiet", "--bare", "../wine.git"])?;
        self.typed(&["git", "remote", "add", "origin", "../wine.git"]).map(drop)
    }

    fn build(&mut self) -> Outcome {
        self.stage.chapter("Build it, write the data, train a model");
        self.figures.compiled = self.typed(&["cargo", "build", "--release"])?;
        self.stage.say(&format!("compiled in {}; this is counted apart", seconds(self.figures.compiled)));
        self.trainer(&["data", "--to", "data/raw"])?;
        self.wine = Some(held_out(&self.layout.repository.join("data/raw/test.csv"))?);
        self.trainer(&["train", "--data", "data/raw", "--params", "params.json", "--out", "model"])
    }

    fn intake(&mut self) -> Outcome {
        self.stage.chapter("A key, the data and the model go in");
        self.typed(&["sealift", "keys", "new", "release"])?;
        self.typed(&["sealift", "data", "add", "wine-quality"])?;
        self.typed(&["git", "add", "--all"])?;
        self.typed(&["git", "commit", "--quiet", "--message", "feat: the data, by its digest, and who may sign"])?;
        self.typed(&["sealift", "doctor"])?;
        self.typed(&["sealift", "model", "register", "quality"]).map(drop)
    }

    fn first_release(&mut self) -> Outcome {
        self.stage.chapter("1.0.0 to staging, through the gate, to production");
        self.through_the_gate("1.0.0", false)?;
        self.answers("production", self.ports.production, "1.0.0")
    }

    fn better_release(&mut self) -> Outcome {
        self.stage.chapter("A better model as 1.1.0, through the same gate");
        self.typed(&["cp", "params-better.json", "params.json"])?;
        self.trainer(&["train", "--data", "data/raw", "--params", "params.json", "--out", "model"])?;
        wine::raise(self.stage, &self.layout.repository, "1.0.0", "1.1.0")?;
        self.typed(&["cargo", "build", "--release"])?;
        self.typed(&["git", "commit", "--quiet", "--all", "--message", "feat: a model with squares and products"])?;
        self.typed(&["sealift", "model", "register", "quality"])?;
        self.through_the_gate("1.1.0", true)?;
        self.answers("production", self.ports.production, "1.1.0")
    }

    /// Cuts a release and moves it through staging to production.
    fn through_the_gate(&mut self, version: &str, shows_plan: bool) -> Outcome {
        let release = format!("wine@{version}");
        self.typed(&["sealift", "release", "cut"])?;
        self.typed(&["sealift", "deploy", "staging", &release])?;
        self.typed(&["sealift", "smoke", "staging"])?;
        self.typed(&["sealift", "gate", "staging"])?;
        self.evaluated(&release)?;
        if shows_plan {
            self.typed(&["sealift", "promote", &release, "--to", "production", "--plan"])?;
        }
        self.typed(&["sealift", "promote", &release, "--to", "production"]).map(drop)
    }

    fn bad_release(&mut self) -> Outcome {
        self.stage.chapter("1.2.0 answers quickly, and wrongly: the gate stops it");
        self.stage
            .say("Somebody simplifies a line. It compiles without a warning, and /health and /ready are content.");
        wine::simplify(self.stage, &self.layout.repository)?;
        wine::raise(self.stage, &self.layout.repository, "1.1.0", "1.2.0")?;
        self.typed(&["cargo", "build", "--release"])?;
        self.typed(&[
            "git",
            "commit",
            "--quiet",
            "--all",
            "--message",
            "refactor: simplify the order of measurements",
        ])?;
        self.typed(&["sealift", "release", "cut"])?;
        self.typed(&["sealift", "deploy", "staging", "wine@1.2.0"])?;
        self.typed(&["sealift", "smoke", "staging"])?;
        self.stage.ends_with(2, &["sealift", "gate", "staging"])?;
        self.evaluated("wine@1.2.0")?;
        self.stage.ends_with(2, &["sealift", "promote", "wine@1.2.0", "--to", "production"])?;
        self.say("Refused: critical. Production never saw it and goes on serving:");
        self.answers("production", self.ports.production, "1.1.0")
    }

    fn way_back(&mut self) -> Outcome {
        self.stage.chapter("The way back");
        let reason = "the tasters prefer the old model";
        self.figures.rollback = self.typed(&["sealift", "rollback", "production", "--reason", reason])?;
        self.stage.say(&format!("as typed, from Enter to the prompt: {}", seconds(self.figures.rollback)));
        self.answers("production", self.ports.production, "1.0.0")?;
        self.typed(&["sealift", "history", "production"]).map(drop)
    }

    fn restoring(&mut self) -> Outcome {
        self.stage.chapter("The repository is deleted; 1.1.0 comes back from the store");
        self.stage.say("Kept outside of it: what was pushed, the store, and one public key.");
        self.typed(&["git", "push", "--quiet", "--set-upstream", "origin", "main"])?;
        self.typed(&["cp", "deploy/keys/release.pub", "../release.pub"])?;
        let folder = self.layout.folder.clone();
        self.stage.enter(&folder, "..");
        self.typed(&["rm", "-rf", "wine"])?;
        if self.layout.repository.exists() {
            return Err("the repository is still there".to_owned());
        }
        self.answers("production", self.ports.production, "1.0.0")?;
        let words =
            ["sealift", "restore", "wine@1.1.0", "--store", "store", "--key", "release.pub", "--to", "restored"];
        self.figures.restore = self.typed(&words)?;
        self.figures.restored = measure_folder(&folder.join("restored"))?;
        let restored = folder.join("restored");
        self.stage.enter(&restored, "restored");
        self.typed(&["sha256sum", "--check", "SHA256SUMS"])?;
        let port = self.ports.restored.to_string();
        // The release was sealed for a container where it listens on every address; here it is only for us.
        let mut service = self.stage.serve(
            &format!("HOST=127.0.0.1 PORT={port} ./run.sh &"),
            &["./run.sh"],
            &[("PORT", &port), ("HOST", "127.0.0.1")],
        )?;
        let ready = |status: Outcome<(u16, String)>| status.is_ok_and(|(status, _)| status == 200);
        self.stage.wait("the restored release", READY_WITHIN, || {
            service.still_runs()?;
            Ok(ready(ask(self.ports.restored, "GET", "/ready", None)))
        })?;
        self.answers("the restored release", self.ports.restored, "1.1.0")?;
        let status = service.stop()?;
        self.stage.say(&format!("stopped again: {status}"));
        if !status.success() {
            return Err(format!("the restored release ended with {status} after SIGTERM"));
        }
        self.stage.enter(&folder, "..");
        Ok(())
    }

    fn proof(&mut self) -> Outcome {
        self.stage.chapter("Everything that happened, verified");
        self.stage.say("The repository comes back from what was pushed; nothing above needed it.");
        self.typed(&["git", "clone", "--quiet", "wine.git", "wine"])?;
        let repository = self.layout.repository.clone();
        self.stage.enter(&repository, "wine");
        self.typed(&["sealift", "audit", "verify"])?;
        self.typed(&["sealift", "release", "verify", "wine@1.1.0"])?;
        self.typed(&["sealift", "status"])?;
        self.typed(&["sealift", "explain", "wine@1.1.0"]).map(drop)
    }

    /// Asks for a prediction and for the version, which must be `version`.
    fn answers(&self, who: &str, port: u16, version: &str) -> Outcome {
        self.stage.go_on()?;
        let (body, tasters) = self.wine.as_ref().ok_or("no wine was read")?;
        let (status, answer) = ask(port, "POST", "/predict", Some(body))?;
        self.stage.asked(
            &format!("POST http://127.0.0.1:{port}/predict  (a held-out wine; its tasters said {tasters})"),
            &answer,
        );
        if status != 200 {
            return Err(format!("{who} answers a prediction with {status}"));
        }
        let (status, answer) = ask(port, "GET", "/version", None)?;
        self.stage.asked(&format!("GET http://127.0.0.1:{port}/version"), &answer);
        let found: Value = serde_json::from_str(&answer).unwrap_or_default();
        if status != 200 || found["version"] != version || found["release"] != format!("wine@{version}") {
            return Err(format!("{who} should serve wine@{version} and says {status} {answer}"));
        }
        Ok(())
    }

    /// Notes the accuracy that the gate's evaluation has just measured.
    fn evaluated(&mut self, release: &str) -> Outcome {
        let path = self.layout.repository.join("reports/evaluation.json");
        let named = |cause: String| format!("{}: {cause}", path.display());
        let text = fs::read_to_string(&path).map_err(|cause| named(cause.to_string()))?;
        let report: Value = serde_json::from_str(&text).map_err(|cause| named(cause.to_string()))?;
        if report["service"]["release"] != release {
            return Err(named(format!("it is about {} and not {release}", report["service"]["release"])));
        }
        match (report["accuracy"].as_f64(), report["n"].as_u64()) {
            (Some(accuracy), Some(samples)) => self.figures.accuracy.push((release.to_owned(), accuracy, samples)),
            _ => return Err(named("it has no accuracy or number of samples".to_owned())),
        }
        Ok(())
    }
}

/// The first held-out wine as the body of a question, and its quality.
fn held_out(path: &Path) -> Outcome<(String, String)> {
    let text = fs::read_to_string(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
    let mut lines = text.lines();
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return Err(format!("{} holds no wine", path.display()));
    };
    let mut features = serde_json::Map::new();
    let mut quality = None;
    for (name, value) in names.split(',').zip(values.split(',')) {
        match name {
            "quality" => quality = Some(value.to_owned()),
            _ => {
                let number: f64 = value.parse().map_err(|cause| format!("{}: {value:?}: {cause}", path.display()))?;
                features.insert(name.to_owned(), json!(number));
            }
        }
    }
    let quality = quality.ok_or_else(|| format!("{} has no column quality", path.display()))?;
    Ok((json!({ "features": features }).to_string(), quality))
}

/// How many files are below a folder, and their bytes.
fn measure_folder(folder: &Path) -> Outcome<(u64, u64)> {
    let named = |cause: std::io::Error| format!("{}: {cause}", folder.display());
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder).map_err(named)? {
        let entry = entry.map_err(named)?;
        let about = entry.metadata().map_err(named)?;
        if about.is_dir() {
            let below = measure_folder(&entry.path())?;
            files += below.0;
            bytes += below.1;
        } else {
            files += 1;
            bytes += about.len();
        }
    }
    Ok((files, bytes))
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", bytes / unit, bytes % unit * 10 / unit);
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", tenths(1024)),
        _ => format!("{} MiB", tenths(1_048_576)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([5, 1536, 5 << 20].map(size), ["5 bytes", "1.5 KiB", "5.0 MiB"]);
    }

    #[test]
    fn a_wine_becomes_a_question() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.csv");
        fs::write(&path, "ph,alcohol,quality\n3.2,9.8,5\n").unwrap();
        let (body, quality) = held_out(&path).unwrap();
        assert_eq!((body.as_str(), quality.as_str()), (r#"{"features":{"alcohol":9.8,"ph":3.2}}"#, "5"));
    }
}
