//! The tutorial and the how-to guides, run: every command in order, its output compared.
//!
//! A page is Markdown. A block ```` ```sh ```` is run in a shell, and the block ```` ```text ````
//! after it is what it prints: [`shown`] says what `…` stands for. The words after `sh`:
//!
//! - `terminal=NAME`: the shell of this name, instead of the first one;
//! - `stays`: the last command goes on; later blocks of this terminal are typed to it;
//! - `exit=CODE`: the exit code, when it is not 0;
//! - `not-run: REASON`: the block cannot be run here.
//!
//! Pages name the ports 8001 and 8882, the host `ratd.example` and folders below `/etc/ratd` and
//! `/var/lib/ratd`. Where they are run, [`session`] puts others in their place: ports of the
//! system's choice, 127.0.0.1, and a folder that is removed afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types
)]

mod cloud;
mod machine;
mod page;
mod pages;
mod reference;
mod session;
mod shown;
mod terminal;
