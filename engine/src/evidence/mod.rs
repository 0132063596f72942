//! What is asked of a machine, and what it answers: the same for every surface.
//!
//! A verifier makes a [`Challenge`]; the Attester gives its TPM the [`qualifying_data`] of it and
//! answers with a [`Submission`]. Transports turn their wire formats into these types and pass
//! them to an [`Intake`], which answers through a [`Peer`].

mod activation;
mod binding;
mod exchange;

pub use activation::{Enrolling, activation_proof};
pub use binding::{
    Binding, Challenge, ChallengeId, Nonce, NonceSource, PULL_NONCE_BYTES, PreimageParties,
    extra_data, preimage_digest, pull_nonce, push_challenge, qualifying_data, qualifying_preimage,
};
pub use exchange::{
    Answer, Busy, Hello, ImaUpload, Instance, Intake, Peer, Refusal, SessionId, Submission, ToAgent,
};
