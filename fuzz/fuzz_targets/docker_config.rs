//! libFuzzer on the parser `docker_config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sealift_fuzz::run("docker_config", bytes);
});
