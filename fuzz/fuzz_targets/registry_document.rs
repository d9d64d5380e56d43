//! libFuzzer on the parser `registry_document`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("registry_document", bytes);
});
