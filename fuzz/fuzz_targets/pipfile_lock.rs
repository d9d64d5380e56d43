//! libFuzzer on the parser `pipfile_lock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("pipfile_lock", bytes);
});
