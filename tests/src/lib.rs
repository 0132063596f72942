//! Tests of the whole: the files under `tests/` drive public interfaces only.
