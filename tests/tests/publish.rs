//! Publishing again: what somebody took away comes back, what is there is not sent, and a registry that came later is asked when it is named.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a helper of a test fails as the test does")]

mod common;

use common::{objects, refused, registry::Registry, testbed};
use e2e::{Project, Settings};
use serde_json::Value;

/// A registry, and the service whose image goes to these repositories of it.
struct Scene {
    project: Project,
    registry: Registry,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(repository: &str) -> Option<Self> {
        let program = testbed("SEALIFT_TEST_REGISTRY_PROGRAM")?;
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::start(&program, folder.path());
        let mut project = Project::service_with(Settings { gate: false, ..Settings::default() });
        project.settings.more = image(&registry, &[repository]);
        project.configure();
        project.commit("A registry");
        Some(Self { project, registry, _folder: folder })
    }

    /// What an image is known by.
    fn root(&self, release: &str) -> String {
        let manifest = self.project.json(["explain", release]).ok().result()["manifest"].clone();
        manifest.pointer("/images/linux~1amd64/manifest").and_then(Value::as_str).unwrap().to_owned()
    }

    /// Publishes once more; the blobs of the image that were sent to each registry.
    fn publish(&self) -> Vec<u64> {
        let done = self.project.json(["publish", "svc@1.0.0"]).ok().result();
        done["registries"].as_array().unwrap().iter().map(|one| one["sent"].as_u64().unwrap()).collect()
    }
}

fn image(registry: &Registry, repositories: &[&str]) -> String {
    let places: Vec<String> = repositories.iter().map(|one| format!("\"{}/{one}\"", registry.address())).collect();
    format!("\n[component.svc.image]\nrepositories = [{}]\ninsecure = true\n", places.join(", "))
}

#[test]
fn what_was_taken_away_is_put_back_and_what_is_there_is_not_sent() {
    let Some(scene) = Scene::new("team/taken") else { return };
    let Scene { project, registry, .. } = &scene;
    project.run(["release", "cut"]).ok();
    let verify = || project.run(["release", "verify", "svc@1.0.0"]);
    verify().ok();
    // Nothing is missing: not a byte is written there.
    let before = registry.everything();
    assert!(before.len() > 20, "{before:#?}");
    assert_eq!(scene.publish(), [0]);
    assert_eq!(registry.everything(), before);

    // Each attachment, of which the list still tells.
    let list = scene.root("svc@1.0.0").replace(':', "-");
    let attached = registry.document("team/taken", &list)["manifests"].as_array().unwrap().clone();
    assert_eq!(attached.len(), 3, "{attached:#?}");
    for entry in &attached {
        let digest = entry["digest"].as_str().unwrap();
        registry.delete("team/taken", digest);
        assert_eq!(registry.head("team/taken", digest).0, 404);
        refused(&verify(), 73).says(&[digest, "it is listed and not there"]);
        assert_eq!(scene.publish(), [0]);
        assert_eq!(registry.head("team/taken", digest), (200, digest.to_owned()));
        verify().ok();
    }
    let after = registry.document("team/taken", &list);
    assert_eq!(after["manifests"].as_array().unwrap(), &attached, "the list is as it was");

    // The list itself.
    let digest = registry.head("team/taken", &list).1;
    registry.delete("team/taken", &digest);
    refused(&verify(), 66).says(&["svc@1.0.0 is not attached to"]).then("sealift publish svc@1.0.0");
    assert_eq!(scene.publish(), [0]);
    verify().ok();

    // Everything at once: the image, its evidence and their list.
    let root = scene.root("svc@1.0.0");
    for digest in attached.iter().map(|entry| entry["digest"].as_str().unwrap()).chain([root.as_str()]) {
        registry.delete("team/taken", digest);
    }
    refused(&verify(), 66).says(&["does not have", &root]).then("sealift publish svc@1.0.0");
    assert_eq!(scene.publish(), [0], "its layers were there");
    verify().ok();
    let before = registry.everything();
    assert_eq!(scene.publish(), [0]);
    assert_eq!(registry.everything(), before);
}

