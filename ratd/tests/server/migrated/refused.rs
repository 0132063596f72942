//! What a migration does not take: damaged rows, other terms, databases that are none.

use super::*;

/// Of nearly every agent a column that cannot be what it should.
const DAMAGE: &str = "UPDATE verifiermain SET port = 70000 WHERE agent_id = 'machine-signed';
     UPDATE verifiermain SET ak_tpm = x'ff00fe' WHERE agent_id = 'machine-failed';
     UPDATE verifiermain SET meta_data = zeroblob(3000000) WHERE agent_id = 'machine-push';
     UPDATE verifiermain SET accept_tpm_hash_algs = '[1]' WHERE agent_id = 'machine-stopped';
     UPDATE verifiermain SET operational_state = 'three' WHERE agent_id = 'machine-unreachable';
     UPDATE verifiermain SET ima_policy_id = 99 WHERE agent_id = 'machine-push-failed';
     UPDATE verifiermain SET v = 'AAAA' WHERE agent_id = 'machine-push-silent';
     UPDATE verifiermain SET mtls_cert = 'no PEM' WHERE agent_id = 'machine-without-policy';
     UPDATE allowlists SET name = char(27) || 'x' WHERE name = 'signed';
     INSERT INTO allowlists (id, name, ima_policy) VALUES (50, 'large', zeroblob(70000000));";

#[test]
fn one_bad_row_stops_no_other() {
    let home = Home::new();
    let folder = keylime(&home, "7.14.3");
    let verifier = folder.join("cv_data.sqlite");
    sqlite(&verifier, DAMAGE);
    let (code, report) = migrate(&home, BY_NAME, &[]);
    assert_eq!(
        (code, counts(&report)[3]),
        (Some(1), [2, 0, 14]),
        "{report}"
    );
    let found = left(&report);
    for [table, id, column, code] in [
        [
            "verifiermain",
            "machine-signed",
            "ima_policy_id",
            "policy.left",
        ],
        ["verifiermain", "machine-failed", "ak_tpm", "column.no_text"],
        [
            "verifiermain",
            "machine-push",
            "meta_data",
            "column.too_long",
        ],
        [
            "verifiermain",
            "machine-stopped",
            "accept_tpm_hash_algs",
            "column.json",
        ],
        [
            "verifiermain",
            "machine-unreachable",
            "operational_state",
            "column.number",
        ],
        [
            "verifiermain",
            "machine-push-failed",
            "ima_policy_id",
            "policy.missing",
        ],
        ["verifiermain", "machine-push-silent", "v", "column.base64"],
        [
            "verifiermain",
            "machine-without-policy",
            "mtls_cert",
            "certificate.malformed",
        ],
        ["allowlists", "2", "name", "name.refused"],
        ["allowlists", "50", "ima_policy", "column.too_long"],
    ] {
        let row = [table, id, column, code].map(str::to_owned);
        assert!(found.contains(&row), "{row:?} is not in {found:?}");
    }
    assert!(
        !report.to_string().contains('\u{1b}'),
        "a terminal would be controlled"
    );
    // Mended, the rest follows.
    sqlite(
        &verifier,
        "UPDATE verifiermain SET v = NULL WHERE agent_id = 'machine-push-silent';",
    );
    let (_, report) = migrate(&home, BY_NAME, &[]);
    assert_eq!(counts(&report)[3], [1, 2, 13]);
}

#[test]
fn what_is_here_under_other_terms_is_left_as_it_is() {
    let home = Home::new();
    let folder = keylime(&home, "7.14.3");
    migrate(&home, BY_NAME, &[]);
    sqlite(
        &folder.join("cv_data.sqlite"),
        "UPDATE allowlists SET ima_policy = replace(ima_policy, '/usr/bin/true', '/usr/bin/evil')
         WHERE name = 'fleet';
         UPDATE verifiermain SET ip = '198.51.100.9' WHERE agent_id = 'machine-signed';",
    );
    let (_, report) = migrate(&home, BY_NAME, &[]);
    let found = left(&report);
    for row in [
        ["allowlists", "1", "name", "name.taken"],
        [
            "verifiermain",
            "machine-pull",
            "ima_policy_id",
            "policy.left",
        ],
        ["verifiermain", "machine-signed", "", "id.taken"],
    ] {
        assert!(
            found.contains(&row.map(str::to_owned)),
            "{row:?}: {found:?}"
        );
    }
    with_store(&home, async |store| {
        let fleet = store
            .keylime_policy(KeylimeKind::Runtime, "fleet")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(fleet.version, 1);
    });
}

