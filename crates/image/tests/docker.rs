//! The `docker` builder against real engines (`SEALIFT_TEST_DOCKER` and `SEALIFT_TEST_DOCKER_NEWEST`, each `unix:///…`), by BuildKit and by the
//! classic builder. Engines that lie are in `docker_scripted.rs`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use bollard::query_parameters::{ListContainersOptions, PruneBuildOptions, RemoveImageOptions, TagImageOptions};
use common::{
    Lines, created,
    engines::{
        Kind, build, configuration, connect, engines, holds, labelled, load, none_secrets, remove, spec, until, uuid,
        with_shell, write_large,
    },
    oci, real, write,
};
use domain::{Class, Events, config::DockerBuild, secret::Secret, secret::SecretRef};
use image::{Built, Error};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

#[tokio::test]
async fn a_dockerfile_becomes_a_layout_and_the_same_sources_the_same_image() {
    for engine in engines().await {
        let version = image::docker_ping(Some(&engine.address)).await.unwrap();
        assert!(version.contains("API"), "{version}");
        let root = tempfile::tempdir().unwrap();
        let dockerfile = "FROM scratch AS first\nARG GREETING=none\nLABEL greeting=$GREETING\nCOPY hello /hello\nCOPY sub /sub\nENV A=b\nFROM first\nCOPY more /more\n";
        write(root.path(), "Dockerfile", dockerfile, 0o644);
        write(root.path(), ".dockerignore", "sub/*\n!sub/kept\n", 0o644);
        write(root.path(), "hello", "hello", 0o755);
        write(root.path(), "sub/kept", "kept", 0o644);
        write(root.path(), "sub/ignored", "ignored", 0o644);
        write(root.path(), "more", "more", 0o644);
        let mut spec = spec(&engine.address);
        spec.args.insert("GREETING".to_owned(), uuid());
        let labels = BTreeMap::from([("org.opencontainers.image.version".to_owned(), "1.0.0".to_owned())]);
        let (lines, none) = (Lines::default(), BTreeMap::new());
        let to = root.path().join("layout");
        let built = image::build_docker(&spec, root.path(), &labels, &none, &to, &lines.events()).await.unwrap();
        assert_eq!((built.layers.len(), built.index, built.platforms.len()), (3, None, 1), "{:?}", engine.kind);
        assert_eq!(built, Built { log_tail: built.log_tail.clone(), ..image::open(&to).unwrap() });
        let step = if engine.kind == Kind::Classic { "Step 1/" } else { "[stage-1 1/1] COPY more /more" };
        assert!(lines.all().iter().any(|line| line.starts_with(step)), "{:?}", lines.all());
        let by_buildkit = lines.all().iter().any(|line| line.contains("BuildKit of the Docker Engine"));
        assert_eq!(by_buildkit, engine.kind != Kind::Classic, "{:?}", lines.all());
        assert!(!built.log_tail.is_empty());
        let found = &configuration(&built)["config"]["Labels"];
        assert_eq!(found["greeting"], spec.args["GREETING"].as_str());
        assert_eq!((&found["team"], &found["org.opencontainers.image.version"]), (&"wine".into(), &"1.0.0".into()));
        assert!(found[image::BUILD_LABEL].as_str().is_some_and(|text| text.len() == 36), "{found}");
        let manifest = fs::read_to_string(to.join("blobs/sha256").join(built.manifest.hex())).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest["annotations"]["org.opencontainers.image.version"], "1.0.0", "{manifest}");
        let rootfs = root.path().join("rootfs");
        let unpacked = image::unpack(&built.layout, &rootfs, &image::Limits::default()).unwrap();
        assert!(unpacked.env.contains(&("A".to_owned(), "b".to_owned())));
        assert_eq!(fs::read_to_string(rootfs.join("hello")).unwrap(), "hello");
        assert_eq!(fs::read_to_string(rootfs.join("sub/kept")).unwrap(), "kept");
        assert!(!rootfs.join("sub/ignored").exists());
        // Again, from another folder: the engine's cache gives the same image, and so the same digests.
        let other = tempfile::tempdir().unwrap();
        for path in ["Dockerfile", ".dockerignore", "hello", "sub/kept", "sub/ignored", "more"] {
            let text = fs::read_to_string(root.path().join(path)).unwrap();
            write(other.path(), path, &text, if path == "hello" { 0o755 } else { 0o644 });
        }
        let to = other.path().join("layout");
        let again = image::build_docker(&spec, other.path(), &labels, &none, &to, &Events::nowhere()).await.unwrap();
        assert_eq!((again.manifest, again.config), (built.manifest, built.config), "{:?}", engine.kind);
        // Without the cache every step is done again.
        let (lines, to) = (Lines::default(), other.path().join("anew"));
        let anew = DockerBuild { no_cache: true, ..spec.clone() };
        let anew = image::build_docker(&anew, other.path(), &labels, &none, &to, &lines.events()).await.unwrap();
        let from_cache = |line: &String| line.ends_with(": cached") || line.contains("Using cache");
        assert!(!lines.all().iter().any(from_cache), "{:?}: {:?}", engine.kind, lines.all());
        assert_eq!(anew.layers[0], built.layers[0], "a file has no time of its own: {:?}", engine.kind);
        // A target stops before the last stage.
        spec.target = Some("first".to_owned());
        let to = root.path().join("first");
        let first = image::build_docker(&spec, root.path(), &labels, &none, &to, &Events::nowhere()).await.unwrap();
        assert_eq!(first.layers, anew.layers[..2]);
        remove(&engine.direct, &[&built, &anew, &first]).await;
    }
}

