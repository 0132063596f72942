//! Verification of eight signatures by eight keys: our lanes beside the libraries with parsed keys.
//!
//! Times are of eight; the rates that criterion prints are of one. `lanes` is
//! [`verify_batch`], `aws-lc` and `openssl` are the libraries in a loop. All include the hash of the
//! message.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use aws_lc_rs::signature as lc;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Signer, Verifier};
use rat_engine::crypto::{BatchItem, VectorUnit, VerifyingKey, vector_unit, verify_batch};
use rat_engine::hash::HashAlg;
use rat_engine::tpm::Signature;

/// About the size of a quote.
const MESSAGE: [u8; 145] = [0x5a; 145];

struct Signed {
    private: PKey<Private>,
    key: VerifyingKey,
    parsed: lc::ParsedPublicKey,
    sig: Vec<u8>,
}

fn set_pss(signer: &mut Signer<'_>) {
    signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
    let salt = RsaPssSaltlen::DIGEST_LENGTH;
    signer.set_rsa_pss_saltlen(salt).unwrap();
}

fn rsa(bits: u32, is_pss: bool) -> Signed {
    let private = PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
    let mut signer = Signer::new(MessageDigest::sha256(), &private).unwrap();
    if is_pss {
        set_pss(&mut signer);
    }
    let sig = signer.sign_oneshot_to_vec(&MESSAGE).unwrap();
    let spki = private.public_key_to_der().unwrap();
    let library: &'static dyn lc::VerificationAlgorithm = if is_pss {
        &lc::RSA_PSS_2048_8192_SHA256
    } else {
        &lc::RSA_PKCS1_2048_8192_SHA256
    };
    Signed {
        key: VerifyingKey::from_spki_der(&spki).unwrap(),
        parsed: lc::ParsedPublicKey::new(library, &spki).unwrap(),
        private,
        sig,
    }
}

fn openssl_verify(signed: &Signed, is_pss: bool) -> bool {
    let mut verifier = Verifier::new(MessageDigest::sha256(), &signed.private).unwrap();
    if is_pss {
        verifier.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
        let salt = RsaPssSaltlen::DIGEST_LENGTH;
        verifier.set_rsa_pss_saltlen(salt).unwrap();
    }
    verifier.verify_oneshot(&signed.sig, &MESSAGE).unwrap()
}

fn rsa_batches(c: &mut Criterion) {
    for (bits, is_pss, name) in [
        (2048, false, "rsassa-2048 x 8"),
        (2048, true, "rsapss-2048 x 8"),
        (3072, false, "rsassa-3072 x 8"),
        (4096, false, "rsassa-4096 x 8"),
    ] {
        let signed: Vec<_> = (0..8).map(|_| rsa(bits, is_pss)).collect();
        let hash = HashAlg::Sha256;
        let items = signed.iter().map(|signed| BatchItem {
            key: &signed.key,
            signature: match is_pss {
                true => Signature::RsaPss {
                    hash,
                    sig: &signed.sig,
                },
                false => Signature::RsaSsa {
                    hash,
                    sig: &signed.sig,
                },
            },
            message: &MESSAGE,
            allow_sha1: false,
        });
        let items: Vec<_> = items.collect();
        compare(c, name, &signed, &items, |signed| {
            openssl_verify(signed, is_pss)
        });
    }
}

fn p256_batches(c: &mut Criterion) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let signed: Vec<_> = (0..8)
        .map(|_| {
            let private = EcKey::generate(&group).unwrap();
            let private = PKey::from_ec_key(private).unwrap();
            let mut signer = Signer::new(MessageDigest::sha256(), &private).unwrap();
            let sig = signer.sign_oneshot_to_vec(&MESSAGE).unwrap();
            let spki = private.public_key_to_der().unwrap();
            Signed {
                key: VerifyingKey::from_spki_der(&spki).unwrap(),
                parsed: lc::ParsedPublicKey::new(&lc::ECDSA_P256_SHA256_ASN1, &spki).unwrap(),
                private,
                sig,
            }
        })
        .collect();
    let numbers = signed.iter().map(|signed| {
        let sig = EcdsaSig::from_der(&signed.sig).unwrap();
        (sig.r().to_vec(), sig.s().to_vec())
    });
    let numbers: Vec<_> = numbers.collect();
    let items = signed
        .iter()
        .zip(&numbers)
        .map(|(signed, (r, s))| BatchItem {
            key: &signed.key,
            signature: Signature::Ecdsa {
                hash: HashAlg::Sha256,
                r,
                s,
            },
            message: &MESSAGE,
            allow_sha1: false,
        });
    let items: Vec<_> = items.collect();
    compare(c, "ecdsa-p256 x 8", &signed, &items, |signed| {
        let mut verifier = Verifier::new(MessageDigest::sha256(), &signed.private).unwrap();
        verifier.verify_oneshot(&signed.sig, &MESSAGE).unwrap()
    });
}

fn compare(
    c: &mut Criterion,
    name: &str,
    signed: &[Signed],
    items: &[BatchItem<'_>],
    openssl_verify: impl Fn(&Signed) -> bool,
) {
    let mut verdicts = Vec::new();
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(8));
    if vector_unit() == VectorUnit::InUse {
        group.bench_function("lanes", |b| {
            b.iter(|| verify_batch(black_box(items), &mut verdicts));
        });
        assert!(verdicts.iter().all(Result::is_ok));
        assert_eq!(vector_unit(), VectorUnit::InUse);
    }
    group.bench_function("aws-lc", |b| {
        b.iter(|| {
            for signed in signed {
                let sig = black_box(&signed.sig);
                signed.parsed.verify_sig(&MESSAGE, sig).unwrap();
            }
        });
    });
    group.bench_function("openssl", |b| {
        b.iter(|| {
            for signed in signed {
                assert!(openssl_verify(black_box(signed)));
            }
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1))
        .sample_size(30);
    targets = rsa_batches, p256_batches
}
criterion_main!(benches);
