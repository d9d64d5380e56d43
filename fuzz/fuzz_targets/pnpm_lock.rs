//! libFuzzer on the parser `pnpm_lock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("pnpm_lock", bytes);
});
