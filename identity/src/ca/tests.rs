//! The CA's files and names. What it issues is verified with rustls in `tests/issued.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const NOW: u64 = 1_800_000_000_000;

fn mode(folder: &Path, name: &str) -> u32 {
    fs::metadata(folder.join(name))
        .unwrap()
        .permissions()
        .mode()
        & 0o7777
}

/// A CA made with an own key, in the two texts that an operator has.
fn operators_ca(folder: &Path) -> (String, String) {
    Ca::open(folder, NOW).unwrap();
    let text = fs::read_to_string(folder.join("ca.key")).unwrap();
    let end = text.find("-----BEGIN CERTIFICATE").unwrap();
    let rest = &text[end..];
    let last = rest.find("-----BEGIN PRIVATE").unwrap();
    (rest[..last].to_owned(), text[..end].to_owned())
}

#[test]
fn a07_keys_are_readable_by_their_owner_only_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let made = Ca::open(folder.path(), NOW).unwrap();
    assert_eq!(mode(folder.path(), "ca.key"), 0o600);
    let path = folder.path().join("ca.key");
    for open in [0o640, 0o604, 0o620, 0o601, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
        match Ca::open(folder.path(), NOW) {
            Err(CaError::Mode { mode, .. }) => assert_eq!(mode, open),
            other => panic!("{open:o}: {other:?}"),
        }
    }
    for owners in [0o600, 0o400] {
        fs::set_permissions(&path, fs::Permissions::from_mode(owners)).unwrap();
        let again = Ca::open(folder.path(), NOW).unwrap();
        assert_eq!(again.certificates(), made.certificates());
    }
}

#[test]
fn a_second_start_finds_the_same_ca() {
    let folder = tempfile::tempdir().unwrap();
    let made = Ca::open(folder.path(), NOW).unwrap();
    let again = Ca::open(folder.path(), NOW + DAY_MS).unwrap();
    assert_eq!(made.fingerprint(), again.fingerprint());
    assert_eq!(made.certificates(), again.certificates());
    assert_eq!(made.certificates().len(), 2);
    assert_eq!(made.fingerprint(), sha256(&made.certificates()[0]));
    let exported = fs::read_to_string(folder.path().join("ca.pem")).unwrap();
    let exported: Vec<_> = crate::pem::blocks(&exported).unwrap();
    let exported: Vec<_> = exported.into_iter().map(|(_, der)| der).collect();
    assert_eq!(exported, made.certificates());
}

#[test]
fn a_lost_or_damaged_key_is_an_error_and_never_a_new_ca() {
    let folder = tempfile::tempdir().unwrap();
    Ca::open(folder.path(), NOW).unwrap();
    let key = folder.path().join("ca.key");
    let text = fs::read_to_string(&key).unwrap();
    let first_certificate = text.find("-----BEGIN CERTIFICATE").unwrap();
    let damaged = [
        String::new(),
        text[..first_certificate].to_owned(),
        text[first_certificate..].to_owned(),
        format!("{text}{text}"),
        text.replace("END PRIVATE", "END PUBLIC"),
        text.replacen("MI", "AA", 1),
        "x".repeat(limits::CA_FILE_BYTES_MAX + 1),
    ];
    for damaged in damaged {
        fs::write(&key, &damaged).unwrap();
        assert!(Ca::open(folder.path(), NOW).is_err());
        assert_eq!(fs::read_to_string(&key).unwrap(), damaged);
    }
    fs::remove_file(&key).unwrap();
    assert!(matches!(
        Ca::open(folder.path(), NOW),
        Err(CaError::KeyMissing(_))
    ));
    assert!(!key.exists());
}

#[test]
fn what_a_crash_left_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ca.key.new"), "half a key").unwrap();
    let mut ca = Ca::open(folder.path(), NOW).unwrap();
    fs::write(folder.path().join("ca.key.new"), "half a key").unwrap();
    ca.rotate(NOW).unwrap();
    let again = Ca::open(folder.path(), NOW).unwrap();
    assert_eq!(again.certificates(), ca.certificates());
    assert!(!folder.path().join("ca.key.new").exists());
}

#[test]
fn rotation_promotes_what_agents_know_and_keeps_what_they_have() {
    let folder = tempfile::tempdir().unwrap();
    let mut ca = Ca::open(folder.path(), NOW).unwrap();
    let before = ca.certificates();
    ca.rotate(NOW).unwrap();
    let after = ca.certificates();
    assert_eq!(after, [before[1].clone(), before[0].clone()]);
    assert!(matches!(ca.rotate(NOW), Err(CaError::NextMissing)));
    assert_eq!(ca.certificates(), after);
    ca.prepare_next(NOW).unwrap();
    let prepared = ca.certificates();
    assert_eq!((&prepared[0], &prepared[2]), (&after[0], &after[1]));
    ca.prepare_next(NOW).unwrap();
    assert_eq!(ca.certificates(), prepared);
    // The key that was replaced is gone.
    let text = fs::read_to_string(folder.path().join("ca.key")).unwrap();
    assert_eq!(text.matches("BEGIN PRIVATE KEY").count(), 2);
    assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 3);
    assert_eq!(
        Ca::open(folder.path(), NOW).unwrap().certificates(),
        prepared
    );
}

