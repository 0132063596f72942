//! N01, N09: certificates of endorsement keys, each with one fault.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::sync::LazyLock;

use openssl::hash::MessageDigest;
use openssl::x509::X509;
use rat_identity::ek::{EkError, EkTrust, EkVouch, TrustError};
use rat_identity::{ChainFault, DerError, FieldError, limits};
use rat_tests::endorsement::{
    Authority, NOW, Profile, SoftwareEk, Template, pem, self_signed_ek, sequence, tcg,
    tpm_description, wrap,
};

/// Keys are slow to make; the tests share them.
struct World {
    ek: SoftwareEk,
    ecc: SoftwareEk,
    root: Authority,
    issuer: Authority,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let root = Authority::root(&Profile::authority("root"));
    World {
        ek: SoftwareEk::new(Template::Rsa2048),
        ecc: SoftwareEk::new(Template::P256),
        issuer: root.intermediate(&Profile::authority("issuer")),
        root,
    }
});

fn trust(certificates: &[&X509]) -> EkTrust {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cas.pem");
    std::fs::write(&file, pem(certificates)).unwrap();
    EkTrust::load(&[file], &[]).unwrap()
}

fn verify(trust: &EkTrust, certificate: &[u8]) -> Result<EkVouch, EkError> {
    trust
        .verify(Some(certificate), &WORLD.ek.public(), NOW)
        .map(|proof| {
            assert_eq!(proof.ek_sha256, WORLD.ek.sha256());
            proof.by
        })
}

/// The fault of a certificate under root and issuer, or `None` when it is taken.
fn fault_of(certificate: &X509) -> Option<ChainFault> {
    let world = &*WORLD;
    let trust = trust(&[&world.root.certificate, &world.issuer.certificate]);
    fault_under(&trust, certificate)
}

fn fault_under(trust: &EkTrust, certificate: &X509) -> Option<ChainFault> {
    match verify(trust, &certificate.to_der().unwrap()) {
        Ok(_) => None,
        Err(error) => {
            assert_eq!(error.code(), "ek.chain_invalid", "{error}");
            match error {
                EkError::Chain(fault) => Some(fault),
                other => panic!("{other}"),
            }
        }
    }
}

fn endorsement() -> Profile {
    Profile::endorsement(true)
}

fn issue(profile: &Profile) -> X509 {
    WORLD.issuer.issue(profile, &WORLD.ek.spki())
}

#[test]
fn n01_a_good_chain_is_taken_and_names_its_root() {
    let world = &*WORLD;
    let good = issue(&endorsement());
    let trust = trust(&[&world.issuer.certificate, &world.root.certificate]);
    let root = openssl::sha::sha256(&world.root.certificate.to_der().unwrap());
    let der = good.to_der().unwrap();
    assert_eq!(verify(&trust, &der), Ok(EkVouch::Chain { root }));
    let ecc = world
        .issuer
        .issue(&Profile::endorsement(false), &world.ecc.spki());
    let proof = trust.verify(Some(&ecc.to_der().unwrap()), &world.ecc.public(), NOW);
    assert_eq!(proof.unwrap().by, EkVouch::Chain { root });
}

#[test]
fn n01_a_certificate_by_its_own_key() {
    let own = self_signed_ek(
        &Profile {
            name: Some("ek".into()),
            ..endorsement()
        },
        &WORLD.ek,
    );
    assert_eq!(fault_of(&own), Some(ChainFault::SelfSigned));
    let nameless = self_signed_ek(&endorsement(), &WORLD.ek);
    assert_eq!(fault_of(&nameless), Some(ChainFault::SelfSigned));
}

#[test]
fn n01_n09_a_root_that_nobody_named() {
    let world = &*WORLD;
    let other = Authority::root(&Profile::authority("root"));
    let good = issue(&endorsement());
    let unknown = Some(ChainFault::UnknownRoot);
    // No CA at all; another with the same name; the issuer without its root.
    let der = good.to_der().unwrap();
    assert_eq!(
        verify(&EkTrust::default(), &der),
        Err(EkError::Chain(ChainFault::UnknownRoot))
    );
    let same_name = trust(&[&other.certificate, &world.issuer.certificate]);
    assert!(matches!(
        fault_under(&same_name, &good),
        Some(ChainFault::UnknownRoot | ChainFault::Signature)
    ));
    let no_root = trust(&[&world.issuer.certificate]);
    assert_eq!(fault_under(&no_root, &good), unknown);
    // The root without the issuer.
    assert_eq!(
        fault_under(&trust(&[&world.root.certificate]), &good),
        unknown
    );
}

