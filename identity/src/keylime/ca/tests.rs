use std::os::unix::fs::PermissionsExt;

use super::*;

const NOW: u64 = 1_800_000_000_000;
const DAY: u64 = 24 * 60 * 60 * 1000;

fn names(text: &[&str]) -> Vec<String> {
    text.iter().map(ToString::to_string).collect()
}

fn made() -> (tempfile::TempDir, KeylimeCa) {
    let folder = tempfile::tempdir().unwrap();
    let ca = KeylimeCa::make(folder.path(), &names(&["localhost", "127.0.0.1"]), NOW).unwrap();
    (folder, ca)
}

#[test]
fn a07_every_file_of_keylimes_layout_is_there_and_keys_are_the_owners() {
    let (folder, ca) = made();
    for file in FILES {
        let path = folder.path().join(file);
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let is_key = file.ends_with("-private.pem");
        assert_eq!(mode, if is_key { 0o600 } else { 0o644 }, "{file}");
    }
    let server = certificate(&required(folder.path(), "server-cert.crt").unwrap()).unwrap();
    assert!(server.is_issued_by(&ca.certificate));
    let expected = names(&["127.0.0.1", "localhost"]);
    assert_eq!(server.server_names(), expected.into_iter().collect());
    assert_eq!(server.common_name().as_deref(), Some("server"));
    let client = certificate(&required(folder.path(), "client-cert.crt").unwrap()).unwrap();
    assert_eq!(
        super::super::admin_name(client.der()).as_deref(),
        Some("client")
    );
    // It is never made again over what is there.
    let again = KeylimeCa::make(folder.path(), &names(&["localhost"]), NOW);
    assert!(matches!(again, Err(KeylimeCaError::Exists(_))));
    let path = folder.path().join("server-private.pem");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let opened = KeylimeCa::open(folder.path(), NOW).unwrap().unwrap();
    let refused = opened.server().err().unwrap();
    assert!(matches!(refused, KeylimeCaError::Ca(CaError::Mode { .. })));
}

#[test]
fn certificates_are_renewed_in_time_and_for_other_names_with_the_same_key() {
    let (folder, ca) = made();
    let same = names(&["localhost", "127.0.0.1"]);
    let before = ca.server().unwrap();
    assert!(!ca.renew(&same, NOW + DAY).unwrap());
    assert_eq!(ca.server().unwrap().chain_der, before.chain_der);
    assert!(ca.renew(&names(&["ratd.example"]), NOW + DAY).unwrap());
    let renamed = ca.server().unwrap();
    assert_eq!(renamed.key_pkcs8_der, before.key_pkcs8_der);
    assert_ne!(renamed.chain_der, before.chain_der);
    assert!(
        ca.renew(&names(&["ratd.example"]), NOW + 300 * DAY)
            .unwrap()
    );
    assert!(ca.server().unwrap().not_after_unix_ms > renamed.not_after_unix_ms);
    let ends = ca.ends().unwrap();
    assert_eq!(ends[1].0, "client-cert.crt");
    assert!(ends[1].1 > NOW + 400 * DAY);
    let later = KeylimeCa::open(folder.path(), NOW + 4000 * DAY);
    assert!(matches!(later, Err(KeylimeCaError::Ca(CaError::Validity))));
}

#[test]
fn a_folder_is_imported_whole_or_not_at_all() {
    let (from, ca) = made();
    let to = tempfile::tempdir().unwrap();
    let imported = KeylimeCa::import(to.path(), from.path(), None, NOW).unwrap();
    assert!(!imported.renews());
    assert!(
        !imported
            .renew(&names(&["elsewhere"]), NOW + 300 * DAY)
            .unwrap()
    );
    assert_eq!(
        imported.server().unwrap().chain_der,
        ca.server().unwrap().chain_der
    );
    assert!(KeylimeCa::import(to.path(), from.path(), None, NOW).is_err());

    let with_key = tempfile::tempdir().unwrap();
    let key = fs::read_to_string(from.path().join(CA_KEY)).unwrap();
    let imported = KeylimeCa::import(with_key.path(), from.path(), Some(&key), NOW).unwrap();
    assert!(imported.renew(&names(&["elsewhere"]), NOW).unwrap());

    let (other, _) = made();
    let empty = tempfile::tempdir().unwrap();
    fs::copy(
        other.path().join("client-cert.crt"),
        from.path().join("client-cert.crt"),
    )
    .unwrap();
    let refused = KeylimeCa::import(empty.path(), from.path(), None, NOW);
    assert!(matches!(refused, Err(KeylimeCaError::NotIssued(_))));
    fs::remove_file(from.path().join("client-cert.crt")).unwrap();
    let refused = KeylimeCa::import(empty.path(), from.path(), None, NOW);
    assert!(matches!(refused, Err(KeylimeCaError::Missing(_))));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

#[test]
fn a02_a_ca_that_is_ratds_own_is_known() {
    let (_folder, ca) = made();
    let (_other_folder, other) = made();
    assert!(ca.is_related_to(&[ca.certificate_der().to_vec()]));
    assert!(!ca.is_related_to(&[other.certificate_der().to_vec()]));
    assert!(ca.is_related_to(&[b"no certificate".to_vec()]));
    let below = ca.server().unwrap().chain_der;
    assert!(ca.is_related_to(&below[..1]));
}
