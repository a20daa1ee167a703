//! cargo-fuzz's door to the target of this name.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::run("dns_transports", data));
