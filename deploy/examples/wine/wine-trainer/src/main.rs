//! Writes the data, trains the model, and evaluates a running service.
//!
//! - Training and evaluation read the data from files, never from this program, so that what was trained with is what
//!   is on disk.
//! - An exit code other than 0 means that nothing new was written under the name asked for.

mod data;
mod evaluate;
mod files;
mod train;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use crate::train::Params;

const USAGE: &str = "\
Writes the data, trains the model, and evaluates a running service.

usage:
  wine-trainer data --to DIR                                   write train.csv and test.csv
  wine-trainer train --data DIR --params FILE --out DIR        write model.json and metrics.json
  wine-trainer evaluate --url URL --data FILE --out FILE       ask a running service about every row of FILE

example:
  wine-trainer data --to data/raw
  wine-trainer train --data data/raw --params params.json --out model
  MODEL_PATH=model/model.json PORT=8080 cargo run --release -p wine
  wine-trainer evaluate --url http://127.0.0.1:8080 --data data/raw/test.csv --out reports/evaluation.json
";

/// Bad arguments, as in sysexits.h.
const EX_USAGE: u8 = 64;

enum Failure {
    Usage(String),
    Work(String),
}

impl From<String> for Failure {
    fn from(error: String) -> Self {
        Self::Work(error)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(Failure::Usage(error)) => {
            eprintln!("wine-trainer: {error}\n\n{USAGE}");
            ExitCode::from(EX_USAGE)
        }
        Err(Failure::Work(error)) => {
            eprintln!("wine-trainer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<String, Failure> {
    let Some((verb, rest)) = arguments.split_first() else {
        return Err(Failure::Usage("a verb is missing".into()));
    };
    match verb.as_str() {
        "data" => {
            let [to] = options(rest, ["--to"])?;
            Ok(write_data(Path::new(to))?)
        }
        "train" => {
            let [data, params, out] = options(rest, ["--data", "--params", "--out"])?;
            Ok(train_model(Path::new(data), Path::new(params), Path::new(out))?)
        }
        "evaluate" => {
            let [url, data, out] = options(rest, ["--url", "--data", "--out"])?;
            if !url.starts_with("http://") {
                return Err(Failure::Usage(format!("--url is {url:?}, and must begin with http://")));
            }
            let report = evaluate::evaluate(url, &data::read(Path::new(data))?, Path::new(out))?;
            let measured = summary(&report.metrics);
            Ok(format!("{out}: model {} at {}: {measured}\n", report.model, report.url))
        }
        "help" | "--help" | "-h" => Ok(USAGE.to_owned()),
        other => Err(Failure::Usage(format!("there is no verb {other:?}"))),
    }
}

/// All of `names`, each once and with a value, in their order.
fn options<'a, const N: usize>(arguments: &'a [String], names: [&str; N]) -> Result<[&'a str; N], Failure> {
    let mut given = BTreeMap::new();
    for pair in arguments.chunks(2) {
        let [name, value] = pair else {
            return Err(Failure::Usage(format!("{:?} has no value", pair[0])));
        };
        if !names.contains(&name.as_str()) {
            return Err(Failure::Usage(format!("there is no option {name:?} here")));
        }
        if given.insert(name.as_str(), value.as_str()).is_some() {
            return Err(Failure::Usage(format!("{name} is there twice")));
        }
    }
    match names.iter().find(|name| !given.contains_key(*name)) {
        Some(missing) => Err(Failure::Usage(format!("{missing} is missing"))),
        None => Ok(names.map(|name| given[name])),
    }
}

fn write_data(to: &Path) -> Result<String, String> {
    files::create_directory(to)?;
    let (train, test) = data::split()?;
    data::write(&to.join("train.csv"), &train)?;
    data::write(&to.join("test.csv"), &test)?;
    Ok(format!("{}: {} wines to train with, {} held out\n", to.display(), train.len(), test.len()))
}

fn train_model(data: &Path, params: &Path, out: &Path) -> Result<String, String> {
    let text = std::fs::read(params).map_err(|error| format!("{}: cannot read: {error}", params.display()))?;
    let params: Params = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", params.display()))?;
    let (train, test) = (data::read(&data.join("train.csv"))?, data::read(&data.join("test.csv"))?);
    let (model, report) = train::train(&train, &test, &params)?;
    // Metrics without a model mislead; a model without metrics is only unmeasured.
    files::remove(&out.join("metrics.json"))?;
    files::write_json(&out.join("model.json"), &model)?;
    files::write_json(&out.join("metrics.json"), &report)?;
    let measured = summary(&report.held_out);
    Ok(format!("{}: model {} of {} terms: {measured}\n", out.display(), model.version, report.terms))
}

fn summary(metrics: &train::Metrics) -> String {
    format!(
        "accuracy {:.4}, mean absolute error {:.4}, macro F1 {:.4} on {} held-out wines",
        metrics.accuracy, metrics.mae, metrics.f1_macro, metrics.n
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn usage(arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        match run(&arguments) {
            Err(Failure::Usage(error)) => error,
            Err(Failure::Work(error)) => panic!("not a usage error: {error}"),
            Ok(text) => panic!("no error: {text}"),
        }
    }

    #[test]
    fn bad_arguments_are_told() {
        assert_eq!(usage(&[]), "a verb is missing");
        assert_eq!(usage(&["fly"]), "there is no verb \"fly\"");
        assert_eq!(usage(&["data"]), "--to is missing");
        assert_eq!(usage(&["data", "--to"]), "\"--to\" has no value");
        assert_eq!(usage(&["data", "--from", "x"]), "there is no option \"--from\" here");
        assert_eq!(usage(&["data", "--to", "x", "--to", "y"]), "--to is there twice");
        assert!(usage(&["evaluate", "--url", "https://x", "--data", "d", "--out", "o"]).contains("http://"));
    }

    #[test]
    fn the_same_data_and_parameters_give_the_same_files() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data/raw");
        write_data(&data).unwrap();
        let params = Path::new(env!("CARGO_MANIFEST_DIR")).join("../params.json");
        let [first, second] = ["first", "second"].map(|name| {
            let out = directory.path().join(name);
            train_model(&data, &params, &out).unwrap();
            ["model.json", "metrics.json"].map(|file| std::fs::read(out.join(file)).unwrap())
        });
        assert_eq!(first, second);
        wine_model::Model::parse(&first[0]).unwrap();
    }
}