#[tokio::test]
async fn equal_layers_are_an_image_and_no_layers_are_bad_input() {
    for engine in engines().await {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "hello", &uuid(), 0o755);
        write(root.path(), "Dockerfile", "FROM scratch\nCOPY hello /a\nCOPY hello /a\n", 0o644);
        let to = tempfile::tempdir().unwrap();
        let built = build(&spec(&engine.address), root.path(), to.path()).await.unwrap();
        assert_eq!(built.layers.len(), 2);
        if engine.kind == Kind::Classic {
            assert_eq!(built.layers[0], built.layers[1]);
        }
        let mut archive = Vec::new();
        image::docker_archive(&built.layout, None, &mut archive).unwrap();
        load(&connect(&engine.direct), archive).await;
        remove(&engine.direct, &[&built]).await;
        write(root.path(), "Dockerfile", "FROM scratch\nLABEL nothing=inside\n", 0o644);
        let error = build(&spec(&engine.address), root.path(), to.path()).await.unwrap_err();
        assert!(error.to_string().contains("without a single file"), "{:?}: {error}", engine.kind);
        assert_eq!(error.class(), Class::BadInput);
    }
}

#[tokio::test]
async fn a_step_that_fails_is_named_with_its_line_and_the_last_lines() {
    for engine in engines().await {
        let root = tempfile::tempdir().unwrap();
        let dockerfile = "# a comment\nFROM scratch\n\nCOPY hello \\\n  # more\n  /hello\nCOPY nowhere /there\n";
        write(root.path(), "Dockerfile", dockerfile, 0o644);
        write(root.path(), "hello", &uuid(), 0o644);
        let to = root.path().join("layout");
        let error = build(&spec(&engine.address), root.path(), &to).await.unwrap_err();
        let Error::BuildFailed { step, at, cause, log } = &error else { panic!("{error:?}") };
        assert_eq!(error.class(), Class::BadInput);
        assert!(step.as_ref().is_some_and(|step| step.contains("COPY nowhere")), "{:?}: {error}", engine.kind);
        assert_eq!(at.as_deref(), Some("Dockerfile:7"), "{:?}: {error}", engine.kind);
        assert!(cause.contains("nowhere"), "{error}");
        assert!(!log.is_empty() && log.len() <= 20, "{log:?}");
        write(root.path(), "sub/Other", "FROM scratch\nNONSENSE\n", 0o644);
        let other = DockerBuild { dockerfile: "sub/Other".to_owned(), ..spec(&engine.address) };
        let error = build(&other, root.path(), &to).await.unwrap_err();
        assert_eq!(error.class(), Class::BadInput);
        assert!(error.to_string().to_lowercase().contains("nonsense"), "{error}");
        assert!(error.to_string().contains("at sub/Other:2"), "{:?}: {error}", engine.kind);
        assert!(!to.join("index.json").exists());
    }
}

