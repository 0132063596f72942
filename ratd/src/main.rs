//! The server: configuration, wiring, signals.

fn main() {}
