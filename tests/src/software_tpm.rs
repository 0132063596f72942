//! Attestation keys and quotes made in software, byte for byte as a TPM makes them.

use openssl::bn::BigNumContext;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Signer};
use rat_engine::hash::HashAlg;
use rat_engine::pcr::{PcrSet, PcrValues};

use crate::oracle;

/// A signing scheme with its key size or curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA with this many bits.
    RsaSsa(u32),
    /// RSAPSS with this many bits.
    RsaPss(u32),
    /// ECDSA on P-256, P-384 or P-521, by bits.
    Ecdsa(u32),
}

/// An attestation key whose private part is here.
#[derive(Debug, Clone)]
pub struct SoftwareAk {
    scheme: Scheme,
    hash: HashAlg,
    key: PKey<Private>,
    /// `TPMA_OBJECT`.
    pub attributes: u32,
}

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign.
pub const AK_ATTRIBUTES: u32 = 0x0005_0072;

impl SoftwareAk {
    /// A new key.
    pub fn new(scheme: Scheme, hash: HashAlg) -> Self {
        let key = match scheme {
            Scheme::RsaSsa(bits) | Scheme::RsaPss(bits) => {
                PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
            }
            Scheme::Ecdsa(bits) => {
                let group = EcGroup::from_curve_name(curve(bits).0).unwrap();
                PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
            }
        };
        Self {
            scheme,
            hash,
            key,
            attributes: AK_ATTRIBUTES,
        }
    }

    /// P-256 with SHA-256.
    pub fn p256() -> Self {
        Self::new(Scheme::Ecdsa(256), HashAlg::Sha256)
    }

    /// Whether it is on a curve; if not, it is RSA.
    pub const fn is_ecc(&self) -> bool {
        matches!(self.scheme, Scheme::Ecdsa(_))
    }

    /// The public key in PEM.
    pub fn pem(&self) -> Vec<u8> {
        self.key.public_key_to_pem().unwrap()
    }

    /// The TPMT_PUBLIC of this key.
    pub fn public(&self) -> Vec<u8> {
        let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let mut public = Vec::new();
        public.extend(if self.is_ecc() { 0x0023_u16 } else { 0x0001 }.to_be_bytes());
        public.extend(HashAlg::Sha256.tpm_id().to_be_bytes());
        public.extend(self.attributes.to_be_bytes());
        public.extend(sized(&[]));
        public.extend(0x0010_u16.to_be_bytes());
        public.extend(self.scheme_id().to_be_bytes());
        public.extend(self.hash.tpm_id().to_be_bytes());
        match self.scheme {
            Scheme::RsaSsa(bits) | Scheme::RsaPss(bits) => {
                public.extend((bits as u16).to_be_bytes());
                public.extend(0_u32.to_be_bytes());
                public.extend(sized(&self.key.rsa().unwrap().n().to_vec()));
            }
            Scheme::Ecdsa(bits) => {
                let (nid, id, bytes) = curve(bits);
                public.extend(id.to_be_bytes());
                public.extend(0x0010_u16.to_be_bytes());
                let group = EcGroup::from_curve_name(nid).unwrap();
                let mut context = BigNumContext::new().unwrap();
                let mut x = openssl::bn::BigNum::new().unwrap();
                let mut y = openssl::bn::BigNum::new().unwrap();
                let key = self.key.ec_key().unwrap();
                key.public_key()
                    .affine_coordinates(&group, &mut x, &mut y, &mut context)
                    .unwrap();
                public.extend(sized(&x.to_vec_padded(bytes).unwrap()));
                public.extend(sized(&y.to_vec_padded(bytes).unwrap()));
            }
        }
        public
    }

