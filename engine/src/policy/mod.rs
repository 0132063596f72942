//! Keylime's runtime policy: read, compiled, judged by lint, and generated.

pub mod exclude;
