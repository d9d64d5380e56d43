//! libFuzzer on the parser `challenge`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("challenge", bytes);
});
