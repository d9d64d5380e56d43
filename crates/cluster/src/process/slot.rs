//! One slot: its directory and what runs from it.

use super::{
    WORKLOAD_UID,
    live::{self, Identity, Launch, Marked},
    program, tree,
};
use crate::{Error, ImageEntry, Part, Policy, Result, error, port, values};
use domain::{
    Digest,
    workload::{Place, Relaxation, SlotState, Workload},
};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long the system may take to end a process after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How often a process that is to end is looked at.
const GLANCE: Duration = Duration::from_millis(10);
/// A log that is longer than this when the program is started again becomes `log.1`.
const LOG_LIMIT: u64 = 16 << 20;

/// What is remembered of a slot: `state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    workload: Workload,
    epoch: u64,
    entry: Option<ImageEntry>,
    /// The last process that was started.
    process: Option<Identity>,
    /// How we ended it.
    ended: Option<String>,
}

/// `exit.json`: how a process ended, written by whoever started it.
#[derive(Debug, Serialize, Deserialize)]
struct Exit {
    process: Identity,
    how: String,
}

/// A slot's directory, which may not exist.
pub(super) struct SlotDir {
    place: Place,
    dir: PathBuf,
    /// The root as it was configured, before symlinks were resolved.
    root: PathBuf,
}

impl SlotDir {
    /// The slot of a place under `root`. Symlinks in `root` are resolved, so that the mark of a process is the same for all.
    pub(super) fn open(root: &Path, place: Place) -> Result<Self> {
        let absolute = std::path::absolute(root).map_err(Error::file("resolve", root))?;
        let resolved = fs::canonicalize(&absolute).unwrap_or_else(|_| absolute.clone());
        let parts = [&place.project, &place.environment, &place.component].map(|name| name.as_str());
        let dir = resolved.join(parts.join("/")).join(place.slot.to_string());
        Ok(Self { place, dir, root: absolute })
    }

    fn record(&self) -> Result<Option<Record>> {
        read_json(&self.dir.join("state.json"))
    }

    fn write(&self, record: &Record) -> Result<()> {
        let path = self.dir.join("state.json");
        tree::write(&path, &json(&path, record)?)
    }

    /// The program that runs in this slot: the recorded one, or one that was started and not yet recorded.
    fn running(&self, record: Option<&Record>) -> Option<Running> {
        if let Some(process) = record.and_then(|record| record.process.clone()).filter(Identity::alive) {
            return Some(Running { process, marked: None });
        }
        let leader = live::marked(&self.dir).into_iter().find(|process| process.leads)?;
        Some(Running { process: leader.identity.clone(), marked: Some(leader) })
    }

    pub(super) fn observe(&self) -> Result<SlotState> {
        let record = self.record()?;
        if let Some(running) = self.running(record.as_ref()) {
            let (release_digest, epoch) = running.content(record.as_ref()).ok_or_else(|| self.unknown(&running))?;
            return Ok(SlotState::Running { release_digest, epoch, id: running.process.pid.to_string() });
        }
        Ok(match record {
            None => SlotState::Empty,
            Some(record) => SlotState::Stopped {
                release_digest: record.workload.release_digest,
                epoch: record.epoch,
                ended: self.ended(&record)?,
            },
        })
    }

    fn unknown(&self, running: &Running) -> Error {
        let why =
            format!("process {} runs from its directory and does not say which release it is", running.process.pid);
        Error::Stuck { place: self.place.to_string(), why }
    }

    /// How the last process ended; `None` if none was ever started.
    fn ended(&self, record: &Record) -> Result<Option<String>> {
        let Some(process) = &record.process else { return Ok(None) };
        if record.ended.is_some() {
            return Ok(record.ended.clone());
        }
        let exit: Option<Exit> = read_json(&self.dir.join("exit.json"))?;
        let seen = exit.filter(|exit| exit.process == *process).map(|exit| exit.how);
        Ok(Some(seen.unwrap_or_else(|| "ended while nobody watched".to_owned())))
    }

