//! Decorators: what can be put around any store.
//!
//! | name | adds |
//! |---|---|
//! | [`Retry`] | tries again what is safe to try again, with jitter, a budget and a total deadline |
//! | [`Log`] | tells a [`Sink`] of every operation: what, how long, how many bytes, how it ended |
//! | [`Limit`] | bytes a second, up and down |
//! | `Faulty` | fails, loses, stalls, flips, truncates or slows the k-th operation (feature `testing`) |
//!
//! [`crate::Store::open`] makes `Retry(Log(store))`. The limit sits below them, in the client, where a body is seen piece
//! by piece also on its way up; both use the same [`Pace`]. The client itself sends every request once: nothing below
//! [`Retry`] repeats anything, except the parts of an upload, which share its policy.

mod limit;
mod log;
mod retry;

#[cfg(any(test, feature = "testing"))]
pub(crate) mod faults;

#[cfg(any(test, feature = "testing"))]
pub use faults::{Faults, Faulty, Mode};
pub(crate) use limit::paced;
pub use limit::{Limit, Pace};
pub use log::{Entry, Log, Sink};
pub(crate) use retry::Policy;
pub use retry::Retry;
