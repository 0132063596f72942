//! A fleet is taken over from Keylime: databases that Keylime 7.14.3 made, and damaged ones.

mod refused;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rat_engine::agent_id::AgentId;
use rat_engine::shard::AgentPath;
use rat_engine::verdict::Code;
use rat_store::{Halted, KeylimeKind, KeylimeStanding, Store, StoredAgent};
use rat_tests::keylime_databases::{self, run_sql as sqlite};
use serde_json::Value;

use crate::postgres::Postgres;
use crate::process::{Home, eventually};

/// A folder of Keylime with the recorded databases in it.
fn keylime(home: &Home, version: &str) -> PathBuf {
    let folder = home.path("keylime");
    std::fs::create_dir(&folder).unwrap();
    keylime_databases::write(&folder, version);
    folder
}

/// One row: table, id, outcome, column and code.
type Row = [String; 5];

fn rows(report: &Value) -> BTreeSet<Row> {
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let row =
        |row: &Value| ["table", "id", "outcome", "column", "code"].map(|name| text(row, name));
    report["rows"].as_array().unwrap().iter().map(row).collect()
}

fn counts(report: &Value) -> Vec<[u64; 3]> {
    let number = |table: &Value, name: &str| table[name].as_u64().unwrap();
    let of = |table: &Value| ["imported", "already_there", "left"].map(|name| number(table, name));
    report["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(of)
        .collect()
}

/// What `migrate` reports of two databases.
fn migrate(home: &Home, databases: [&str; 2], more: &[&str]) -> (Option<i32>, Value) {
    let folder = home.path("keylime");
    let output = home
        .command()
        .args([
            "--set",
            "keylime.registrar.ek_check=warn",
            "keylime",
            "migrate",
            "--json",
        ])
        .args([
            "--verifier-db",
            databases[0],
            "--registrar-db",
            databases[1],
        ])
        .args(["--keylime-dir", folder.to_str().unwrap()])
        .args(more)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        report.unwrap_or_else(|_| panic!("{error}")),
    )
}

/// Settings after the subcommand replace those before it.
const WARN: &[&str] = &["--set", "keylime.registrar.ek_check=warn"];
const BY_NAME: [&str; 2] = ["sqlite", "sqlite"];
/// Of registrations, policies, measured boot policies and agents: imported, there already, left.
const FIRST: [[u64; 3]; 4] = [[13, 0, 5], [3, 0, 2], [2, 0, 0], [10, 0, 6]];

/// What is left of the recorded databases, and why.
const LEFT: [[&str; 4]; 13] = [
    ["allowlists", "4", "ima_policy", "policy.malformed"],
    ["allowlists", "5", "ima_policy", "column.empty"],
    ["registrarmain", "a machine", "agent_id", "id.malformed"],
    [
        "registrarmain",
        "foreign-certificate",
        "ekcert",
        "ek.key_mismatch",
    ],
    [
        "registrarmain",
        "machine-weak-key",
        "aik_tpm",
        "ak.attributes",
    ],
    [
        "registrarmain",
        "not-activated",
        "active",
        "registration.not_active",
    ],
    ["registrarmain", "without-keys", "ek_tpm", "column.empty"],
    ["verifiermain", "a machine", "agent_id", "id.malformed"],
    [
        "verifiermain",
        "machine-bad-pcrs",
        "tpm_policy",
        "column.refused",
    ],
    [
        "verifiermain",
        "machine-broken-policy",
        "ima_policy_id",
        "policy.left",
    ],
    [
        "verifiermain",
        "machine-leaving",
        "operational_state",
        "agent.leaving",
    ],
    [
        "verifiermain",
        "machine-other-key",
        "ak_tpm",
        "ak.not_registered",
    ],
    ["verifiermain", "machine-weak-key", "ak_tpm", "ak.refused"],
];

fn left(report: &Value) -> BTreeSet<[String; 4]> {
    let left = rows(report).into_iter().filter(|row| row[2] == "left");
    left.map(|[table, id, _, column, code]| [table, id, column, code])
        .collect()
}