#[test]
fn n01_outside_its_time() {
    let day = 86_400;
    let now = i64::try_from(NOW / 1000).unwrap();
    let with = |not_before_s, not_after_s| Profile {
        not_before_s,
        not_after_s,
        ..endorsement()
    };
    let expired = issue(&with(now - day, now - 1));
    assert_eq!(fault_of(&expired), Some(ChainFault::Expired));
    let future = issue(&with(now + 1, now + day));
    assert_eq!(fault_of(&future), Some(ChainFault::NotYetValid));
    assert_eq!(fault_of(&issue(&with(now, now + 1))), None);
    // An issuer that has expired.
    let world = &*WORLD;
    let old = world.root.intermediate(&Profile {
        not_after_s: now - 1,
        ..Profile::authority("old issuer")
    });
    let trust = trust(&[&world.root.certificate, &old.certificate]);
    let good = old.issue(&endorsement(), &world.ek.spki());
    assert_eq!(fault_under(&trust, &good), Some(ChainFault::Expired));
}

#[test]
fn n01_a_certificate_for_something_else() {
    let server_auth = sequence(&[&[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1]]);
    let other = issue(&endorsement().with("2.5.29.37", false, server_auth.clone()));
    assert_eq!(fault_of(&other), Some(ChainFault::ExtendedKeyUsage));
    // Platform certificates (tcg-kp-PlatformAttributeCertificate) are no EK certificates.
    let platform = sequence(&[&tcg(&[8, 2])]);
    let platform = issue(&endorsement().with("2.5.29.37", false, platform));
    assert_eq!(fault_of(&platform), Some(ChainFault::ExtendedKeyUsage));
    // Whatever serves for everything is no EK certificate, but may issue them.
    let any = sequence(&[&[6, 4, 0x55, 0x1d, 0x25, 0]]);
    let leaf = issue(&endorsement().with("2.5.29.37", false, any.clone()));
    assert_eq!(fault_of(&leaf), Some(ChainFault::ExtendedKeyUsage));
    let broad = Profile::authority("broad issuer").with("2.5.29.37", false, any);
    let broad = WORLD.root.intermediate(&broad);
    let named = trust(&[&WORLD.root.certificate, &broad.certificate]);
    let leaf = broad.issue(&endorsement(), &WORLD.ek.spki());
    assert_eq!(fault_under(&named, &leaf), None);
    // Clouds issue without any.
    assert_eq!(fault_of(&issue(&endorsement().without("2.5.29.37"))), None);
    // An issuer for something else.
    let world = &*WORLD;
    let web = Profile::authority("web issuer").with("2.5.29.37", false, server_auth);
    let web = world.root.intermediate(&web);
    let trust = trust(&[&world.root.certificate, &web.certificate]);
    let good = web.issue(&endorsement(), &world.ek.spki());
    assert_eq!(
        fault_under(&trust, &good),
        Some(ChainFault::ExtendedKeyUsage)
    );
}

#[test]
fn n01_a_key_usage_of_attestation_keys() {
    // digitalSignature, keyCertSign, keyAgreement for an RSA key, and no bit at all.
    for bits in [[3, 2, 7, 0x80], [3, 2, 2, 4], [3, 2, 3, 8], [3, 2, 0, 0]] {
        let signing = issue(&endorsement().with("2.5.29.15", true, bits.to_vec()));
        assert_eq!(fault_of(&signing), Some(ChainFault::KeyUsage), "{bits:?}");
    }
    assert_eq!(fault_of(&issue(&endorsement().without("2.5.29.15"))), None);
}

