//! Workloads for the tests of the real targets.

use cluster::testing::{build_server, get};
use domain::workload::{HealthCheck, Mount, Place, Slot, Workload};
use domain::{Digest, ReleaseName};
use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

pub(crate) fn workload(component: &str, slot: Slot, release: &str, port: u16) -> Workload {
    let component: domain::Name = component.parse().unwrap();
    Workload {
        place: Place {
            project: "shop".parse().unwrap(),
            environment: "staging".parse().unwrap(),
            component: component.clone(),
            slot,
        },
        release: ReleaseName { component, version: semver::Version::new(1, 0, 0) },
        release_digest: Digest::of(release),
        image: None,
        image_config: None,
        command: None,
        env: BTreeMap::from([
            ("LISTEN".into(), "0.0.0.0:{port}".into()),
            ("MODEL".into(), "{mount:/models/quality.bin}".into()),
        ]),
        secrets: BTreeMap::from([("TOKEN".into(), "cmd:printf hunter%d 2".parse().unwrap())]),
        mounts: vec![Mount {
            what: "model quality".into(),
            digest: Digest::of("grapes"),
            path: "/models/quality.bin".into(),
        }],
        container_port: 8080,
        host_port: port,
        host: "127.0.0.1".into(),
        health: Some(HealthCheck { path: "/health".into(), start_timeout: Duration::from_secs(10) }),
        stop_timeout: Duration::from_secs(5),
        memory: 128 << 20,
        pids: 64,
        relax: vec![],
    }
}

/// A directory that uid 1000 can enter, with the server as `rootfs/server` and a model.
pub(crate) fn files() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let rootfs = dir.path().join("rootfs");
    std::fs::create_dir(&rootfs).unwrap();
    std::fs::copy(build_server(), rootfs.join("server")).unwrap();
    let model = dir.path().join("model");
    std::fs::write(&model, "grapes").unwrap();
    (dir, rootfs, model)
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

pub(crate) async fn wait_for(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn answers(port: u16) -> bool {
    get(port, "/health").is_ok_and(|(status, _)| status == 200)
}