#[test]
fn a_registry_that_came_later_is_asked_when_it_is_named() {
    let Some(mut scene) = Scene::new("team/first") else { return };
    scene.project.run(["release", "cut"]).ok();
    scene.project.settings.more = image(&scene.registry, &["team/first", "team/later"]);
    scene.project.configure();
    let Scene { project, registry, .. } = &scene;
    let (first, later) = (format!("{}/team/first", registry.address()), format!("{}/team/later", registry.address()));
    let named = format!("{later},insecure");
    let asked = || project.run(["release", "verify", "svc@1.0.0", "--registry", &named]);
    let root = scene.root("svc@1.0.0");
    // It was not sent there yet, and who does not name it is not told of it.
    refused(&asked(), 66).says(&[&later, "does not have", &root]).then("sealift publish svc@1.0.0");
    project.run(["release", "verify", "svc@1.0.0"]).ok();
    let sent = scene.publish();
    assert_eq!((sent.len(), sent[0]), (2, 0), "{sent:?}");

    let found = project.json(["release", "verify", "svc@1.0.0", "--registry", &named]).ok().result();
    let places = found["registries"].as_array().unwrap();
    assert_eq!(places.iter().map(|one| one["repository"].as_str().unwrap()).collect::<Vec<_>>(), [&first, &later]);
    assert_eq!(places[1]["tags"], serde_json::json!(["1.0.0"]));
    assert_eq!(places[1]["attached"], serde_json::json!(["signature", "provenance", "sbom"]));
    // The commands for everybody else name it too.
    let commands = found["commands"].to_string();
    assert!(commands.contains(&format!("--allow-http-registry {later}@{root}")), "{commands}");
    // It alone, also when it is one that the release was sealed for.
    for place in [&first, &later] {
        let only = ["release", "verify", "svc@1.0.0", "--no-registry", "--registry", &format!("{place},insecure")];
        let found = project.json(only).ok().result();
        assert_eq!(found["registries"].as_array().unwrap().len(), 1);
        assert_eq!(found["registries"][0]["repository"], place.as_str());
    }

    // What is wrong there is wrong, and nowhere else.
    let (kind, bytes) = registry.manifest("team/later", "1.0.0");
    let mut other: Value = serde_json::from_slice(&bytes).unwrap();
    other["annotations"] = serde_json::json!({"somebody": "else"});
    registry.put("team/later", "1.0.0", &(kind.clone(), other.to_string().into_bytes()));
    refused(&asked(), 73).says(&["the tag", "team/later:1.0.0 points to", &root]);
    project.run(["release", "verify", "svc@1.0.0"]).ok();
    registry.put("team/later", "1.0.0", &(kind, bytes));
    asked().ok();
    let attached = registry.document("team/later", &root.replace(':', "-"))["manifests"].clone();
    registry.delete("team/later", attached[1]["digest"].as_str().unwrap());
    refused(&asked(), 73).says(&["it is listed and not there"]);

    // An option that there is none of.
    let run = project.run(["release", "verify", "svc@1.0.0", "--registry", &format!("{later},secure")]);
    assert_eq!(run.code, Some(64), "{}", run.told());
    assert!(run.stderr.contains("\"secure\" is no option of a registry"), "{}", run.told());
}

/// A release that was sealed for no registry, published later by a component that attaches nothing, and then by one that does.
#[test]
fn evidence_is_asked_for_where_it_is_attached() {
    let Some(mut scene) = Scene::new("team/bare") else { return };
    let at = image(&scene.registry, &["team/bare"]);
    scene.project.settings.more = String::new();
    scene.project.configure();
    scene.project.commit("No registry");
    scene.project.run(["release", "cut"]).ok();
    let bare = at.replace("insecure = true", "insecure = true\nattach = false");
    scene.project.settings.more = bare;
    scene.project.configure();
    assert_eq!(scene.publish().len(), 1);
    let named = format!("{}/team/bare,insecure", scene.registry.address());
    let asked = ["release", "verify", "svc@1.0.0", "--registry", &named];
    let found = scene.project.json(asked).ok().result()["registries"][0].clone();
    assert_eq!((&found["evidence_asked"], &found["attached"]), (&false.into(), &serde_json::json!([])));
    let run = scene.project.run(asked);
    assert!(run.ok().stdout.contains("whether evidence is attached was not asked"));
    // A host under two names of its own is asked once.
    let (quiet, loud) = (named.replace("127.0.0.1", "localhost"), named.replace("127.0.0.1", "LOCALHOST"));
    let both = ["release", "verify", "svc@1.0.0", "--registry", &quiet, "--registry", &loud];
    let found = scene.project.json(both).ok().result();
    assert_eq!(found["registries"].as_array().unwrap().len(), 1, "{found:#}");

    // Now it says that it attaches: it is asked for, and the advice helps.
    scene.project.settings.more = at;
    scene.project.configure();
    refused(&scene.project.run(asked), 66).says(&["is not attached to"]).then("sealift publish svc@1.0.0");
    scene.publish();
    let found = scene.project.json(asked).ok().result()["registries"][0].clone();
    assert_eq!(found["evidence_asked"], true);
    assert_eq!(found["attached"], serde_json::json!(["signature", "provenance", "sbom"]));
}

#[test]
fn a_tag_that_somebody_else_wrote_is_told_from_one_of_our_own() {
    let Some(scene) = Scene::new("team/ours") else { return };
    let Scene { project, registry, .. } = &scene;
    project.run(["release", "cut"]).ok();
    let root = scene.root("svc@1.0.0");
    // As if this host had died before it sealed, and the commit were another by now.
    for key in objects::keys(&project.store_folder(), "releases/") {
        std::fs::remove_file(objects::file(&project.store_folder(), &key)).unwrap();
    }
    let service = project.path("build/service");
    let bytes = std::fs::read(&service).unwrap();
    std::fs::write(&service, [&bytes[..], b"more"].concat()).unwrap();
    project.write("NOTES", "another commit");
    project.commit("Another");
    let taken = || {
        let run = project.run(["release", "cut"]);
        refused(&run, 73).says(&["tag 1.0.0", "already points to", &root]).never_says("another host");
    };
    // The second try has replaced the note of the first image, and so has what is built from no commit at all.
    taken();
    taken();
    project.write("NOTES", "not committed");
    // What somebody left who died while he wrote a note goes with the next note.
    let left = project.path(".sealift/cache/builds/.tmpLeft");
    let eight_days_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(8 * 24);
    std::fs::File::create(&left).unwrap().set_modified(eight_days_ago).unwrap();
    project.run(["build"]).ok();
    assert!(!left.exists(), "{} stays", left.display());
    project.run(["build"]).ok();
    project.commit("A third");
    taken();
    // A host without a note of that image, whether it tries once or twice.
    std::fs::remove_dir_all(project.path(".sealift/cache/builds")).unwrap();
    for _ in 0..2 {
        refused(&project.run(["release", "cut"]), 73)
            .says(&["already points to", &root, "another host or person wrote the tag"])
            .then("on the host that built that image: sealift release cut svc");
    }
    assert_eq!(registry.head("team/ours", "1.0.0"), (200, root), "the tag did not move");
}
