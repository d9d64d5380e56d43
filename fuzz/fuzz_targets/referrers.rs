//! libFuzzer on the parser `referrers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("referrers", bytes);
});
