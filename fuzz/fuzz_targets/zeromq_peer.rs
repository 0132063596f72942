#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| rat_tests::targets::zeromq_peer(data));
