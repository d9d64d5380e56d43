//! The same image, built ten times: other paths, times, order, umask, time zone and locale must not be seen in it.

use super::{
    Lab, payload,
    project::{Image, Project},
    remove,
    tools::Tools,
};
use crate::{
    bench::goals::Row,
    shell::{Outcome, capture},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const BUILDS: usize = 10;
/// Without spaces: a flake in such a folder is no URL to Nix 2.8.
const PLACES: [&str; 2] = ["a", "another-place/of-the-same/with-a-longer-name"];
const ZONES: [&str; 4] = ["UTC", "Pacific/Kiritimati", "America/St_Johns", "XYZ-14"];
const LOCALES: [&str; 3] = ["C", "C.UTF-8", "de_DE.UTF-8"];
const UMASKS: [&str; 3] = ["022", "077", "000"];

/// The output is a docker archive, made by the tools of this machine: nixpkgs need not be there.
const FLAKE: &str = r#"{
  outputs = { self }: {
    packages.SYSTEM.image = derivation {
      name = "image.tar";
      system = "SYSTEM";
      builder = "/bin/sh";
      args = [ "-e" ./image.sh ];
      PATH = "/usr/bin:/bin";
      app = ./tree;
    };
  };
}
"#;
const IMAGE_SH: &str = r#"same="--sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner --mode=a+rX,u+w,go-w"
mkdir image
tar $same -cf image/layer.tar -C "$app" .
digest=$(sha256sum image/layer.tar | cut -d' ' -f1)
printf '{"architecture":"ARCHITECTURE","os":"linux","config":{"Entrypoint":["/lib"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$digest" > image/config.json
printf '[{"Config":"config.json","RepoTags":["svc:1"],"Layers":["layer.tar"]}]' > image/manifest.json
tar $same -cf "$out" -C image config.json layer.tar manifest.json
"#;
const NIX_CONF: &str = "experimental-features = nix-command flakes\nsandbox = false\nsubstituters =\nbuild-users-group =\nflake-registry =\n";

pub(super) fn measure(lab: &mut Lab) -> Outcome {
    let root = lab.folder("again")?;
    let like = root.join("like");
    payload::tree(&like.join("tree/lib"), 20_000_000, 1)?;
    fs::create_dir_all(like.join("tree/bin")).map_err(|cause| format!("{}: {cause}", like.display()))?;
    let program = like.join("tree/bin/program");
    payload::write(&program, 1000, 2)?;
    std::os::unix::fs::symlink("bin/program", like.join("tree/start")).map_err(|cause| format!("{cause}"))?;
    let oci = "builder = \"oci\"\nbase = \"scratch\"\nfiles = [{ from = \"tree\", to = \"/app\" }]\n\
               entrypoint = [\"/app/start\"]\n";
    let project = Project::new(&lab.tools, &like, oci, "")?;
    let (arch, architecture) = if cfg!(target_arch = "aarch64") { ("aarch64", "arm64") } else { ("x86_64", "amd64") };
    project.write("flake.nix", &FLAKE.replace("SYSTEM", &format!("{arch}-linux")))?;
    project.write("image.sh", &IMAGE_SH.replace("ARCHITECTURE", architecture))?;
    project.commit(&lab.tools)?;
    for builder in ["oci", "nix"] {
        if builder == "nix" {
            let nix = format!(
                "builder = \"nix\"\ninstallable = \".#image\"\noutput = \"image\"\nnix = \"{}\"\n",
                lab.tools.nix.display()
            );
            project.configure(&nix, "")?;
            project.commit(&lab.tools)?;
        }
        let mut digests = BTreeSet::new();
        for number in 0..BUILDS {
            let place = root.join(PLACES[number % PLACES.len()]);
            copy(&like, &place, number)?;
            let image = build(&lab.tools, &root, &place, number)?;
            lab.say(&format!("  {builder} build {} of {BUILDS}: {}", number + 1, image.digest));
            digests.insert(image.digest);
            remove(&place)?;
        }
        let work = format!("{BUILDS} builds with {builder}: different digests");
        lab.add([Row::at_most(&work, digests.len() as u64, "digests", 1)]);
        lab.figures.insert(format!("again, {builder}: digests"), json!(digests));
    }
    writable(&root)?;
    remove(&root)
}

/// A copy with times of its own, written in another order each time.
fn copy(from: &Path, to: &Path, number: usize) -> Outcome {
    let named = |path: &Path| {
        let path = path.to_owned();
        move |cause: std::io::Error| format!("{}: {cause}", path.display())
    };
    fs::create_dir_all(to).map_err(named(to))?;
    let entries = fs::read_dir(from).map_err(named(from))?;
    let mut entries: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(named(from))?;
    entries.sort();
    if number % 2 == 1 {
        entries.reverse();
    }
    for path in entries {
        let target = to.join(path.file_name().unwrap_or_default());
        let meta = path.symlink_metadata().map_err(named(&path))?;
        if meta.is_symlink() {
            let link = fs::read_link(&path).map_err(named(&path))?;
            std::os::unix::fs::symlink(link, &target).map_err(named(&target))?;
        } else if meta.is_dir() {
            copy(&path, &target, number)?;
        } else {
            fs::copy(&path, &target).map_err(named(&path))?;
            let days = u64::try_from(number).unwrap_or_default() * 40;
            let then = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(86_400 * (10_000 + days));
            let file = fs::File::options().write(true).open(&target).map_err(named(&target))?;
            file.set_modified(then).map_err(named(&target))?;
        }
    }
    Ok(())
}

/// One build, in surroundings of its own.
fn build(tools: &Tools, root: &Path, place: &Path, number: usize) -> Outcome<Image> {
    let home = root.join(format!("home{number}"));
    let nix = root.join("nix");
    if nix.exists() {
        // Empty for each, and at one place: store paths are names, and names are in the image.
        writable(&nix)?;
        remove(&nix)?;
    }
    for folder in [&home, &nix.join("conf"), &nix.join("tmp")] {
        fs::create_dir_all(folder).map_err(|cause| format!("{}: {cause}", folder.display()))?;
    }
    fs::write(nix.join("conf/nix.conf"), NIX_CONF).map_err(|cause| format!("{}: {cause}", nix.display()))?;
    // A shell, for the umask.
    let umask = UMASKS[number % UMASKS.len()];
    let mut command: Command = tools.command(Path::new("/bin/sh"), place);
    command.args(["-c", &format!("umask {umask} && exec \"$@\""), "sh"]).arg(&tools.sealift);
    command.args(["build", "svc", "--format", "json"]);
    command.env("TZ", ZONES[number % ZONES.len()]).env("LANG", LOCALES[number % LOCALES.len()]);
    command.env("LC_ALL", LOCALES[number % LOCALES.len()]).env("HOME", &home).env("XDG_CONFIG_HOME", home.join("c"));
    command.env("NIX_REMOTE", "local").env("XDG_CACHE_HOME", home.join("cache")).env("TMPDIR", nix.join("tmp"));
    for (name, folder) in
        [("NIX_STORE_DIR", "store"), ("NIX_STATE_DIR", "state"), ("NIX_LOG_DIR", "log"), ("NIX_CONF_DIR", "conf")]
    {
        command.env(name, nix.join(folder));
    }
    let said = capture(&mut command)?;
    Image::read(&said)
}

/// Store paths are read-only, and a folder that cannot be written cannot be emptied.
fn writable(folder: &Path) -> Outcome {
    capture(Command::new("chmod").args(["-R", "u+w"]).arg(folder)).map(drop)
}
