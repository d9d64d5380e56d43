//! What the fuzz targets call. The table is shared with the driver that runs with the tests.

#[path = "../../tests/tests/image_faults/layouts.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "helpers of tests")]
mod layouts;
pub mod parsers;

pub use parsers::run;
