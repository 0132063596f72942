//! What policies are made of, and the envelopes that they are signed in.

use std::sync::OnceLock;

use rat_engine::crypto::DocumentKey;
use rat_engine::hash::HashAlg;
use rat_engine::policy::dsse::{SignatureState, SignedPolicy, admit};
use rat_engine::policy::sources::allowlist::{read_allowlist, read_exclude_list};
use rat_engine::policy::sources::cpio::{Archives, CpioError, Fed};
use rat_engine::policy::sources::rpm::package_files;
use rat_engine::policy::{Listing, PolicyDraft, RuntimePolicy};

use crate::vectors;

/// A list of an older tool: what is taken of it can be written as a policy and read again.
pub fn allowlist(data: &[u8]) {
    let _ = read_exclude_list(data);
    let mut draft = PolicyDraft::new();
    let Ok(entries) = read_allowlist(data, &mut draft) else {
        return;
    };
    let listings = [Listing::Digests, Listing::Keyrings, Listing::Buffers];
    let counts = listings.map(|listing| draft.count(listing));
    assert!(counts.iter().sum::<usize>() <= entries);
    // Exclude patterns of a JSON list are looked at only here.
    let Ok(text) = draft.write("") else {
        return;
    };
    let again = PolicyDraft::read(text.as_bytes()).expect("it was written as a policy");
    assert_eq!(listings.map(|listing| again.count(listing)), counts);
    assert!(RuntimePolicy::parse(text.as_bytes()).is_ok());
}

/// An image of archives is the same however it is cut: the first byte says how.
pub fn initramfs(data: &[u8]) {
    let Some((size, image)) = data.split_first() else {
        return;
    };
    let whole = unpack(image, image.len().max(1));
    let cut = unpack(image, usize::from(*size).max(1));
    match (&whole, &cut) {
        (Ok(whole), Ok(cut)) => assert_eq!(whole, cut),
        (whole, cut) => assert_eq!(whole.is_err(), cut.is_err(), "{whole:?} {cut:?}"),
    }
    for (path, _) in whole.into_iter().flatten() {
        assert!(path.starts_with(b"/") && !path.contains(&0));
        assert!(path.split(|byte| *byte == b'/').all(|part| part != b".."));
    }
}

type Files = Vec<(Vec<u8>, rat_engine::hash::Digest)>;

/// The files of the archives up to what is no archive.
fn unpack(image: &[u8], piece: usize) -> Result<Files, CpioError> {
    let mut archives = Archives::new(HashAlg::Sha256);
    for piece in image.chunks(piece) {
        if archives.feed(piece)? != Fed::All {
            // A magic may be cut, so that the reader has taken a part of what is none.
            let member = 0;
            return Err(CpioError::Header { member });
        }
    }
    Ok(archives.finish()?.into_iter().collect())
}

/// The header of a package.
pub fn rpm_header(data: &[u8]) {
    for file in package_files(data).into_iter().flatten() {
        assert!(file.path.starts_with(b"/") && !file.path.contains(&0));
    }
}

/// A signed policy: nobody but its signer is believed, whatever it says of its keys.
pub fn dsse(data: &[u8]) {
    static PEM: OnceLock<Vec<u8>> = OnceLock::new();
    let pem = PEM.get_or_init(|| vectors::read("keylime-policy/signed/p384.pub"));
    let key = DocumentKey::from_pem(pem).expect("a recorded key");
    if let Ok(signed) = SignedPolicy::parse(data) {
        let genuine = vectors::read("keylime-policy/signed/p384.signed.json");
        let genuine = SignedPolicy::parse(&genuine).expect("a recorded policy");
        if signed.unverified_payload() != genuine.unverified_payload() {
            assert!(signed.verify(&key).is_err());
        }
    }
    assert!(admit(data, None, true).is_err());
    match admit(data, Some(pem), false) {
        Ok(admitted) => assert!(matches!(
            admitted.signature,
            SignatureState::Verified { .. }
        )),
        Err(refusal) => assert!(matches!(refusal.keylime_status(), 400 | 401)),
    }
    if let Ok(admitted) = admit(data, None, false) {
        assert!(!matches!(
            admitted.signature,
            SignatureState::Verified { .. }
        ));
        assert!(RuntimePolicy::parse(&admitted.text).is_ok());
    }
}
