//! Engines that stand still, and what stays in one that does not.

use super::*;

fn spec(engine: String) -> DockerBuild {
    DockerBuild {
        context: ".".to_owned(),
        dockerfile: "Dockerfile".to_owned(),
        target: None,
        args: BTreeMap::new(),
        labels: BTreeMap::new(),
        engine: Some(engine),
        platforms: Vec::new(),
        secrets: BTreeMap::new(),
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        no_cache: false,
    }
}

#[test]
fn the_build_label_tells_what_is_built_and_not_which_run() {
    let labels = |title: &str, version: &str| {
        BTreeMap::from([
            ("org.opencontainers.image.title".to_owned(), title.to_owned()),
            ("org.opencontainers.image.version".to_owned(), version.to_owned()),
        ])
    };
    let spec = spec("unix:///x".to_owned());
    let identity = build_identity(&spec, &labels("wine", "1.0.0"), None);
    assert_eq!(identity, build_identity(&spec, &labels("wine", "1.1.0"), None));
    assert_ne!(identity, build_identity(&spec, &labels("beer", "1.0.0"), None));
    assert_ne!(identity, build_identity(&spec, &labels("wine", "1.0.0"), Some("linux/arm64")));
    assert_eq!((identity.len(), &identity[14..15]), (36, "8"));
}

/// What a frozen engine still does.
#[derive(Clone, Copy)]
struct Frozen {
    /// Answers pings.
    ping: bool,
    /// Answers that it has no sessions; otherwise it does not answer that either.
    classic: bool,
    /// The beginning of an answer to whatever else it is asked.
    say: &'static str,
}

/// Answers a version to whoever asks, and reads everything else without ever answering: an engine whose process stands still.
async fn frozen_engine(socket: &Path, frozen: Frozen) -> Engine {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 64 * 1024];
                let mut said = false;
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                    let line = text.lines().next().unwrap_or_default();
                    let (status, body) = match () {
                        () if line.contains("/version") => ("200 OK", r#"{"Version":"20.10.0","ApiVersion":"1.41"}"#),
                        () if line.contains("/images/json") => ("200 OK", "[]"),
                        () if line.contains("/_ping") && frozen.ping => ("200 OK", "OK"),
                        () if line.contains("/session") && frozen.classic => ("404 Not Found", "{}"),
                        () if line.contains("/session") => continue,
                        () if !said && !line.contains("/_ping") => {
                            said = true;
                            if !frozen.say.is_empty() {
                                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                                let answer = format!("{head}{:x}\r\n{}\r\n", frozen.say.len(), frozen.say);
                                stream.write_all(answer.as_bytes()).await.unwrap();
                            }
                            continue;
                        }
                        () => continue,
                    };
                    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length:");
                    let answer = format!("{head} {}\r\n\r\n{body}", body.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let mut engine = Engine::connect(Some(&format!("unix://{}", socket.display())), 60).await.unwrap();
    let short = Duration::from_millis(300);
    engine.patience = Patience { build: short, export: short, answer: short };
    engine
}

const LINE: &str = "{\"stream\":\"Step 1/2 : FROM scratch\\n\"}\n";

async fn build_in(engine: &Engine) -> Error {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("Dockerfile"), "FROM scratch\nCOPY f /f\n").unwrap();
    std::fs::write(root.path().join("f"), "f").unwrap();
    let spec = spec(engine.address.clone());
    let context = Arc::new(context::scan(&spec, root.path()).unwrap());
    let (secrets, dockerfile, redactor) = Default::default();
    let labels = BTreeMap::new();
    let request = Request {
        spec: &spec,
        labels,
        platform: None,
        context,
        secrets: &secrets,
        dockerfile: &dockerfile,
        redactor: &redactor,
    };
    let events = Events::nowhere();
    let to = root.path().join("layout");
    let building = engine.build(&request, &to, &events);
    tokio::time::timeout(Duration::from_secs(30), building).await.expect("it ends").unwrap_err()
}

