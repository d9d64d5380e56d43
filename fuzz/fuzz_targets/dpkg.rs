//! libFuzzer on the parser `dpkg`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("dpkg", bytes);
});
