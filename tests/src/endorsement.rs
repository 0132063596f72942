//! Endorsement keys in software, and CAs that certify them, rightly or wrongly.

use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::BigNum;
use openssl::derive::Deriver;
use openssl::ec::{EcGroup, EcKey};
use openssl::encrypt::Decrypter;
use openssl::hash::{Hasher, MessageDigest};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::Signer;
use openssl::symm::{Cipher, decrypt};
use openssl::x509::{X509, X509Builder, X509Extension, X509Name};
use rat_engine::crypto::{KeyMaterial, VerifyingKey};

/// A default template of endorsement keys, by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// L-1.
    Rsa2048,
    /// L-2.
    P256,
    /// H-2.
    HighP256,
    /// H-3.
    P384,
    /// H-4.
    P521,
    /// H-6.
    Rsa3072,
}

impl Template {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Rsa2048,
        Self::P256,
        Self::HighP256,
        Self::P384,
        Self::P521,
        Self::Rsa3072,
    ];

    // TCG EK Credential Profile 2.5, B.3 to B.6: nameAlg, AES bits, attributes, policy.
    fn parts(self) -> (u16, u16, u32, &'static str) {
        let low = 0x0003_00b2;
        let high = 0x0003_00f2;
        match self {
            Self::Rsa2048 | Self::P256 => (
                0x0b,
                128,
                low,
                "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa",
            ),
            Self::HighP256 => (
                0x0b,
                128,
                high,
                "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0",
            ),
            Self::P384 | Self::Rsa3072 => (
                0x0c,
                256,
                high,
                "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4\
                 cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12",
            ),
            Self::P521 => (
                0x0d,
                256,
                high,
                "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a4\
                 29c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea",
            ),
        }
    }

    fn hash(self) -> MessageDigest {
        match self.parts().0 {
            0x0c => MessageDigest::sha384(),
            0x0d => MessageDigest::sha512(),
            _ => MessageDigest::sha256(),
        }
    }
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// The TPMT_PUBLIC of a template with this key.
pub fn public_area(template: Template, key: &VerifyingKey) -> Vec<u8> {
    let (name_alg, aes_bits, attributes, policy) = template.parts();
    let mut area = Vec::new();
    let is_rsa = matches!(key.material(), KeyMaterial::Rsa { .. });
    area.extend(if is_rsa { 1_u16 } else { 0x23 }.to_be_bytes());
    area.extend(name_alg.to_be_bytes());
    area.extend(attributes.to_be_bytes());
    area.extend(sized(&hex::decode(policy).unwrap()));
    for field in [6, aes_bits, 0x43, 0x10] {
        area.extend(field.to_be_bytes());
    }
    match key.material() {
        KeyMaterial::Rsa { modulus, .. } => {
            area.extend(((modulus.len() * 8) as u16).to_be_bytes());
            area.extend([0; 4]);
            area.extend(sized(modulus));
        }
        KeyMaterial::Ecc { x, y, .. } => {
            let curve = match x.len() {
                32 => 3_u16,
                48 => 4,
                _ => 5,
            };
            area.extend(curve.to_be_bytes());
            area.extend([0, 0x10]);
            area.extend(sized(x));
            area.extend(sized(y));
        }
    }
    area
}

/// An endorsement key whose private part is here, and what a TPM does with it.
#[derive(Debug, Clone)]
pub struct SoftwareEk {
    template: Template,
    key: PKey<Private>,
}

impl SoftwareEk {
    /// A new key.
    pub fn new(template: Template) -> Self {
        let ec = |nid| {
            let group = EcGroup::from_curve_name(nid).unwrap();
            PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
        };
        let rsa = |bits| PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
        let key = match template {
            Template::Rsa2048 => rsa(2048),
            Template::Rsa3072 => rsa(3072),
            Template::P256 | Template::HighP256 => ec(Nid::X9_62_PRIME256V1),
            Template::P384 => ec(Nid::SECP384R1),
            Template::P521 => ec(Nid::SECP521R1),
        };
        Self { template, key }
    }

    /// Its SubjectPublicKeyInfo.
    pub fn spki(&self) -> Vec<u8> {
        self.key.public_key_to_der().unwrap()
    }

    /// SHA-256 of that.
    pub fn sha256(&self) -> [u8; 32] {
        openssl::sha::sha256(&self.spki())
    }

    /// Its TPMT_PUBLIC.
    pub fn public(&self) -> Vec<u8> {
        let key = VerifyingKey::from_spki_der(&self.spki()).unwrap();
        public_area(self.template, &key)
    }

