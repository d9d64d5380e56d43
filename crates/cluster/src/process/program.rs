//! From an image's command to a program that this host can execute.

use crate::{Error, ImageEntry, Result, values};
use domain::workload::Workload;
use std::{
    collections::VecDeque,
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Component, Path, PathBuf},
};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is to be executed.
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) directory: PathBuf,
}

/// Finds the program of a workload in its root file system, or on the host when it has none.
pub(super) fn find(
    workload: &Workload,
    entry: Option<&ImageEntry>,
    rootfs: &Path,
    place_of: &dyn Fn(&str) -> Option<String>,
) -> Result<Program> {
    let refuse = |why: String| Error::refused(&workload.place, why);
    let own = entry.map(|entry| [entry.entrypoint.clone(), entry.cmd.clone()].concat()).unwrap_or_default();
    let words = workload.command.clone().unwrap_or(own);
    let words: Vec<String> = words
        .iter()
        .map(|word| values::fill(word, workload.host_port, place_of))
        .collect::<std::result::Result<_, _>>()
        .map_err(|why| refuse(format!("its command: {why}")))?;
    let Some((name, arguments)) = words.split_first() else {
        return Err(refuse("neither the image nor the configuration names a command".to_owned()));
    };
    let workdir = entry.map(|entry| entry.workdir.as_str()).filter(|dir| !dir.is_empty()).unwrap_or("/");
    let directory = inside(rootfs, workdir).filter(|dir| dir.is_dir()).unwrap_or_else(|| rootfs.to_owned());
    let is_mount = workload.mounts.iter().any(|mount| place_of(&mount.path).as_deref() == Some(name));
    let path = match entry {
        _ if is_mount => PathBuf::from(name),
        Some(entry) => lookup(name, entry, workdir, rootfs)
            .ok_or_else(|| refuse(format!("there is no program {name} in the image")))?,
        None if Path::new(name).is_absolute() => PathBuf::from(name),
        None => return Err(refuse(format!("without an image its program must be an absolute path, not {name}"))),
    };
    check_form(&path, name).map_err(refuse)?;
    check_loader(&path, name, rootfs).map_err(refuse)?;
    Ok(Program { path, arguments: arguments.to_vec(), directory })
}

fn lookup(name: &str, entry: &ImageEntry, workdir: &str, rootfs: &Path) -> Option<PathBuf> {
    let file = |path: &str| inside(rootfs, path).filter(|path| path.is_file());
    if name.starts_with('/') {
        return file(name);
    }
    if name.contains('/') {
        return file(&format!("{workdir}/{name}"));
    }
    let path = entry.env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':').find_map(|dir| file(&format!("{dir}/{name}")))
}

/// Follows a path with `rootfs` as `/`: symlinks and `..` never lead out of it. `None` if it does not exist.
fn inside(rootfs: &Path, path: &str) -> Option<PathBuf> {
    let mut todo: VecDeque<PathBuf> = parts(Path::new(path));
    let mut reached = PathBuf::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part.as_os_str() == ".." {
            reached.pop();
            continue;
        }
        let next = rootfs.join(&reached).join(&part);
        if std::fs::symlink_metadata(&next).ok()?.is_symlink() {
            links += 1;
            if links > 40 {
                return None;
            }
            let target = std::fs::read_link(&next).ok()?;
            if target.is_absolute() {
                reached = PathBuf::new();
            }
            for part in parts(&target).into_iter().rev() {
                todo.push_front(part);
            }
        } else {
            reached.push(part);
        }
    }
    Some(rootfs.join(reached))
}

