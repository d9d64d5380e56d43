//! libFuzzer on the parser `requirements`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("requirements", bytes);
});