fn expected_left() -> BTreeSet<[String; 4]> {
    LEFT.iter().map(|row| row.map(str::to_owned)).collect()
}

fn with_store<T>(home: &Home, work: impl AsyncFnOnce(&Store) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open_shared(&home.data()).await.unwrap();
        let result = work(&store).await;
        store.close().await;
        result
    })
}

async fn agent(store: &Store, id: &str) -> StoredAgent {
    let id = AgentId::parse(id).unwrap();
    store.enrolled_agent(&id).await.unwrap().unwrap()
}

#[test]
fn a_dry_run_says_what_would_be_imported_and_changes_nothing() {
    let home = Home::new();
    let folder = keylime(&home, "7.14.3");
    let bytes = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let before = [bytes("cv_data.sqlite"), bytes("reg_data.sqlite")];
    let (code, dry) = migrate(&home, BY_NAME, &["--dry-run"]);
    assert_eq!((code, counts(&dry)), (Some(1), FIRST.to_vec()));
    assert_eq!(left(&dry), expected_left());
    assert_eq!(dry["dry_run"], true);
    assert!(!home.data().exists(), "a dry run made a data directory");
    // The same where a server has records, and is running.
    let server = home.start(&[]);
    let (_, beside) = migrate(&home, BY_NAME, &["--dry-run"]);
    assert_eq!(rows(&beside), rows(&dry));
    let refused = home.fails(
        4,
        &[
            "keylime",
            "migrate",
            "--registrar-db",
            "sqlite",
            "--keylime-dir",
            folder.to_str().unwrap(),
        ],
    );
    assert!(refused.contains("is in use by process"), "{refused}");
    server.stop();
    let (_, real) = migrate(&home, BY_NAME, &[]);
    assert_eq!(rows(&real), rows(&dry), "it does what the dry run said");
    assert_eq!(before, [bytes("cv_data.sqlite"), bytes("reg_data.sqlite")]);
    let beside: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
    assert_eq!(
        beside.len(),
        2,
        "something was written beside Keylime's databases"
    );
}

#[test]
fn a_second_run_finds_everything_there() {
    let home = Home::new();
    keylime(&home, "7.14.3");
    let (code, first) = migrate(&home, BY_NAME, &[]);
    assert_eq!((code, counts(&first)), (Some(1), FIRST.to_vec()));
    assert_eq!(first["error"], Value::Null);
    for more in [&["--dry-run"][..], &[]] {
        let (_, again) = migrate(&home, BY_NAME, more);
        let expected = FIRST.map(|[imported, there, left]| [there, imported, left]);
        assert_eq!(counts(&again), expected.to_vec());
        assert_eq!(left(&again), expected_left());
    }
    // Its server serves with them.
    home.start(&["keylime.verifier.listen=127.0.0.1:0"]).stop();
}

#[test]
fn s14_s16_nobody_is_imported_as_trusted_and_who_had_failed_stays_failed() {
    let home = Home::new();
    keylime(&home, "7.14.3");
    migrate(&home, BY_NAME, &[]);
    with_store(&home, async |store| {
        for (id, failure) in [
            ("machine-pull", None),
            ("machine-signed", None),
            ("machine-unreachable", None),
            ("machine-push", None),
            ("machine-push-silent", None),
            ("machine-without-policy", None),
            ("machine-failed", Some(Code::ImaPathNotListed)),
            ("machine-stopped", None),
            ("machine-push-failed", Some(Code::IdentityHistoryLost)),
        ] {
            let StoredAgent { state, .. } = agent(store, id).await;
            let found = state.failure.as_ref().map(|failure| failure.code);
            assert_eq!(found, failure, "{id}");
            if let Some(failure) = &state.failure {
                assert_eq!(
                    (&failure.group, failure.under_policy),
                    (&None, None),
                    "{id}"
                );
                assert!(
                    failure.detail.starts_with("in Keylime: state "),
                    "{failure:?}"
                );
            }
            // Nothing of what Keylime had found counts: not its list, not its clock, not its passes.
            assert_eq!(state.trusted_until_unix_ms, 0, "{id}");
            assert!(
                state.verdict.is_none() && state.ima.is_none() && state.boot.is_none(),
                "{id}"
            );
            assert_eq!(
                (state.passed, state.attestations, state.clock),
                (0, 0, None),
                "{id}"
            );
        }
        for id in ["machine-broken-policy", "machine-weak-key"] {
            let id = AgentId::parse(id).unwrap();
            assert!(
                store.agent(&id).await.unwrap().is_none(),
                "{id} came without its policy"
            );
        }
    });
}

