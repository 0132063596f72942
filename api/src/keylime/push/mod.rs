//! Keylime's push mode (version 3 of its API): agents open sessions by proving their attestation keys,
//! ask what to prove, and send evidence.
//!
//! It goes the way of all evidence: `conversation` is a connection to the shards, which ask, judge
//! and answer; what came of it is durable before anybody is told.
//!
//! Source: Keylime 7.14 `keylime/web/verifier/attestation_controller.py`,
//! `keylime/web/verifier/session_controller.py`; its enhancement 103.

mod attestations;
mod capabilities;
mod choice;
mod conversation;
mod errors;
mod evidence;
mod possession;
mod proof;
mod rate;
mod results;
pub(crate) mod sessions;

pub use sessions::Proven;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Intake, SessionId};
use rat_engine::hash::HashAlg;
use rat_engine::shard::{AgentPath, AgentRecord, AgentState, KeylimeTerms};
use rat_store::Store;

use crate::auth::Permission;
use crate::core::fleet::Fleet;
use crate::surface::{Aliases, AtOnceMax, BodyLimit, Route, Shared, Surface};
use crate::{limits, metrics};
use attestations::AllAwaited;
use errors::Refused;
use rate::SessionRate;
use sessions::Sessions;

/// What the routes of push mode work with.
pub type Push = Arc<Inner>;

/// The state behind [`Push`].
pub struct Inner {
    store: Store,
    fleet: Arc<dyn Fleet>,
    intake: Arc<dyn Intake>,
    sessions: Arc<Sessions>,
    awaited: AllAwaited,
    rate: SessionRate,
    next: AtomicU64,
    interval_seconds: u64,
}

/// Sessions of this mode are told apart from those of transports by their highest bit.
const FIRST_SESSION: u64 = 1 << 63;

/// An agent that pushes.
struct Known {
    record: Arc<AgentRecord>,
    terms: Arc<KeylimeTerms>,
    /// How many attestations it had.
    attestations: u64,
    state: AgentState,
}

impl Inner {
    /// The state of a server. A session lasts so long after each attestation that passed.
    pub fn new(
        store: Store,
        fleet: Arc<dyn Fleet>,
        intake: Arc<dyn Intake>,
        session_lifetime: Duration,
        interval: Duration,
    ) -> Push {
        Arc::new(Self {
            store,
            fleet,
            intake,
            sessions: Arc::new(Sessions::new(session_lifetime)),
            awaited: AllAwaited::default(),
            rate: SessionRate::new(),
            next: AtomicU64::new(FIRST_SESSION),
            interval_seconds: interval.as_secs(),
        })
    }

    /// The sessions, for the gate.
    pub(crate) fn sessions(&self) -> Arc<Sessions> {
        Arc::clone(&self.sessions)
    }

    fn next_session(&self) -> SessionId {
        SessionId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The agent of this id, if it is one that pushes.
    async fn known(&self, agent: &AgentId) -> Result<Option<Known>, Refused> {
        let unavailable = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, "an agent that pushes cannot be read");
            let status = axum::http::StatusCode::SERVICE_UNAVAILABLE;
            Refused::new(status, "unavailable", "The records cannot be read now.").retry_after(1)
        };
        let seen = self.fleet.seen(agent.clone()).await;
        let Some(seen) = seen.map_err(|error| unavailable(&error))? else {
            return Ok(None);
        };
        let Some(terms) = seen
            .terms
            .filter(|_| seen.record.path == AgentPath::KeylimePush)
        else {
            return Ok(None);
        };
        Ok(Some(Known {
            record: seen.record,
            terms,
            attestations: seen.state.attestations,
            state: seen.state,
        }))
    }

    /// The agent quotes another bank than it was taken for: it is asked for that from now on.
    async fn change_bank(&self, agent: &AgentId, bank: HashAlg) -> Result<(), Refused> {
        let changed = async {
            self.store.set_keylime_bank(agent, bank).await.ok()?;
            self.fleet.keylime_changed(agent.clone()).await.ok()
        };
        match changed.await {
            Some(()) => Ok(()),
            None => {
                let status = axum::http::StatusCode::SERVICE_UNAVAILABLE;
                let detail = "The records cannot be changed now.";
                Err(Refused::new(status, "unavailable", detail).retry_after(1))
            }
        }
    }

    fn count(&self, step: &'static str, result: &'static str) {
        let labels = [("step", step), ("result", result)];
        ::metrics::counter!(metrics::KEYLIME_PUSHES, &labels).increment(1);
    }
}

const SESSIONS: &str = "/{version}/sessions";
const SESSION: &str = "/{version}/sessions/{session}";
const ATTESTATIONS: &str = "/{version}/agents/{name}/attestations";
const ATTESTATION: &str = "/{version}/agents/{name}/attestations/{index}";

/// Paths have the same meaning with a slash at the end.
const ALIASES: Aliases = &[
    (SESSIONS, &["/{version}/sessions/"]),
    (ATTESTATIONS, &["/{version}/agents/{name}/attestations/"]),
];

/// The routes of push mode.
pub fn surface(shared: Arc<Shared>) -> Surface<Push> {
    let small = BodyLimit::Bytes("PUSH_BODY_BYTES_MAX", limits::PUSH_BODY_BYTES_MAX);
    let evidence = BodyLimit::Bytes("EVIDENCE_BODY_BYTES_MAX", limits::EVIDENCE_BODY_BYTES_MAX);
    let submit = Permission::KeylimeAgent("submit_attestation");
    let read = Permission::KeylimeAdmin("read_attestation");
    let answer = Route {
        at_once: Some(AtOnceMax {
            name: "EVIDENCE_PLACES_MAX",
            max: limits::EVIDENCE_PLACES_MAX,
            of_address: limits::EVIDENCE_PLACES_PER_ADDRESS_MAX,
            bytes_each: limits::EVIDENCE_PLACE_BYTES,
        }),
        ..Route::patch(ATTESTATION, submit, evidence)
    };
    let session = Permission::KeylimeSession;
    let list = Permission::KeylimeAdmin("list_attestations");
    Surface::with_aliases(shared, ALIASES)
        .route(Route::post(SESSIONS, session, small), proof::ask)
        .route(Route::patch(SESSION, session, small), proof::prove)
        .route(
            Route::post(ATTESTATIONS, submit, small),
            attestations::begin,
        )
        .route(answer, attestations::answer)
        .route(Route::get(ATTESTATIONS, list), results::list)
        .route(Route::get(ATTESTATION, read), results::one)
}

/// Whether a path begins with the third version, which has one minor.
fn is_version_3(text: &str) -> bool {
    matches!(text.strip_prefix('v').unwrap_or(text), "3" | "3.0")
}
