//! libFuzzer on the parser `cargo_audit`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("cargo_audit", bytes);
});
