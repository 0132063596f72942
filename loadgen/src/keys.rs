//! Keys in software, and the CA that certifies them as endorsement keys.
//!
//! The only module of the load generator that names `openssl`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use openssl::asn1::{Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::{BigNum, BigNumContext, MsbOption};
use openssl::derive::Deriver;
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::ecdsa::EcdsaSig;
use openssl::encrypt::Decrypter;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::Signer;
use openssl::symm::{Cipher, decrypt};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Extension, X509Name, X509NameBuilder};
use rat_agent::device::KeyKind;

const P256_BYTES: i32 = 32;
const RSA_BITS: u32 = 2048;
const YEARS: u32 = 10;

/// A key whose private part is here.
#[derive(Debug, Clone)]
pub struct SoftwareKey {
    kind: KeyKind,
    key: PKey<Private>,
}

/// The numbers of a public key.
#[derive(Debug, Clone)]
pub enum Numbers {
    /// The modulus; the exponent is 65,537.
    Rsa(Vec<u8>),
    /// Coordinates on P-256.
    Ecc(Vec<u8>, Vec<u8>),
}

/// A signature's numbers.
#[derive(Debug, Clone)]
pub enum Signed {
    /// RSASSA.
    Rsa(Vec<u8>),
    /// ECDSA: r and s.
    Ecc(Vec<u8>, Vec<u8>),
}

fn p256() -> Result<EcGroup> {
    Ok(EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)
}

impl SoftwareKey {
    /// A new key: RSA-2048 or P-256.
    ///
    /// # Errors
    /// The library's.
    pub fn generate(kind: KeyKind) -> Result<Self> {
        let key = match kind {
            KeyKind::Rsa => PKey::from_rsa(Rsa::generate(RSA_BITS)?)?,
            KeyKind::Ecc => {
                let group = p256()?;
                PKey::from_ec_key(EcKey::generate(&group)?)?
            }
        };
        Ok(Self { kind, key })
    }

    /// The key of this type in this PEM text.
    ///
    /// # Errors
    /// When it is no key of this type.
    pub fn from_pem(kind: KeyKind, pem: &str) -> Result<Self> {
        let key = PKey::private_key_from_pem(pem.as_bytes())?;
        let key = Self { kind, key };
        key.numbers()?;
        Ok(key)
    }

    /// PKCS#8 in PEM.
    ///
    /// # Errors
    /// The library's.
    pub fn to_pem(&self) -> Result<String> {
        Ok(String::from_utf8(self.key.private_key_to_pem_pkcs8()?)?)
    }

    /// Its type.
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Its public numbers.
    ///
    /// # Errors
    /// The library's.
    pub fn numbers(&self) -> Result<Numbers> {
        match self.kind {
            KeyKind::Rsa => Ok(Numbers::Rsa(self.key.rsa()?.n().to_vec())),
            KeyKind::Ecc => {
                let (mut x, mut y) = (BigNum::new()?, BigNum::new()?);
                let mut context = BigNumContext::new()?;
                let (key, group) = (self.key.ec_key()?, p256()?);
                key.public_key()
                    .affine_coordinates(&group, &mut x, &mut y, &mut context)?;
                Ok(Numbers::Ecc(
                    x.to_vec_padded(P256_BYTES)?,
                    y.to_vec_padded(P256_BYTES)?,
                ))
            }
        }
    }

    /// A signature over the SHA-256 of `message`: RSASSA or ECDSA.
    ///
    /// # Errors
    /// The library's.
    pub fn sign(&self, message: &[u8]) -> Result<Signed> {
        let raw = Signer::new(MessageDigest::sha256(), &self.key)?.sign_oneshot_to_vec(message)?;
        match self.kind {
            KeyKind::Rsa => Ok(Signed::Rsa(raw)),
            KeyKind::Ecc => {
                let parts = EcdsaSig::from_der(&raw)?;
                Ok(Signed::Ecc(
                    parts.r().to_vec_padded(P256_BYTES)?,
                    parts.s().to_vec_padded(P256_BYTES)?,
                ))
            }
        }
    }

