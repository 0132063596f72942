//! Keylime's runtime policy: read, compiled, judged by lint, and generated.

mod compiled;
pub mod exclude;
mod generate;
pub(crate) mod json;
mod lint;
mod runtime;
mod table;
mod verification_keys;

pub use compiled::{BOOT_AGGREGATE, CompiledPolicy, Exclusion, PathRule};
pub use exclude::PatternError;
pub use generate::{
    GenerateError, GenerateOptions, Generated, Measured, MeasuredKind, OnObstacle, generate,
};
pub use lint::{ExcludeSite, Lint, PathSample, Severity, lint};
pub use runtime::{Fault, Meta, NeverMatches, PolicyError, RuntimePolicy, Warning};
pub use table::Digests;
pub(crate) use table::{Place, Seed};
pub use verification_keys::{VerificationKey, VerificationKeysError};
