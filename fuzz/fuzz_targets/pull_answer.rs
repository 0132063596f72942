#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| rat_tests::targets::pull_answer(data));
