//! The harness of the end-to-end tests: a project in a folder of its own, the program under test, and what it left behind.
//!
//! Words: a [`Project`] is a git repository with everything that belongs to it (home, keys, store, ports, processes); a
//! [`Run`] is one command line that has ended; the *service* is the program in `tests/fixtures/service.rs` that is released.
//!
//! What it does **not** do:
//!
//! - It never uses the person's own home, keys, git identity, configuration or environment; only `PATH` is passed on.
//! - No project shares a port, a store or a process with another one, in this test program or in another one.
//! - No run is waited for without a deadline, and nothing sleeps for a fixed time.
//! - Nothing is left running when a project is dropped, also when its test panics.
//! - It knows no format: what it says of stores, ledgers and slots it asks of the crates that own them.
//!
//! It fails by panicking with the command, its exit code and everything that it printed: that is how a test fails.

pub mod campaign;
pub mod http;
mod ports;
pub mod processes;
mod project;
pub mod proxy;
mod run;
mod service;
mod settings;
mod state;
mod wait;

pub use project::{COMPONENT, Invocation, Project};
pub use run::{Run, Running};
pub use service::{sealift_program, service_program};
pub use settings::{Behaviour, Settings};
pub use state::{SlotIs, State};
pub use wait::{DEADLINE, until};

/// Says a count that a campaign came to. It goes past the test runner's capture, so that it is read when all is well too.
pub fn tell(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}
