//! libFuzzer on the parser `statement`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("statement", bytes);
});