    /// A TPMT_SIGNATURE over `message`.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let mut signer = Signer::new(oracle::message_digest(self.hash), &self.key).unwrap();
        if let Scheme::RsaPss(_) = self.scheme {
            signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
            signer
                .set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)
                .unwrap();
        }
        let raw = signer.sign_oneshot_to_vec(message).unwrap();
        let mut signature = Vec::new();
        signature.extend(self.scheme_id().to_be_bytes());
        signature.extend(self.hash.tpm_id().to_be_bytes());
        match self.scheme {
            Scheme::Ecdsa(bits) => {
                let bytes = curve(bits).2;
                let parts = EcdsaSig::from_der(&raw).unwrap();
                signature.extend(sized(&parts.r().to_vec_padded(bytes).unwrap()));
                signature.extend(sized(&parts.s().to_vec_padded(bytes).unwrap()));
            }
            _ => signature.extend(sized(&raw)),
        }
        signature
    }

    /// The hash of the scheme.
    pub const fn hash(&self) -> HashAlg {
        self.hash
    }

    fn scheme_id(&self) -> u16 {
        match self.scheme {
            Scheme::RsaSsa(_) => 0x0014,
            Scheme::RsaPss(_) => 0x0016,
            Scheme::Ecdsa(_) => 0x0018,
        }
    }
}

fn curve(bits: u32) -> (Nid, u16, i32) {
    match bits {
        256 => (Nid::X9_62_PRIME256V1, 3, 32),
        384 => (Nid::SECP384R1, 4, 48),
        521 => (Nid::SECP521R1, 5, 66),
        _ => panic!("no such curve"),
    }
}

/// A TPMS_ATTEST of type quote, field by field, so that a test can put anything in.
#[derive(Debug, Clone)]
pub struct Attest {
    /// `magic`.
    pub magic: u32,
    /// `type`.
    pub kind: u16,
    /// `qualifiedSigner`.
    pub signer: Vec<u8>,
    /// `extraData`.
    pub extra_data: Vec<u8>,
    /// `clock`.
    pub clock: u64,
    /// `resetCount`.
    pub reset_count: u32,
    /// `restartCount`.
    pub restart_count: u32,
    /// `safe`.
    pub safe: u8,
    /// `firmwareVersion`.
    pub firmware_version: u64,
    /// `pcrSelect`: hash id, sizeofSelect, select bytes.
    pub selection: Vec<(u16, u8, Vec<u8>)>,
    /// `pcrDigest`.
    pub pcr_digest: Vec<u8>,
    /// Bytes after the structure.
    pub trailing: Vec<u8>,
}

impl Attest {
    /// A quote of these values, banks in the order given.
    pub fn quote(
        hash: HashAlg,
        nonce: &[u8],
        banks: &[(HashAlg, PcrSet)],
        values: &PcrValues,
    ) -> Self {
        let mut quoted = Vec::new();
        let mut selection = Vec::new();
        for (bank, pcrs) in banks {
            let bits = pcrs.bits().to_le_bytes();
            selection.push((bank.tpm_id(), 3, bits[..3].to_vec()));
            for pcr in pcrs.iter() {
                quoted.push(values.get(*bank, pcr).unwrap().as_bytes().to_vec());
            }
        }
        Self {
            magic: 0xff54_4347,
            kind: 0x8018,
            signer: [&[0, 0x0b][..], &[7; 32]].concat(),
            extra_data: nonce.to_vec(),
            clock: 123_456,
            reset_count: 7,
            restart_count: 0,
            safe: 1,
            firmware_version: 0x0001_0002_0003_0004,
            selection,
            pcr_digest: oracle::pcr_digest(hash, &quoted),
            trailing: Vec::new(),
        }
    }

    /// The marshalled bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let mut out = Vec::new();
        out.extend(self.magic.to_be_bytes());
        out.extend(self.kind.to_be_bytes());
        out.extend(sized(&self.signer));
        out.extend(sized(&self.extra_data));
        out.extend(self.clock.to_be_bytes());
        out.extend(self.reset_count.to_be_bytes());
        out.extend(self.restart_count.to_be_bytes());
        out.push(self.safe);
        out.extend(self.firmware_version.to_be_bytes());
        out.extend((self.selection.len() as u32).to_be_bytes());
        for (hash, size, select) in &self.selection {
            out.extend(hash.to_be_bytes());
            out.push(*size);
            out.extend(select);
        }
        out.extend(sized(&self.pcr_digest));
        out.extend(&self.trailing);
        out
    }
}
