//! rat-agent: enrols a machine, quotes its TPM, answers challenges.

fn main() {}
