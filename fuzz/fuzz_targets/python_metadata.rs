//! libFuzzer on the parser `python_metadata`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("python_metadata", bytes);
});
