//! Signature verification by algorithm and library.
//!
//! `product` is [`VerifyingKey::verify`] with its key kept parsed, as an agent's key is; `fresh`
//! makes the key anew each time; `aws-lc` and `openssl` are the libraries alone with a parsed key,
//! where they have the algorithm.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use aws_lc_rs::signature as lc;
use criterion::{Criterion, criterion_group, criterion_main};
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Signer, Verifier};
use rat_engine::crypto::{VerifyingKey, digest};
use rat_engine::hash::HashAlg;
use rat_engine::tpm::Signature;

/// About the size of a quote.
const MESSAGE: [u8; 145] = [0x5a; 145];

struct Case {
    name: &'static str,
    key: PKey<Private>,
    hash: HashAlg,
    pss: bool,
    library: &'static dyn lc::VerificationAlgorithm,
}

fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

fn ecc(curve: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn cases() -> Vec<Case> {
    let case = |name, key: &PKey<Private>, hash, pss, library| Case {
        name,
        key: key.clone(),
        hash,
        pss,
        library,
    };
    let mut cases = Vec::new();
    for (bits, ssa, pss) in [
        (2048, "rsassa-2048", "rsapss-2048"),
        (3072, "rsassa-3072", "rsapss-3072"),
        (4096, "rsassa-4096", "rsapss-4096"),
    ] {
        let key = rsa(bits);
        let hash = HashAlg::Sha256;
        cases.push(case(
            ssa,
            &key,
            hash,
            false,
            &lc::RSA_PKCS1_2048_8192_SHA256,
        ));
        cases.push(case(pss, &key, hash, true, &lc::RSA_PSS_2048_8192_SHA256));
    }
    let p256 = ecc(Nid::X9_62_PRIME256V1);
    let p384 = ecc(Nid::SECP384R1);
    let p521 = ecc(Nid::SECP521R1);
    cases.push(case(
        "ecdsa-p256",
        &p256,
        HashAlg::Sha256,
        false,
        &lc::ECDSA_P256_SHA256_ASN1,
    ));
    cases.push(case(
        "ecdsa-p384",
        &p384,
        HashAlg::Sha384,
        false,
        &lc::ECDSA_P384_SHA384_ASN1,
    ));
    cases.push(case(
        "ecdsa-p521",
        &p521,
        HashAlg::Sha512,
        false,
        &lc::ECDSA_P521_SHA512_ASN1,
    ));
    cases
}

fn message_digest(hash: HashAlg) -> MessageDigest {
    MessageDigest::from_name(hash.name()).unwrap()
}

fn openssl_verify(case: &Case, sig: &[u8]) -> bool {
    let md = message_digest(case.hash);
    let mut verifier = Verifier::new(md, &case.key).unwrap();
    if case.pss {
        verifier.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
        verifier
            .set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)
            .unwrap();
    }
    verifier.verify_oneshot(sig, &MESSAGE).unwrap()
}

fn signatures(c: &mut Criterion) {
    for case in cases() {
        let mut signer = Signer::new(message_digest(case.hash), &case.key).unwrap();
        if case.pss {
            signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
            signer
                .set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)
                .unwrap();
        }
        let sig = signer.sign_oneshot_to_vec(&MESSAGE).unwrap();
        let (hash, spki) = (case.hash, case.key.public_key_to_der().unwrap());
        let (r, s) = EcdsaSig::from_der(&sig)
            .map(|sig| (sig.r().to_vec(), sig.s().to_vec()))
            .unwrap_or_default();
        let signature = match (case.pss, case.key.rsa().is_ok()) {
            (true, _) => Signature::RsaPss { hash, sig: &sig },
            (false, true) => Signature::RsaSsa { hash, sig: &sig },
            (false, false) => Signature::Ecdsa { hash, r: &r, s: &s },
        };
        let key = VerifyingKey::from_spki_der(&spki).unwrap();
        let parsed = lc::ParsedPublicKey::new(case.library, &spki).unwrap();
        key.verify(&signature, &MESSAGE, false).unwrap();

        let mut group = c.benchmark_group(case.name);
        group.bench_function("product", |b| {
            b.iter(|| key.verify(black_box(&signature), &MESSAGE, false).unwrap());
        });
        group.bench_function("fresh", |b| {
            b.iter(|| {
                let key = VerifyingKey::from_spki_der(black_box(&spki)).unwrap();
                key.verify(&signature, &MESSAGE, false).unwrap();
            });
        });
        group.bench_function("aws-lc", |b| {
            b.iter(|| parsed.verify_sig(&MESSAGE, black_box(&sig)).unwrap());
        });
        group.bench_function("openssl", |b| {
            b.iter(|| assert!(openssl_verify(&case, black_box(&sig))));
        });
        group.finish();
    }
}

fn digests(c: &mut Criterion) {
    for hash in [HashAlg::Sha1, HashAlg::Sha256] {
        for size in [100, 1024] {
            let message = vec![0x5a; size];
            let mut group = c.benchmark_group(format!("{hash}-{size}"));
            group.bench_function("product", |b| {
                b.iter(|| digest(hash, black_box(&message)));
            });
            group.bench_function("openssl", |b| {
                b.iter(|| openssl::hash::hash(message_digest(hash), black_box(&message)).unwrap());
            });
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1))
        .sample_size(30);
    targets = signatures, digests
}
criterion_main!(benches);
