//! libFuzzer on the parser `apk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("apk", bytes);
});
