//! libFuzzer on the parser `npm_lock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("npm_lock", bytes);
});
