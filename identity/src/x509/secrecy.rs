//! How a secret is wrapped for a TPM: raw RSA, key agreement, the block cipher and the keyed hash.

use openssl::bn::{BigNum, BigNumContext};
use openssl::derive::Deriver;
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey};
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Signer};
use openssl::symm::{Cipher, encrypt};
use rat_engine::crypto::{Curve, KeyMaterial};
use rat_engine::hash::HashAlg;

use crate::x509::{LibraryError, nid, public_key};

/// `block ^ e mod n`; the block is as long as the modulus and already padded.
pub(crate) fn rsa_raw(key: &KeyMaterial, block: &[u8]) -> Result<Vec<u8>, LibraryError> {
    let rsa = public_key(key)?.rsa()?;
    let mut sealed = vec![0; block.len()];
    let written = rsa.public_encrypt(block, &mut sealed, Padding::NONE)?;
    sealed.truncate(written);
    Ok(sealed)
}

/// One side of a key agreement, and its result.
pub(crate) struct Agreement {
    /// The ephemeral point's coordinates.
    pub(crate) x: Vec<u8>,
    pub(crate) y: Vec<u8>,
    /// The shared point's first coordinate.
    pub(crate) shared_x: Vec<u8>,
}

/// Agrees with the holder of `peer`, by an ephemeral key; `None` when `scalar` is no private key.
pub(crate) fn agree(
    curve: Curve,
    peer: &KeyMaterial,
    scalar: &[u8],
) -> Result<Option<Agreement>, LibraryError> {
    let group = EcGroup::from_curve_name(nid(curve))?;
    let mut context = BigNumContext::new()?;
    let mut order = BigNum::new()?;
    group.order(&mut order, &mut context)?;
    let mut scalar = BigNum::from_slice(scalar)?;
    scalar.set_const_time();
    if scalar.num_bits() == 0 || scalar.ucmp(&order).is_ge() {
        return Ok(None);
    }
    let mut point = EcPoint::new(&group)?;
    point.mul_generator2(&group, &scalar, &mut context)?;
    let (mut x, mut y) = (BigNum::new()?, BigNum::new()?);
    point.affine_coordinates(&group, &mut x, &mut y, &mut context)?;
    let private = PKey::from_ec_key(EcKey::from_private_components(&group, &scalar, &point)?)?;
    let peer = public_key(peer)?;
    let mut deriver = Deriver::new(&private)?;
    deriver.set_peer(&peer)?;
    let size = i32::try_from(curve.field_size()).map_err(|_| LibraryError)?;
    Ok(Some(Agreement {
        x: x.to_vec_padded(size)?,
        y: y.to_vec_padded(size)?,
        shared_x: deriver.derive_to_vec()?,
    }))
}

/// AES-CFB with a zero vector; the key has 16 or 32 bytes.
pub(crate) fn aes_cfb(key: &[u8], plain: &[u8]) -> Result<Vec<u8>, LibraryError> {
    let cipher = match key.len() {
        16 => Cipher::aes_128_cfb128(),
        32 => Cipher::aes_256_cfb128(),
        _ => return Err(LibraryError),
    };
    Ok(encrypt(cipher, key, Some(&[0; 16]), plain)?)
}

/// HMAC over all parts, one after the other.
pub(crate) fn hmac(hash: HashAlg, key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>, LibraryError> {
    let digest = match hash {
        HashAlg::Sha1 => MessageDigest::sha1(),
        HashAlg::Sha256 => MessageDigest::sha256(),
        HashAlg::Sha384 => MessageDigest::sha384(),
        HashAlg::Sha512 => MessageDigest::sha512(),
    };
    let key = PKey::hmac(key)?;
    let mut signer = Signer::new(digest, &key)?;
    for part in parts {
        signer.update(part)?;
    }
    Ok(signer.sign_to_vec()?)
}

/// RSAES-OAEP with SHA-1 and no label; `None` when `public_key_pem` is no RSA key of 2,048 to 8,192
/// bits.
pub(crate) fn rsa_oaep_sha1(
    public_key_pem: &[u8],
    secret: &[u8],
) -> Result<Option<Vec<u8>>, LibraryError> {
    let Some(rsa) = PKey::public_key_from_pem(public_key_pem)
        .and_then(|key| key.rsa())
        .ok()
    else {
        return Ok(None);
    };
    let bytes = usize::try_from(rsa.size()).map_err(|_| LibraryError)?;
    if !(256..=1_024).contains(&bytes) {
        return Ok(None);
    }
    let mut sealed = vec![0; bytes];
    let written = rsa.public_encrypt(secret, &mut sealed, Padding::PKCS1_OAEP)?;
    sealed.truncate(written);
    Ok(Some(sealed))
}

/// RSASSA-PSS with SHA-256 and the longest salt; `None` when `private_key_pem` is no RSA key of 2,048
/// to 8,192 bits, or is encrypted.
pub(crate) fn rsa_pss_sha256(
    private_key_pem: &[u8],
    message: &[u8],
) -> Result<Option<Vec<u8>>, LibraryError> {
    // Without the callback the library would ask for a passphrase on the terminal.
    let key = PKey::private_key_from_pem_callback(private_key_pem, |_| Ok(0));
    let Some(key) = key.ok().filter(|key| key.id() == Id::RSA) else {
        return Ok(None);
    };
    if !(2_048..=8_192).contains(&key.bits()) {
        return Ok(None);
    }
    let sha256 = MessageDigest::sha256();
    let mut signer = Signer::new(sha256, &key)?;
    signer.set_rsa_padding(Padding::PKCS1_PSS)?;
    signer.set_rsa_mgf1_md(sha256)?;
    signer.set_rsa_pss_saltlen(RsaPssSaltlen::MAXIMUM_LENGTH)?;
    Ok(Some(signer.sign_oneshot_to_vec(message)?))
}
