//! libFuzzer on the parser `yarn_lock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("yarn_lock", bytes);
});
