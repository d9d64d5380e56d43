//! The nouns of Sealift and the decisions about them.
//!
//! Everything here is a value or a pure function. What this crate does **not** do, and so what no
//! decision in it can depend on: it opens no file or socket, reads no clock and no environment
//! variable, draws no random number, and prints nothing. Time, random identifiers and the text of
//! files are arguments. That is why its decisions have golden and property tests, and why a plan
//! that was printed is the plan that is executed.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | `Sealift.toml`: as written, validated, resolved for one environment |
//! | [`detect`] | what `sealift init` concludes from the files of a repository |
//! | [`compose`] | a release and an environment to a workload |
//! | [`digest`], [`names`], [`version`] | identities: content, things, versions |
//! | [`manifest`] | the content of a release, and the drift guard |
//! | [`model`] | a model's record: metrics, lineage, version name |
//! | [`gate`] | measurements to verdicts, with reasons |
//! | [`scan`] | reports of scanners, allow-lists, and rules about images |
//! | [`plan`], [`state`] | plans, steps, what is running, history, and the way back |
//! | [`workload`] | what a target is asked to run |
//! | [`event`] | what the libraries tell the renderers |
//! | [`fault`] | the classes of failure behind the exit codes |
//! | [`near`] | "did you mean" |

pub mod compose;
pub mod config;
pub mod detect;
pub mod digest;
pub mod event;
pub mod fault;
pub mod gate;
pub mod manifest;
pub mod model;
pub mod names;
pub mod near;
pub mod plan;
pub mod scan;
pub mod secret;
pub mod state;
pub mod version;
pub mod workload;

pub use digest::Digest;
pub use event::{Event, EventSink, Events};
pub use fault::Class;
pub use names::{Name, ReleaseName};