    pub(super) fn prepare(
        &self,
        workload: Workload,
        epoch: u64,
        image: Option<(PathBuf, ImageEntry)>,
        mounts: &[(String, PathBuf)],
    ) -> Result<()> {
        let old = self.record()?;
        if let Some(old) = &old {
            error::fence(&self.place, epoch, old.epoch)?;
        }
        if let Some(running) = self.running(old.as_ref()) {
            let (found, _) = running.content(old.as_ref()).ok_or_else(|| self.unknown(&running))?;
            if found == workload.release_digest {
                return Ok(());
            }
            return Err(Error::Occupied { place: self.place.to_string(), release: found.short() });
        }
        self.check_reachable(&workload)?;
        values::secrets(&workload)?; // read and forgotten: a missing one is found now
        let fresh = self.dir.with_file_name(format!(".{}.new", self.place.slot));
        tree::remove(&fresh)?;
        tree::make_dirs(&fresh)?;
        self.fill(&fresh, &workload, image.as_ref(), mounts)?;
        let record =
            Record { version: 1, entry: image.map(|(_, entry)| entry), workload, epoch, process: None, ended: None };
        let state = fresh.join("state.json");
        tree::write(&state, &json(&state, &record)?)?;
        // The paths are judged as they will be, in the slot's own directory.
        let stale = self.dir.with_file_name(format!(".{}.old", self.place.slot));
        tree::remove(&stale)?;
        if self.dir.exists() {
            fs::rename(&self.dir, &stale).map_err(Error::file("move", &self.dir))?;
        }
        fs::rename(&fresh, &self.dir).map_err(Error::file("move", &fresh))?;
        self.dir.parent().map_or(Ok(()), tree::sync)?;
        tree::remove(&stale)
    }

    /// The user that the workload will run as can get to its slot.
    fn check_reachable(&self, workload: &Workload) -> Result<()> {
        let Some(folder) = user(workload).and_then(|user| tree::blocked_for(user, &self.dir)) else { return Ok(()) };
        let why = format!(
            "uid {WORKLOAD_UID}, which it runs as, cannot enter {}; keep the environment's root elsewhere",
            folder.display()
        );
        Err(Error::refused(&self.place, why))
    }

    fn fill(
        &self,
        fresh: &Path,
        workload: &Workload,
        image: Option<&(PathBuf, ImageEntry)>,
        mounts: &[(String, PathBuf)],
    ) -> Result<()> {
        let rootfs = fresh.join("rootfs");
        let writable = workload.relax.contains(&Relaxation::WritableRoot);
        match image {
            Some((dir, _)) => tree::copy(dir, &rootfs, writable, user(workload).filter(|_| writable))?,
            None => tree::make_dirs(&rootfs)?,
        }
        for (index, mount) in workload.mounts.iter().enumerate() {
            let Some((_, source)) = mounts.iter().find(|(path, _)| *path == mount.path) else {
                return Err(Error::refused(
                    &self.place,
                    format!("no file was given for {} at {}", mount.what, mount.path),
                ));
            };
            let target = mount_path(fresh, index, &mount.path);
            target.parent().map_or(Ok(()), tree::make_dirs)?;
            tree::copy_file(source, &target, false)?;
        }
        let environment = values::environment(workload, workload.host_port, &self.mount_places(workload))?;
        drop(environment); // only whether it can be filled
        program::find(workload, image.map(|(_, entry)| entry), &rootfs, &mount_places(fresh, workload)).map(drop)
    }

    /// Where a mount of the workload lies in this slot.
    fn mount_places(&self, workload: &Workload) -> impl Fn(&str) -> Option<String> + use<> {
        mount_places(&self.dir, workload)
    }