#[tokio::test]
async fn a_command_that_fails_shows_what_it_printed() {
    for engine in engines().await {
        // The engine mixes the two outputs as they come, so both fit into what is kept whatever their order.
        let run =
            "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17; do echo line $n; done; echo it broke here >&2; exit 7";
        let dockerfile =
            format!("FROM scratch\nCOPY busybox /busybox\nRUN [\"/busybox\", \"sh\", \"-c\", \"{run}\"]\n");
        let Some(root) = with_shell(&dockerfile) else { return };
        let error = build(&spec(&engine.address), root.path(), &root.path().join("layout")).await.unwrap_err();
        let Error::BuildFailed { at, .. } = &error else { panic!("{error:?}") };
        assert_eq!(at.as_deref(), Some("Dockerfile:3"));
        assert!(error.to_string().contains("code: 7"), "{error}");
        let log = error.log_tail();
        assert!(log.len() >= 18 && log.len() <= 20, "{log:?}");
        assert!(
            log.iter().any(|line| line.contains("it broke here")) && log.iter().any(|line| line == "line 17"),
            "{log:?}"
        );
    }
}

/// Every file below a folder, as it is and with gzip undone.
fn everything(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in walk(folder) {
        let bytes = fs::read(&entry).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut plain = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&bytes[..]), &mut plain).unwrap();
            found.push((entry.clone(), plain));
        }
        found.push((entry, bytes));
    }
    found
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn a_secret_is_used_and_is_nowhere() {
    for engine in engines().await {
        let canary = format!("canary-{}", uuid());
        // The step sees it, prints it, and proves that it was there by its length alone.
        let run = "s=$(/busybox cat /run/secrets/token); echo printed $s; echo -n \"$s\" | /busybox wc -c > /length";
        let dockerfile = format!(
            "FROM scratch\nCOPY busybox /busybox\nSHELL [\"/busybox\", \"sh\", \"-c\"]\nARG SALT\nRUN --mount=type=secret,id=token {run}\n"
        );
        let Some(root) = with_shell(&dockerfile) else { return };
        let mut spec = spec(&engine.address);
        spec.args.insert("SALT".to_owned(), uuid());
        spec.secrets.insert("token".to_owned(), SecretRef::Env("TOKEN".to_owned()));
        let secrets = BTreeMap::from([("token".to_owned(), Secret::new(canary.clone()))]);
        let (lines, to, none) = (Lines::default(), root.path().join("layout"), BTreeMap::new());
        let events = lines.events();
        let building = image::build_docker(&spec, root.path(), &none, &secrets, &to, &events);
        if engine.kind == Kind::Classic {
            let error = building.await.unwrap_err();
            assert_eq!(error.class(), Class::BadInput);
            assert!(error.to_string().contains("classic builder knows no secrets"), "{error}");
            continue;
        }
        let built = building.await.unwrap();
        assert!(lines.all().iter().any(|line| line == "printed [redacted]"), "{:?}", lines.all());
        let files = everything(&to);
        let length = canary.len().to_string();
        assert!(files.iter().any(|(_, bytes)| holds(bytes, &format!("{length}\n"))), "the step has seen it");
        for (path, bytes) in &files {
            assert!(!holds(bytes, &canary), "{} holds the secret", path.display());
        }
        for line in lines.all().iter().chain(&built.log_tail) {
            assert!(!line.contains(&canary), "{line}");
        }
        let docker = connect(&engine.direct).negotiate_version().await.unwrap();
        for id in labelled(&docker, image::BUILD_LABEL).await {
            let history = format!("{:?}", docker.image_history(&id).await.unwrap());
            let shown = format!("{:?}", docker.inspect_image(&id).await.unwrap());
            assert!(!history.contains(&canary) && !shown.contains(&canary));
        }
        // A step that fails with it.
        let dockerfile = dockerfile.replace("> /length", "; echo last $s >&2; exit 3");
        write(root.path(), "Dockerfile", &dockerfile, 0o644);
        let (lines, to) = (Lines::default(), root.path().join("failed"));
        let failed = image::build_docker(&spec, root.path(), &BTreeMap::new(), &secrets, &to, &lines.events()).await;
        let error = failed.unwrap_err();
        assert!(!format!("{error} {error:?} {:?} {:?}", error.log_tail(), lines.all()).contains(&canary), "{error}");
        assert!(error.log_tail().iter().any(|line| line == "last [redacted]"), "{:?}", error.log_tail());
        remove(&engine.direct, &[&built]).await;
        // A secret that was not read is said before anything is built.
        let unread = image::build_docker(&spec, root.path(), &none, &none_secrets(), &to, &Events::nowhere()).await;
        assert!(unread.unwrap_err().to_string().contains("the build secret token was not read"));
    }
}