#[test]
fn n01_issuers_that_may_not_issue() {
    let world = &*WORLD;
    let not_ca = Profile::authority("issuer").with("2.5.29.19", true, sequence(&[]));
    let not_ca = world.root.intermediate(&not_ca);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cas.pem");
    std::fs::write(&file, pem(&[&world.root.certificate, &not_ca.certificate])).unwrap();
    // Not even loaded: the operator is told which.
    assert!(matches!(
        EkTrust::load(&[file], &[]),
        Err(TrustError::NotCa { number: 2, .. })
    ));
    // cRLSign alone.
    let no_sign = Profile::authority("issuer").with("2.5.29.15", true, vec![3, 2, 1, 2]);
    let no_sign = world.root.intermediate(&no_sign);
    let under = trust(&[&world.root.certificate, &no_sign.certificate]);
    let leaf = no_sign.issue(&endorsement(), &world.ek.spki());
    let fault = fault_under(&under, &leaf);
    assert!(
        matches!(fault, Some(ChainFault::Issuer | ChainFault::UnknownRoot)),
        "{fault:?}"
    );
}

#[test]
fn n01_a_certificate_of_a_ca_is_no_endorsement() {
    let ca = sequence(&[&[1, 1, 0xff]]);
    let leaf = issue(&endorsement().with("2.5.29.19", true, ca));
    assert_eq!(fault_of(&leaf), Some(ChainFault::IsCa));
}

#[test]
fn n01_more_issuers_than_allowed() {
    let world = &*WORLD;
    // Path length 0 allows no issuer under this one.
    let zero = sequence(&[&[1, 1, 0xff, 2, 1, 0]]);
    let last = Profile::authority("last").with("2.5.29.19", true, zero);
    let last = world.root.intermediate(&last);
    let direct = last.issue(&endorsement(), &world.ek.spki());
    let below = last.intermediate(&Profile::authority("below"));
    let leaf = below.issue(&endorsement(), &world.ek.spki());
    let named = trust(&[
        &world.root.certificate,
        &last.certificate,
        &below.certificate,
    ]);
    assert_eq!(fault_under(&named, &direct), None);
    assert_eq!(fault_under(&named, &leaf), Some(ChainFault::Length));
}

#[test]
fn n01_chains_as_long_as_we_follow_and_one_longer() {
    let world = &*WORLD;
    let mut authorities = vec![world.root.clone()];
    // Leaf and root count too.
    for number in 0..limits::CHAIN_CERTIFICATES_MAX - 1 {
        let profile = Profile::authority(&format!("level {number}"));
        authorities.push(authorities[number].intermediate(&profile));
    }
    let all: Vec<&X509> = authorities.iter().map(|one| &one.certificate).collect();
    let trust = trust(&all);
    let leaf = |level: usize| authorities[level].issue(&endorsement(), &world.ek.spki());
    let longest = limits::CHAIN_CERTIFICATES_MAX - 2;
    assert_eq!(fault_under(&trust, &leaf(longest)), None);
    let fault = fault_under(&trust, &leaf(longest + 1));
    assert!(
        matches!(fault, Some(ChainFault::Length | ChainFault::UnknownRoot)),
        "{fault:?}"
    );
}

#[test]
fn n01_names_outside_the_constraints() {
    let world = &*WORLD;
    // Permitted: directory names below C=XX only.
    let country = wrap(0x31, &sequence(&[&[6, 3, 0x55, 4, 6], &wrap(0x13, b"XX")]));
    let base = wrap(0xa4, &sequence(&[&country]));
    let permitted = sequence(&[&wrap(0xa0, &sequence(&[&base]))]);
    let narrow = Profile::authority("narrow").with("2.5.29.30", true, permitted);
    let narrow = world.root.intermediate(&narrow);
    let trust = trust(&[&world.root.certificate, &narrow.certificate]);
    let leaf = narrow.issue(&endorsement(), &world.ek.spki());
    assert_eq!(fault_under(&trust, &leaf), Some(ChainFault::NameConstraint));
}

