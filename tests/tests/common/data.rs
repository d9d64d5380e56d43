//! Data sets of a project, a store behind them that can be emptied, and what must hold when all is well.

use super::network::{ACCESS, SECRET};
use domain::{Digest, secret::Secret};
use e2e::{Invocation, Project, Run, campaign::Random};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use store::{Location, Store};

/// The data sets of a [`Scene`]: a folder and a single file.
pub(crate) const SETS: [&str; 2] = ["data/raw", "data/one.bin"];

/// Limits under which a fault shows itself within seconds.
pub(crate) const QUICK: &str = "deadline = \"4s\"\nstall_timeout = \"1s\"";

/// Where the store of a scene is, seen without the program under test.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// `host:port` of the server itself.
    pub(crate) host: String,
    /// Bucket.
    pub(crate) bucket: String,
    /// Prefix of everything that the scene writes.
    pub(crate) prefix: String,
    /// Access key and secret key.
    pub(crate) keys: (String, String),
}

impl Place {
    /// The body of `[store]` that asks at `endpoint`, with more lines.
    pub(crate) fn section(&self, endpoint: &str, more: &str) -> String {
        format!(
            "bucket = \"{}\"\nprefix = \"{}\"\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n\
             access_key = \"env:STORE_ACCESS\"\nsecret_key = \"env:STORE_SECRET\"\n{more}",
            self.bucket, self.prefix
        )
    }
}

/// A server of our own at a port.
pub(crate) fn served(port: u16, prefix: &str) -> Place {
    Place {
        host: format!("127.0.0.1:{port}"),
        bucket: super::network::BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        keys: (ACCESS.to_owned(), SECRET.to_owned()),
    }
}

/// A project with data that was added and committed.
pub(crate) struct Scene {
    /// The project.
    pub(crate) project: Project,
    /// `None` is the embedded store in `.sealift/store`.
    pub(crate) place: Option<Place>,
    /// Its data sets, of [`SETS`].
    sets: &'static [&'static str],
    /// What the data must be.
    pub(crate) expected: BTreeMap<PathBuf, Entry>,
}

/// What lies at a path: kind and bits, and bytes or target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    /// A file: whether its owner may execute it, and its bytes.
    File(bool, Vec<u8>),
    /// A symbolic link.
    Link(PathBuf),
    /// A folder.
    Folder,
}

/// Everything below a folder, links not followed.
pub(crate) fn entries(folder: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let what = if meta.is_dir() {
                folders.push(path.clone());
                Entry::Folder
            } else if meta.is_symlink() {
                Entry::Link(fs::read_link(&path).unwrap())
            } else {
                Entry::File(meta.permissions().mode() & 0o100 != 0, fs::read(&path).unwrap())
            };
            found.insert(path.strip_prefix(folder).unwrap().to_owned(), what);
        }
    }
    found
}

impl Scene {
    /// With a store at `place`, asked at `endpoint`; without either, in `.sealift/store`.
    pub(crate) fn new(random: &mut Random, place: Option<(Place, &str, &str)>) -> Self {
        Self::with(random, place, &SETS)
    }

    /// With one data set of small files only: few requests, few bytes.
    pub(crate) fn small(random: &mut Random, place: Option<(Place, &str, &str)>) -> Self {
        Self::with(random, place, &SETS[..1])
    }