    /// TPM2_ActivateCredential, by the library's own OAEP and key agreement.
    ///
    /// `name` is that of the key which is loaded beside it; `None` is a TPM's error.
    pub fn activate(&self, name: &[u8], blob: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
        let seed = match self.template {
            Template::Rsa2048 | Template::Rsa3072 => self.open_rsa(unsized_all(secret)?)?,
            _ => self.open_ecc(unsized_all(secret)?)?,
        };
        let (integrity, identity) = take(unsized_all(blob)?)?;
        let hash_bits = (self.template.hash().size() * 8) as u32;
        let key = self.kdf_a(&seed, b"INTEGRITY\0", &[], hash_bits);
        if self.hmac(&key, &[identity, name].concat()) != integrity {
            return None;
        }
        let (_, aes_bits, ..) = self.template.parts();
        let key = self.kdf_a(&seed, b"STORAGE\0", name, u32::from(aes_bits));
        let cipher = match aes_bits {
            128 => Cipher::aes_128_cfb128(),
            _ => Cipher::aes_256_cfb128(),
        };
        let plain = decrypt(cipher, &key, Some(&[0; 16]), identity).unwrap();
        unsized_all(&plain).map(<[u8]>::to_vec)
    }

    fn open_rsa(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let mut decrypter = Decrypter::new(&self.key).unwrap();
        decrypter.set_rsa_padding(Padding::PKCS1_OAEP).unwrap();
        decrypter.set_rsa_oaep_md(self.template.hash()).unwrap();
        decrypter.set_rsa_mgf1_md(self.template.hash()).unwrap();
        decrypter.set_rsa_oaep_label(b"IDENTITY\0").unwrap();
        let mut seed = vec![0; decrypter.decrypt_len(sealed).unwrap()];
        let written = decrypter.decrypt(sealed, &mut seed).ok()?;
        seed.truncate(written);
        Some(seed)
    }

    fn open_ecc(&self, point: &[u8]) -> Option<Vec<u8>> {
        let (x, rest) = take(point)?;
        let y = unsized_all(rest)?;
        let own = self.key.ec_key().unwrap();
        let group = own.group();
        let (x_number, y_number) = (BigNum::from_slice(x).ok()?, BigNum::from_slice(y).ok()?);
        let peer = EcKey::from_public_key_affine_coordinates(group, &x_number, &y_number).ok()?;
        let peer = PKey::from_ec_key(peer).unwrap();
        let mut deriver = Deriver::new(&self.key).unwrap();
        deriver.set_peer(&peer).unwrap();
        let shared = deriver.derive_to_vec().unwrap();
        let public = VerifyingKey::from_spki_der(&self.spki()).unwrap();
        let KeyMaterial::Ecc { x: own_x, .. } = public.material() else {
            return None;
        };
        let mut hasher = Hasher::new(self.template.hash()).unwrap();
        for part in [&[0, 0, 0, 1], &shared[..], b"IDENTITY\0", x, own_x] {
            hasher.update(part).unwrap();
        }
        Some(hasher.finish().unwrap().to_vec())
    }

    fn kdf_a(&self, key: &[u8], label: &[u8], context: &[u8], bits: u32) -> Vec<u8> {
        let message = [&[0, 0, 0, 1], label, context, &bits.to_be_bytes()].concat();
        let mut block = self.hmac(key, &message);
        block.truncate(bits as usize / 8);
        block
    }

    fn hmac(&self, key: &[u8], message: &[u8]) -> Vec<u8> {
        let key = PKey::hmac(key).unwrap();
        let mut signer = Signer::new(self.template.hash(), &key).unwrap();
        signer.sign_oneshot_to_vec(message).unwrap()
    }
}

/// The contents of a TPM2B, and what follows it.
fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_be_bytes(*size).into())
}

fn unsized_all(bytes: &[u8]) -> Option<&[u8]> {
    take(bytes).and_then(|(inside, rest)| rest.is_empty().then_some(inside))
}

/// The moment at which the certificates of [`Profile`]s are valid.
pub const NOW: u64 = 1_800_000_000_000;
const NOW_S: i64 = 1_800_000_000;
const YEAR_S: i64 = 365 * 86_400;

/// An extension in DER.
#[derive(Debug, Clone)]
pub struct Extension {
    /// Its identifier, with dots.
    pub oid: &'static str,
    /// Whether it is critical.
    pub critical: bool,
    /// The contents of its OCTET STRING.
    pub der: Vec<u8>,
}

/// What to write into a certificate. A test changes one thing of a good one.
#[derive(Clone)]
pub struct Profile {
    /// Common name of the subject; `None` is the empty name.
    pub name: Option<String>,
    /// First second of validity.
    pub not_before_s: i64,
    /// Last second of validity.
    pub not_after_s: i64,
    /// The hash of the signature.
    pub hash: MessageDigest,
    /// Extensions, in this order.
    pub extensions: Vec<Extension>,
}

/// `SEQUENCE` of these elements; short ones only.
pub fn sequence(elements: &[&[u8]]) -> Vec<u8> {
    wrap(0x30, &elements.concat())
}

/// An element with this tag; shorter than 256 bytes.
pub fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    match content.len() {
        short @ 0..0x80 => [&[tag, short as u8], content].concat(),
        long @ 0x80..=0xff => [&[tag, 0x81, long as u8], content].concat(),
        _ => panic!("too long"),
    }
}

/// An OID of the TCG: 2.23.133 and these numbers, all below 128.
pub fn tcg(numbers: &[u8]) -> Vec<u8> {
    wrap(6, &[&[0x67, 0x81, 0x05], numbers].concat())
}