    pub(super) fn start(&self, workload: &Workload, epoch: u64) -> Result<()> {
        let Some(mut record) = self.record()? else { return Err(Error::nothing(&self.place)) };
        error::fence(&self.place, epoch, record.epoch)?;
        error::same_release(&self.place, &workload.release_digest, &record.workload.release_digest)?;
        if let Some(running) = self.running(Some(&record)) {
            record.process = Some(running.process);
            record.ended = None;
            return self.write(&record);
        }
        self.end(&live::marked(&self.dir), Signal::KILL)?; // what a dead program left behind
        let launch = self.launch(workload, &record)?;
        if let Some(why) = port::taken(&workload.host, workload.host_port) {
            return Err(Error::refused(&self.place, why));
        }
        let program = launch.program.clone();
        let dir = self.dir.clone();
        let process = live::launch(launch, move |process, how| {
            let path = dir.join("exit.json");
            // Best effort: without it the end is known and only its manner is not.
            let _ = json(&path, &Exit { process: process.clone(), how }).and_then(|bytes| tree::write(&path, &bytes));
        })
        .map_err(|error| Error::refused(&self.place, format!("{} cannot be executed: {error}", program.display())))?;
        record.process = Some(process.clone());
        record.ended = None;
        if let Err(error) = self.write(&record) {
            let _ = process.signal(Signal::KILL);
            return Err(error);
        }
        self.assert_policy(workload, epoch, &process)
    }