#[test]
fn s16_who_was_stopped_stays_stopped_and_what_was_told_of_a_failure_is_known() {
    let home = Home::new();
    let folder = keylime(&home, "7.14.3");
    // One that pushes cannot be stopped here, and would go on.
    sqlite(
        &folder.join("cv_data.sqlite"),
        "UPDATE verifiermain SET operational_state = 10 WHERE agent_id = 'machine-push'",
    );
    migrate(&home, BY_NAME, &[]);
    with_store(&home, async |store| {
        for (id, halted, told) in [
            ("machine-pull", Halted::Not, None),
            ("machine-stopped", Halted::ByTenant, None),
            ("machine-unreachable", Halted::Not, None),
            (
                "machine-failed",
                Halted::Not,
                Some((6, "ima.validation.ima-ng.not_in_allowlist")),
            ),
            ("machine-push-failed", Halted::Not, None),
            ("machine-push", Halted::Not, None),
        ] {
            let noted = store.keylime_standing(&AgentId::parse(id).unwrap()).await;
            let noted = noted.unwrap();
            assert_eq!(noted.halted, halted, "{id}");
            let failure = noted.failure.as_ref();
            let found = failure.map(|told| (told.severity, told.event_id.as_str()));
            assert_eq!(found, told, "{id}");
            // It is told of the failure that sticks, and so not once more.
            let state = agent(store, id).await.state;
            if let (Some(told), Some(failure)) = (noted.failure, &state.failure) {
                assert_eq!(told.failed_unix_ms, failure.at_unix_ms, "{id}");
            }
            let has_failed = ["machine-failed", "machine-push-failed", "machine-push"];
            assert_eq!(state.failure.is_some(), has_failed.contains(&id), "{id}");
        }
    });
}

#[test]
fn s16_who_had_failed_in_keylime_is_halted_by_the_first_start_and_stays_so() {
    let home = Home::new();
    keylime(&home, "7.14.3");
    migrate(&home, BY_NAME, &[]);
    let failed_at = |store: &StoredAgent| store.state.failure.as_ref().unwrap().at_unix_ms;
    let before = with_store(&home, async |store| {
        failed_at(&agent(store, "machine-failed").await)
    });
    for nth in 0..2 {
        let server = home.start(&["keylime.verifier.listen=127.0.0.1:0"]);
        eventually("it is halted", || {
            let halted = with_store(&home, async |store| {
                let id = AgentId::parse("machine-failed").unwrap();
                store.keylime_standing(&id).await.unwrap().halted
            });
            halted == Halted::ByFailure
        });
        // The first start halts it; the second never takes it up.
        let log = server.log();
        let halts = log.matches("is not polled any more").count();
        assert_eq!(halts, usize::from(nth == 0), "{log}");
        assert!(!log.contains("an agent is not polled again"), "{log}");
        server.stop();
        with_store(&home, async |store| {
            for (id, expected) in [
                ("machine-failed", Halted::ByFailure),
                ("machine-stopped", Halted::ByTenant),
                ("machine-pull", Halted::Not),
            ] {
                let noted = store.keylime_standing(&AgentId::parse(id).unwrap()).await;
                assert_eq!(noted.unwrap().halted, expected, "{id}");
            }
            let failed = agent(store, "machine-failed").await;
            assert_eq!(
                failed_at(&failed),
                before,
                "its failure is the one that was imported"
            );
            let state = failed.state;
            assert_eq!((state.attestations, state.trusted_until_unix_ms), (0, 0));
        });
    }
}

