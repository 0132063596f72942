//! What an account's members may be. The HTTP surfaces and the command line take the same.

use rat_store::{NewUser, PasswordHash};
use thiserror::Error;

use super::credential::NoRandom;
use super::roles::{self, Role};
use crate::limits::{
    EMAIL_CHARACTERS_MAX, PASSWORD_CHARACTERS_MAX, PASSWORD_CHARACTERS_MIN, USERNAME_CHARACTERS_MAX,
};

/// The user that the first start makes.
pub const FIRST_USER: &str = "admin";

/// How the audit log names whoever enrols with a token: this, and the token's id.
pub(crate) const TOKEN_ACTOR: &str = "token ";

/// What the audit log calls parts of the server. (S12)
const SERVER_ACTORS: [&str; 3] = ["ratd", "baseline", "enrolment"];

/// Why a member of an account is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AccountFault {
    /// The name is empty, too long, or has other characters.
    #[error("a username has 1 to {USERNAME_CHARACTERS_MAX} of letters, digits and `_.@-`")]
    Username,
    /// The audit log calls a part of the server like this.
    #[error("this name is kept for the server itself")]
    ReservedName,
    /// The address is none.
    #[error(
        "an email address has one `@`, no blanks and at most {EMAIL_CHARACTERS_MAX} characters"
    )]
    Email,
    /// The password is too short or too long.
    #[error("a password has {PASSWORD_CHARACTERS_MIN} to {PASSWORD_CHARACTERS_MAX} characters")]
    PasswordLength,
    /// The password is the name.
    #[error("a password must not be the username")]
    PasswordIsName,
    /// There is no role with this id.
    #[error("there is no such role: admin, operator or viewer")]
    Role,
}

/// Whether this is a username.
///
/// # Errors
/// [`AccountFault::Username`], [`AccountFault::ReservedName`].
pub fn check_username(username: &str) -> Result<(), AccountFault> {
    let is_ours = |name: &&str| username.eq_ignore_ascii_case(name);
    if username.starts_with(TOKEN_ACTOR) || SERVER_ACTORS.iter().any(is_ours) {
        return Err(AccountFault::ReservedName);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte);
    let length = (1..=USERNAME_CHARACTERS_MAX).contains(&username.len());
    (length && username.bytes().all(allowed))
        .then_some(())
        .ok_or(AccountFault::Username)
}

/// Whether this is an email address, or empty.
///
/// # Errors
/// [`AccountFault::Email`].
pub fn check_email(email: &str) -> Result<(), AccountFault> {
    let printable = |c: char| !c.is_whitespace() && !c.is_control();
    let one_at = email.split('@').count() == 2;
    let ends = !email.starts_with('@') && !email.ends_with('@');
    let short = email.chars().nth(EMAIL_CHARACTERS_MAX).is_none();
    (email.is_empty() || one_at && ends && short && email.chars().all(printable))
        .then_some(())
        .ok_or(AccountFault::Email)
}

/// Whether a user with this name may have this password.
///
/// # Errors
/// [`AccountFault`].
pub fn check_password(username: &str, password: &str) -> Result<(), AccountFault> {
    let length = password.chars().count();
    if !(PASSWORD_CHARACTERS_MIN..=PASSWORD_CHARACTERS_MAX).contains(&length) {
        return Err(AccountFault::PasswordLength);
    }
    if password.eq_ignore_ascii_case(username) {
        return Err(AccountFault::PasswordIsName);
    }
    Ok(())
}

/// The roles with these ids.
///
/// # Errors
/// [`AccountFault::Role`].
pub fn check_roles<'a>(
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<&'static Role>, AccountFault> {
    let named = |id| roles::named(id).ok_or(AccountFault::Role);
    ids.into_iter().map(named).collect()
}

/// Ids of roles, each once, as they are kept.
pub fn ids(roles: &[&Role]) -> Vec<String> {
    let mut ids: Vec<String> = roles.iter().map(|role| role.id.to_owned()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// A new user with a new id. Its members have been checked.
///
/// # Errors
/// [`NoRandom`].
pub fn new_user(
    username: &str,
    email: &str,
    roles: &[&Role],
    password: PasswordHash,
    now_unix_ms: u64,
) -> Result<NewUser, NoRandom> {
    Ok(NewUser {
        id: random_uuid()?,
        username: username.to_owned(),
        email: email.to_owned(),
        password,
        roles: ids(roles),
        must_change: false,
        created_unix_ms: now_unix_ms,
    })
}

/// A random UUID. Source: RFC 9562, 5.4 (version 4).
fn random_uuid() -> Result<String, NoRandom> {
    let mut drawn = [0; 16];
    getrandom::fill(&mut drawn).map_err(|_| NoRandom)?;
    let bits = u128::from_be_bytes(drawn);
    let bits = bits & !(0xf << 76) | (0x4 << 76);
    let bits = bits & !(0x3 << 62) | (0x2 << 62);
    let digits = hex::encode(bits.to_be_bytes());
    let part = |range: std::ops::Range<usize>| digits.get(range).unwrap_or_default();
    Ok([
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32),
    ]
    .join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x07_usernames_are_short_and_plain() {
        for good in ["a", "admin", "a.b-c_d@example.com", &"a".repeat(64)] {
            assert_eq!(check_username(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a b",
            "a\n",
            "\u{1b}[31m",
            "<script>",
            "api-token:1",
            "é",
            "a/b",
            &"a".repeat(65),
        ] {
            assert_eq!(check_username(bad), Err(AccountFault::Username), "{bad:?}");
        }
    }

    #[test]
    fn s12_nobody_is_called_like_a_part_of_the_server() {
        for name in ["ratd", "Baseline", "ENROLMENT", "token 0123456789abcdef"] {
            let refused = check_username(name);
            assert_eq!(refused, Err(AccountFault::ReservedName), "{name}");
        }
        for name in ["ratd2", "token", "tokens", "my-baseline"] {
            assert_eq!(check_username(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn x07_an_address_has_one_at_and_nothing_that_moves_a_terminal() {
        for good in ["", "a@b", "user@example.com", "o'hara+x@example.com"] {
            assert_eq!(check_email(good), Ok(()), "{good}");
        }
        let long = format!("{}@b", "a".repeat(EMAIL_CHARACTERS_MAX));
        for bad in [
            "a",
            "@",
            "a@",
            "@b",
            "a@b@c",
            "a @b",
            "a@b\n",
            "a@\u{1b}b",
            &long,
        ] {
            assert_eq!(check_email(bad), Err(AccountFault::Email), "{bad:?}");
        }
    }

    #[test]
    fn a07_a_password_is_long_enough_and_not_the_name() {
        let at = |length: usize| check_password("admin", &"é".repeat(length));
        assert_eq!(
            at(PASSWORD_CHARACTERS_MIN - 1),
            Err(AccountFault::PasswordLength)
        );
        assert_eq!(at(PASSWORD_CHARACTERS_MIN), Ok(()));
        assert_eq!(at(PASSWORD_CHARACTERS_MAX), Ok(()));
        assert_eq!(
            at(PASSWORD_CHARACTERS_MAX + 1),
            Err(AccountFault::PasswordLength)
        );
        let same = check_password("administrator", "Administrator");
        assert_eq!(same, Err(AccountFault::PasswordIsName));
    }

    #[test]
    fn an_id_is_a_uuid_of_version_4() {
        let (one, other) = (random_uuid().unwrap(), random_uuid().unwrap());
        assert_ne!(one, other);
        let parts: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(one.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&one.as_bytes()[19]), "{one}");
    }
}
