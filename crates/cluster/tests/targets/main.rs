//! Every target against the conformance suite, and what only one kind can get wrong.
//!
//! The docker tests need a real engine, named by `SEALIFT_TEST_DOCKER=unix://…`; with `CI=true` its absence is a failure.

#![allow(clippy::unwrap_used)] // in a test, also outside the functions that clippy recognises, it is the assertion

mod common;
mod docker;
mod memory;
mod process;