#[tokio::test]
async fn several_platforms_become_one_index() {
    for engine in engines().await.into_iter().filter(|engine| engine.kind != Kind::Classic) {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "hello", &uuid(), 0o755);
        write(root.path(), "Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY hello /hello-$TARGETARCH\n", 0o644);
        let mut spec = spec(&engine.address);
        spec.platforms = ["linux/amd64", "linux/arm64"].map(str::to_owned).to_vec();
        let to = root.path().join("layout");
        let built = build(&spec, root.path(), &to).await.unwrap();
        let platforms: Vec<&str> = built.platforms.iter().map(|one| one.platform.as_str()).collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm64"], "{:?}", engine.kind);
        assert!(built.index.is_some() && built.root() != built.manifest);
        assert_ne!(built.platforms[0].layers, built.platforms[1].layers);
        assert_eq!(image::open(&to).unwrap().root(), built.root());
        let others: Vec<Built> = built
            .platforms
            .iter()
            .map(|one| Built { manifest: one.manifest, config: one.config, ..built.clone() })
            .collect();
        remove(&engine.direct, &others.iter().collect::<Vec<_>>()).await;
    }
}

#[tokio::test]
async fn a_cache_in_a_registry_saves_the_steps() {
    let Some(registry) = real("SEALIFT_TEST_REGISTRY") else { return };
    let registry = registry.trim_start_matches("http://").to_owned();
    for engine in engines().await {
        let dockerfile = "FROM scratch\nCOPY busybox /busybox\nARG SALT\nRUN [\"/busybox\", \"sh\", \"-c\", \"echo $SALT > /salt\"]\n";
        let Some(root) = with_shell(dockerfile) else { return };
        let name = format!("{registry}/cache-{}", uuid());
        let mut spec = spec(&engine.address);
        spec.args.insert("SALT".to_owned(), uuid());
        spec.cache_to = vec![name.clone()];
        let to = root.path().join("layout");
        let (first, none) = (build(&spec, root.path(), &to).await, BTreeMap::new());
        let built = if engine.kind == Kind::Newest {
            first.unwrap()
        } else {
            let error = first.unwrap_err();
            assert_eq!(error.class(), Class::BadInput);
            let why = if engine.kind == Kind::Classic { "knows no cache_to" } else { "without containerd" };
            assert!(error.to_string().contains(why), "{error}");
            if engine.kind == Kind::Classic {
                continue;
            }
            // Such an engine writes the cache into the image, which is pushed.
            spec.cache_to = vec!["type=inline".to_owned()];
            let built = build(&spec, root.path(), &to).await.unwrap();
            let destination = image::Destination { repository: name.clone(), insecure: true };
            image::push(&to, &destination, &["latest".to_owned()], &Events::nowhere()).await.unwrap();
            built
        };
        remove(&engine.direct, &[&built]).await;
        let docker = connect(&engine.direct).negotiate_version().await.unwrap();
        let all = PruneBuildOptions { all: Some(true), ..PruneBuildOptions::default() };
        docker.prune_build(Some(all)).await.unwrap();
        spec.cache_to.clear();
        spec.cache_from = vec![name];
        let (lines, to) = (Lines::default(), root.path().join("again"));
        let again =
            image::build_docker(&spec, root.path(), &none, &none_secrets(), &to, &lines.events()).await.unwrap();
        let cached = |line: &String| line.contains("RUN") && line.ends_with(": cached");
        assert!(lines.all().iter().any(cached), "{:?}: {:?}", engine.kind, lines.all());
        assert_eq!(again.layers, built.layers, "{:?}", engine.kind);
        remove(&engine.direct, &[&again]).await;
    }
}