#[test]
fn databases_that_cannot_be_read_are_refused_by_their_reason() {
    let home = Home::new();
    let folder = keylime(&home, "7.14.3");
    let file = |name: &str, bytes: &[u8]| {
        let path = home.path(name);
        std::fs::write(&path, bytes).unwrap();
        format!("sqlite:///{}", path.display())
    };
    let copy = |name: &str, sql: &str| {
        let path = home.path(name);
        std::fs::copy(folder.join("cv_data.sqlite"), &path).unwrap();
        sqlite(&path, sql);
        format!("sqlite:///{}", path.display())
    };
    let half = std::fs::read(folder.join("cv_data.sqlite")).unwrap();
    let unclosed = copy("unclosed", "SELECT 1");
    std::fs::write(home.path("unclosed-wal"), b"changes").unwrap();
    for (url, reason) in [
        (file("empty", b""), "the file is empty"),
        (file("text", b"version: 1\n"), "this is no SQLite database"),
        (file("half", &half[..half.len() / 2]), "malformed"),
        ("sqlite:////nowhere/cv.sqlite".to_owned(), "No such file"),
        (unclosed, "was not closed"),
        (
            copy(
                "newer",
                "UPDATE alembic_version_cloud_verifier SET version_num = 'abcdef012345'",
            ),
            "\"abcdef012345\", which is not known here",
        ),
        (
            copy("none", "DELETE FROM alembic_version_cloud_verifier"),
            "does not hold one version",
        ),
        (
            copy("tables", "DROP TABLE mbpolicies"),
            "there is no table mbpolicies",
        ),
        (
            copy("columns", "ALTER TABLE mbpolicies DROP COLUMN mb_policy"),
            "mbpolicies has no column mb_policy",
        ),
        (
            format!("sqlite:///{}", folder.join("reg_data.sqlite").display()),
            "is this a database of Keylime's verifier?",
        ),
        (
            "mysql+pymysql://u:s3cret@localhost/kl".to_owned(),
            "databases of MySQL are not read here",
        ),
        (
            "postgresql://u:s3cret@db.example/kl".to_owned(),
            "db.example is not on this machine",
        ),
        (
            "postgresql://u@localhost/kl?sslmode=verify-full".to_owned(),
            "demands TLS",
        ),
        (
            "db2://h/kl".to_owned(),
            "no kind of database that is known here",
        ),
    ] {
        let refused = home.fails(1, &["keylime", "migrate", "--verifier-db", &url]);
        assert!(refused.contains(reason), "{url}: {refused}");
        assert!(!refused.contains("s3cret"), "{refused}");
        assert!(!home.data().exists(), "{url}: a data directory was made");
    }
    home.fails(2, &["keylime", "migrate"]);
}

#[test]
fn without_anybody_who_vouches_no_registration_is_taken_and_no_agent_of_it() {
    let home = Home::new();
    let folder = keylime(&home, "7.14.3");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o500)).unwrap();
    let folder = folder.to_str().unwrap();
    let output = home.run(&[
        "keylime",
        "migrate",
        "--json",
        "--keylime-dir",
        folder,
        "--verifier-db",
        "sqlite",
        "--registrar-db",
        "sqlite",
    ]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(counts(&report)[0], [0, 0, 18]);
    // The one that never registered there is its tenant's word alone.
    assert_eq!(counts(&report)[3], [1, 0, 15]);
    let found = left(&report);
    assert!(
        found
            .iter()
            .any(|row| row[1] == "machine-pull" && row[3] == "registration.left")
    );
}
