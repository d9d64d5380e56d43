//! libFuzzer on the parser `gitleaks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("gitleaks", bytes);
});
