//! libFuzzer on the parser `layout_index`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("layout_index", bytes);
});
