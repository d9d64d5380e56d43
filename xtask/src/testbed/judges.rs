//! What each judge of images and of what goes with them finds in something small that it was given.

use super::{Part, Provided, Testbed};
use crate::shell::{Outcome, capture};
use std::{fs, path::Path, process::Command};

pub(super) fn prove(one: &Provided, testbed: &Testbed) -> Outcome<String> {
    let home = testbed.scratch(&format!("{}-proof", one.part.name()))?;
    match one.part {
        Part::Crane => crane(&one.program, testbed.value(Part::Registry), &home),
        Part::Syft => syft(&one.program, &home),
        Part::Gitleaks => gitleaks(&one.program, &home),
        other => Err(format!("{} is no judge of images", other.name())),
    }
}

/// `program` in `home`, with nothing of the person's settings.
fn tool(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home).current_dir(home);
    command
}

fn write(home: &Path, name: &str, text: &str) -> Outcome {
    fs::write(home.join(name), text).map_err(|cause| format!("{}: {cause}", home.display()))
}

/// An image of one layer, pushed and read back.
fn crane(program: &Path, registry: Option<&str>, home: &Path) -> Outcome<String> {
    let version = capture(tool(program, home).arg("version"))?;
    let version = version.trim();
    let Some(registry) = registry else {
        return Ok(format!("{version}; nothing pushed, for there is no registry in this run"));
    };
    write(home, "hello", "said from a layer")?;
    capture(tool(Path::new("/bin/tar"), home).args(["-cf", "layer.tar", "hello"]))?;
    let image = format!("{registry}/proof-of-crane:1");
    capture(tool(program, home).args(["append", "--new_layer", "layer.tar", "--new_tag", &image]))?;
    let digest = capture(tool(program, home).args(["digest", &image]))?;
    capture(tool(program, home).args(["validate", "--remote", &image]))?;
    Ok(format!("{version}; pushed and validated {:.19}…", digest.trim()))
}

/// A pinned requirement is a component.
fn syft(program: &Path, home: &Path) -> Outcome<String> {
    write(home, "requirements.txt", "requests==2.32.0\n")?;
    let scan = ["scan", "dir:.", "--quiet", "--output", "cyclonedx-json"];
    let said = capture(tool(program, home).env("SYFT_CHECK_FOR_APP_UPDATE", "false").args(scan))?;
    let said: serde_json::Value = serde_json::from_str(&said).map_err(|cause| format!("its SBOM: {cause}"))?;
    let components = said["components"].as_array().cloned().unwrap_or_default();
    let found = components.iter().find_map(|one| one["purl"].as_str().filter(|purl| purl.contains("requests@2.32.0")));
    let version = said["metadata"]["tools"]["components"][0]["version"].as_str().unwrap_or("?").to_owned();
    found.map(|purl| format!("{version}; found {purl}")).ok_or_else(|| format!("found {components:?}"))
}

/// A token is found, and the rest of the file is not.
fn gitleaks(program: &Path, home: &Path) -> Outcome<String> {
    // Put together here, so that a scan of this repository does not find it.
    let token = ["ghp", "_", "w5Qz8KfT3bLm", "N7vRc2XyJ9hGd4", "PsAe6UtB1k"].concat();
    write(home, "settings.env", &format!("COLOUR=blue\nTOKEN={token}\n"))?;
    let scan =
        ["dir", ".", "--no-banner", "--exit-code", "0", "--report-format", "json", "--report-path", "found.json"];
    capture(tool(program, home).args(scan))?;
    let text = fs::read_to_string(home.join("found.json")).map_err(|cause| format!("its report: {cause}"))?;
    let found: serde_json::Value = serde_json::from_str(&text).map_err(|cause| format!("its report: {cause}"))?;
    match found.as_array().map(Vec::as_slice) {
        Some([one]) => Ok(format!("found one secret by its rule {}", one["RuleID"].as_str().unwrap_or("?"))),
        _ => Err(format!("found {found}")),
    }
}