#[test]
fn n01_weak_signatures() {
    let world = &*WORLD;
    for hash in [MessageDigest::md5(), MessageDigest::sha1()] {
        let leaf = issue(&Profile {
            hash,
            ..endorsement()
        });
        assert_eq!(fault_of(&leaf), Some(ChainFault::Weak));
        let weak = Profile {
            hash,
            ..Profile::authority("weak")
        };
        let weak = world.root.intermediate(&weak);
        let named = trust(&[&world.root.certificate, &weak.certificate]);
        let leaf = weak.issue(&endorsement(), &world.ek.spki());
        assert_eq!(fault_under(&named, &leaf), Some(ChainFault::Weak));
    }
}

#[test]
fn n01_a_signature_that_is_not_the_issuers() {
    let world = &*WORLD;
    let impostor = Authority::root(&Profile::authority("issuer"));
    let forged = impostor.issue(&endorsement(), &world.ek.spki());
    assert_eq!(fault_of(&forged), Some(ChainFault::Signature));
    let mut damaged = issue(&endorsement()).to_der().unwrap();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let damaged = X509::from_der(&damaged).unwrap();
    assert_eq!(fault_of(&damaged), Some(ChainFault::Signature));
}

#[test]
fn n01_a_megabyte_and_a_loop() {
    let world = &*WORLD;
    let named = trust(&[&world.root.certificate, &world.issuer.certificate]);
    let good = issue(&endorsement()).to_der().unwrap();
    let mut huge = good.clone();
    huge.resize(1 << 20, 0);
    assert_eq!(
        verify(&named, &huge),
        Err(EkError::Chain(FieldError::TooLong(1 << 20).into()))
    );
    // Two issuers that certify each other, and no root.
    let a = Authority::root(&Profile::authority("a"));
    let b = Authority::root(&Profile::authority("b"));
    let a_by_b = a.cross_signed_by(&b, &Profile::authority("a"));
    let b_by_a = b.cross_signed_by(&a, &Profile::authority("b"));
    let leaf = a.issue(&endorsement(), &world.ek.spki());
    let fault = fault_under(&trust(&[&a_by_b, &b_by_a]), &leaf);
    assert!(
        matches!(fault, Some(ChainFault::UnknownRoot | ChainFault::Length)),
        "{fault:?}"
    );
    // With the root of one of them the loop is no obstacle.
    assert_eq!(
        fault_under(&trust(&[&a_by_b, &b_by_a, &a.certificate]), &leaf),
        None
    );
}

#[test]
fn n01_only_the_padding_of_an_nv_index_may_follow() {
    let world = &*WORLD;
    let named = trust(&[&world.root.certificate, &world.issuer.certificate]);
    let good = issue(&endorsement()).to_der().unwrap();
    for fill in [0, 0xff] {
        let padded = [&good[..], &vec![fill; 2048 - good.len()]].concat();
        assert!(verify(&named, &padded).is_ok());
    }
    for tail in [&[1][..], &[0, 0xff], &[0, 0, 1], &good, b"\n"] {
        let longer = [&good[..], tail].concat();
        assert_eq!(
            verify(&named, &longer),
            Err(EkError::Chain(ChainFault::Field(
                DerError::Trailing(tail.len()).into()
            )))
        );
    }
    for length in 0..good.len() {
        let cut = verify(&named, &good[..length]);
        assert!(matches!(cut, Err(EkError::Chain(ChainFault::Field(_)))));
    }
}

