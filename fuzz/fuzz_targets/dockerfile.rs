//! libFuzzer on the parser `dockerfile`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("dockerfile", bytes);
});