    fn with(random: &mut Random, place: Option<(Place, &str, &str)>, sets: &'static [&'static str]) -> Self {
        let project = Project::empty();
        let store = place.as_ref().map(|(place, endpoint, more)| place.section(endpoint, more));
        let mut scene = Self { project, place: place.map(|(place, ..)| place), sets, expected: BTreeMap::new() };
        scene.configure(store.as_deref());
        scene.project.write(".gitignore", "/.sealift/\n");
        scene.write(random);
        scene.run(&["data", "add"]).ok();
        scene.project.commit("data");
        scene
    }

    /// Writes `Sealift.toml` with this body of `[store]`.
    pub(crate) fn configure(&self, store: Option<&str>) {
        let store = store.map(|body| format!("[store]\n{body}\n\n")).unwrap_or_default();
        let mut text = format!("[project]\nname = \"fixture\"\n\n{store}");
        for (name, path) in ["raw", "one"].iter().zip(self.sets) {
            text.push_str(&format!("[data.{name}]\npath = \"{path}\"\n\n"));
        }
        self.project.write("Sealift.toml", text);
    }

    /// Writes data of every kind in place of what was there.
    pub(crate) fn write(&mut self, random: &mut Random) {
        let project = &self.project;
        let _ = fs::remove_dir_all(project.path(SETS[0]));
        for index in 0..20 {
            let length = 1 + random.below(6_000) as usize;
            project.write(&format!("data/raw/small/{index:02}.csv"), random.bytes(length));
        }
        project.write("data/raw/empty", "");
        project.write("data/raw/run.sh", random.bytes(100));
        fs::set_permissions(project.path("data/raw/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(project.path("data/raw/nothing")).unwrap();
        std::os::unix::fs::symlink("small/00.csv", project.path("data/raw/link")).unwrap();
        if self.sets.len() > 1 {
            // More than one chunk, and a data set that is a file.
            project.write("data/raw/large.bin", random.bytes(400_000));
            project.write(SETS[1], random.bytes(150_000));
        }
        self.expected = self.data();
    }

    /// The data as it is now.
    pub(crate) fn data(&self) -> BTreeMap<PathBuf, Entry> {
        let mut all = entries(&self.project.path("data"));
        all.retain(|path, _| !path.ends_with(".gitignore") && !path.to_string_lossy().ends_with(".snapshot.toml"));
        all
    }

    /// A command line with the credentials of the store.
    pub(crate) fn sealift(&self, line: &[&str]) -> Invocation {
        let invocation = self.project.sealift(line);
        match &self.place {
            Some(place) => invocation.env("STORE_ACCESS", &place.keys.0).env("STORE_SECRET", &place.keys.1),
            None => invocation,
        }
    }

    /// Runs it.
    #[must_use = "a run says nothing until it is asked: ok(), fails(code)"]
    #[track_caller]
    pub(crate) fn run(&self, line: &[&str]) -> Run {
        self.sealift(line).run()
    }

    /// The store itself, past every proxy and past the program under test.
    pub(crate) fn store(&self) -> Store {
        let location = match &self.place {
            None => Location::Embedded { directory: self.project.store_folder() },
            Some(place) => Location::S3 {
                bucket: place.bucket.clone(),
                prefix: place.prefix.clone(),
                endpoint: Some(format!("http://{}", place.host)),
                region: Some("us-east-1".to_owned()),
                credentials: Some((place.keys.0.clone(), Secret::new(place.keys.1.clone()))),
            },
        };
        self.project.block_on(Store::open(&location)).expect("the store opens")
    }

    /// The pointer files' texts.
    pub(crate) fn pointers(&self) -> Vec<String> {
        self.sets.iter().map(|set| self.project.read(&format!("{set}.snapshot.toml"))).collect()
    }

    /// Writes the pointer files.
    pub(crate) fn point(&self, texts: &[String]) {
        for (set, text) in self.sets.iter().zip(texts) {
            self.project.write(&format!("{set}.snapshot.toml"), text);
        }
    }

    /// The keys of data in the store.
    pub(crate) fn keys(&self) -> Vec<String> {
        let store = self.store();
        let mut all = Vec::new();
        for prefix in ["packs/", "layouts/", "snapshots/"] {
            let page = self.project.block_on(store.objects().list(prefix, None)).expect("the store is listed");
            assert!(!page.more, "a scene has few objects");
            all.extend(page.entries.into_iter().map(|(key, _)| key));
        }
        all
    }

    /// Removes the data from the store.
    pub(crate) fn empty_store(&self) {
        let store = self.store();
        for key in self.keys() {
            self.project.block_on(store.objects().delete(&key)).expect("an object is deleted");
        }
    }

    /// Removes the data here and the cache: what is left is the pointers.
    pub(crate) fn forget(&self) {
        let _ = fs::remove_dir_all(self.project.path(".sealift/cache"));
        self.remove_data();
    }

    /// Removes the data here.
    pub(crate) fn remove_data(&self) {
        let _ = fs::remove_dir_all(self.project.path(SETS[0]));
        let _ = fs::remove_file(self.project.path(SETS[1]));
    }

    /// The data is what it must be, bit for bit, and nothing temporary is left beside it or in the cache.
    #[track_caller]
    pub(crate) fn whole(&self) {
        let found = self.data();
        let differ: Vec<_> = self
            .expected
            .keys()
            .chain(found.keys())
            .filter(|path| self.expected.get(*path) != found.get(*path))
            .collect();
        assert!(differ.is_empty(), "the data is not what was added: {differ:?}");
        self.tidy();
    }

    /// What is here of the data is what it must be, or what one of `others` says, or not yet here. Where a checkout tries out what
    /// the file system can, which is never part of a snapshot, a killed one may leave its folder: [`Self::whole`] demands that the
    /// next removes it.
    #[track_caller]
    pub(crate) fn not_torn(&self, others: &[&BTreeMap<PathBuf, Entry>]) {
        let data = self.data().into_iter();
        // Where the data is not there yet, it is tried out beside it.
        let tried =
            |path: &Path| path.starts_with("raw/.sealift-tmp") || path.to_string_lossy().starts_with(".sealift-tmp-");
        for (path, entry) in data.filter(|(path, _)| !tried(path)) {
            let known = others.iter().any(|other| other.get(&path) == Some(&entry));
            assert!(known || self.expected.get(&path) == Some(&entry), "{} is torn", path.display());
        }
    }

    /// Everything is in the store and whole by itself: nothing had to be sent again, as a verification does when it can.
    #[track_caller]
    pub(crate) fn verified(&self) {
        let run = self.run(&["data", "verify"]).ok();
        let mended = format!("{}{}", run.stdout, run.stderr).contains("sent again");
        assert!(!mended, "the store lacked something, or had it damaged: {}", run.told());
    }

    /// Whatever damaged bytes came: none of them is in the cache under the name of what it should be.
    #[track_caller]
    pub(crate) fn nothing_false_is_cached(&self) {
        for (path, entry) in entries(&self.project.path(".sealift/cache/data/packs")) {
            let Entry::File(_, bytes) = entry else { continue };
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            assert!(Digest::of(&bytes).hex() == name, "the cache holds other bytes than its pack {name} has");
        }
    }

    /// Nothing temporary is left in the repository or the cache.
    #[track_caller]
    pub(crate) fn tidy(&self) {
        let left = temporaries(&self.project.path(".sealift/cache"));
        assert!(left.is_empty(), "temporaries are left in the cache: {left:?}");
        let data = entries(self.project.root());
        let left: Vec<_> = data
            .keys()
            .filter(|path| !path.starts_with(".sealift") && !path.starts_with(".git"))
            .filter(|path| path.components().any(|part| is_temporary(&part.as_os_str().to_string_lossy())))
            .collect();
        assert!(left.is_empty(), "temporaries are left in the repository: {left:?}");
    }
}

fn is_temporary(name: &str) -> bool {
    name.starts_with(".sealift-") || name.starts_with(".tmp") || name.starts_with("checkout-")
}

/// What lies in a folder `tmp` below `folder`.
pub(crate) fn temporaries(folder: &Path) -> Vec<PathBuf> {
    let inside = |path: &PathBuf| path.iter().rev().skip(1).any(|part| part == "tmp");
    entries(folder).into_keys().filter(inside).collect()
}

/// A server's folder holds no upload in parts that is open, and no temporary of a process that is gone.
#[track_caller]
pub(crate) fn server_is_tidy(folder: &Path) {
    let open = open_uploads(folder);
    assert!(open.is_empty(), "uploads in parts are open: {open:?}");
    let left: Vec<PathBuf> =
        temporaries(folder).into_iter().filter(|path| !path.ends_with("lock") && path.iter().count() > 2).collect();
    assert!(left.is_empty(), "temporaries are left in the store: {left:?}");
    // One of the server that runs now; those of dead ones were cleared when it first wrote.
    let sessions = fs::read_dir(folder.join("tmp")).into_iter().flatten().count();
    assert!(sessions <= 1, "{sessions} sessions are left in the store");
}

/// The uploads in parts that are open in a server's folder.
pub(crate) fn open_uploads(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder.join("uploads")).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}