/// `TPM manufacturer, model, version` as a GeneralName.
pub fn tpm_description() -> Vec<u8> {
    let attribute = |number: u8, value: &[u8]| {
        let pair = sequence(&[&tcg(&[2, number]), &wrap(0x0c, value)]);
        wrap(0x31, &pair)
    };
    let name = sequence(&[
        &attribute(1, b"id:53544D20"),
        &attribute(2, b"ST33"),
        &attribute(3, b"id:00010200"),
    ]);
    wrap(0xa4, &name)
}

impl Profile {
    /// What an EK certificate of a vendor says, for an RSA key or an ECC key.
    pub fn endorsement(is_rsa: bool) -> Self {
        let usage = if is_rsa { 0x20 } else { 0x08 };
        let unused = if is_rsa { 5 } else { 3 };
        Self {
            name: None,
            not_before_s: NOW_S - YEAR_S,
            not_after_s: NOW_S + YEAR_S,
            hash: MessageDigest::sha256(),
            extensions: vec![
                extension("2.5.29.17", true, sequence(&[&tpm_description()])),
                extension("2.5.29.19", true, sequence(&[])),
                extension("2.5.29.37", false, sequence(&[&tcg(&[8, 1])])),
                extension("2.5.29.15", true, vec![3, 2, unused, usage]),
            ],
        }
    }

    /// What the certificate of a CA says.
    pub fn authority(name: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            extensions: vec![
                extension("2.5.29.19", true, sequence(&[&[1, 1, 0xff]])),
                extension("2.5.29.15", true, vec![3, 2, 2, 4]),
            ],
            ..Self::endorsement(true)
        }
    }

    /// The same with another value of an extension, or with one more.
    pub fn with(mut self, oid: &'static str, critical: bool, der: Vec<u8>) -> Self {
        self.extensions.retain(|other| other.oid != oid);
        self.extensions.push(extension(oid, critical, der));
        self
    }

    /// The same without an extension.
    pub fn without(mut self, oid: &str) -> Self {
        self.extensions.retain(|other| other.oid != oid);
        self
    }
}

fn extension(oid: &'static str, critical: bool, der: Vec<u8>) -> Extension {
    Extension { oid, critical, der }
}

/// A CA.
#[derive(Debug, Clone)]
pub struct Authority {
    key: PKey<Private>,
    /// Its certificate.
    pub certificate: X509,
}

impl Authority {
    /// A CA that certifies itself.
    pub fn root(profile: &Profile) -> Self {
        let key = new_key();
        let spki = key.public_key_to_der().unwrap();
        let name = subject(profile);
        let certificate = build(profile, &spki, &name, &key);
        Self { key, certificate }
    }

    /// A CA under this one.
    pub fn intermediate(&self, profile: &Profile) -> Self {
        let key = new_key();
        let certificate = self.issue(profile, &key.public_key_to_der().unwrap());
        Self { key, certificate }
    }

    /// The same key and name, certified by another.
    pub fn cross_signed_by(&self, other: &Self, profile: &Profile) -> X509 {
        other.issue(profile, &self.key.public_key_to_der().unwrap())
    }

    /// A certificate for a key.
    pub fn issue(&self, profile: &Profile, spki: &[u8]) -> X509 {
        build(profile, spki, self.certificate.subject_name(), &self.key)
    }
}

/// A certificate that the key in it has signed.
pub fn self_signed_ek(profile: &Profile, ek: &SoftwareEk) -> X509 {
    build(profile, &ek.spki(), &subject(profile), &ek.key)
}

fn new_key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
}

fn subject(profile: &Profile) -> X509Name {
    let mut name = X509Name::builder().unwrap();
    if let Some(text) = &profile.name {
        name.append_entry_by_nid(Nid::COMMONNAME, text).unwrap();
    }
    name.build()
}

fn build(
    profile: &Profile,
    spki: &[u8],
    issuer: &openssl::x509::X509NameRef,
    signer: &PKey<Private>,
) -> X509 {
    let mut builder = X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    let serial = BigNum::from_u32(7).unwrap();
    builder
        .set_serial_number(&Asn1Integer::from_bn(&serial).unwrap())
        .unwrap();
    builder.set_subject_name(&subject(profile)).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder
        .set_not_before(&Asn1Time::from_unix(profile.not_before_s).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::from_unix(profile.not_after_s).unwrap())
        .unwrap();
    builder
        .set_pubkey(&PKey::public_key_from_der(spki).unwrap())
        .unwrap();
    for extension in &profile.extensions {
        let oid = Asn1Object::from_str(extension.oid).unwrap();
        let value = Asn1OctetString::new_from_bytes(&extension.der).unwrap();
        let extension = X509Extension::new_from_der(&oid, extension.critical, &value).unwrap();
        builder.append_extension(extension).unwrap();
    }
    builder.sign(signer, profile.hash).unwrap();
    builder.build()
}

/// Certificates in PEM, as an operator keeps them.
pub fn pem(certificates: &[&X509]) -> Vec<u8> {
    certificates
        .iter()
        .flat_map(|certificate| certificate.to_pem().unwrap())
        .collect()
}
