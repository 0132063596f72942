//! How often somebody may try to log in. (A03)

use std::net::IpAddr;

use governor::Quota;

use crate::address::{Buckets, client_of, count, whole_seconds};
use crate::error::ApiError;
use crate::limits::{
    LOGINS_PER_ADDRESS_PER_MINUTE, LOGINS_PER_USERNAME_AND_ADDRESS_PER_MINUTE,
    LOGINS_PER_USERNAME_PER_MINUTE, PASSWORD_CHECKS_PER_USER_PER_MINUTE,
};

/// Counts attempts, right and wrong alike, by address, by username, and by both.
///
/// An attempt is counted before its password is looked at, so that no number of attempts at once
/// gets past. Names that no user has are counted like others: the answer does not tell them apart.
///
/// What is left of a name for one address is not what others made of it: whoever guesses at a name
/// keeps its owner out only from many addresses at once.
pub(super) struct LoginRate {
    by_address: Buckets,
    by_both: Buckets,
    by_username: Buckets,
    by_user: Buckets,
}

impl LoginRate {
    pub(super) fn new() -> Self {
        let per_minute = |limit| Buckets::new(Quota::per_minute(count(limit)));
        Self {
            by_address: per_minute(LOGINS_PER_ADDRESS_PER_MINUTE),
            by_both: per_minute(LOGINS_PER_USERNAME_AND_ADDRESS_PER_MINUTE),
            by_username: per_minute(LOGINS_PER_USERNAME_PER_MINUTE),
            by_user: per_minute(PASSWORD_CHECKS_PER_USER_PER_MINUTE),
        }
    }

    /// Counts one attempt of this address at this username.
    ///
    /// # Errors
    /// [`ApiError::Limited`].
    pub(super) fn take(&self, address: IpAddr, username: &str) -> Result<(), ApiError> {
        let limited = |limit| move |wait| ApiError::limited(limit, whole_seconds(wait));
        let (client, username) = (client_of(address), username.to_ascii_lowercase());
        let by_address = self.by_address.take(client);
        by_address.map_err(limited("LOGINS_PER_ADDRESS_PER_MINUTE"))?;
        let by_both = self.by_both.take((client, username.as_str()));
        by_both.map_err(limited("LOGINS_PER_USERNAME_AND_ADDRESS_PER_MINUTE"))?;
        let by_username = self.by_username.take(username.as_str());
        by_username.map_err(limited("LOGINS_PER_USERNAME_PER_MINUTE"))
    }

    /// Counts one attempt at the present password by somebody who is logged in as this user. Logins
    /// of others do not count here: they must not keep a user from changing the password.
    ///
    /// # Errors
    /// [`ApiError::Limited`].
    pub(super) fn take_check(&self, user: &str) -> Result<(), ApiError> {
        let limit = "PASSWORD_CHECKS_PER_USER_PER_MINUTE";
        let taken = self.by_user.take(user);
        taken.map_err(|wait| ApiError::limited(limit, whole_seconds(wait)))
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

    fn address(n: usize) -> IpAddr {
        IpAddr::from([192, 0, 2, u8::try_from(n).unwrap()])
    }

    #[test]
    fn a03_a_name_is_guessed_at_slowly_from_however_many_addresses() {
        let rate = LoginRate::new();
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
    fn a03_who_guesses_at_a_name_from_one_address_keeps_its_owner_out_of_none_other() {
        let rate = LoginRate::new();
        let (guessing, owners) = (address(1), address(2));
        let guess = || rate.take(guessing, "admin");
        for _ in 0..LOGINS_PER_USERNAME_AND_ADDRESS_PER_MINUTE {
            guess().unwrap();
        }
        for _ in 0..10 {
            let refused = limit(guess().unwrap_err()).0;
            assert_eq!(refused, "LOGINS_PER_USERNAME_AND_ADDRESS_PER_MINUTE");
        }
        rate.take(owners, "admin").unwrap();
        for _ in 0..PASSWORD_CHECKS_PER_USER_PER_MINUTE {
            rate.take_check("admin").unwrap();
        }
        let refused = limit(rate.take_check("admin").unwrap_err()).0;
        assert_eq!(refused, "PASSWORD_CHECKS_PER_USER_PER_MINUTE");
        rate.take(owners, "admin").unwrap();
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
