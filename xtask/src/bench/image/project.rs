//! A repository with one component, as a person would have it.

use super::tools::Tools;
use crate::shell::{Outcome, capture};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The repository. Its payload is ignored by git: it stands for what a build makes.
pub(super) struct Project {
    pub(super) root: PathBuf,
}

impl Project {
    /// Makes it in `root`, which may hold the payload already. `build` are the lines of `[component.svc.build]`, `more` sections after it.
    pub(super) fn new(tools: &Tools, root: &Path, build: &str, more: &str) -> Outcome<Self> {
        let project = Self { root: root.to_owned() };
        project.write("VERSION", "1.0.0\n")?;
        project.write(".gitignore", "/.sealift/\n/app/\n/restored.tar\n")?;
        project.configure(build, more)?;
        project.git(tools, &["init", "--quiet"])?;
        project.commit(tools)?;
        Ok(project)
    }

    pub(super) fn configure(&self, build: &str, more: &str) -> Outcome {
        let text = format!(
            "[project]\nname = \"bench\"\n\n[component.svc]\n\
             version_files = [{{ path = \"VERSION\", pattern = '([0-9.]+)' }}]\n\n\
             [component.svc.build]\n{build}\n{more}"
        );
        self.write("Sealift.toml", &text)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Outcome {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&path))
            .and_then(|()| fs::write(&path, text))
            .map_err(|cause| format!("{}: {cause}", path.display()))
    }

    /// A commit of all, with a time of its own: the only clock that a build may see.
    pub(super) fn commit(&self, tools: &Tools) -> Outcome {
        self.git(tools, &["add", "--all"])?;
        self.git(tools, &["commit", "--quiet", "--message", "feat: an image"])
    }

    fn git(&self, tools: &Tools, words: &[&str]) -> Outcome {
        let mut command = tools.command(Path::new("git"), &self.root);
        for person in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{person}_NAME"), "bench");
            command.env(format!("GIT_{person}_EMAIL"), "bench@sealift.invalid");
            command.env(format!("GIT_{person}_DATE"), "2026-01-02T03:04:05Z");
        }
        capture(command.args(["-c", "commit.gpgsign=false"]).args(words)).map(drop)
    }

    /// The command that is measured.
    pub(super) fn build(&self, tools: &Tools) -> Command {
        tools.sealift(&self.root, &["build", "svc"])
    }

    /// Where the image of the last build is, and its layers with their sizes.
    pub(super) fn image(&self, tools: &Tools) -> Outcome<Image> {
        let said = capture(&mut tools.sealift(&self.root, &["build", "svc", "--format", "json"]))?;
        Image::read(&said)
    }
}

/// An image as a layout on this disk.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Image {
    pub(super) layout: PathBuf,
    pub(super) digest: String,
    /// Digest and size of each layer.
    pub(super) layers: Vec<(String, u64)>,
}

impl Image {
    /// From what `sealift build --format json` prints.
    pub(super) fn read(said: &str) -> Outcome<Self> {
        // Events come first, a line each; the result is the last one.
        let last = said.lines().last().unwrap_or_default();
        let all: Value = serde_json::from_str(last).map_err(|cause| format!("sealift build: {cause}: {said}"))?;
        let one = &all["result"][0];
        let layout = one["layout"].as_str().map(PathBuf::from);
        let layout = layout.ok_or_else(|| format!("sealift build names no layout: {said}"))?;
        Self::open(&layout)
    }

    /// A layout of one image, of one platform.
    pub(super) fn open(layout: &Path) -> Outcome<Self> {
        let index = json(&layout.join("index.json"))?;
        let digest = index["manifests"][0]["digest"].as_str().unwrap_or_default().to_owned();
        let manifest = json(&layout.join("blobs").join(digest.replace(':', "/")))?;
        let layers = manifest["layers"].as_array().into_iter().flatten();
        let layer = |layer: &Value| Some((layer["digest"].as_str()?.to_owned(), layer["size"].as_u64()?));
        let layers: Option<Vec<_>> = layers.map(layer).collect();
        let layers = layers.filter(|layers| !layers.is_empty());
        let layers = layers.ok_or_else(|| format!("{} holds no image of one platform", layout.display()))?;
        Ok(Self { layout: layout.to_owned(), digest, layers })
    }

    /// Bytes of the layers that `before` has not.
    pub(super) fn newer_than(&self, before: &Self) -> u64 {
        self.layers.iter().filter(|layer| !before.layers.contains(layer)).map(|(_, size)| size).sum()
    }
}

fn json(path: &Path) -> Outcome<Value> {
    let text = fs::read_to_string(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
    serde_json::from_str(&text).map_err(|cause| format!("{}: {cause}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_in_an_image_is_what_the_older_one_has_not() {
        let image = |layers: &[(&str, u64)]| Image {
            layout: PathBuf::new(),
            digest: String::new(),
            layers: layers.iter().map(|(digest, size)| ((*digest).to_owned(), *size)).collect(),
        };
        assert_eq!(image(&[("a", 1), ("c", 4)]).newer_than(&image(&[("a", 1), ("b", 2)])), 4);
    }

    #[test]
    fn a_layout_is_found_by_what_the_program_says() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(folder.path().join("index.json"), r#"{"manifests":[{"digest":"sha256:aa"}]}"#).unwrap();
        fs::write(blobs.join("aa"), r#"{"layers":[{"digest":"sha256:bb","size":7}]}"#).unwrap();
        let said = format!(
            "{{\"event\":\"note\"}}\n{}\n",
            serde_json::json!({ "exit": 0, "result": [{ "component": "svc", "layout": folder.path() }] })
        );
        let image = Image::read(&said).unwrap();
        assert_eq!((image.digest.as_str(), image.layers), ("sha256:aa", vec![("sha256:bb".to_owned(), 7)]));
        assert!(Image::read("{\"result\":[]}").unwrap_err().contains("no layout"));
    }
}
