//! libFuzzer on the parser `python_lock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("python_lock", bytes);
});