    fn launch(&self, workload: &Workload, record: &Record) -> Result<Launch> {
        self.check_reachable(workload)?;
        let user = user(workload);
        let places = self.mount_places(workload);
        let program = program::find(workload, record.entry.as_ref(), &self.dir.join("rootfs"), &places)?;
        let temporary = self.dir.join("tmp");
        tree::remove(&temporary)?;
        fs::create_dir(&temporary).map_err(Error::file("create", &temporary))?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o700))
            .map_err(Error::file("change", &temporary))?;
        tree::own(&temporary, user)?;
        let mut environment: BTreeMap<String, String> = BTreeMap::new();
        for variable in record.entry.iter().flat_map(|entry| &entry.env) {
            if let Some((name, value)) = variable.split_once('=') {
                environment.insert(name.to_owned(), value.to_owned());
            }
        }
        environment.insert("TMPDIR".to_owned(), temporary.display().to_string());
        environment.extend(values::environment(workload, workload.host_port, &places)?);
        let secrets = values::secrets(workload)?;
        environment.extend(secrets.into_iter().map(|(name, secret)| (name, secret.reveal().to_owned())));
        environment.extend(self.marks(record));
        let output = self.log()?;
        let errors = output.try_clone().map_err(Error::file("open", self.dir.join("log")))?;
        Ok(Launch {
            program: program.path,
            arguments: program.arguments,
            environment,
            directory: program.directory,
            output,
            errors,
            user,
            new_privileges: workload.relax.contains(&Relaxation::NewPrivileges),
            capabilities: workload.relax.contains(&Relaxation::DefaultCapabilities),
            memory: workload.memory,
        })
    }

    /// The variables by which a process is found again and says what it is.
    fn marks(&self, record: &Record) -> [(String, String); 6] {
        [
            (live::MARK.to_owned(), self.dir.display().to_string()),
            // For people and programs that know only the path in the configuration, which may be a symlink.
            ("SEALIFT_ROOT".to_owned(), self.root.display().to_string()),
            ("SEALIFT_PLACE".to_owned(), self.place.to_string()),
            ("SEALIFT_RELEASE".to_owned(), record.workload.release.to_string()),
            ("SEALIFT_RELEASE_DIGEST".to_owned(), record.workload.release_digest.to_string()),
            ("SEALIFT_EPOCH".to_owned(), record.epoch.to_string()),
        ]
    }

    fn log(&self) -> Result<File> {
        let path = self.dir.join("log");
        if fs::metadata(&path).is_ok_and(|data| data.len() > LOG_LIMIT) {
            fs::rename(&path, self.dir.join("log.1")).map_err(Error::file("move", &path))?;
        }
        OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(Error::file("open", &path))
    }

    fn assert_policy(&self, workload: &Workload, epoch: u64, process: &Identity) -> Result<()> {
        if !process.alive() {
            return Ok(()); // it ended at once: that is found by `alive`, with its last words
        }
        let deviations = self.policy(workload, process).deviations(workload);
        if deviations.is_empty() || !process.alive() {
            return Ok(());
        }
        self.stop(epoch, Duration::ZERO)?;
        Err(Error::Policy { place: self.place.to_string(), deviations })
    }

    /// Ends all these processes and waits until they are gone.
    fn end(&self, processes: &[Marked], signal: Signal) -> Result<()> {
        for process in processes {
            process.identity.signal(signal).map_err(|error| self.unstoppable(&process.identity, &error.to_string()))?;
        }
        let deadline = Instant::now() + KILL_PATIENCE;
        while let Some(process) = processes.iter().find(|process| process.identity.alive()) {
            if Instant::now() > deadline {
                return Err(self.unstoppable(&process.identity, "it still runs"));
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn unstoppable(&self, process: &Identity, why: &str) -> Error {
        Error::Stuck { place: self.place.to_string(), why: format!("process {} cannot be ended: {why}", process.pid) }
    }

    /// Refuses a writer that is older than what is in the slot, or than what runs from it.
    fn fence(&self, epoch: u64, record: Option<&Record>, running: Option<&Running>) -> Result<()> {
        let started = running.and_then(|running| running.content(record)).map(|(_, epoch)| epoch);
        let newest = record.map(|record| record.epoch).max(started);
        newest.map_or(Ok(()), |found| error::fence(&self.place, epoch, found))
    }

    pub(super) fn stop(&self, epoch: u64, timeout: Duration) -> Result<()> {
        let record = self.record()?;
        let running = self.running(record.as_ref());
        self.fence(epoch, record.as_ref(), running.as_ref())?;
        let Some(running) = running else {
            return self.end(&live::marked(&self.dir), Signal::KILL);
        };
        let process = running.process;
        process.signal(Signal::TERM).map_err(|error| self.unstoppable(&process, &error.to_string()))?;
        let deadline = Instant::now() + timeout;
        while process.alive() && Instant::now() < deadline {
            std::thread::sleep(GLANCE);
        }
        let ended = if process.alive() {
            process.signal(Signal::KILL).map_err(|error| self.unstoppable(&process, &error.to_string()))?;
            format!("killed: SIGTERM did not end it within {:.1} s", timeout.as_secs_f64())
        } else {
            "stopped by SIGTERM".to_owned()
        };
        // What it started ends with it, as in a container.
        self.end(&live::marked(&self.dir), Signal::KILL)?;
        let deadline = Instant::now() + KILL_PATIENCE;
        while process.alive() {
            if Instant::now() > deadline {
                return Err(self.unstoppable(&process, "SIGKILL did not end it"));
            }
            std::thread::sleep(GLANCE);
        }
        match record {
            Some(mut record) => {
                record.process = Some(process);
                record.ended = Some(ended);
                self.write(&record)
            }
            None => Ok(()),
        }
    }

    pub(super) fn remove(&self, epoch: u64) -> Result<()> {
        self.stop(epoch, Duration::ZERO)?;
        // First out of the way, so that a crash leaves no half of a slot.
        let stale = self.dir.with_file_name(format!(".{}.old", self.place.slot));
        tree::remove(&stale)?;
        match fs::rename(&self.dir, &stale) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("move", &self.dir)(error));
            }
            _ => {}
        }
        tree::remove(&stale)?;
        tree::remove(&self.dir.with_file_name(format!(".{}.new", self.place.slot)))
    }

    pub(super) fn logs(&self, lines: usize) -> Result<Vec<String>> {
        let path = self.dir.join("log");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::file("open", path)(error)),
        };
        let length = file.metadata().map_err(Error::file("read", &path))?.len();
        let from = length.saturating_sub(1 << 20);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(from))
            .and_then(|_| file.take(1 << 20).read_to_end(&mut bytes))
            .map_err(Error::file("read", &path))?;
        let text = String::from_utf8_lossy(&bytes);
        let mut all: Vec<String> = text.lines().map(str::to_owned).collect();
        Ok(all.split_off(all.len().saturating_sub(lines)))
    }

    pub(super) fn alive(&self) -> Result<Option<String>> {
        let record = self.record()?;
        if self.running(record.as_ref()).is_some() {
            return Ok(None);
        }
        let Some(record) = record else { return Ok(Some("nothing is there".to_owned())) };
        let Some(mut how) = self.ended(&record)? else { return Ok(Some("it was never started".to_owned())) };
        let last = self.logs(3)?;
        if !last.is_empty() {
            how = format!("{how}; it last printed: {}", last.join(" | "));
        }
        Ok(Some(how))
    }

    pub(super) fn inspect_policy(&self) -> Result<Policy> {
        let record = self.record()?;
        match (self.running(record.as_ref()), record) {
            (Some(running), Some(record)) => Ok(self.policy(&record.workload, &running.process)),
            (Some(running), None) => Err(self.unknown(&running)),
            (None, Some(_)) => {
                let found = "a stopped process, which has no policy".to_owned();
                Err(Error::NotPrepared { place: self.place.to_string(), found })
            }
            (None, None) => Err(Error::nothing(&self.place)),
        }
    }

    fn policy(&self, workload: &Workload, process: &Identity) -> Policy {
        let uid = process.status("Uid").and_then(|ids| ids.split_whitespace().nth(1)?.parse::<u32>().ok());
        let capabilities = process.status("CapEff").and_then(|hex| u64::from_str_radix(&hex, 16).ok());
        let root = rustix::process::geteuid().is_root();
        let mut unenforced = vec![Part::Seccomp, Part::Pids];
        if !root || user(workload).is_none() {
            unenforced.push(Part::ReadonlyRoot);
        }
        Policy {
            user: uid.map_or_else(|| "unknown".to_owned(), |uid| format!("uid {uid}")),
            root: uid.is_none_or(|uid| uid == 0),
            readonly_root: uid.is_some_and(|uid| uid != 0 && !tree::writable(uid, &self.dir.join("rootfs"))),
            volumes: Vec::new(),
            capabilities: match capabilities {
                Some(0) => Vec::new(),
                Some(bits) => vec![format!("bits {bits:x}")],
                None => vec!["unknown".to_owned()],
            },
            no_new_privileges: process.status("NoNewPrivs").as_deref() == Some("1"),
            seccomp: process.status("Seccomp").as_deref() == Some("2"),
            memory: process.data_limit(),
            pids: None,
            unenforced,
        }
    }
}

