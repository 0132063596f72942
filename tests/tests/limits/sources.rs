//! Limits on what policies are made of, and on signed ones.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rat_engine::hash::HashAlg;
use rat_engine::limits;
use rat_engine::policy::PolicyDraft;
use rat_engine::policy::dsse::{DsseError, PAYLOAD_TYPE, SignedPolicy};
use rat_engine::policy::sources::allowlist::{AllowlistError, read_allowlist};
use rat_engine::policy::sources::cpio::{Archives, CpioError, Fed};
use rat_engine::policy::sources::rpm::{RpmError, package_files};
use rat_tests::archives::{Member, newc, rpm, rpm_header};
use serde_json::json;

pub(crate) fn dsse_bytes() {
    let max = limits::DSSE_BYTES_MAX;
    let zeros = vec![0; max + 1];
    let (line, column) = (1, 1);
    let at = SignedPolicy::parse(&zeros[..max]).unwrap_err();
    assert_eq!(at, DsseError::Json { line, column });
    let above = SignedPolicy::parse(&zeros).unwrap_err();
    assert_eq!(above, DsseError::TooLarge { bytes: max + 1 });
}

fn signed(signatures: usize, bytes: usize) -> Result<SignedPolicy, DsseError> {
    let sig = STANDARD.encode(vec![0x30; bytes]);
    let signatures = vec![json!({ "sig": sig }); signatures];
    let envelope =
        json!({"payload": "e30=", "payloadType": PAYLOAD_TYPE, "signatures": signatures});
    SignedPolicy::parse(envelope.to_string().as_bytes())
}

pub(crate) fn dsse_signatures() {
    let max = limits::DSSE_SIGNATURES_MAX;
    assert!(signed(max, 70).is_ok());
    let found = max + 1;
    assert_eq!(signed(found, 70), Err(DsseError::Signatures { found }));
}

pub(crate) fn dsse_signature_bytes() {
    let max = limits::DSSE_SIGNATURE_BYTES_MAX;
    assert!(signed(1, max).is_ok());
    let index = 0;
    assert_eq!(signed(1, max + 1), Err(DsseError::Signature { index }));
}

pub(crate) fn allowlist_bytes() {
    let max = limits::ALLOWLIST_BYTES_MAX;
    let zeros = vec![0; max + 1];
    let read = |text: &[u8]| read_allowlist(text, &mut PolicyDraft::new());
    assert_eq!(read(&zeros[..max]), Err(AllowlistError::Line { line: 1 }));
    let bytes = max + 1;
    assert_eq!(read(&zeros), Err(AllowlistError::TooLarge { bytes }));
}

pub(crate) fn initramfs_unpacked_bytes() {
    let max = limits::INITRAMFS_UNPACKED_BYTES_MAX;
    let piece = vec![0; 1 << 20];
    let mut archives = Archives::new(HashAlg::Sha256);
    for _ in 0..max / piece.len() {
        assert_eq!(archives.feed(&piece), Ok(Fed::All));
    }
    assert_eq!(archives.feed(&[0]), Err(CpioError::Unpacked));
}

pub(crate) fn initramfs_members() {
    let max = limits::INITRAMFS_MEMBERS_MAX;
    // Nothing is kept of a folder.
    let members = Member::of_type("d", 0o040_755).to_bytes();
    let mut archives = Archives::new(HashAlg::Sha256);
    for _ in 0..max {
        assert_eq!(archives.feed(&members), Ok(Fed::All));
    }
    assert_eq!(archives.feed(&members), Err(CpioError::Members));
}

pub(crate) fn initramfs_name_bytes() {
    let max = limits::INITRAMFS_NAME_BYTES_MAX;
    let unpack = |length: usize| {
        // The NUL behind it counts.
        let image = newc(&[Member::file("n".repeat(length - 1), b"")]);
        Archives::new(HashAlg::Sha256).feed(&image)
    };
    assert_eq!(unpack(max), Ok(Fed::All));
    let bytes = u32::try_from(max + 1).unwrap();
    let member = 0;
    assert_eq!(unpack(max + 1), Err(CpioError::Name { member, bytes }));
}

/// A package whose header says that it has so many tags and bytes of data, and has none.
fn announced(tags: usize, bytes: usize) -> Result<(), RpmError> {
    let mut header = rpm_header(&[]);
    header[8..12].copy_from_slice(&u32::try_from(tags).unwrap().to_be_bytes());
    header[12..16].copy_from_slice(&u32::try_from(bytes).unwrap().to_be_bytes());
    package_files(&rpm(&header)).map(|_| ())
}

fn limited(limit: &'static str, max: usize) -> Result<(), RpmError> {
    Err(RpmError::Limit { limit, max })
}

pub(crate) fn rpm_header_bytes() {
    let max = limits::RPM_HEADER_BYTES_MAX;
    assert!(matches!(
        announced(0, max),
        Err(RpmError::Truncated { needed }) if needed > max
    ));
    let above = announced(0, max + 1);
    assert_eq!(above, limited("RPM_HEADER_BYTES_MAX", max));
}

pub(crate) fn rpm_tags() {
    let max = limits::RPM_TAGS_MAX;
    assert!(matches!(announced(max, 0), Err(RpmError::Truncated { .. })));
    assert_eq!(announced(max + 1, 0), limited("RPM_TAGS_MAX", max));
}

pub(crate) fn rpm_files() {
    let max = limits::RPM_FILES_MAX;
    let names = |count: usize| {
        let count = u32::try_from(count).unwrap();
        package_files(&rpm(&rpm_header(&[(1117, 8, count, b"a\0".to_vec())]))).map(|_| ())
    };
    assert_eq!(names(max), Err(RpmError::Tag { tag: 1117 }));
    assert_eq!(names(max + 1), limited("RPM_FILES_MAX", max));
}
