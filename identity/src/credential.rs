//! Credentials: a secret that only one TPM releases, and only for one of its keys.
//!
//! Source: TPM 2.0 Library Part 1, 24 "Credential Protection", B.10.4 (RSA) and C.6.4 (ECC).

use rat_engine::crypto::{Curve, KeyMaterial};
use rat_engine::evidence::NonceSource;
use rat_engine::hash::HashAlg;
use thiserror::Error;

use crate::LibraryError;
use crate::ek::{EkError, EndorsementKey};
use crate::x509::secrecy::{aes_cfb, agree, hmac, rsa_raw};

/// The label of a credential's seed, with the terminating zero that is part of it.
const IDENTITY: &[u8] = b"IDENTITY\0";

/// Draws of a private key before we give up; each fails with a chance under 2^-32, but for P-521.
const SCALAR_TRIES: usize = 64;

/// What `TPM2_ActivateCredential` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// `TPM2B_ID_OBJECT`.
    pub blob: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub encrypted_secret: Vec<u8>,
}

/// Why no credential can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// The endorsement key is refused.
    #[error(transparent)]
    Ek(#[from] EkError),
    /// The secret is empty, or longer than the endorsement key's hash.
    #[error("a secret of {found} bytes does not fit; 1 to {max} do")]
    Secret {
        /// Its length.
        found: usize,
        /// The longest that fits.
        max: usize,
    },
    /// The name is not that of an object.
    #[error("the name is not that of an object: an algorithm and its digest")]
    Name,
    /// There is no randomness to be had.
    #[error("there are no random numbers to be had")]
    Random,
    /// The library failed.
    #[error(transparent)]
    Library(#[from] LibraryError),
}

/// Wraps `secret` so that only the TPM with this endorsement key releases it, and only while the
/// object with this name is loaded there.
///
/// # Errors
/// [`CredentialError`]; endorsement keys of other than the default templates are refused, since
/// only these do nothing but this. (N02)
///
/// # Security
/// Proves nothing by itself. Whoever returns the secret holds both keys.
pub fn make_credential(
    ek_public: &[u8],
    ak_name: &[u8],
    secret: &[u8],
    random: &mut dyn NonceSource,
) -> Result<Credential, CredentialError> {
    let ek = EndorsementKey::parse(ek_public)?;
    let hash = ek.public.name_alg;
    if secret.is_empty() || secret.len() > hash.size() {
        return Err(CredentialError::Secret {
            found: secret.len(),
            max: hash.size(),
        });
    }
    check_name(ak_name)?;
    let aes_bits = ek.public.symmetric.map_or(0, |aes| aes.key_bits);
    let (seed, sealed) = match ek.key.material() {
        key @ KeyMaterial::Rsa { modulus, .. } => seal_rsa(key, modulus.len(), hash, random)?,
        key @ KeyMaterial::Ecc { curve, x, .. } => seal_ecc(key, *curve, x, hash, random)?,
    };
    let blob = id_object(hash, aes_bits, &seed, ak_name, secret)?;
    Ok(Credential {
        blob: sized(&blob)?,
        encrypted_secret: sized(&sealed)?,
    })
}

/// `nameAlg` and a digest of it.
fn check_name(name: &[u8]) -> Result<(), CredentialError> {
    let (id, digest) = name.split_first_chunk::<2>().ok_or(CredentialError::Name)?;
    let alg = HashAlg::from_tpm_id(u16::from_be_bytes(*id)).ok_or(CredentialError::Name)?;
    if digest.len() == alg.size() {
        Ok(())
    } else {
        Err(CredentialError::Name)
    }
}

/// Encrypts and authenticates the secret: `TPMS_ID_OBJECT`.
// Part 1, 24.4 "Symmetric Encrypt" and 24.5 "HMAC"
fn id_object(
    hash: HashAlg,
    aes_bits: u16,
    seed: &[u8],
    name: &[u8],
    secret: &[u8],
) -> Result<Vec<u8>, CredentialError> {
    let aes_key = kdf_a(hash, seed, b"STORAGE\0", name, aes_bits)?;
    let identity = aes_cfb(&aes_key, &sized(secret)?)?;
    let bits = u16::try_from(hash.size().saturating_mul(8)).map_err(|_| LibraryError)?;
    let hmac_key = kdf_a(hash, seed, b"INTEGRITY\0", &[], bits)?;
    let integrity = hmac(hash, &hmac_key, &[&identity, name])?;
    Ok([sized(&integrity)?, identity].concat())
}

/// `KDFa` with an empty `contextV`, for keys no longer than the hash: all that are needed here.
// Part 1, 11.4.10.2
fn kdf_a(
    hash: HashAlg,
    key: &[u8],
    label: &[u8],
    context: &[u8],
    bits: u16,
) -> Result<Vec<u8>, LibraryError> {
    let counter = 1_u32.to_be_bytes();
    let size = u32::from(bits).to_be_bytes();
    let mut block = hmac(hash, key, &[&counter, label, context, &size])?;
    let bytes = usize::from(bits / 8);
    if bytes > block.len() {
        return Err(LibraryError);
    }
    block.truncate(bytes);
    Ok(block)
}

/// A seed as long as the key's hash, and the seed encrypted with RSAES-OAEP.
// Part 1, B.10.4
fn seal_rsa(
    key: &KeyMaterial,
    modulus_bytes: usize,
    hash: HashAlg,
    random: &mut dyn NonceSource,
) -> Result<(Vec<u8>, Vec<u8>), CredentialError> {
    let seed = draw(hash.size(), random)?;
    let mask_seed = draw(hash.size(), random)?;
    let block = oaep_block(modulus_bytes, hash, &seed, &mask_seed)?;
    Ok((seed, rsa_raw(key, &block)?))
}

/// `0 ‖ maskedSeed ‖ maskedDB`, where DB is `H(label) ‖ zeros ‖ 1 ‖ message`.
// Part 1, B.4; RFC 8017, 7.1.1
fn oaep_block(
    modulus_bytes: usize,
    hash: HashAlg,
    message: &[u8],
    mask_seed: &[u8],
) -> Result<Vec<u8>, LibraryError> {
    let label = rat_engine::crypto::digest(hash, IDENTITY);
    let tail = [&[1], message].concat();
    let used = hash.size().saturating_mul(2).saturating_add(tail.len());
    let zeros = modulus_bytes
        .checked_sub(used.saturating_add(1))
        .ok_or(LibraryError)?;
    let db = [label.as_bytes(), &vec![0; zeros], &tail].concat();
    let masked_db = xor(&db, &mgf1(hash, mask_seed, db.len()));
    let masked_seed = xor(mask_seed, &mgf1(hash, &masked_db, mask_seed.len()));
    Ok([&[0], &masked_seed[..], &masked_db].concat())
}

/// RFC 8017, B.2.1
fn mgf1(hash: HashAlg, seed: &[u8], bytes: usize) -> Vec<u8> {
    let mut mask = Vec::with_capacity(bytes.saturating_add(hash.size()));
    for counter in 0_u32.. {
        if mask.len() >= bytes {
            break;
        }
        let block = [seed, &counter.to_be_bytes()].concat();
        mask.extend_from_slice(rat_engine::crypto::digest(hash, &block).as_bytes());
    }
    mask.truncate(bytes);
    mask
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

/// A seed that an ephemeral key and the endorsement key agree on, and the ephemeral point.
// Part 1, C.6.4 and 11.4.10.3 "KDFe"
fn seal_ecc(
    key: &KeyMaterial,
    curve: Curve,
    ek_x: &[u8],
    hash: HashAlg,
    random: &mut dyn NonceSource,
) -> Result<(Vec<u8>, Vec<u8>), CredentialError> {
    for _ in 0..SCALAR_TRIES {
        let mut scalar = draw(curve.field_size(), random)?;
        if let (Curve::P521, Some(first)) = (curve, scalar.first_mut()) {
            // 521 bits: all but one of the first byte are beyond the order.
            *first &= 1;
        }
        let Some(agreed) = agree(curve, key, &scalar)? else {
            continue;
        };
        let counter = 1_u32.to_be_bytes();
        let parts = [&counter, &agreed.shared_x[..], IDENTITY, &agreed.x, ek_x];
        let seed = rat_engine::crypto::digest(hash, &parts.concat());
        let point = [sized(&agreed.x)?, sized(&agreed.y)?].concat();
        return Ok((seed.as_bytes().to_vec(), point));
    }
    Err(CredentialError::Random)
}

fn draw(bytes: usize, random: &mut dyn NonceSource) -> Result<Vec<u8>, CredentialError> {
    let mut drawn = vec![0; bytes];
    random.fill(&mut drawn).ok_or(CredentialError::Random)?;
    Ok(drawn)
}

/// A TPM2B of these bytes.
fn sized(bytes: &[u8]) -> Result<Vec<u8>, LibraryError> {
    let size = u16::try_from(bytes.len()).map_err(|_| LibraryError)?;
    Ok([&size.to_be_bytes(), bytes].concat())
}

#[cfg(test)]
mod tests;
