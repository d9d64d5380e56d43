//! Row 30: images that ask for more than the policy, and what then runs.

use crate::{
    common::{self, engine::Engine, refused},
    layouts::{Layout, entry, file, folder, pax, tar},
};
use e2e::{
    Project, Settings,
    campaign::{Lane, Tally},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs};

const ROW: &str = "row 30 more than the policy";

pub(crate) fn lanes() -> Vec<Lane<'static>> {
    let mut lanes: Vec<Lane<'static>> = Vec::new();
    for variable in ["SEALIFT_TEST_DOCKER", "SEALIFT_TEST_DOCKER_NEWEST"] {
        let Some(address) = common::testbed(variable) else { continue };
        // Two engines share no place of a project: the name of the engine's folder is in it.
        let lane = move |tally: &Tally| asks(tally, &address);
        lanes.push((format!("{ROW} {variable}"), Box::new(lane)));
    }
    lanes
}

/// What an image asks for, and what the configuration relaxes.
struct Ask {
    what: &'static str,
    /// `user` of the build.
    user: &'static str,
    /// Merged into the base's configuration.
    config: Value,
    /// Entries of the base's layer.
    layer: Vec<Vec<u8>>,
    relax: &'static [&'static str],
    /// What the refusal says; without it, it runs.
    refused: Option<&'static str>,
}

impl Ask {
    fn new(what: &'static str) -> Self {
        Self { what, user: "1000", config: json!({}), layer: Vec::new(), relax: &[], refused: None }
    }
}

/// `cap_sys_admin=eip`, as the kernel keeps it (version 2, little endian).
const FILE_CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0, 0x20, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn list() -> Vec<Ask> {
    let passwd = |line: &str| vec![folder("etc"), file("etc/passwd", line)];
    vec![
        Ask::new("nothing"),
        Ask { user: "root", ..Ask::new("root by name") },
        Ask { user: "0:0", ..Ask::new("root by number") },
        Ask {
            user: "toor",
            layer: passwd("toor:x:0:0::/:/bin/sh\n"),
            refused: Some("a user other than root is demanded"),
            ..Ask::new("root under another name")
        },
        Ask { user: "nobody-knows", refused: Some("user"), ..Ask::new("a user that is in no list") },
        Ask { layer: vec![entry("become-root", b'0', "", 0o6755, b"#!/service\n")], ..Ask::new("a setuid program") },
        Ask {
            layer: vec![
                pax(&[("SCHILY.xattr.security.capability", &FILE_CAPABILITY)]),
                entry("mount", b'0', "", 0o755, b"#!/service\n"),
            ],
            ..Ask::new("a program with capabilities")
        },
        Ask {
            config: json!({"config": {"Volumes": {"/var/lib/anything": {}}}}),
            refused: Some("no volume to write to is demanded, found /var/lib/anything"),
            ..Ask::new("a volume to write to")
        },
        Ask {
            config: json!({"config": {"Volumes": {"/var/lib/anything": {}}}}),
            relax: &["writable-root"],
            ..Ask::new("a volume to write to, relaxed")
        },
        Ask { user: "0:0", relax: &["run-as-root"], ..Ask::new("root, relaxed") },
        Ask { relax: &["default-capabilities"], ..Ask::new("capabilities, relaxed") },
        Ask { relax: &["new-privileges"], ..Ask::new("new privileges, relaxed") },
    ]
}

fn asks(tally: &Tally, address: &str) {
    let engine = Engine::at(address);
    let mut project = Project::service_with(Settings { gate: false, ..Settings::default() });
    // Places are known by their project's name, and other tests use the same engine.
    let name = format!("asks-{}", std::process::id());
    // Private keys lie under it as well.
    let keys = project.home().join(".config/sealift/keys");
    fs::rename(keys.join("fixture"), keys.join(&name)).unwrap();
    project.settings.env.push(("LISTEN".into(), "\"0.0.0.0:{port}\"".into()));
    project.settings.staging = format!("target = \"docker\"\nengine = \"{address}\"");
    project.write(".gitignore", format!("{}/base/\n", project.read(".gitignore")));
    for (number, ask) in list().into_iter().enumerate() {
        if tally.given_up(ROW) {
            break;
        }
        let base = project.path("base");
        Layout::new(&base)
            .image(&[tar(&[vec![file("base", ask.what)], ask.layer.clone()].concat())], ask.config.clone());
        project.settings.build = format!(
            "builder = \"oci\"\nbase = \"oci-layout:base\"\nuser = \"{}\"\n\
             files = [{{ from = \"build/service\", to = \"/service\", mode = \"0755\" }}]\nentrypoint = [\"/service\"]",
            ask.user
        );
        let version = format!("1.{number}.0");
        project.version(&version);
        project.configure();
        let mut text = project.read("Sealift.toml").replacen("name = \"fixture\"", &format!("name = \"{name}\""), 1);
        if !ask.relax.is_empty() {
            let run = format!("[component.svc.run]\nrelax = {}\n", json!(ask.relax));
            text = text.replacen("[component.svc.run]\n", &run, 1);
        }
        project.write("Sealift.toml", text);
        project.commit(ask.what);
        let before = project.answers("staging");
        tally.attempt(ROW, format!("{} with {address}", ask.what), || {
            project.run(["release", "cut"]).ok();
            let run = project.run(["deploy", "staging"]);
            match ask.refused {
                Some(why) => {
                    let code = run.code.filter(|code| *code != 0).unwrap_or(65);
                    refused(&run, code).says(&[why]);
                    assert_eq!(project.answers("staging"), before, "{}", run.told());
                }
                None => {
                    let _ = run.ok();
                    assert_eq!(project.answers("staging").as_deref(), Some(&*version));
                    under_the_policy(&engine, &name, &ask);
                }
            }
        });
    }
    engine.clear(&name, &[]);
}

/// What the kernel says of the process, and the engine of its container.
fn under_the_policy(engine: &Engine, name: &str, ask: &Ask) {
    let relaxed = |what: &str| ask.relax.contains(&what);
    let container = engine.container(name, "staging");
    let host = &container["HostConfig"];
    assert_eq!(host["Privileged"], false);
    assert_eq!(host["ReadonlyRootfs"], !relaxed("writable-root"));
    assert!(host["CapAdd"].as_array().is_none_or(Vec::is_empty), "{host}");
    assert!(host["Devices"].as_array().is_none_or(Vec::is_empty), "{host}");
    for shared in ["PidMode", "UTSMode", "UsernsMode"] {
        assert_ne!(host[shared], "host", "{shared}");
    }
    let writable = container["Mounts"].as_array().into_iter().flatten().filter(|mount| mount["RW"] == true);
    assert!(relaxed("writable-root") || writable.count() == 0, "{:#}", container["Mounts"]);
    // The init that the engine puts before it is under the same rules as the service.
    let pid = container["State"]["Pid"].as_u64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let fields: BTreeMap<&str, &str> =
        status.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key, value.trim())).collect();
    let root = fields["Uid"].split_whitespace().any(|id| id == "0");
    assert_eq!(root, relaxed("run-as-root"), "uid {}", fields["Uid"]);
    let none = |set: &str| u64::from_str_radix(fields[set], 16).unwrap() == 0;
    if !relaxed("default-capabilities") {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(none(set), "{set} is {}", fields[set]);
        }
    }
    assert_eq!(fields["NoNewPrivs"] == "1", !relaxed("new-privileges"), "NoNewPrivs is {}", fields["NoNewPrivs"]);
    assert_eq!(fields["Seccomp"], "2", "there is no filter of system calls");
}
