//! How often somebody may try to log in. (A03)

use std::net::IpAddr;

use governor::Quota;

use crate::address::{Buckets, client_of, count, whole_seconds};
use crate::error::ApiError;
use crate::limits::{LOGINS_PER_ADDRESS_PER_MINUTE, LOGINS_PER_USERNAME_PER_MINUTE};

/// Counts attempts, right and wrong alike, by address and by username.
///
/// An attempt is counted before its password is looked at, so that no number of attempts at once
/// gets past. Names that no user has are counted like others: the answer does not tell them apart.
pub(super) struct LoginRate {
    by_address: Buckets,
    by_username: Buckets,
}

impl LoginRate {
    pub(super) fn new() -> Self {
        let per_minute = |limit| Buckets::new(Quota::per_minute(count(limit)));
        Self {
            by_address: per_minute(LOGINS_PER_ADDRESS_PER_MINUTE),
            by_username: per_minute(LOGINS_PER_USERNAME_PER_MINUTE),
        }
    }

    /// Counts one attempt of this address at this username.
    ///
    /// # Errors
    /// [`ApiError::Limited`].
    pub(super) fn take(&self, address: IpAddr, username: &str) -> Result<(), ApiError> {
        let address = self.by_address.take(client_of(address));
        address.map_err(|wait| {
            ApiError::limited("LOGINS_PER_ADDRESS_PER_MINUTE", whole_seconds(wait))
        })?;
        let username = self.by_username.take(username.to_ascii_lowercase());
        username.map_err(|wait| {
            ApiError::limited("LOGINS_PER_USERNAME_PER_MINUTE", whole_seconds(wait))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(refused: ApiError) -> (&'static str, u64) {
        match refused {
            ApiError::Limited {
                limit,
                retry_after_seconds,
            } => (limit, retry_after_seconds),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a03_a_name_is_guessed_at_from_many_addresses_as_slowly_as_from_one() {
        let rate = LoginRate::new();
        let address = |n: usize| IpAddr::from([192, 0, 2, u8::try_from(n).unwrap()]);
        for n in 0..LOGINS_PER_USERNAME_PER_MINUTE {
            let name = if n % 2 == 0 { "admin" } else { "ADMIN" };
            rate.take(address(n), name).unwrap();
        }
        let refused = rate.take(address(200), "admin").unwrap_err();
        let (limit, seconds) = limit(refused);
        assert_eq!(limit, "LOGINS_PER_USERNAME_PER_MINUTE");
        assert!((1..=60).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a03_an_address_guesses_at_many_names_as_slowly_as_at_one() {
        let rate = LoginRate::new();
        let address = IpAddr::from([192, 0, 2, 1]);
        for n in 0..LOGINS_PER_ADDRESS_PER_MINUTE {
            rate.take(address, &format!("user-{n}")).unwrap();
        }
        let refused = rate.take(address, "another").unwrap_err();
        assert_eq!(limit(refused).0, "LOGINS_PER_ADDRESS_PER_MINUTE");
    }
}
