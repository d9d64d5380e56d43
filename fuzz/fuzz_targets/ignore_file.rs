//! libFuzzer on the parser `ignore_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("ignore_file", bytes);
});
