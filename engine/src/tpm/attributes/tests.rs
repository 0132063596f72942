use super::*;
use crate::crypto::digest;
use crate::tpm::public::tests::attestation_key;

const ATTRIBUTES: usize = 4;

fn check(bytes: &[u8]) -> Result<(), KeyAttributeError> {
    check_attestation_key(&Public::parse(bytes).unwrap(), false)
}

fn with_attributes(mut bytes: Vec<u8>, attributes: ObjectAttributes) -> Vec<u8> {
    bytes[ATTRIBUTES..ATTRIBUTES + 4].copy_from_slice(&attributes.bits().to_be_bytes());
    bytes
}

#[test]
fn n13_attestation_keys_have_exactly_these_attributes() {
    use ObjectAttributes as A;
    for rsa in [true, false] {
        let bytes = attestation_key(rsa);
        assert_eq!(check(&bytes), Ok(()));
        let usual = Public::parse(&bytes).unwrap().attributes;
        let optional = A::NO_DA.union(A::ADMIN_WITH_POLICY);
        for (attribute, name) in A::ALL {
            let (changed, expected) = if usual.contains(attribute) {
                let missing = KeyAttributeError::Missing(attribute);
                (usual.difference(attribute), Err(missing))
            } else if optional.contains(attribute) {
                (usual.union(attribute), Ok(()))
            } else {
                let forbidden = KeyAttributeError::Forbidden(attribute);
                (usual.union(attribute), Err(forbidden))
            };
            assert_eq!(check(&with_attributes(bytes.clone(), changed)), expected);
            if let Err(error) = expected {
                assert!(error.to_string().contains(name));
            }
        }
    }
}

#[test]
fn n03_the_signing_scheme_is_fixed_and_allowed() {
    // Without a scheme: the hash of the scheme goes too.
    for rsa in [true, false] {
        let mut bytes = attestation_key(rsa);
        bytes.splice(12..16, [0, 0x10]);
        assert_eq!(check(&bytes), Err(KeyAttributeError::SchemeMissing));
    }
    let mut bytes = attestation_key(true);
    bytes[13] = 0x17;
    assert_eq!(
        check(&bytes),
        Err(KeyAttributeError::SchemeNotAllowed(0x17))
    );
    let mut bytes = attestation_key(false);
    bytes[13] = 0x1c;
    assert_eq!(
        check(&bytes),
        Err(KeyAttributeError::SchemeNotAllowed(0x1c))
    );
}

#[test]
fn q09_sha1_needs_permission() {
    let mut bytes = attestation_key(true);
    bytes[15] = 4;
    let public = Public::parse(&bytes).unwrap();
    let refused = Err(KeyAttributeError::Sha1("signing scheme"));
    assert_eq!(check_attestation_key(&public, false), refused);
    assert_eq!(check_attestation_key(&public, true), Ok(()));
    let mut bytes = attestation_key(true);
    bytes[3] = 4;
    assert_eq!(
        check(&bytes),
        Err(KeyAttributeError::Sha1("name algorithm"))
    );
}

#[test]
fn q10_sizes_and_exponents() {
    let mut bytes = attestation_key(true);
    bytes[16..18].copy_from_slice(&1024_u16.to_be_bytes());
    assert_eq!(check(&bytes), Err(KeyAttributeError::Size(1024)));
    bytes[16..18].copy_from_slice(&4096_u16.to_be_bytes());
    assert_eq!(check(&bytes), Err(KeyAttributeError::Size(4096)));
    for exponent in [1_u32, 3, 65_536] {
        let mut bytes = attestation_key(true);
        bytes[18..22].copy_from_slice(&exponent.to_be_bytes());
        assert_eq!(check(&bytes), Err(KeyAttributeError::Exponent(exponent)));
    }
    let mut bytes = attestation_key(false);
    bytes[17] = 2;
    assert_eq!(check(&bytes), Err(KeyAttributeError::Size(2)));
}

/// L-1, the template of nearly every TPM: RSA-2048, SHA-256, AES-128-CFB, PolicyA.
fn endorsement_key(high: bool) -> Vec<u8> {
    let attributes: u32 = if high { 0x0003_00f2 } else { 0x0003_00b2 };
    let mut bytes = vec![0, 1, 0, 0x0b];
    bytes.extend(attributes.to_be_bytes());
    bytes.extend([0, 32]);
    bytes.extend(hex::decode(template_policy(high, HashAlg::Sha256)).unwrap());
    bytes.extend([0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0, 1, 0]);
    bytes.extend([0xc1; 256]);
    bytes
}

fn check_ek(bytes: &[u8]) -> Result<(), KeyAttributeError> {
    check_endorsement_key(&Public::parse(bytes).unwrap())
}

#[test]
fn n13_endorsement_keys_follow_a_default_template() {
    use KeyAttributeError as E;
    for high in [false, true] {
        let good = endorsement_key(high);
        assert_eq!(check_ek(&good), Ok(()));
        let change = |offset: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[offset] = value;
            check_ek(&bytes)
        };
        assert_eq!(change(10, 0), Err(E::Policy));
        assert!(matches!(change(45, 0xc0), Err(E::Symmetric(Some(_)))));
        assert!(matches!(change(47, 0x42), Err(E::Symmetric(Some(_)))));
        assert_eq!(change(5, 7), Err(E::Forbidden(ObjectAttributes::SIGN)));
        assert_eq!(change(5, 1), Err(E::Missing(ObjectAttributes::DECRYPT)));
    }
    // The policy of one range with the attributes of the other.
    let low = Public::parse(&endorsement_key(false)).unwrap().attributes;
    let mixed = with_attributes(endorsement_key(true), low);
    assert_eq!(check_ek(&mixed), Err(E::Policy));
    let attestation = attestation_key(true);
    assert!(matches!(check_ek(&attestation), Err(E::Missing(_))));
    assert!(matches!(check(&endorsement_key(false)), Err(E::Missing(_))));
}

/// The policies are not copied on trust: they follow from the commands that make them.
#[test]
fn template_policies_follow_from_their_commands() {
    // Name of an NV index that authorises the policy, TCG EK Credential Profile 2.5, B.6.4.
    let policy_c = [
        (
            HashAlg::Sha256,
            "3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde",
        ),
        (
            HashAlg::Sha384,
            "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165",
        ),
        (
            HashAlg::Sha512,
            "589ee1e146544716e8deafe6db247b01b81e9f9c7dd16b814aa159138749105fba5388dd1dea702f35240c184933121e2c61b8f50d3ef91393a49a38c3f73fc8",
        ),
    ];
    for (alg, policy_c) in policy_c {
        let zero = vec![0; alg.size()];
        // TPM2_PolicySecret(TPM_RH_ENDORSEMENT), without a reference: Part 3, 23.4.
        let secret = [&zero[..], &[0, 0, 1, 0x51, 0x40, 0, 0, 0x0b]].concat();
        let policy_a = digest(alg, digest(alg, &secret).as_bytes());
        if alg == HashAlg::Sha256 {
            assert_eq!(policy_a.to_hex(), template_policy(false, alg));
        }
        // TPM2_PolicyOR: Part 3, 23.6.
        let policy_c = hex::decode(policy_c).unwrap();
        let either = [&zero, &[0, 0, 1, 0x71][..], policy_a.as_bytes(), &policy_c].concat();
        assert_eq!(digest(alg, &either).to_hex(), template_policy(true, alg));
    }
}
