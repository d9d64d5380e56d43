//! libFuzzer on the parser `layer_gzip`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("layer_gzip", bytes);
});
