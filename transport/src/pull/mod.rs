//! Polling Keylime's agents: HTTPS servers, each of which is asked for a quote when its shard says
//! that it is due.
//!
//! # Life of an agent here
//! 1. [`Poller::put`] tells where it is. It is asked for its versions: until it answers, it costs its
//!    shard nothing.
//! 2. Then its shard hears that it is connected, as it does of agents that connect by themselves.
//! 3. The shard's challenge becomes one request, and its answer a
//!    [`Submission`](rat_engine::evidence::Submission). Between two challenges there is neither a
//!    task nor, unless polls are frequent, a connection.
//! 4. An agent that gives no evidence is disconnected, and asked again after a while that grows
//!    with each failure. What that means for trust is the shard's to say: the agent is overdue when
//!    its time is up, and never untrusted for being silent. (keylime#481, #996, #1079)
//!
//! # Security
//! An agent is known by its certificate, byte for byte, and its quote is tied to the challenge, to
//! that certificate and to the agent by its nonce. (Q05, Q15) Whatever it answers is read under
//! [`limits`]; no redirect is followed and nothing is decompressed. (A05, X02)

mod answer;
mod connection;
mod contact;
mod exchange;
mod failure;
mod notify;
mod peer;
mod polled;
mod poller;
mod retries;
mod tls;
mod v_key;
mod version;

pub use answer::{Answer, data_pcr};
pub use contact::{Contact, ContactError, V_KEY_BYTES, VKey};
pub use failure::Failure;
pub use poller::{News, Options, Poller, Seal, Settings, Standing, StartError, Watcher};
pub use tls::{ClientIdentity, PemError, certificate_of_pem};
pub use v_key::VKeyFailure;
pub use version::{AgentVersion, common_version};

#[allow(unused_imports, reason = "named by the documentation")]
use crate::limits;
