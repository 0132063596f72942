//! What Keylime's clients ask a verifier and a registrar: paths, members and errors are Keylime's,
//! misspellings included.
//!
//! A path begins with the version of the API that the client speaks. Answers of version 2 stand in one
//! `envelope`. Who calls is an [`Identity`]; the routes' permissions say who may.
//!
//! Source: Keylime 7.14 `keylime/web`, `keylime/cloud_verifier_tornado.py`.

mod caller;
mod envelope;
pub mod evidence;
mod measured_boot;
pub mod migration;
mod params;
pub mod push;
pub mod registrar;
pub mod verifier;
mod version;

pub use caller::{Identity, KeylimeCaller};
pub(crate) use envelope::refuse;
pub use measured_boot::{Evaluate, MeasuredBoot, UnknownEvaluate};
pub use version::ApiVersion;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn;
use evidence::{Policies, Verifications};

use crate::auth::Permission;
use crate::limits;
use crate::surface::{Aliases, AtOnceMax, BodyLimit, Joined, Route, Shared, Surface, join_with};

/// What the routes of Keylime's verifier work with.
#[derive(Debug)]
pub struct Keylime {
    verifications: Verifications,
    policies: Policies,
    measured_boot: MeasuredBoot,
}

impl Keylime {
    /// A verifier that judges so much evidence at once, on threads of its own.
    pub fn new(verifications: usize, measured_boot: MeasuredBoot) -> Arc<Self> {
        Arc::new(Self {
            verifications: Verifications::new(verifications),
            policies: Policies::default(),
            measured_boot,
        })
    }
}

type State = axum::extract::State<Arc<Keylime>>;

/// The version, as routes declare it. It is read by [`ApiVersion::parse`].
const VERSION: &str = "/{version}/";

/// Whether a path, as it was sent or as a route declares it, is of this API.
pub(crate) fn serves(path: &str) -> bool {
    let versioned = path.strip_prefix("/v").and_then(|rest| rest.bytes().next());
    path.starts_with(VERSION)
        || matches!(path, "/version" | "/{version}")
        || versioned.is_some_and(|byte| byte.is_ascii_digit())
}

/// What a listener of Keylime's serves: these routers, and for everything else Keylime's errors. Each
/// answer has a request id.
pub fn join(shared: &Arc<Shared>, routers: impl IntoIterator<Item = Router>) -> Joined {
    join_with(shared, routers, |_, error| refuse(&error))
        .layer(from_fn(envelope::known_method))
        .layer(from_fn(envelope::with_request_id))
}

/// Paths have the same meaning with a slash at the end.
const ALIASES: Aliases = &[(
    "/{version}/verify/evidence",
    &["/{version}/verify/evidence/"],
)];

/// The routes of Keylime's verifier.
pub fn surface(shared: Arc<Shared>) -> Surface<Arc<Keylime>> {
    let body = BodyLimit::Bytes("EVIDENCE_BODY_BYTES_MAX", limits::EVIDENCE_BODY_BYTES_MAX);
    let evidence = Route {
        at_once: Some(AtOnceMax {
            name: "EVIDENCE_PLACES_MAX",
            max: limits::EVIDENCE_PLACES_MAX,
            of_address: limits::EVIDENCE_PLACES_PER_ADDRESS_MAX,
            bytes_each: limits::EVIDENCE_PLACE_BYTES,
        }),
        ..Route::post(
            "/{version}/verify/evidence",
            Permission::KeylimePublic,
            body,
        )
    };
    Surface::with_aliases(shared, ALIASES).route(evidence, evidence::verify)
}

/// The surface's router. Each of its answers has a request id.
pub fn router(surface: Surface<Arc<Keylime>>, keylime: Arc<Keylime>) -> Router {
    surface
        .into_router(keylime)
        .layer(from_fn(envelope::with_request_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_a_version_are_keylimes() {
        for path in [
            "/v2.6/verify/evidence",
            "/v2/",
            "/{version}/agents/{agent_id}",
            "/version",
            "/{version}",
        ] {
            assert!(serves(path), "{path}");
        }
        for path in ["/", "/versions", "/verify", "/agents/v2.6", "/api/v1/users"] {
            assert!(!serves(path), "{path}");
        }
    }
}
