//! What routes demand, as data.

/// What a route demands of whoever calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Nothing: it tells nobody anything, and changes nothing.
    Public,
    /// Nothing, as Keylime's public actions; but whoever presents a credential must have a session
    /// of one of Keylime's agents.
    KeylimePublic,
    /// Nothing, and no credential is looked at: this is how sessions begin.
    KeylimeSession,
    /// A client certificate of Keylime's CA, over a connection that is encrypted; this is Keylime's name
    /// of the action. Whoever presents another credential beside it has neither's permission.
    KeylimeAdmin(&'static str),
    /// A token that an agent earned by proving its attestation key; this is Keylime's name of the
    /// action. That the agent acts for itself, the handler checks.
    KeylimeAgent(&'static str),
    /// One of both, in their order.
    KeylimeAgentOrAdmin(&'static str),
    /// A username and its password in the body; the handler checks them.
    Password,
    /// A valid enrolment token in the body; the handler checks it, and what kind it is.
    EnrolmentToken,
    /// The random, single-use id of a pending activation, and the proof that belongs to it.
    PendingActivation,
    /// A login, also one whose password must be changed first.
    AnySession,
    /// A login.
    Session,
    /// This `area:action`, which a role of the caller gives.
    Operator(&'static str),
    /// Nothing from a loopback address, this `area:action` from elsewhere.
    LoopbackOrOperator(&'static str),
}

/// Every `area:action` that there is. Roles are compared over them.
pub const ACTIONS: [&str; 23] = [
    "agents:view",
    "agents:approve",
    "agents:manage",
    "evidence:view",
    "groups:view",
    "groups:manage",
    "policies:view",
    "policies:add",
    "policies:activate",
    "enroll:issue",
    "enroll:view",
    "ek:view",
    "ek:manage",
    "users:view",
    "users:manage",
    "tokens:view",
    "tokens:manage",
    "audit:view",
    "metrics:view",
    "webhooks:view",
    "webhooks:manage",
    "relays:view",
    "relays:manage",
];

/// Whether a permission that is held gives the one that is needed: it is `*`, the same, or
/// `area:*` of the same area.
pub fn gives(held: &str, needed: &str) -> bool {
    if held == "*" || held == needed {
        return true;
    }
    let area = held.strip_suffix(":*");
    area.is_some_and(|area| needed.split_once(':').is_some_and(|(of, _)| of == area))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a01_a_permission_gives_itself_its_area_or_everything() {
        for (held, needed, expected) in [
            ("*", "agents:view", true),
            ("agents:view", "agents:view", true),
            ("agents:*", "agents:view", true),
            ("agents:*", "agents:manage", true),
            ("agents:view", "agents:manage", false),
            ("agents:*", "audit:view", false),
            ("agent:*", "agents:view", false),
            ("a*", "agents:view", false),
            ("*:view", "agents:view", false),
            ("", "agents:view", false),
            (":*", "agents:view", false),
            ("agents", "agents:view", false),
        ] {
            assert_eq!(gives(held, needed), expected, "{held:?} for {needed:?}");
        }
    }
}
