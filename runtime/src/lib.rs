//! Drives the engine's shards: worker threads, lanes for arithmetic, the store thread, events.
//!
//! A *worker* is a thread that drives many shards. It takes what happened from its mailbox, gives
//! it to the shards, and carries out what they ask for: it sends messages through agents' peers,
//! gives appraisals to *lanes*, and ticks to the *store thread*, which groups the ticks of all
//! workers into one commit. Nothing blocks a worker: what cannot be taken is refused as busy.
//!
//! [`Runtime::start`] loads what is stored and starts the threads; [`Runtime::intake`] is where
//! transports deliver; the other methods are for operators and surfaces.
//!
//! # Security
//! What a worker shows of an agent is what is durable. A worker that died shows nothing: asking
//! about its agents fails, and [`Runtime::health`] says so. (S01, S14)

mod clock;
mod control;
mod events;
mod groups;
mod health;
mod intake;
mod keylime;
mod lanes;
mod limits;
mod list_reader;
mod mailbox;
mod measures;
mod runtime;
mod settings;
mod store_thread;
mod upload;
mod worker;

pub use clock::{Clock, OsNonces, SystemClock};
pub use control::{ControlError, Reloaded};
pub use events::{EventStream, Lost};
pub use groups::{GroupError, load_group};
pub use health::{Health, ListsHealth, StoreHealth, WorkerHealth};
pub use keylime::KeylimeSettings;
pub use limits::{IMA_CACHE_AGENT_BYTES_MIN, IMA_CACHE_BYTES_MAX, IMA_CACHE_BYTES_MIN};
pub use runtime::{Drained, Runtime, StartError};
pub use settings::Settings;
