//! Benchmarks: the files under `benches/` measure public interfaces.
