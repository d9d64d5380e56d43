//! Rollouts over in-memory adapters: every operation of store and target fails once, also during `resume`, and the end
//! state must be that of a run without the fault.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use cluster::testing::{Fault, FaultyTarget};
use common::{Scene, end_state};
use domain::{plan::Verb, state::Ending};
use engine::{
    Error,
    rollout::{Finished, abort, execute, resume},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use store::testing::Mode;

/// What is done in a scene: the verb, and the release that it is done with.
const STORIES: [(&str, Verb, &str); 3] = [
    ("first deploy", Verb::Deploy, "wine@1.0.0"),
    ("deploy", Verb::Deploy, "wine@1.1.0"),
    ("rollback", Verb::Rollback, "wine@1.0.0"),
];

/// A scene in which the story's verb is the next thing to do.
async fn scene(story: &str) -> Scene {
    let scene = Scene::new().await;
    if story != "first deploy" {
        scene.roll(Verb::Deploy, "wine@1.0.0").await.unwrap();
    }
    if story == "rollback" {
        scene.roll(Verb::Deploy, "wine@1.1.0").await.unwrap();
    }
    scene
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_release_is_deployed_and_a_second_time_nothing_is_done() {
    let scene = Scene::new().await;
    let first = scene.roll(Verb::Deploy, "wine@1.0.0").await.unwrap();
    assert!(matches!(first, Finished::Ended { ending: Ending::Succeeded, epoch: 1, .. }), "{first:?}");
    let again = scene.roll(Verb::Deploy, "wine@1.0.0").await.unwrap();
    assert!(matches!(again, Finished::Nothing { .. }), "{again:?}");
    assert!(matches!(resume(&scene.world, &scene.environment).await.unwrap(), Finished::Nothing { .. }));
    assert!(matches!(abort(&scene.world, &scene.environment).await.unwrap(), Finished::Nothing { .. }));
    let (_, summary) = scene.world.log(&scene.environment).verify(Vec::new()).await.unwrap();
    assert_eq!(summary.entries, summary.anchored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_back_is_only_done_by_rollback() {
    let scene = scene("rollback").await;
    let refused = scene.roll(Verb::Deploy, "wine@1.0.0").await.unwrap_err();
    assert_eq!(refused.class(), domain::Class::NotPermitted);
    assert!(refused.to_string().contains("only done by rollback"), "{refused}");
    scene.roll(Verb::Rollback, "wine@1.0.0").await.unwrap();
    assert_eq!(scene.serving(), Some("wine@1.0.0".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_is_unhealthy_or_does_not_start_is_taken_back() {
    for refuse in [false, true] {
        let scene = scene("deploy").await;
        let bad = scene.digest("wine@1.1.0");
        if refuse {
            scene.target.refuse_start(bad)
        } else {
            scene.target.set_unhealthy(bad)
        }
        let error = scene.roll(Verb::Deploy, "wine@1.1.0").await.unwrap_err();
        assert!(matches!(&error, Error::WentBack { class: None, .. }), "{error:?}");
        assert_eq!(scene.serving(), Some("wine@1.0.0".to_owned()));
        assert!(matches!(resume(&scene.world, &scene.environment).await.unwrap(), Finished::Nothing { .. }));
        // A first release that fails leaves nothing behind.
        let empty = Scene::new().await;
        empty.target.set_unhealthy(empty.digest("wine@1.1.0"));
        let error = empty.roll(Verb::Deploy, "wine@1.1.0").await.unwrap_err();
        assert!(matches!(&error, Error::WentBack { class: None, .. }), "{error:?}");
        assert_eq!(empty.target.slots().len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_plan_is_refused() {
    let scene = scene("deploy").await;
    let plan = scene.plan(Verb::Deploy, "wine@1.1.0").await.unwrap();
    scene.roll(Verb::Deploy, "wine@1.2.0").await.unwrap();
    let error = execute(&scene.world, &plan).await.unwrap_err();
    assert_eq!(error.class(), domain::Class::Busy);
    assert!(error.to_string().contains("is stale"), "{error}");
    assert_eq!(scene.serving(), Some("wine@1.2.0".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_restored_is_seen_before_anything_moves() {
    let scene = scene("deploy").await;
    let before = end_state(&scene).await;
    let plan = scene.plan(Verb::Deploy, "wine@1.1.0").await.unwrap();
    assert!(scene.memory.remove("releases/wine/1.0.0.sigstore.json"));
    let error = execute(&scene.world, &plan).await.unwrap_err();
    assert_eq!(error.class(), domain::Class::NotFound, "{error:?}");
    assert!(error.to_string().contains("wine@1.0.0"), "{error}");
    assert_eq!(end_state(&scene).await.serving, before.serving);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abort_brings_the_previous_release_back() {
    let scene = scene("deploy").await;
    let plan = scene.plan(Verb::Deploy, "wine@1.1.0").await.unwrap();
    let world = scene.with_target_fault("target.start", 1, Fault::Before);
    let error = execute(&world, &plan).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    assert_eq!(scene.serving(), Some("wine@1.0.0".to_owned()), "the old release is kept serving");
    let refused = scene.plan(Verb::Deploy, "wine@1.2.0").await.unwrap_err();
    assert_eq!(refused.class(), domain::Class::Busy);
    let ended = abort(&scene.world, &scene.environment).await.unwrap();
    assert!(matches!(ended, Finished::Ended { ending: Ending::Aborted, .. }), "{ended:?}");
    assert_eq!(scene.serving(), Some("wine@1.0.0".to_owned()));
    scene.roll(Verb::Deploy, "wine@1.2.0").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_back_ends_also_when_the_release_before_is_not_well_either() {
    let scene = scene("deploy").await;
    scene.target.set_unhealthy(scene.digest("wine@1.1.0"));
    scene.target.set_unhealthy(scene.digest("wine@1.0.0"));
    let error = scene.roll(Verb::Deploy, "wine@1.1.0").await.unwrap_err();
    assert!(matches!(&error, Error::WentBack { class: None, .. }), "{error:?}");
    assert!(error.to_string().contains("wine@1.0.0 was brought back but is not well either"), "{error}");
    assert_eq!(scene.serving(), Some("wine@1.0.0".to_owned()));
    // What mends it can be deployed at once.
    scene.roll(Verb::Deploy, "wine@1.2.0").await.unwrap();
    assert_eq!(scene.serving(), Some("wine@1.2.0".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_release_that_is_given_up_after_the_switch_is_named_no_more() {
    let mut open_after_the_switch = 0;
    for k in 1.. {
        let scene = Scene::new().await;
        let plan = scene.plan(Verb::Deploy, "wine@1.0.0").await.unwrap();
        // The store is gone from the k-th operation on.
        scene.faults.arm(k, Mode::Down);
        let clean = execute(&scene.world, &plan).await.is_ok();
        scene.faults.disarm();
        if clean {
            break;
        }
        let log = scene.world.log(&scene.environment);
        let open = engine::status::open_rollout(&log).await.unwrap().is_some();
        open_after_the_switch += usize::from(open && !end_state(&scene).await.serving.is_empty());
        let ended = abort(&scene.world, &scene.environment).await.unwrap();
        if open {
            assert!(matches!(ended, Finished::Ended { ending: Ending::Aborted, .. }), "operation {k}: {ended:?}");
            assert!(end_state(&scene).await.serving.is_empty(), "operation {k}");
            assert!(scene.target.slots().is_empty(), "operation {k}");
        }
    }
    assert!(open_after_the_switch > 0, "no fault left the rollout open after the switch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_goes_only_to_a_release_that_has_served() {
    let scene = scene("deploy").await;
    scene.target.set_unhealthy(scene.digest("wine@1.1.0"));
    scene.roll(Verb::Deploy, "wine@1.1.0").await.unwrap_err();
    let refused = scene.plan(Verb::Rollback, "wine@1.1.0").await.unwrap_err();
    assert_eq!(refused.class(), domain::Class::NotPermitted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_settings_of_the_environment_are_rolled_out() {
    let mut scene = scene("deploy").await;
    let environment = scene.workspace.config.environments.get_mut("staging").unwrap();
    environment.components.get_mut("wine").unwrap().port = 18081;
    let done = scene.roll(Verb::Deploy, "wine@1.0.0").await.unwrap();
    assert!(matches!(done, Finished::Ended { ending: Ending::Succeeded, .. }), "{done:?}");
    assert_eq!(scene.target.serving(18081), Some(scene.digest("wine@1.0.0")));
    assert_eq!(scene.target.serving(18080), None);
    let again = scene.roll(Verb::Deploy, "wine@1.0.0").await.unwrap();
    assert!(matches!(again, Finished::Nothing { .. }), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_died_elsewhere_is_taken_over_after_its_ttl() {
    let scene = scene("deploy").await;
    let elsewhere = serde_json::json!({
        "epoch": 7,
        "holder": {"name": "ci@gone pid 1", "uuid": "u", "host": "another boot", "pid": 1, "started": 1},
        "op": "deploy wine@1.1.0 (gone)", "ttl_ms": 300, "renewals": 4,
    });
    let store = store::Store::over(scene.memory.clone());
    let there = store.read("locks/staging.json").await.unwrap().unwrap();
    store.swap("locks/staging.json", Some(&there.etag), elsewhere.to_string().into()).await.unwrap();
    let plan = scene.plan(Verb::Deploy, "wine@1.1.0").await.unwrap();
    let done = execute(&scene.impatient(), &plan).await.unwrap();
    assert!(matches!(done, Finished::Ended { epoch: 8, .. }), "{done:?}");
}

/// Runs a story with its k-th store operation failing, for every k until a run is clean; with `second`, the resume fails too.
async fn store_campaign(story: &str, verb: Verb, release: &str, mode: Mode, second: bool) -> usize {
    let expected = {
        let scene = scene(story).await;
        scene.roll(verb, release).await.unwrap();
        end_state(&scene).await
    };
    for (tried, k) in (1..).enumerate() {
        let scene = scene(story).await;
        let plan = scene.plan(verb, release).await.unwrap();
        scene.faults.arm(k, mode);
        let result = execute(&scene.world, &plan).await;
        let clean = !scene.faults.fired();
        scene.faults.disarm();
        if result.is_err() && second {
            // The resume fails as well, at another place for each k.
            scene.faults.arm(1 + (k * 7) % 29, mode);
            let _ = resume(&scene.world, &scene.environment).await;
            scene.faults.disarm();
        }
        if result.is_err() {
            match resume(&scene.world, &scene.environment).await.unwrap() {
                Finished::Ended { .. } => {}
                // It failed before it was begun, or after it had ended: nothing is open.
                Finished::Nothing { .. } if end_state(&scene).await == expected => {}
                Finished::Nothing { .. } => {
                    execute(&scene.world, &scene.plan(verb, release).await.unwrap()).await.unwrap();
                }
            }
        }
        assert_eq!(end_state(&scene).await, expected, "{story}, {mode:?}, operation {k}: {result:?}");
        assert!(matches!(resume(&scene.world, &scene.environment).await.unwrap(), Finished::Nothing { .. }));
        scene.world.log(&scene.environment).verify(Vec::new()).await.unwrap();
        if clean {
            return tried;
        }
    }
    unreachable!("the loop ends when a run is clean")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_operation_may_fail_once() {
    for (story, verb, release) in STORIES {
        for mode in [Mode::Before, Mode::After] {
            let tried = store_campaign(story, verb, release, mode, false).await;
            println!("{story}: {tried} store faults ({mode:?}) tried, {tried} survived");
            assert!(tried > 20, "{story}: only {tried} operations were counted");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_operation_may_fail_and_the_resume_too() {
    for (story, verb, release) in STORIES {
        let tried = store_campaign(story, verb, release, Mode::Before, true).await;
        println!("{story}: {tried} pairs of store faults tried, {tried} survived");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_target_operation_may_fail_once_and_again_in_resume() {
    for (story, verb, release) in STORIES {
        let expected = {
            let scene = scene(story).await;
            scene.roll(verb, release).await.unwrap();
            end_state(&scene).await
        };
        for fault in [Fault::Before, Fault::After] {
            let mut tried = 0;
            for k in 1.. {
                let scene = scene(story).await;
                let plan = scene.plan(verb, release).await.unwrap();
                let seen = Arc::new(AtomicU64::new(0));
                let world = scene.with_target(Arc::new(FaultyTarget::new(Arc::new(scene.target.clone()), {
                    let seen = seen.clone();
                    Arc::new(move |_: &str| {
                        // The k-th operation fails, and the k-th after it, which is one of the resume's.
                        let now = seen.fetch_add(1, Ordering::SeqCst) + 1;
                        if now == k || now == 2 * k { fault } else { Fault::None }
                    })
                })));
                let result = execute(&world, &plan).await;
                let clean = seen.load(Ordering::SeqCst) < k;
                if result.is_err() {
                    let _ = resume(&world, &scene.environment).await;
                    resume(&scene.world, &scene.environment).await.unwrap();
                }
                assert_eq!(end_state(&scene).await, expected, "{story}, {fault:?}, operation {k}: {result:?}");
                scene.world.log(&scene.environment).verify(Vec::new()).await.unwrap();
                if clean {
                    break;
                }
                tried += 1;
            }
            println!("{story}: {tried} target faults ({fault:?}) tried, {tried} survived");
            assert!(tried > 3, "{story}: only {tried} operations were counted");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_at_once_one_wins() {
    let scene = scene("deploy").await;
    let (one, two) =
        (scene.plan(Verb::Deploy, "wine@1.1.0").await.unwrap(), scene.plan(Verb::Deploy, "wine@1.2.0").await.unwrap());
    let (a, b) = (scene.impatient(), scene.impatient());
    let (first, second) = tokio::join!(execute(&a, &one), execute(&b, &two));
    let (won, lost) = match (first, second) {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        other => panic!("exactly one must win: {other:?}"),
    };
    assert_eq!(lost.class(), domain::Class::Busy, "{lost:?}");
    let Finished::Ended { release, .. } = won else { panic!("{won:?}") };
    assert_eq!(scene.serving(), Some(release.to_string()));
}