#[test]
fn n01_critical_names_describe_a_tpm_or_are_refused() {
    let with = |critical, names: &[&[u8]]| {
        fault_of(&issue(&endorsement().with(
            "2.5.29.17",
            critical,
            sequence(names),
        )))
    };
    let described = tpm_description();
    let dns = wrap(0x82, b"host.example");
    // permanentIdentifier and others of newer certificates.
    let other = wrap(
        0xa0,
        &[&[6, 1, 0x2a][..], &wrap(0xa0, &wrap(0x0c, b"x"))].concat(),
    );
    let refused = Some(ChainFault::SubjectAltName);
    assert_eq!(with(true, &[&described]), None);
    assert_eq!(with(true, &[&described, &other]), None);
    assert_eq!(with(true, &[&dns]), refused);
    assert_eq!(with(true, &[&described, &dns]), refused);
    assert_eq!(with(true, &[&described, &described]), refused);
    assert_eq!(with(true, &[&other]), refused);
    // Another directory name, and one attribute missing, twice, or empty.
    let attribute =
        |number: u8, value: &[u8]| wrap(0x31, &sequence(&[&tcg(&[2, number]), &wrap(0x0c, value)]));
    let parts = [1, 2, 3].map(|number| attribute(number, b"x"));
    let name = |parts: &[&[u8]]| wrap(0xa4, &sequence(parts));
    assert_eq!(
        with(true, &[&name(&[&parts[0], &parts[1], &parts[2]])]),
        None
    );
    for broken in [
        name(&[]),
        name(&[&parts[0], &parts[1]]),
        name(&[&parts[0], &parts[1], &parts[2], &parts[2]]),
        name(&[&parts[0], &parts[1], &attribute(3, b"")]),
    ] {
        assert_eq!(with(true, &[&broken]), refused);
        // Not critical: nobody has to understand it.
        assert_eq!(with(false, &[&broken]), None);
    }
}

#[test]
fn n01_critical_extensions_that_nobody_knows() {
    let unknown = endorsement().with("1.2.3.4.5", true, sequence(&[]));
    assert_eq!(
        fault_of(&issue(&unknown)),
        Some(ChainFault::CriticalExtension)
    );
    let harmless = endorsement().with("1.2.3.4.5", false, sequence(&[]));
    assert_eq!(fault_of(&issue(&harmless)), None);
}

#[test]
fn a07_trust_anchors_that_others_can_change_are_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let root = Authority::root(&Profile::authority("root"));
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("anchors");
    std::fs::create_dir(&folder).unwrap();
    let (cas, list) = (folder.join("root.pem"), folder.join("list"));
    std::fs::write(&cas, pem(&[&root.certificate])).unwrap();
    std::fs::write(&list, "00".repeat(32)).unwrap();
    let set = |path: &std::path::Path, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions).unwrap();
    };
    let load = || {
        [
            EkTrust::load(std::slice::from_ref(&cas), &[]),
            EkTrust::load(std::slice::from_ref(&folder), &[]),
            EkTrust::load(&[], std::slice::from_ref(&list)),
        ]
    };
    let refused =
        |at: &std::path::Path, wanted: u32, loaded: Result<EkTrust, TrustError>| match loaded {
            Err(TrustError::WritableByOthers {
                at: found, mode, ..
            }) => {
                assert_eq!((found.as_path(), mode), (at, wanted));
            }
            other => panic!("{wanted:o}: {other:?}"),
        };
    for mode in [0o644, 0o600, 0o444] {
        for path in [&cas, &list] {
            set(path, mode);
        }
        for folder_mode in [0o755, 0o700, 0o1777] {
            set(&folder, folder_mode);
            assert!(load().iter().all(Result::is_ok), "{mode:o} {folder_mode:o}");
        }
    }
    for mode in [0o664, 0o646, 0o666] {
        set(&folder, 0o755);
        for path in [&cas, &list] {
            set(path, mode);
        }
        let [file, in_folder, listed] = load();
        refused(&cas, mode, file);
        refused(&cas, mode, in_folder);
        refused(&list, mode, listed);
        // Nobody else comes near it.
        set(&folder, 0o700);
        assert!(load().iter().all(Result::is_ok), "{mode:o}");
    }
    for path in [&cas, &list] {
        set(path, 0o644);
    }
    for mode in [0o775, 0o757, 0o777] {
        set(&folder, mode);
        for loaded in load() {
            refused(&folder, mode, loaded);
        }
    }
    // A link is as good as both ends.
    let link = outer.path().join("link.pem");
    symlink(&cas, &link).unwrap();
    refused(
        &folder,
        0o777,
        EkTrust::load(std::slice::from_ref(&link), &[]),
    );
    set(&folder, 0o755);
    assert!(EkTrust::load(std::slice::from_ref(&link), &[]).is_ok());
    set(outer.path(), 0o777);
    refused(outer.path(), 0o777, EkTrust::load(&[link], &[]));
}
