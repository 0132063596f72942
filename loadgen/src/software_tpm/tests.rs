//! Software TPMs as a verifier sees them.

use rat_engine::crypto::VerifyingKey;
use rat_engine::evidence::NonceSource;
use rat_engine::pcr::PcrSet;
use rat_engine::tpm::attributes::{check_attestation_key, check_endorsement_key};
use rat_engine::tpm::{Attest, Attested, Signature};
use rat_identity::credential::make_credential;

use super::*;

struct Random;

impl NonceSource for Random {
    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        getrandom::fill(bytes).ok()
    }
}

fn machine(kind: KeyKind) -> (SoftwareTpm, SharedBoot) {
    let directory = tempfile::tempdir().unwrap();
    let ca = EkCa::open(directory.path()).unwrap();
    let key = || SoftwareKey::generate(kind).unwrap();
    let keys = Keys::new(key(), key(), &ca).unwrap();
    let boot = Arc::new(Mutex::new(Boot::first()));
    (SoftwareTpm::new(Arc::new(keys), Arc::clone(&boot)), boot)
}

#[test]
fn quotes_verify_and_cover_their_values() {
    for kind in [KeyKind::Rsa, KeyKind::Ecc] {
        let (mut tpm, boot) = machine(kind);
        let ek = tpm.endorsement().unwrap().public;
        assert_eq!(check_endorsement_key(&Public::parse(&ek).unwrap()), Ok(()));
        let area = tpm.attestation_key().unwrap();
        let public = Public::parse(&area).unwrap();
        assert_eq!(check_attestation_key(&public, false), Ok(()));
        let key = VerifyingKey::from_tpm(&public).unwrap();
        locked(&boot).measure(&Entry::file("/usr/bin/tool", b"content"));
        let pcrs = PcrSet::from_bits(0x07ff).unwrap();
        let selection = PcrSelection::new([(BANK, pcrs)]).unwrap();
        let quoted = tpm.quote(&[3; 32], &selection).unwrap();
        let parsed = Signature::parse(&quoted.signature).unwrap();
        assert_eq!(key.verify(&parsed, &quoted.attest, false), Ok(()));
        let attest = Attest::parse(&quoted.attest).unwrap();
        assert_eq!(
            (attest.extra_data, attest.clock),
            (&[3; 32][..], quoted.clock)
        );
        let Attested::Quote {
            selection,
            pcr_digest: expected,
        } = attest.attested
        else {
            panic!("no quote")
        };
        let computed = pcr_digest(HashAlg::Sha256, &selection, &quoted.pcr_values).unwrap();
        assert_eq!(computed.as_bytes(), expected);
    }
}

#[test]
fn credentials_are_opened_by_the_right_keys_only() {
    for kind in [KeyKind::Rsa, KeyKind::Ecc] {
        let (mut tpm, _) = machine(kind);
        let (mut other, _) = machine(kind);
        let ek = tpm.endorsement().unwrap().public;
        let name = Public::parse(&tpm.attestation_key().unwrap())
            .unwrap()
            .name();
        let made = make_credential(&ek, &name.to_bytes(), &[5; 32], &mut Random).unwrap();
        let sealed = SealedSecret {
            blob: made.blob,
            secret: made.encrypted_secret,
        };
        assert_eq!(tpm.activate(&sealed).unwrap(), [5; 32]);
        assert!(other.activate(&sealed).is_err());
        for at in 0..sealed.blob.len() {
            let mut changed = sealed.clone();
            changed.blob[at] ^= 1;
            assert!(tpm.activate(&changed).is_err(), "{kind} byte {at}");
        }
    }
}

#[test]
fn a_reboot_counts_and_starts_the_list_again() {
    let (mut tpm, boot) = machine(KeyKind::Ecc);
    let mut logs = SoftwareLogs::new(Arc::clone(&boot));
    locked(&boot).measure(&Entry::file("/usr/bin/tool", b"content"));
    assert_eq!(logs.count().unwrap(), 2);
    let whole = logs.measurements(0).unwrap();
    let rest = logs.measurements(1).unwrap();
    assert_eq!((whole.count, rest.count, rest.from_entry), (2, 1, 1));
    let before = tpm.clock().unwrap();
    locked(&boot).reboot();
    let after = tpm.clock().unwrap();
    assert_eq!(after.reset_count, before.reset_count + 1);
    assert!(after.clock_ms >= before.clock_ms);
    // What is no longer there is answered from the start.
    let again = logs.measurements(2).unwrap();
    assert_eq!((again.from_entry, again.count), (0, 1));
}
