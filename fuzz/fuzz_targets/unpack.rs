//! libFuzzer on the parser `unpack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("unpack", bytes);
});