#[tokio::test]
async fn a_build_in_a_frozen_engine_ends() {
    for (number, (ping, say)) in [(false, ""), (false, LINE), (true, LINE)].into_iter().enumerate() {
        let sockets = tempfile::tempdir().unwrap();
        let engine = frozen_engine(&sockets.path().join("socket"), Frozen { ping, classic: true, say }).await;
        let error = build_in(&engine).await;
        let Error::BuildLost { step, cause, .. } = &error else { panic!("{number}: {error:?}") };
        assert_eq!(error.class(), domain::Class::Unavailable);
        assert_eq!(cause.contains("does not answer a ping"), !ping, "{number}: {error}");
        assert!(cause.contains("it said nothing"), "{number}: {error}");
        assert_eq!(step.is_some(), !say.is_empty(), "{number}: {error}");
    }
    let sockets = tempfile::tempdir().unwrap();
    let frozen = Frozen { ping: true, classic: false, say: "" };
    let engine = frozen_engine(&sockets.path().join("socket"), frozen).await;
    let error = build_in(&engine).await;
    assert!(error.to_string().contains("could not open /session: it did not answer"), "{error}");
    assert_eq!(error.class(), domain::Class::Unavailable);
}

#[tokio::test]
async fn an_image_that_stops_arriving_is_given_up() {
    for say in ["", LINE] {
        let root = tempfile::tempdir().unwrap();
        let frozen = Frozen { ping: false, classic: true, say };
        let engine = frozen_engine(&root.path().join("socket"), frozen).await;
        let to = root.path().join("layout");
        let events = Events::nowhere();
        let saving = export::receive(engine.save("sha256:abc"), Expected::default(), &to, &events);
        let saved = tokio::time::timeout(Duration::from_secs(30), saving).await.expect("it ends");
        let error = saved.unwrap_err();
        assert!(matches!(&error, Error::Engine { .. }), "{error:?}");
        let why = if say.is_empty() { "does not answer a ping" } else { "it stopped sending" };
        assert!(error.to_string().contains(why), "{error}");
        let inspected = engine.ask("show an image", engine.docker.inspect_image("abc")).await;
        assert!(inspected.unwrap_err().to_string().contains("could not show an image: it did not answer"));
    }
}

#[tokio::test]
async fn older_images_of_the_same_build_are_removed_and_the_newest_stays() {
    let Some(address) = std::env::var("SEALIFT_TEST_DOCKER").ok().filter(|text| !text.is_empty()) else {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "SEALIFT_TEST_DOCKER is not set; in CI nothing is left out"
        );
        return;
    };
    let engine = Engine::connect(Some(&address), 60).await.unwrap();
    let spec = spec(address);
    let mut ids = Vec::new();
    let title = uuid::Uuid::new_v4().to_string();
    let labels = BTreeMap::from([("org.opencontainers.image.title".to_owned(), title.clone())]);
    let build = build_identity(&spec, &labels, None);
    for content in ["one", "two"] {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("Dockerfile"), "FROM scratch\nCOPY f /f\n").unwrap();
        std::fs::write(root.path().join("f"), format!("{content} {title}")).unwrap();
        let to = root.path().join("layout");
        build_docker(&spec, root.path(), &labels, &BTreeMap::new(), &to, &Events::nowhere()).await.unwrap();
        let filters = HashMap::from([("label".to_owned(), vec![format!("{BUILD_LABEL}={build}")])]);
        let options = ListImagesOptions { filters: Some(filters), ..ListImagesOptions::default() };
        let found = engine.docker.list_images(Some(options)).await.unwrap().into_iter().map(|image| image.id);
        ids.extend(found.filter(|id| !ids.contains(id)).collect::<Vec<_>>());
    }
    assert_eq!(ids.len(), 2, "both are young and stay");
    let far_future = Duration::from_secs(1 << 40);
    engine.remove_older(&build, &ids[1], far_future, &Events::nowhere()).await;
    assert!(engine.docker.inspect_image(&ids[0]).await.is_err());
    engine.docker.inspect_image(&ids[1]).await.unwrap();
    engine.docker.remove_image(&ids[1], None::<RemoveImageOptions>, None).await.unwrap();
}
