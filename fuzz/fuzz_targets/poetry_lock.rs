//! libFuzzer on the parser `poetry_lock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("poetry_lock", bytes);
});
