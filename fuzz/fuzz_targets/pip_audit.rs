//! libFuzzer on the parser `pip_audit`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("pip_audit", bytes);
});
