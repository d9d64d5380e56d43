//! libFuzzer on the parser `image_config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("image_config", bytes);
});
