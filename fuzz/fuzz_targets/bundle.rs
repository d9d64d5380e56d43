//! libFuzzer on the parser `bundle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("bundle", bytes);
});
