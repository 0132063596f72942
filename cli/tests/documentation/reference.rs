//! Tables of the documentation, held against the code.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};

use rat_engine::shard::EffectiveStatus;
use rat_tests::workspace_root;
use serde_json::Value;

use crate::session::programs;

fn text(path: &str) -> String {
    std::fs::read_to_string(workspace_root().join(path)).unwrap()
}

/// Words between backquotes in the first column of the table after this mark.
fn first_column(page: &str, mark: &str) -> BTreeSet<String> {
    let page = text(page);
    let table = page.split_once(&format!("<!-- {mark} -->\n")).unwrap().1;
    let table = table.split_once("<!-- end -->").unwrap().0;
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|line| line.split('|').nth(1).unwrap());
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    words.map(str::to_owned).collect()
}

/// Texts such as `agent.not_found` that stand in these sources, each as a whole.
fn codes_in(sources: &[&str]) -> BTreeSet<String> {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let mut codes = BTreeSet::new();
    for source in sources {
        for quoted in text(source).split('"').skip(1).step_by(2) {
            let parts: Vec<&str> = quoted.split('.').collect();
            if parts.len() == 2 && parts.into_iter().all(is_word) {
                codes.insert(quoted.to_owned());
            }
        }
    }
    codes
}

#[test]
fn every_code_of_the_api_stands_in_its_reference() {
    // These come in the shape of the accounts' API, where they have other names.
    let of_accounts = [
        "auth.beyond_caller",
        "auth.needs_login",
        "auth.wrong_password",
        "request.full",
        "user.last_administrator",
        "user.name_taken",
    ];
    let mut codes = codes_in(&[
        "api/src/error.rs",
        "api/src/core/activation.rs",
        "api/src/core/enrolment.rs",
        "api/src/core/policies.rs",
        "identity/src/ek/mod.rs",
        "identity/src/enrolment.rs",
    ]);
    // And these in Keylime's, where they have none.
    let of_keylime = [
        "auth.not_keylime_admin",
        "auth.not_keylime_agent",
        "request.needs_tls",
    ];
    for code in of_accounts.into_iter().chain(of_keylime) {
        assert!(codes.remove(code), "{code} is gone");
    }
    for source in [
        "agents",
        "activation",
        "enrolment",
        "evidence",
        "groups",
        "issue",
        "machines",
        "operate",
        "policies",
        "relays",
        "request",
    ] {
        let source = text(&format!("api/src/core/{source}.rs"));
        for after in source.split("NotFound(\"").skip(1) {
            let what = after.split('"').next().unwrap();
            codes.insert(format!("{}.not_found", what.replace(' ', "_")));
        }
    }
    codes.insert("path.not_found".to_owned());
    let mut documented = first_column("docs/reference/api.md", "codes");
    documented.extend(first_column("docs/reference/api.md", "refusals"));
    assert_eq!(documented, codes);
    let accounts = text("api/src/people/refusal.rs");
    let is_code = |word: &&str| {
        word.len() > 4
            && word
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    let accounts = accounts.split('"').skip(1).step_by(2).filter(is_code);
    let accounts: BTreeSet<String> = accounts.map(str::to_owned).collect();
    assert_eq!(first_column("docs/reference/api.md", "accounts"), accounts);
}

#[test]
fn every_status_stands_in_the_reference() {
    let statuses = EffectiveStatus::ALL.map(|status| status.as_str().to_owned());
    let documented = first_column("docs/reference/api.md", "statuses");
    assert_eq!(documented, BTreeSet::from(statuses));
}

#[test]
fn every_field_of_evidence_is_explained() {
    let document: Value = serde_json::from_str(&text("docs/openapi.json")).unwrap();
    let schemas = &document["components"]["schemas"];
    let page = text("docs/how-to/read-a-failure.md");
    let mut fields = 0;
    for name in [
        "Identity",
        "Evidence",
        "Attestation",
        "BootEpoch",
        "PolicyJudged",
        "Failure",
        "EvidencePolicy",
    ] {
        let properties = schemas[name]["properties"].as_object();
        let properties = properties.unwrap_or_else(|| panic!("{name}: {}", schemas[name]));
        for field in properties.keys() {
            fields += 1;
            let is_named = [format!("`{field}`"), format!(".{field}`")];
            // The parts of it are explained one by one.
            let is_whole =
                ["agent", "attestation", "policy", "first_offence"].contains(&field.as_str());
            assert!(
                is_whole || is_named.iter().any(|named| page.contains(named)),
                "{name}.{field} is not explained"
            );
        }
    }
    assert!(fields > 30, "{fields}");
}

#[test]
fn every_setting_of_a_group_stands_in_the_reference() {
    let document: Value = serde_json::from_str(&text("docs/openapi.json")).unwrap();
    let settings = document["components"]["schemas"]["GroupChange"]["properties"].as_object();
    let page = text("docs/reference/api.md");
    for setting in settings.unwrap().keys() {
        assert!(page.contains(&format!("\n| `{setting}` | ")), "{setting}");
    }
}

#[test]
fn every_step_of_the_schema_stands_in_the_page_about_upgrades() {
    let steps = std::fs::read_dir(workspace_root().join("store/src/schema/sqlite")).unwrap();
    let page = text("docs/upgrade.md");
    let table = page.split_once("<!-- schema -->").unwrap().1;
    let table = table.split_once("<!-- end -->").unwrap().0;
    let rows = table.lines().filter(|line| line.starts_with("| ")).count();
    assert_eq!(rows - 1, steps.count());
}

#[test]
fn s06_an_older_program_refuses_newer_records_as_the_page_about_upgrades_says() {
    let folder = tempfile::tempdir().unwrap();
    let ratd = |arguments: &[&str]| -> Output {
        Command::new(programs().join("ratd"))
            .env_clear()
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    assert!(ratd(&["group", "create", "web"]).status.success());
    let newer = "import sqlite3, sys\n\
                 records = sqlite3.connect(sys.argv[1])\n\
                 newest = records.execute('SELECT max(version) FROM schema_step').fetchone()[0]\n\
                 records.execute(\"INSERT INTO schema_step VALUES (?, 'next', x'00', 'test')\", (newest + 1,))\n\
                 records.commit()\n";
    let database = folder.path().join("data/ratd.db");
    let made = Command::new("python3")
        .args(["-c", newer])
        .arg(&database)
        .status();
    assert!(made.unwrap().success());
    let before = std::fs::read(&database).unwrap();
    for arguments in [&[][..], &["group", "show"]] {
        let output = ratd(arguments);
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let shown = "the database has schema 10, and this program knows up to 9";
        assert!(text("docs/upgrade.md").contains(shown));
        assert!(said.contains(shown), "{said}");
    }
    assert_eq!(std::fs::read(&database).unwrap(), before);
}