#[test]
fn an_operators_ca_is_current_in_an_empty_folder_and_next_in_another() {
    let theirs = tempfile::tempdir().unwrap();
    let (certificate, key) = operators_ca(theirs.path());
    let empty = tempfile::tempdir().unwrap();
    let imported = Ca::import(empty.path(), &certificate, &key, NOW).unwrap();
    assert_eq!(mode(empty.path(), "ca.key"), 0o600);
    assert_eq!(imported.certificates().len(), 1);
    assert_eq!(
        imported.certificates()[0],
        crate::pem::blocks(&certificate).unwrap()[0].1
    );

    let used = tempfile::tempdir().unwrap();
    let old = Ca::open(used.path(), NOW).unwrap();
    let mut both = Ca::import(used.path(), &certificate, &key, NOW).unwrap();
    assert_eq!(both.fingerprint(), old.fingerprint());
    assert_eq!(both.certificates()[1], imported.certificates()[0]);
    both.rotate(NOW).unwrap();
    assert_eq!(both.fingerprint(), imported.fingerprint());
}

#[test]
fn what_cannot_issue_is_not_imported() {
    let theirs = tempfile::tempdir().unwrap();
    let (certificate, key) = operators_ca(theirs.path());
    let other = tempfile::tempdir().unwrap();
    let (_, other_key) = operators_ca(other.path());
    let ca = Ca::open(theirs.path(), NOW).unwrap();
    let leaf = ca.issue_server(&["localhost".into()], NOW).unwrap();
    let leaf_certificate = crate::pem::encode("CERTIFICATE", &leaf.chain_der[0]);
    let leaf_key = crate::pem::encode("PRIVATE KEY", &leaf.key_pkcs8_der);

    let folder = tempfile::tempdir().unwrap();
    let refused = |certificate: &str, key: &str, now| {
        let error = Ca::import(folder.path(), certificate, key, now).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        error
    };
    assert!(matches!(
        refused(&certificate, &other_key, NOW),
        CaError::Mismatch
    ));
    assert!(matches!(
        refused(&leaf_certificate, &leaf_key, NOW),
        CaError::NotCa
    ));
    assert!(matches!(
        refused(&certificate, &key, NOW + 2 * ROOT_LIFE_MS),
        CaError::Validity
    ));
    for (certificate, key) in [
        ("", &key[..]),
        (&certificate, ""),
        (&key, &certificate),
        (&format!("{certificate}{certificate}"), &key),
    ] {
        assert!(matches!(refused(certificate, key, NOW), CaError::Blocks));
    }
}

#[test]
fn leaves_end_with_their_ca_and_none_begins_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::open(folder.path(), NOW).unwrap();
    let end = ca.not_after_unix_ms().unwrap();
    let names = ["localhost".to_owned()];
    let first = ca.issue_server(&names, NOW).unwrap();
    assert_eq!(first.not_after_unix_ms, NOW + LEAF_LIFE_MS);
    let two_thirds = NOW - BACKDATE_MS + (LEAF_LIFE_MS + BACKDATE_MS) / 3 * 2;
    assert!(first.renew_at_unix_ms.abs_diff(two_thirds) <= 2);
    let last = ca.issue_server(&names, end - DAY_MS).unwrap();
    assert_eq!(last.not_after_unix_ms, end);
    assert!(matches!(
        ca.issue_server(&names, end + 1),
        Err(CaError::Validity)
    ));
    assert!(matches!(
        Ca::open(folder.path(), end + 1),
        Err(CaError::Validity)
    ));
}

#[test]
fn server_names_are_names_or_addresses() {
    for good in [
        "localhost",
        "a.example.com",
        "A-1.example",
        "10.0.0.1",
        "::1",
    ] {
        assert!(server_name(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        ".",
        "a.",
        "-a",
        "a-",
        "a_b",
        "*.a",
        "a b",
        "a\0",
        "1.2.3.256",
        "a/b",
        "ä.de",
        &"a".repeat(64),
        &"a.".repeat(127),
    ] {
        assert!(server_name(bad).is_err(), "{bad}");
    }
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::open(folder.path(), NOW).unwrap();
    let too_many = vec!["a".to_owned(); limits::SERVER_NAMES_MAX + 1];
    for names in [&[][..], &too_many, &["ok".to_owned(), String::new()]] {
        assert!(matches!(
            ca.issue_server(names, NOW),
            Err(CaError::ServerName)
        ));
    }
}

#[test]
fn x04_what_the_ca_makes_itself_fits_into_frames() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::open(folder.path(), NOW).unwrap();
    let fits = |der: &Vec<u8>| der.len() <= limits::CARRIED_CERTIFICATE_BYTES_MAX;
    assert!(ca.certificates().iter().all(fits));
    let names = |bytes: usize, count: usize| -> Vec<String> {
        let label = "n".repeat(60);
        let long = [label.as_str(); 4].join(".");
        let name = |nth| format!("{nth:02}{}", &long[..bytes - 2]);
        (0..count).map(name).collect()
    };
    let issued = ca.issue_server(&names(20, 64), NOW).unwrap();
    assert!(issued.chain_der.iter().all(fits));
    let refused = ca.issue_server(&names(200, 64), NOW);
    assert!(
        matches!(refused, Err(CaError::CertificateTooLong { .. })),
        "{refused:?}"
    );
}
