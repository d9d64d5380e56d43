//! libFuzzer on the parser `allow_list`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("allow_list", bytes);
});