#[test]
fn measured_boot_policies_are_read_by_the_policy_that_judges_with_them() {
    let set = |name: &str| format!("keylime.measured_boot_policy_name={name}");
    for name in ["accept-all", "reject-all"] {
        let home = Home::new();
        keylime(&home, "7.14.3");
        migrate(&home, BY_NAME, &[WARN, &["--set", &set(name)][..]].concat());
        with_store(&home, async |store| {
            let id = AgentId::parse("machine-refstate").unwrap();
            let agent = store.keylime_agent(&id).await.unwrap().unwrap();
            assert_eq!(agent.mb_policy.name, "refstate");
            let judges = store.policy_text(&agent.mb_policy.digest.unwrap()).await;
            let judges = judges.unwrap().unwrap();
            assert!(judges.starts_with(b"{\"scrtm_and_bios\""), "{name}");
        });
    }
    // What `example` cannot use is no policy, and its agent comes not without it.
    let home = Home::new();
    keylime(&home, "7.14.3");
    let (_, report) = migrate(
        &home,
        BY_NAME,
        &[WARN, &["--set", &set("example")][..]].concat(),
    );
    let found = left(&report);
    for row in [
        ["mbpolicies", "2", "mb_policy", "policy.malformed"],
        [
            "verifiermain",
            "machine-refstate",
            "mb_policy_id",
            "policy.left",
        ],
    ] {
        assert!(found.contains(&row.map(str::to_owned)), "{found:?}");
    }
    assert_eq!(
        counts(&report)[2..],
        [[1, 0, 1], [9, 0, 7]],
        "the others come"
    );
}

#[test]
fn s14_where_policies_must_be_signed_none_comes_whose_signature_nobody_can_verify() {
    let home = Home::new();
    keylime(&home, "7.14.3");
    let signed = "keylime.verifier.require_allow_list_signatures=true";
    let (_, report) = migrate(&home, BY_NAME, &[WARN, &["--set", signed][..]].concat());
    assert_eq!(counts(&report)[1], [0, 0, 5]);
    let found = left(&report);
    for number in ["1", "2", "3"] {
        let row = ["allowlists", number, "ima_policy", "policy.signature"];
        assert!(found.contains(&row.map(str::to_owned)), "{found:?}");
    }
    // Who is judged by no policy needs none.
    assert_eq!(counts(&report)[3], [1, 0, 15]);
}

