//! The product's verifier and the OpenSSL reference give one verdict on whatever is changed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use std::sync::LazyLock;

use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Signer};
use proptest::prelude::*;
use rat_engine::crypto::{VerifyingKey, reference};
use rat_engine::hash::HashAlg;
use rat_engine::tpm::Signature;

const MESSAGE: &[u8] = b"what a TPM signed";

/// A key with genuine `TPMT_SIGNATURE`s over [`MESSAGE`].
struct Attester {
    key: VerifyingKey,
    signatures: Vec<Vec<u8>>,
}

static SIGNERS: LazyLock<Vec<Attester>> = LazyLock::new(|| {
    let rsa = [2048, 3072].map(|bits| PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap());
    let ecc = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1].map(|nid| {
        let group = EcGroup::from_curve_name(nid).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    });
    rsa.iter().chain(&ecc).map(signer).collect()
});

fn signer(private: &PKey<Private>) -> Attester {
    let der = private.public_key_to_der().unwrap();
    let mut signatures = Vec::new();
    for hash in HashAlg::ALL {
        let size = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let mut push = |scheme: u16, numbers: &[&[u8]]| {
            let mut bytes = [scheme, hash.tpm_id()].map(u16::to_be_bytes).concat();
            for number in numbers {
                bytes.extend(size(number));
                bytes.extend(*number);
            }
            signatures.push(bytes);
        };
        if private.rsa().is_ok() {
            push(0x14, &[&sign(private, hash, None)]);
            push(0x16, &[&sign(private, hash, Some(hash.size()))]);
            let largest = private.size() - hash.size() - 2;
            push(0x16, &[&sign(private, hash, Some(largest))]);
        } else {
            let sig = EcdsaSig::from_der(&sign(private, hash, None)).unwrap();
            push(0x18, &[&sig.r().to_vec(), &sig.s().to_vec()]);
        }
    }
    Attester {
        key: VerifyingKey::from_spki_der(&der).unwrap(),
        signatures,
    }
}

fn sign(key: &PKey<Private>, hash: HashAlg, pss_salt: Option<usize>) -> Vec<u8> {
    let md = MessageDigest::from_name(hash.name()).unwrap();
    let mut signer = Signer::new(md, key).unwrap();
    if let Some(salt) = pss_salt {
        let salt = RsaPssSaltlen::custom(i32::try_from(salt).unwrap());
        signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
        signer.set_rsa_pss_saltlen(salt).unwrap();
    }
    signer.sign_oneshot_to_vec(MESSAGE).unwrap()
}

/// The verdict of both, on the bytes of a `TPMT_SIGNATURE`; `None` when they are not one.
fn verdict(key: &VerifyingKey, signature: &[u8], message: &[u8]) -> Option<bool> {
    let signature = Signature::parse(signature).ok()?;
    let product = key.verify(&signature, message, true);
    let reference = reference::verify(key, &signature, message, true);
    assert_eq!(product, reference);
    Some(product.is_ok())
}

#[test]
fn genuine_signatures_hold_for_their_own_key_only() {
    for (nth, signer) in SIGNERS.iter().enumerate() {
        for signature in &signer.signatures {
            for (other, verifier) in SIGNERS.iter().enumerate() {
                let holds = verdict(&verifier.key, signature, MESSAGE);
                assert_eq!(holds, Some(nth == other));
            }
            assert_eq!(verdict(&signer.key, signature, b""), Some(false));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_signatures_never_hold(
        signer in any::<prop::sample::Index>(),
        signature in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
    ) {
        let signer = signer.get(&SIGNERS[..]);
        let genuine = signature.get(&signer.signatures);
        let mut changed = genuine.clone();
        for (index, mask) in changes {
            *index.get_mut(&mut changed) ^= mask;
        }
        prop_assume!(changed != *genuine);
        prop_assert_ne!(verdict(&signer.key, &changed, MESSAGE), Some(true));
    }

    #[test]
    fn random_numbers_never_hold(
        signer in any::<prop::sample::Index>(),
        hash in prop::sample::select(HashAlg::ALL.to_vec()),
        pss in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 512),
        lengths in (1_usize..=66, 1_usize..=66),
    ) {
        let key = &signer.get(&SIGNERS[..]).key;
        let mut bytes = bytes;
        // Below every modulus, so that the libraries see most of them.
        bytes[0] &= 0x7f;
        for length in [256, 384, 512] {
            let sig = &bytes[..length];
            for signature in [
                Signature::RsaSsa { hash, sig },
                Signature::RsaPss { hash, sig },
                Signature::Ecdsa { hash, r: &bytes[..lengths.0], s: &bytes[66..66 + lengths.1] },
            ] {
                if pss == matches!(signature, Signature::RsaSsa { .. }) {
                    continue;
                }
                let product = key.verify(&signature, MESSAGE, true);
                prop_assert!(product.is_err());
                prop_assert_eq!(product, reference::verify(key, &signature, MESSAGE, true));
            }
        }
    }
}
