//! The in-memory target behaves like the real ones, and faults are injected where they are asked for.

use async_trait::async_trait;
use cluster::testing::{Fault, FaultyTarget, InMemory, Subject, conformance};
use cluster::{ImagePath, Target};
use domain::workload::{Slot, Workload};
use std::{any::Any, path::PathBuf, sync::Arc};

struct Memory(InMemory);

#[async_trait]
impl Subject for Memory {
    fn target(&self) -> &dyn Target {
        &self.0
    }
    fn workload(&self, slot: Slot, release: &str, port: u16) -> Workload {
        crate::common::workload("wine", slot, release, port)
    }
    fn image(&self) -> ImagePath<'_> {
        ImagePath::None
    }
    fn mounts(&self) -> Vec<(String, PathBuf)> {
        vec![("/models/quality.bin".into(), PathBuf::new())]
    }
    async fn crash(&self, workload: &Workload) {
        self.0.crash(&workload.place, "exited with code 3");
    }
    async fn occupy(&self, port: u16) -> Box<dyn Any + Send> {
        struct Held(InMemory, u16);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.vacate(self.1);
            }
        }
        self.0.occupy(port, "process 1 (init)");
        Box::new(Held(self.0.clone(), port))
    }
    async fn answers(&self, _: &Workload) -> Option<bool> {
        None
    }
}

#[tokio::test]
async fn memory_conforms() {
    let memory = Memory(InMemory::new());
    conformance(&memory).await;
    assert!(memory.0.slots().is_empty());
    assert!(memory.0.operations().iter().any(|operation| operation.starts_with("start shop-staging-wine-blue")));
}

#[tokio::test]
async fn a_fault_strikes_before_or_after_the_deed() {
    let memory = InMemory::new();
    let workload = crate::common::workload("wine", Slot::Blue, "one", 1);
    let mounts = vec![("/models/quality.bin".to_owned(), PathBuf::new())];
    for (fault, done) in [(Fault::Before, false), (Fault::After, true)] {
        let injector = move |operation: &str| if operation == "target.prepare" { fault } else { Fault::None };
        let faulty = FaultyTarget::new(Arc::new(memory.clone()), Arc::new(injector));
        let error = faulty.prepare(&workload, 1, ImagePath::None, &mounts).await.unwrap_err();
        assert!(error.to_string().contains("injected") && !error.is_workloads_fault(), "{error}");
        assert_eq!(!memory.slots().is_empty(), done);
    }
}

#[tokio::test]
async fn health_and_ports_are_scripted() {
    let memory = InMemory::new();
    let workload = crate::common::workload("wine", Slot::Blue, "one", 77);
    let mounts = vec![("/models/quality.bin".to_owned(), PathBuf::new())];
    memory.prepare(&workload, 1, ImagePath::None, &mounts).await.unwrap();
    memory.start(&workload, 1).await.unwrap();
    assert!(memory.is_healthy(&workload.place));
    assert_eq!(memory.serving(77), Some(workload.release_digest));
    memory.set_unhealthy(workload.release_digest);
    assert!(!memory.is_healthy(&workload.place));
}
