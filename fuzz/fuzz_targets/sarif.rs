//! libFuzzer on the parser `sarif`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("sarif", bytes);
});