    /// RSAES-OAEP with SHA-256 and this label.
    ///
    /// # Errors
    /// When it was encrypted for another key or label.
    pub fn decrypt_oaep(&self, label: &[u8], encrypted: &[u8]) -> Result<Vec<u8>> {
        let mut decrypter = Decrypter::new(&self.key)?;
        decrypter.set_rsa_padding(Padding::PKCS1_OAEP)?;
        decrypter.set_rsa_oaep_md(MessageDigest::sha256())?;
        decrypter.set_rsa_mgf1_md(MessageDigest::sha256())?;
        decrypter.set_rsa_oaep_label(label)?;
        let mut plain = vec![0; decrypter.decrypt_len(encrypted)?];
        let length = decrypter.decrypt(encrypted, &mut plain)?;
        plain.truncate(length);
        Ok(plain)
    }

    /// The first coordinate of the point that this key and a public point agree on.
    ///
    /// # Errors
    /// When the point is not on the curve.
    pub fn agree(&self, x: &[u8], y: &[u8]) -> Result<Vec<u8>> {
        let group = p256()?;
        let (x, y) = (BigNum::from_slice(x)?, BigNum::from_slice(y)?);
        let mut context = BigNumContext::new()?;
        let mut point = EcPoint::new(&group)?;
        point.set_affine_coordinates_gfp(&group, &x, &y, &mut context)?;
        let other = PKey::from_ec_key(EcKey::from_public_key(&group, &point)?)?;
        let mut deriver = Deriver::new(&self.key)?;
        deriver.set_peer(&other)?;
        Ok(deriver.derive_to_vec()?)
    }
}

/// AES-128 in CFB mode, from a zero IV.
///
/// # Errors
/// When the key has another size.
pub fn decrypt_cfb(key: &[u8], encrypted: &[u8]) -> Result<Vec<u8>> {
    Ok(decrypt(
        Cipher::aes_128_cfb128(),
        key,
        Some(&[0; 16]),
        encrypted,
    )?)
}

/// A CA that certifies endorsement keys made in software. An operator who names it to a server
/// admits every such key: for tests and load only.
#[derive(Debug)]
pub struct EkCa {
    key: PKey<Private>,
    certificate: X509,
}

