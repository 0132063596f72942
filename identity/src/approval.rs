//! Whether a TPM that the operator knows may join a group. (N12)
//!
//! A vendor's chain proves that a key is in a TPM of that vendor. Anybody can buy one. So each
//! group says how much more it asks.

use serde::{Deserialize, Serialize};

use crate::ek::EkVouch;

/// How machines are let into a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// Whoever holds a token and a TPM that is known by a chain or by a list.
    Auto,
    /// Only TPMs that an operator named: on a list, or for this group.
    List,
    /// Every machine waits for an operator.
    #[default]
    Manual,
}

/// What becomes of an enrolment whose activation was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The agent is taken in.
    Admit,
    /// The agent waits for an operator.
    AskOperator,
    /// The agent is refused, with the code `ek.not_listed`.
    NotListed,
}

impl Decision {
    /// The stable code of a refusal.
    pub const fn code(self) -> Option<&'static str> {
        match self {
            Self::Admit | Self::AskOperator => None,
            Self::NotListed => Some("ek.not_listed"),
        }
    }
}

/// What a group makes of a TPM that is known in this way.
pub const fn decide(approval: Approval, vouch: EkVouch) -> Decision {
    match (approval, vouch) {
        (_, EkVouch::Approved)
        | (Approval::Auto, EkVouch::Chain { .. } | EkVouch::List)
        | (Approval::List, EkVouch::List) => Decision::Admit,
        (Approval::List, EkVouch::Chain { .. }) => Decision::NotListed,
        (Approval::Manual, EkVouch::Chain { .. } | EkVouch::List) => Decision::AskOperator,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n12_a_chain_alone_opens_only_groups_that_say_so() {
        let chain = EkVouch::Chain { root: [7; 32] };
        let cases = [
            (Approval::Auto, chain, Decision::Admit),
            (Approval::Auto, EkVouch::List, Decision::Admit),
            (Approval::List, chain, Decision::NotListed),
            (Approval::List, EkVouch::List, Decision::Admit),
            (Approval::Manual, chain, Decision::AskOperator),
            (Approval::Manual, EkVouch::List, Decision::AskOperator),
            (Approval::Auto, EkVouch::Approved, Decision::Admit),
            (Approval::List, EkVouch::Approved, Decision::Admit),
            (Approval::Manual, EkVouch::Approved, Decision::Admit),
        ];
        for (approval, vouch, expected) in cases {
            assert_eq!(decide(approval, vouch), expected, "{approval:?} {vouch:?}");
        }
        assert_eq!(Decision::NotListed.code(), Some("ek.not_listed"));
        assert_eq!(Approval::default(), Approval::Manual);
        assert_eq!(serde_json::to_string(&Approval::List).unwrap(), "\"list\"");
    }
}