/// Whether a process of this machine has the text in its arguments: what a build runs is a process beside us.
fn is_running(marker: &str) -> bool {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    processes.into_iter().any(|arguments| holds(&arguments, marker))
}

// What is dropped is removed by a request that waits, and the classic builder's socket is served by this runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_is_dropped_leaves_nothing_in_the_engine() {
    for engine in engines().await {
        let marker = uuid();
        let run = format!("RUN [\"/busybox\", \"sh\", \"-c\", \"echo it runs; /busybox sleep 600; echo {marker}\"]");
        let dockerfile = format!("FROM scratch\nCOPY busybox /busybox\nLABEL marker={marker}\n{run}\n");
        let Some(root) = with_shell(&dockerfile) else { return };
        let docker = connect(&engine.direct).negotiate_version().await.unwrap();
        let list = async || {
            let all = ListContainersOptions { all: true, ..ListContainersOptions::default() };
            let containers = docker.list_containers(Some(all)).await.unwrap();
            let ours = containers.into_iter().filter(|one| format!("{one:?}").contains(&marker)).count();
            ours + labelled(&docker, &format!("marker={marker}")).await.len()
        };
        let (lines, to) = (Lines::default(), root.path().join("layout"));
        let (spec, none, secrets, events) = (spec(&engine.address), BTreeMap::new(), none_secrets(), lines.events());
        let building = image::build_docker(&spec, root.path(), &none, &secrets, &to, &events);
        let begun = until("the step begins", async || lines.all().iter().any(|line| line == "it runs"));
        tokio::select! {
            ended = building => panic!("it ended: {ended:?}"),
            () = begun => {}
        }
        assert!(is_running(&marker) || list().await > 0, "the step ran");
        // The build was dropped with the select.
        until(&format!("{:?}: its processes end", engine.kind), async || !is_running(&marker)).await;
        until(&format!("{:?}: its containers and images go", engine.kind), async || list().await == 0).await;
        assert!(!to.join("index.json").exists());
    }
}

#[tokio::test]
async fn an_archive_loads_with_the_images_own_id() {
    for engine in engines().await {
        an_archive_loads(&engine.direct).await;
    }
}

async fn an_archive_loads(engine: &str) {
    let docker = connect(engine).negotiate_version().await.unwrap();
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "hello", &uuid(), 0o755);
    write(root.path(), "etc/a", "a", 0o644);
    let built = image::build_oci(
        &oci(&[("hello", "/hello", None), ("etc", "/etc", None)]),
        root.path(),
        &BTreeMap::new(),
        created(),
        &root.path().join("layout"),
        &Events::nowhere(),
    )
    .unwrap();
    let name = format!("sealift-test.example/{}:1.0.0", uuid());
    for reference in [None, Some(name.as_str())] {
        let mut archive = Vec::new();
        image::docker_archive(&built.layout, reference, &mut archive).unwrap();
        let said = load(&docker, archive).await;
        let id = if reference.is_some() { name.clone() } else { built.config.to_string() };
        let shown = match docker.inspect_image(&id).await {
            Ok(shown) => shown,
            // The containerd image store knows an image by its manifest.
            Err(_) => docker
                .inspect_image(&built.manifest.to_string())
                .await
                .unwrap_or_else(|error| panic!("{error}: {said:?}")),
        };
        let shown_id = shown.id.unwrap();
        assert!(
            [built.config.to_string(), built.manifest.to_string()].contains(&shown_id),
            "{shown_id} is neither digest of {built:?}"
        );
        assert_eq!(shown.config.unwrap().labels.unwrap()["team"], "wine");
        drop(docker.remove_image(&id, None::<RemoveImageOptions>, None).await);
    }
    remove(engine, &[&built]).await;
}

