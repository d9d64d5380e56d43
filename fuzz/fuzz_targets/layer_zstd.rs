//! libFuzzer on the parser `layer_zstd`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("layer_zstd", bytes);
});
