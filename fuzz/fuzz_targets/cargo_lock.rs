//! libFuzzer on the parser `cargo_lock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("cargo_lock", bytes);
});
