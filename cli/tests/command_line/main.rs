//! The built `rat`, from its command line to its exit code.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod help;
mod inspect;
mod policies;
mod run;
mod swtpm;
mod verify;
