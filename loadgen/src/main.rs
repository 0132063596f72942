//! rat-load: fleets of software keys and of simulated TPMs, for tests and demos.

fn main() {}