#[test]
fn agents_are_what_keylime_had() {
    let home = Home::new();
    keylime(&home, "7.14.3");
    migrate(&home, BY_NAME, &[]);
    with_store(&home, async |store| {
        let id = |text| AgentId::parse(text).unwrap();
        let pull = store
            .keylime_agent(&id("machine-pull"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            agent(store, "machine-pull").await.record.path,
            AgentPath::KeylimePull
        );
        assert_eq!(
            (
                pull.runtime_policy.name.as_str(),
                pull.mb_policy.name.as_str()
            ),
            ("fleet", "empty")
        );
        assert!(pull.runtime_policy.digest.is_some() && pull.mb_policy.digest.is_none());
        assert_eq!(pull.facts.v.as_ref().unwrap().len(), 32);
        assert!(
            pull.facts
                .revocation_key
                .starts_with("-----BEGIN PRIVATE KEY")
        );
        assert!(
            pull.facts.tpm_policy.starts_with("{\"22\""),
            "{}",
            pull.facts.tpm_policy
        );
        assert_eq!(pull.facts.port, Some(9002));
        let push = store
            .keylime_agent(&id("machine-push"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            agent(store, "machine-push").await.record.path,
            AgentPath::KeylimePush
        );
        assert_eq!((push.facts.ip, push.runtime_policy.digest), (None, None));
        assert_eq!(push.runtime_policy.name, "machine-push");
    });
}

#[test]
fn policies_and_registrations_are_what_keylime_had() {
    let home = Home::new();
    keylime(&home, "7.14.3");
    migrate(&home, BY_NAME, &[]);
    with_store(&home, async |store| {
        let id = |text| AgentId::parse(text).unwrap();
        let fleet = store
            .keylime_policy(KeylimeKind::Runtime, "fleet")
            .await
            .unwrap()
            .unwrap();
        assert!(fleet.text.starts_with(b"{\"meta\": {\"version\": 1"));
        // Of a signed one, what is signed judges.
        let signed = store
            .keylime_policy(KeylimeKind::Runtime, "signed")
            .await
            .unwrap()
            .unwrap();
        let judges = store
            .policy_text(&signed.digest.unwrap())
            .await
            .unwrap()
            .unwrap();
        assert!(signed.text.starts_with(b"{\"payload\"") && judges.starts_with(b"{\"meta\""));
        let (registration, _) = store
            .keylime_registration(&id("machine-pull"), 1)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (registration.standing, registration.regcount),
            (KeylimeStanding::Active, 2)
        );
        assert_eq!(
            agent(store, "machine-pull").await.record.ek_sha256,
            registration.ek_sha256
        );
        assert!(registration.challenge.is_none() && registration.details.ek_certificate.is_some());
    });
}

#[test]
fn postgresql_gives_what_sqlite_gives() {
    let postgres = Postgres::start();
    postgres.load(&keylime_databases::folder().join("7.14.3/postgresql.sql"));
    let home = Home::new();
    let url = postgres.url();
    let (code, report) = migrate(&home, [&url, &url], &[]);
    assert_eq!((code, counts(&report)), (Some(1), FIRST.to_vec()));
    assert_eq!(left(&report), expected_left());
    let (_, again) = migrate(&home, [&url, &url], &[]);
    assert_eq!(counts(&again)[3], [0, 10, 6]);
    // It was only read, and a newer version of its schema is refused without a word of the password.
    let marks = "SELECT count(*) FROM verifiermain; SELECT count(*) FROM registrarmain;";
    assert_eq!(
        postgres
            .sql("keylime", marks)
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["16", "18"]
    );
    postgres.sql(
        "keylime",
        "UPDATE alembic_version_cloud_verifier SET version_num = 'ffff';",
    );
    let refused = home.fails(1, &["keylime", "migrate", "--verifier-db", &url]);
    assert!(
        refused.contains("\"ffff\"") && refused.contains("a59cc9366774"),
        "{refused}"
    );
    assert!(!refused.contains("s3cret"), "{refused}");
    postgres.sql("keylime", "DROP TABLE alembic_version_registrar;");
    let refused = home.fails(1, &["keylime", "migrate", "--registrar-db", &url]);
    assert!(
        refused.contains("no table alembic_version_registrar"),
        "{refused}"
    );
    let gone = "postgresql://keylime@localhost:1/keylime";
    let refused = home.fails(1, &["keylime", "migrate", "--verifier-db", gone]);
    assert!(
        refused.contains("--verifier-db: postgresql://keylime@localhost:1/keylime"),
        "{refused}"
    );
}

#[test]
fn an_older_schema_that_is_known_is_read() {
    let home = Home::new();
    keylime(&home, "330024be7bef");
    let (code, report) = migrate(&home, BY_NAME, &[]);
    assert_eq!((code, counts(&report)), (Some(1), FIRST.to_vec()));
    assert_eq!(left(&report), expected_left());
}

#[test]
fn people_read_a_table() {
    let home = Home::new();
    let folder = keylime(&home, "7.14.3");
    let arguments = [
        "keylime",
        "migrate",
        "--dry-run",
        "--keylime-dir",
        folder.to_str().unwrap(),
        "--verifier-db",
        "sqlite",
    ];
    let output = home.run(&arguments);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.starts_with("table            would import  already there     left\n"),
        "{table}"
    );
    assert!(
        table.contains("left  verifiermain.operational_state  machine-leaving  agent.leaving: ")
    );
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("rows were left") && !error.contains('\u{1b}'),
        "{error}"
    );
}
