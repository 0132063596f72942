//! Passwords: argon2id, computed by a bounded number of threads.

use std::sync::Arc;

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use rat_store::PasswordHash;
use tokio::sync::Semaphore;

use super::credential::NoRandom;
use crate::error::ApiError;
use crate::limits::{PASSWORD_HASHES_AT_ONCE_MAX, PASSWORD_HASHES_WAITING_MAX};
use crate::metrics;

// OWASP Password Storage Cheat Sheet, "Argon2id": 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;

/// What is verified where there is no user: the same parameters, hence the same work. Nobody has a
/// password for it, and whoever had one would be refused all the same. (A03)
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Hashes and verifies passwords without holding up whoever serves connections.
///
/// Each computation takes 19 MiB and tens of milliseconds. So few run at once, some wait, and the
/// rest is told to come back.
#[derive(Debug)]
pub struct Passwords {
    running: Arc<Semaphore>,
    admitted: Semaphore,
}

/// A password could not be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the password could not be hashed")]
pub struct NotHashed;

impl Default for Passwords {
    fn default() -> Self {
        let admitted = PASSWORD_HASHES_AT_ONCE_MAX.saturating_add(PASSWORD_HASHES_WAITING_MAX);
        Self {
            running: Arc::new(Semaphore::new(PASSWORD_HASHES_AT_ONCE_MAX)),
            admitted: Semaphore::new(admitted),
        }
    }
}

impl Passwords {
    /// The hash to keep of this password, with a new salt.
    ///
    /// # Errors
    /// [`ApiError::Limited`] when too many wait, [`ApiError::Unavailable`] when it failed.
    pub async fn hash(&self, password: &str) -> Result<PasswordHash, ApiError> {
        let password = password.to_owned();
        let hashed = self.run(move || Self::hash_now(&password)).await?;
        hashed.map_err(|_| ApiError::Unavailable("the password could not be hashed"))
    }

    /// Whether this is the password with this hash. Without one it takes as long, and is not.
    ///
    /// # Errors
    /// [`ApiError::Limited`] when too many wait, [`ApiError::Unavailable`] when it failed.
    ///
    /// # Security
    /// Nothing but the hash decides; a hash that cannot be read admits nobody. Hashes are compared
    /// in constant time.
    pub async fn verify(
        &self,
        password: &str,
        hash: Option<&PasswordHash>,
    ) -> Result<bool, ApiError> {
        let exists = hash.is_some();
        let phc = hash.map_or(NOBODY, PasswordHash::as_phc).to_owned();
        let password = password.to_owned();
        let verify = move || {
            hasher().is_ok_and(|argon2| {
                argon2
                    .verify_password(password.as_bytes(), phc.as_str())
                    .is_ok()
            })
        };
        Ok(self.run(verify).await? && exists)
    }

    /// The hash to keep of this password, computed here and now: for the command line.
    ///
    /// # Errors
    /// [`NotHashed`].
    pub fn hash_now(password: &str) -> Result<PasswordHash, NotHashed> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|_| NotHashed)?;
        let hashed = hasher()?.hash_password_with_salt(password.as_bytes(), &salt);
        Ok(PasswordHash::new(
            hashed.map_err(|_| NotHashed)?.to_string(),
        ))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let limited = || ApiError::limited("PASSWORD_HASHES_WAITING_MAX", 1);
        let _admitted = self.admitted.try_acquire().map_err(|_| limited())?;
        let running = Arc::clone(&self.running);
        let running = running.acquire_owned().await.map_err(|_| limited())?;
        let computed = tokio::task::spawn_blocking(move || {
            // Held by the computation: a client that goes away does not make room for another.
            let _running = running;
            metrics::password_hashed();
            work()
        });
        computed.await.map_err(|error| {
            tracing::error!(%error, "a password's computation failed");
            ApiError::Unavailable("the password could not be checked")
        })
    }
}

fn hasher() -> Result<Argon2<'static>, NotHashed> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| NotHashed)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// A password that nobody can guess: 24 characters that are not mistaken for one another, 120 bits.
///
/// # Errors
/// [`NoRandom`].
pub fn random_password() -> Result<String, NoRandom> {
    const CHARACTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
    let mut drawn = [0; 24];
    getrandom::fill(&mut drawn).map_err(|_| NoRandom)?;
    let character = |byte: u8| CHARACTERS.get(usize::from(byte & 31)).copied();
    Ok(drawn
        .into_iter()
        .filter_map(character)
        .map(char::from)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a03_a_hash_is_argon2id_salted_and_admits_its_password_alone() {
        let passwords = Passwords::default();
        let hash = passwords.hash("correct horse").await.unwrap();
        let phc = hash.as_phc();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(!format!("{hash:?}").contains("argon2id"));
        assert_ne!(passwords.hash("correct horse").await.unwrap(), hash);
        assert_eq!(
            passwords.verify("correct horse", Some(&hash)).await,
            Ok(true)
        );
        for wrong in ["", "correct horse ", "Correct horse", "correct hors"] {
            assert_eq!(passwords.verify(wrong, Some(&hash)).await, Ok(false));
        }
        assert_eq!(passwords.verify("correct horse", None).await, Ok(false));
        let unreadable = PasswordHash::new("correct horse".to_owned());
        assert_eq!(
            passwords.verify("correct horse", Some(&unreadable)).await,
            Ok(false)
        );
    }

    #[test]
    fn a03_nobodys_hash_costs_what_a_users_does() {
        let real = Passwords::hash_now("correct horse").unwrap();
        let costs = |phc: &str| {
            phc.split('$')
                .take(4)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(costs(NOBODY), costs(real.as_phc()));
        let lengths = |phc: &str| phc.split('$').map(str::len).collect::<Vec<_>>();
        assert_eq!(lengths(NOBODY), lengths(real.as_phc()));
        let hash = argon2::PasswordHash::new(NOBODY).expect("a hash that is computed and compared");
        assert!(hash.salt.is_some() && hash.hash.is_some());
    }

    #[tokio::test]
    async fn x05_more_passwords_than_may_wait_are_put_off() {
        let passwords = Passwords::default();
        let all = PASSWORD_HASHES_AT_ONCE_MAX + PASSWORD_HASHES_WAITING_MAX;
        let _taken = passwords
            .admitted
            .try_acquire_many(all.try_into().unwrap())
            .unwrap();
        let refused = passwords.verify("correct horse", None).await.unwrap_err();
        assert_eq!(refused.status(), 429);
    }

    #[test]
    fn a07_made_passwords_differ() {
        let (one, other) = (random_password().unwrap(), random_password().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 24);
    }
}