/// What runs, and, if it is not the recorded process, what it carries.
struct Running {
    process: Identity,
    marked: Option<Marked>,
}

impl Running {
    /// Release and epoch, from the process itself where it is not the recorded one.
    fn content(&self, record: Option<&Record>) -> Option<(Digest, u64)> {
        if let Some(marked) = &self.marked {
            let digest = marked.variable("SEALIFT_RELEASE_DIGEST")?.parse().ok()?;
            return Some((digest, marked.variable("SEALIFT_EPOCH")?.parse().ok()?));
        }
        record.map(|record| (record.workload.release_digest, record.epoch))
    }
}

/// The user to become, when we are root and that is not relaxed.
fn user(workload: &Workload) -> Option<u32> {
    let drops = rustix::process::geteuid().is_root() && !workload.relax.contains(&Relaxation::RunAsRoot);
    drops.then_some(WORKLOAD_UID)
}

/// A mount keeps its file name, since programs look at extensions; the number keeps two of one name apart.
fn mount_path(slot: &Path, index: usize, inside: &str) -> PathBuf {
    let name = Path::new(inside).file_name().unwrap_or_default();
    slot.join("mounts").join(index.to_string()).join(name)
}

fn mount_places(slot: &Path, workload: &Workload) -> impl Fn(&str) -> Option<String> + use<> {
    let places: BTreeMap<String, String> = workload
        .mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| (mount.path.clone(), mount_path(slot, index, &mount.path).display().to_string()))
        .collect();
    move |path: &str| places.get(path).cloned()
}

fn json<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>> {
    let damaged = |error: serde_json::Error| Error::Damaged { path: path.to_owned(), why: error.to_string() };
    serde_json::to_vec_pretty(value).map_err(damaged)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::Damaged { path: path.to_owned(), why: error.to_string() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}
