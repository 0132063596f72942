//! Roles: named sets of permissions, and what somebody with roles may do.

use super::permission::{ACTIONS, gives};

/// A set of permissions with a name.
#[derive(Debug, PartialEq, Eq)]
pub struct Role {
    /// How records and requests name it.
    pub id: &'static str,
    /// How people name it.
    pub name: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// Its permissions: `area:action`, `area:*`, or `*`.
    pub permissions: &'static [&'static str],
}

/// May do everything.
pub const ADMIN: &Role = &Role {
    id: "admin",
    name: "Administrator",
    description: "Everything, accounts included.",
    permissions: &["*"],
};

/// Runs a fleet.
pub const OPERATOR: &Role = &Role {
    id: "operator",
    name: "Operator",
    description: "Agents, policies and enrolment; no accounts, no settings of groups.",
    permissions: &[
        "agents:*",
        "evidence:view",
        "groups:view",
        "policies:*",
        "enroll:*",
        "ek:*",
        "metrics:view",
        "webhooks:view",
        "relays:view",
    ],
};

/// Looks on.
pub const VIEWER: &Role = &Role {
    id: "viewer",
    name: "Viewer",
    description: "What there is to see of the fleet, and no change.",
    permissions: &[
        "agents:view",
        "evidence:view",
        "groups:view",
        "policies:view",
        "enroll:view",
        "ek:view",
        "metrics:view",
        "webhooks:view",
        "relays:view",
    ],
};

/// Every role.
pub const ALL: [&Role; 3] = [ADMIN, OPERATOR, VIEWER];

/// The role with this id.
pub fn named(id: &str) -> Option<&'static Role> {
    ALL.into_iter().find(|role| role.id == id)
}

impl Role {
    /// Whether it gives this `area:action`.
    pub fn gives(&self, action: &str) -> bool {
        self.permissions.iter().any(|held| gives(held, action))
    }
}

/// What somebody may do: the union of some roles, and no more than the union of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    roles: Vec<&'static Role>,
    within: Option<Vec<&'static Role>>,
}

/// The roles with these ids. An id that nobody knows gives nothing.
fn known(ids: &[String]) -> Vec<&'static Role> {
    ids.iter().filter_map(|id| named(id)).collect()
}

impl Granted {
    /// What a user with roles of these ids may do.
    pub fn to_user(roles: &[String]) -> Self {
        Self {
            roles: known(roles),
            within: None,
        }
    }

    /// What a token of this role may do, whose owner has these roles now; without an owner it has
    /// all of its role.
    pub fn to_token(role: &str, owner: Option<&[String]>) -> Self {
        Self {
            roles: named(role).into_iter().collect(),
            within: owner.map(known),
        }
    }

    /// Whether it gives this `area:action`.
    pub fn gives(&self, action: &str) -> bool {
        let any = |roles: &[&Role]| roles.iter().any(|role| role.gives(action));
        any(&self.roles) && self.within.as_deref().is_none_or(any)
    }

    /// Whether it gives all that this role does.
    pub fn covers(&self, role: &Role) -> bool {
        let mut actions = ACTIONS.into_iter().filter(|action| role.gives(action));
        actions.all(|action| self.gives(action))
    }

    /// Its permissions as roles write them; for a user.
    pub fn permissions(&self) -> Vec<&'static str> {
        let all = self.roles.iter().flat_map(|role| role.permissions);
        let mut all: Vec<&'static str> = all.copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(roles: &[&str]) -> Vec<String> {
        roles.iter().map(|&id| id.to_owned()).collect()
    }

    #[test]
    fn a01_roles_give_known_permissions_and_what_their_description_says() {
        for role in ALL {
            for held in role.permissions {
                let known = ACTIONS.into_iter().any(|action| gives(held, action));
                assert!(known, "{held} of {} gives nothing", role.id);
            }
        }
        assert!(ACTIONS.into_iter().all(|action| ADMIN.gives(action)));
        for action in ACTIONS {
            let secret = ["users:view", "tokens:view", "audit:view"].contains(&action);
            let expected = action.ends_with(":view") && !secret;
            assert_eq!(VIEWER.gives(action), expected, "{action}");
        }
        for denied in ["users:view", "tokens:manage", "groups:manage", "audit:view"] {
            assert!(!OPERATOR.gives(denied), "{denied}");
        }
    }

    #[test]
    fn a01_a_token_gives_no_more_than_its_owner_has_now() {
        for owner in ALL {
            for role in ALL {
                let token = Granted::to_token(role.id, Some(&ids(&[owner.id])));
                for action in ACTIONS {
                    let expected = role.gives(action) && owner.gives(action);
                    assert_eq!(token.gives(action), expected);
                }
            }
        }
        let nothing = Granted::to_token("admin", Some(&[]));
        assert!(ACTIONS.into_iter().all(|action| !nothing.gives(action)));
        let unknown = Granted::to_user(&ids(&["root"]));
        assert!(ACTIONS.into_iter().all(|action| !unknown.gives(action)));
    }

    #[test]
    fn a01_a_role_is_covered_by_what_gives_all_of_it() {
        let viewer = Granted::to_user(&ids(&["viewer"]));
        let operator = Granted::to_user(&ids(&["operator"]));
        let both = Granted::to_user(&ids(&["operator", "viewer"]));
        let admin = Granted::to_user(&ids(&["admin"]));
        assert!(viewer.covers(VIEWER) && !viewer.covers(OPERATOR) && !viewer.covers(ADMIN));
        assert!(operator.covers(OPERATOR) && !operator.covers(ADMIN));
        assert!(operator.covers(VIEWER), "whoever runs a fleet may look on");
        assert!(both.covers(OPERATOR) && both.covers(VIEWER) && !both.covers(ADMIN));
        assert!(ALL.into_iter().all(|role| admin.covers(role)));
        assert_eq!(admin.permissions(), ["*"]);
    }
}