fn parts(path: &Path) -> VecDeque<PathBuf> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(PathBuf::from(name)),
            Component::ParentDir => Some(PathBuf::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// A program that needs a loader or an interpreter can only run if the host has it and the image does not bring its own:
/// the libraries beside it would not be the ones that it was built with.
fn check_loader(path: &Path, name: &str, rootfs: &Path) -> std::result::Result<(), String> {
    let Some(loader) = loader(path).map_err(|error| format!("{name} cannot be read: {error}"))? else {
        return Ok(());
    };
    let in_image = inside(rootfs, &loader).is_some_and(|path| path.is_file());
    let on_host = Path::new(&loader).is_file();
    let advice = "the process target runs programs on the host's own file system, so build it statically or use the docker target";
    match (in_image, on_host) {
        (true, _) => Err(format!("{name} needs {loader}, which comes with the image; {advice}")),
        (false, false) => {
            Err(format!("{name} needs {loader}, which is neither in the image nor on this host; {advice}"))
        }
        (false, true) => Ok(()),
    }
}

/// The C library hands a file that the kernel does not know to `sh`. An image for another machine must not end as a shell
/// script that says nonsense, so what cannot be executed is found here.
fn check_form(path: &Path, name: &str) -> std::result::Result<(), String> {
    let head = |path: &Path| -> std::io::Result<Vec<u8>> {
        let mut head = Vec::new();
        File::open(path)?.take(20).read_to_end(&mut head)?;
        Ok(head)
    };
    let found = head(path).map_err(|error| format!("{name} cannot be read: {error}"))?;
    if found.starts_with(b"#!") {
        return Ok(());
    }
    if !found.starts_with(b"\x7fELF") {
        return Err(format!("{name} cannot be executed: it is neither a program (ELF) nor a script (#!)"));
    }
    // Bytes 18 and 19 are the machine; ours is that of the program that runs this.
    match head(Path::new("/proc/self/exe")) {
        Ok(own) if own.get(18..20) != found.get(18..20) => {
            Err(format!("{name} cannot be executed: it is a program for another kind of machine"))
        }
        _ => Ok(()),
    }
}

/// The ELF interpreter, or that of a script.
fn loader(path: &Path) -> std::io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    (&mut file).take(256).read_to_end(&mut head)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = String::from_utf8_lossy(line.split(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned();
        return Ok(line.split_whitespace().next().map(str::to_owned));
    }
    Ok(elf_loader(&file, &head))
}

/// Segment type 3 (PT_INTERP) of an ELF file, little-endian as every system that we run on (System V ABI, "Program Header").
fn elf_loader(file: &File, head: &[u8]) -> Option<String> {
    if !head.starts_with(b"\x7fELF") || head.get(5) != Some(&1) {
        return None;
    }
    let wide = head.get(4) == Some(&2);
    let number = |bytes: &[u8], at: usize, width: usize| -> Option<u64> {
        let slice = bytes.get(at..at + width)?;
        Some(slice.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let (table, size, count) = if wide {
        (number(head, 32, 8)?, number(head, 54, 2)?, number(head, 56, 2)?)
    } else {
        (number(head, 28, 4)?, number(head, 42, 2)?, number(head, 44, 2)?)
    };
    for index in 0..count {
        let mut entry = vec![0; usize::try_from(size).ok()?];
        file.read_exact_at(&mut entry, table + index * size).ok()?;
        if number(&entry, 0, 4)? != 3 {
            continue;
        }
        let (offset, length) = if wide {
            (number(&entry, 8, 8)?, number(&entry, 32, 8)?)
        } else {
            (number(&entry, 4, 4)?, number(&entry, 16, 4)?)
        };
        let mut text = vec![0; usize::try_from(length.min(4096)).ok()?];
        file.read_exact_at(&mut text, offset).ok()?;
        return Some(String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_of_the_image_stay_in_the_image() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("opt/app")).unwrap();
        std::fs::write(root.path().join("opt/app/wine"), "x").unwrap();
        symlink("/opt/app/wine", root.path().join("wine")).unwrap();
        symlink("../../../../../etc", root.path().join("opt/out")).unwrap();
        symlink("loop", root.path().join("loop")).unwrap();
        assert_eq!(inside(root.path(), "/wine"), Some(root.path().join("opt/app/wine")));
        assert_eq!(inside(root.path(), "/../opt/./app"), Some(root.path().join("opt/app")));
        assert_eq!(inside(root.path(), "/opt/out/passwd"), None);
        assert_eq!(inside(root.path(), "/loop"), None);
    }

    #[test]
    fn a_loader_of_the_image_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let script = root.path().join("run.py");
        std::fs::write(&script, "#!/usr/bin/nowhere-python -u\n").unwrap();
        let why = check_loader(&script, "/run.py", root.path()).unwrap_err();
        assert!(why.contains("/usr/bin/nowhere-python") && why.contains("neither"), "{why}");
        std::fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        std::fs::write(root.path().join("usr/bin/nowhere-python"), "").unwrap();
        let why = check_loader(&script, "/run.py", root.path()).unwrap_err();
        assert!(why.contains("comes with the image") && why.contains("docker target"), "{why}");
    }

    #[test]
    fn the_loader_of_this_test_is_found() {
        let found = loader(&std::env::current_exe().unwrap()).unwrap();
        assert!(found.is_none_or(|path| path.starts_with('/')));
    }
}
