//! Tests that drive public APIs only: real evidence, attacks by id, and other implementations.
//!
//! The tests are in `tests/tests`, the recorded evidence is in `tests/vectors`.