impl EkCa {
    /// The CA in this directory, made when there is none: `ek-ca.pem` and `ek-ca.key`.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn open(directory: &Path) -> Result<Self> {
        let (certificate_path, key_path) = Self::paths(directory);
        if certificate_path.exists() {
            let pem = fs::read(&key_path).with_context(|| key_path.display().to_string())?;
            let key = PKey::private_key_from_pem(&pem)?;
            let certificate = X509::from_pem(&fs::read(&certificate_path)?)?;
            if !certificate.public_key()?.public_eq(&key) {
                bail!(
                    "{} is not for the key beside it",
                    certificate_path.display()
                );
            }
            return Ok(Self { key, certificate });
        }
        fs::create_dir_all(directory)?;
        let ca = Self::generate()?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&key_path)
            .with_context(|| key_path.display().to_string())?;
        file.write_all(&ca.key.private_key_to_pem_pkcs8()?)?;
        fs::write(&certificate_path, ca.certificate.to_pem()?)?;
        Ok(ca)
    }

    /// Where certificate and key of a CA in this directory are.
    pub fn paths(directory: &Path) -> (PathBuf, PathBuf) {
        (directory.join("ek-ca.pem"), directory.join("ek-ca.key"))
    }

    /// A CA that nothing is kept of.
    ///
    /// # Errors
    /// The library's.
    pub fn generate() -> Result<Self> {
        let key = SoftwareKey::generate(KeyKind::Ecc)?.key;
        let name = name("rat-load software EK CA, for tests only")?;
        let mut builder = certificate(&name, &name, &key)?;
        builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
        let usage = KeyUsage::new()
            .critical()
            .key_cert_sign()
            .crl_sign()
            .build()?;
        builder.append_extension(usage)?;
        let id = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
        builder.append_extension(id)?;
        builder.sign(&key, MessageDigest::sha256())?;
        let certificate = builder.build();
        Ok(Self { key, certificate })
    }

    /// An EK certificate for this key, in DER.
    ///
    /// # Errors
    /// The library's.
    pub fn certify(&self, ek: &SoftwareKey) -> Result<Vec<u8>> {
        let subject = name("rat-load software EK")?;
        let issuer = self.certificate.subject_name();
        let mut builder = certificate(&subject, issuer, &ek.key)?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        let mut usage = KeyUsage::new();
        usage.critical();
        match ek.kind {
            KeyKind::Rsa => usage.key_encipherment(),
            KeyKind::Ecc => usage.key_agreement(),
        };
        builder.append_extension(usage.build()?)?;
        // TCG EK Credential Profile 2.5, 3.2.16: tcg-kp-EKCertificate.
        let purpose = ExtendedKeyUsage::new().other("2.23.133.8.1").build()?;
        builder.append_extension(purpose)?;
        let issued_by = AuthorityKeyIdentifier::new()
            .keyid(true)
            .build(&builder.x509v3_context(Some(&self.certificate), None))?;
        builder.append_extension(issued_by)?;
        let names = X509Extension::new_from_der(
            Asn1Object::from_str("2.5.29.17")?.as_ref(),
            false,
            Asn1OctetString::new_from_bytes(DESCRIPTION)?.as_ref(),
        )?;
        builder.append_extension(names)?;
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok(builder.build().to_der()?)
    }
}

/// `SEQUENCE { [4] { SEQUENCE {` manufacturer `id:72617421`, model and version `id:00000001`
/// `} } }`: a directoryName as TCG EK Credential Profile 2.5, 3.2.9 wants it.
const DESCRIPTION: &[u8] = &[
    0x30, 0x4a, 0xa4, 0x48, 0x30, 0x46, //
    0x31, 0x16, 0x30, 0x14, 0x06, 0x05, 0x67, 0x81, 0x05, 0x02, 0x01, 0x0c, 0x0b, //
    b'i', b'd', b':', b'7', b'2', b'6', b'1', b'7', b'4', b'2', b'1', //
    0x31, 0x14, 0x30, 0x12, 0x06, 0x05, 0x67, 0x81, 0x05, 0x02, 0x02, 0x0c, 0x09, //
    b's', b'i', b'm', b'u', b'l', b'a', b't', b'e', b'd', //
    0x31, 0x16, 0x30, 0x14, 0x06, 0x05, 0x67, 0x81, 0x05, 0x02, 0x03, 0x0c, 0x0b, //
    b'i', b'd', b':', b'0', b'0', b'0', b'0', b'0', b'0', b'0', b'1',
];

fn name(common: &str) -> Result<X509Name> {
    let mut builder = X509NameBuilder::new()?;
    builder.append_entry_by_nid(Nid::COMMONNAME, common)?;
    Ok(builder.build())
}

fn certificate(
    subject: &X509Name,
    issuer: &openssl::x509::X509NameRef,
    key: &PKey<Private>,
) -> Result<X509Builder> {
    let mut serial = BigNum::new()?;
    serial.rand(120, MsbOption::MAYBE_ZERO, false)?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(serial.to_asn1_integer()?.as_ref())?;
    builder.set_subject_name(subject)?;
    builder.set_issuer_name(issuer)?;
    builder.set_pubkey(key)?;
    builder.set_not_before(Asn1Time::days_from_now(0)?.as_ref())?;
    let days = YEARS.saturating_mul(365);
    builder.set_not_after(Asn1Time::days_from_now(days)?.as_ref())?;
    Ok(builder)
}
/// The standard alphabet, with padding, on one line.
pub fn base64(bytes: &[u8]) -> String {
    openssl::base64::encode_block(bytes)
}