/// Tells when an image is being saved.
#[derive(Clone, Default)]
struct Saving(std::sync::Arc<tokio::sync::Notify>);

impl domain::EventSink for Saving {
    fn emit(&self, event: domain::Event) {
        if matches!(&event, domain::Event::TaskStarted { name, .. } if name == "save the image") {
            self.0.notify_one();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_was_there_before_stays_whatever_becomes_of_a_build() {
    // The newest engine sends what it builds and keeps none of it.
    for engine in engines().await.into_iter().filter(|engine| engine.kind != Kind::Newest) {
        let root = tempfile::tempdir().unwrap();
        let marker = uuid();
        write(root.path(), "Dockerfile", &format!("FROM scratch\nLABEL marker={marker}\nCOPY large /large\n"), 0o644);
        write_large(root.path());
        let (spec, none, secrets) = (spec(&engine.address), BTreeMap::new(), none_secrets());
        let built = build(&spec, root.path(), &root.path().join("first")).await.unwrap();
        let docker = connect(&engine.direct).negotiate_version().await.unwrap();
        // A person gives it a name.
        let (id, name) = (built.config.to_string(), format!("sealift-test.example/{marker}"));
        let tag = TagImageOptions { repo: Some(name.clone()), tag: Some("mine".to_owned()) };
        docker.tag_image(&id, Some(tag)).await.unwrap();
        // The cache gives the same image again, and its saving is dropped.
        let (saving, to) = (Saving::default(), root.path().join("layout"));
        let events = Events::new(saving.clone());
        tokio::select! {
            ended = image::build_docker(&spec, root.path(), &none, &secrets, &to, &events) => panic!("it ended: {ended:?}"),
            () = saving.0.notified() => {}
        }
        let name = format!("{name}:mine");
        let shown = docker.inspect_image(&name).await;
        assert_eq!(shown.unwrap().id.as_deref(), Some(id.as_str()), "{:?}", engine.kind);
        // A step prints the classic builder's words with its ID, and fails.
        let run = format!("echo ' ---> {}'; exit 3", &built.config.hex()[..12]);
        let dockerfile =
            format!("FROM scratch\nCOPY busybox /busybox\nRUN [\"/busybox\", \"sh\", \"-c\", \"{run}\"]\n");
        let Some(root) = with_shell(&dockerfile) else { return };
        let error = build(&spec, root.path(), &root.path().join("layout")).await.unwrap_err();
        assert!(error.log_tail().iter().any(|line| line.starts_with(" ---> ")), "{:?}", error.log_tail());
        let shown = docker.inspect_image(&name).await;
        assert_eq!(shown.unwrap().id.as_deref(), Some(id.as_str()), "{:?}", engine.kind);
        drop(docker.remove_image(&name, None::<RemoveImageOptions>, None).await);
        remove(&engine.direct, &[&built]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_whose_saving_is_dropped_goes_too() {
    for engine in engines().await {
        let root = tempfile::tempdir().unwrap();
        let marker = uuid();
        write(root.path(), "Dockerfile", &format!("FROM scratch\nLABEL marker={marker}\nCOPY large /large\n"), 0o644);
        write_large(root.path());
        let (saving, to) = (Saving::default(), root.path().join("layout"));
        let (spec, none, secrets, events) =
            (spec(&engine.address), BTreeMap::new(), none_secrets(), Events::new(saving.clone()));
        tokio::select! {
            ended = image::build_docker(&spec, root.path(), &none, &secrets, &to, &events) => panic!("it ended: {ended:?}"),
            () = saving.0.notified() => {}
        }
        let docker = connect(&engine.direct).negotiate_version().await.unwrap();
        let label = format!("marker={marker}");
        until(&format!("{:?}: its images go", engine.kind), async || labelled(&docker, &label).await.is_empty()).await;
        assert!(!to.join("index.json").exists());
    }
}
