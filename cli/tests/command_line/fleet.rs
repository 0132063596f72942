//! A fleet by way of `rat`: groups, tokens, machines that enrol and attest, policies, failures.

use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser;
use rat_agent::device::KeyKind;
use rat_agent::enrol::{EnrolOptions, enrol};
use rat_agent::machine::Machine;
use rat_engine::agent_id::AgentId;
use rat_load::arguments::{Arguments, Command};
use rat_load::fleet;
use rat_load::keys::{EkCa, SoftwareKey};
use rat_load::software_tpm::{Boot, Keys, SoftwareLogs, SoftwareTpm};
use serde_json::{Value, json};

use crate::operator::Operator;
use crate::ratd::Ratd;

const PACE: [&str; 3] = [
    "attestation.interval_ms=1000",
    "attestation.challenge_deadline_ms=3000",
    "attestation.max_age_ms=5000",
];
/// However busy the machine is, it takes less.
const PATIENCE: &str = "120";

/// A server that knows the TPMs of software machines.
fn world() -> (Ratd, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ek-ca");
    EkCa::open(&authority).unwrap();
    let (certificate, _) = EkCa::paths(&authority);
    let trust = format!("identity.ek_ca=[{:?}]", certificate.display().to_string());
    let ratd = Ratd::start_in(folder, &[&PACE[..], &[trust.as_str()]].concat());
    (ratd, authority)
}

fn token(admin: &Operator, arguments: &[&str]) -> String {
    let issued = admin.json(&[&["tokens", "create"], arguments].concat());
    issued["token"].as_str().unwrap().to_owned()
}

/// Machines that attest until the test ends; the first one with a baseline.
fn machines(ratd: &Ratd, admin: &Operator, authority: &Path, agents: &str) {
    let baseline = token(admin, &["fleet", "--baseline"]);
    let standard = token(admin, &["fleet"]);
    let authority = authority.display().to_string();
    let words = [
        "rat-load",
        "fleet",
        "--server",
        &ratd.url,
        "--token",
        &standard,
        "--baseline-token",
        &baseline,
        "--agents",
        agents,
        "--ek-ca",
        &authority,
        "--prefix",
        "web",
        "--seconds",
        "3600",
    ];
    let Command::Fleet(options) = Arguments::parse_from(words).command else {
        panic!("no fleet")
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(fleet::run(&options)).unwrap();
    });
}

fn watch(admin: &Operator, until: &str) -> String {
    let watch = ["agents", "watch", "--group", "fleet", "--interval", "1"];
    admin.ok(&[&watch[..], &["--until", until, "--timeout", PATIENCE]].concat())
}

/// It is shown why, and the exit code says that it is so.
fn is_untrusted(admin: &Operator, id: &str) {
    let run = admin.rat(&["evidence", id]);
    assert_eq!(run.code, 1, "{run:?}");
    let why = run.stdout;
    assert!(why.starts_with("untrusted: ima."), "{why}");
    assert!(why.contains("what to do  "), "{why}");
    let run = admin.rat(&["evidence", id, "--output", "json"]);
    assert_eq!(run.code, 1, "{run:?}");
    let code = run.json()["first_offence"]["code"].to_string();
    assert!(code.starts_with("\"ima."), "{code}");
    admin.ok(&["agents", "show", id]);
}

#[test]
fn a_fleet_enrols_fails_under_a_policy_and_recovers_by_going_back() {
    let (ratd, authority) = world();
    let admin = ratd.operator("admin");
    machines(&ratd, &admin, &authority, "2");
    // The second machine comes once the first has proven the baseline.
    let seen = watch(&admin, "trusted");
    assert!(seen.contains("trusted"), "{seen}");
    let agents = admin.json(&["agents", "list", "--status", "active"]);
    let id = agents[0]["id"].as_str().unwrap().to_owned();
    let evidence = admin.ok(&["evidence", &id]);
    assert!(
        evidence.starts_with("trusted\ntrusted until  2"),
        "{evidence}"
    );
    for heading in ["\nAgent\n", "\nAttestation\n", "\nPolicy\n"] {
        assert!(evidence.contains(heading), "{evidence}");
    }
    let status = admin.json(&["status"]);
    assert_eq!(status["by_effective_status"]["trusted"], status["agents"]);
    let counted = &status["groups"][0];
    assert_eq!(
        (&counted["policy_group_id"], &counted["active"]),
        (&json!("fleet"), &status["agents"])
    );
    let policies = admin.json(&["policies", "list", "--group", "fleet"]);
    assert_eq!(policies[0]["status"], "active");
    let baseline = policies[0]["id"].as_str().unwrap().to_owned();

    // A policy that lists nothing that the machines run.
    let text = r#"{"meta":{"version":1},"digests":{"/bin/true":["cafe"]},"excludes":[]}"#;
    let text = text.replace("cafe", &"ca".repeat(32));
    let file = admin.secret("strict.json", &text);
    let added = admin.json(&["policies", "add", &file, "--group", "fleet"]);
    assert_eq!(
        (&added["status"], &added["name"]),
        (&json!("inactive"), &json!("strict"))
    );
    let strict = added["id"].as_str().unwrap();
    let diff = admin.ok(&["policies", "diff", &baseline, strict]);
    assert!(diff.contains("\n+ /bin/true  "), "{diff}");
    let kept = admin.path("kept.json").display().to_string();
    admin.ok(&["policies", "show", strict, "--out", &kept]);
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), text);
    admin.ok(&["policies", "activate", strict]);
    watch(&admin, "untrusted");
    is_untrusted(&admin, &id);

    // Cleared, it is judged again, and fails again.
    let cleared = admin.json(&["agents", "clear", &id, "--reason", "a test"]);
    assert_eq!(cleared["id"], id.as_str());
    assert!(admin.ok(&["audit"]).contains("a test"));
    watch(&admin, "untrusted");

    // Going back ends failures of the policy that is gone.
    let back = admin.json(&["policies", "rollback", "fleet"]);
    assert_eq!(back["policy_id"], baseline.as_str());
    watch(&admin, "trusted");
    let coverage = &admin.json(&["groups", "show", "fleet"])["coverage"];
    assert_eq!(coverage, &json!({ "judged": 2, "agents": 2 }));
    let said = admin.fails(1, &["agents", "clear", &id, "--reason", "to see"]);
    assert!(said.contains("has not failed"), "{said}");
    let unanswered = admin.fails(2, &["agents", "remove", &id]);
    assert!(unanswered.contains("--yes"), "{unanswered}");
    assert_eq!(admin.json(&["agents", "show", &id])["id"], id.as_str());
    admin.ok(&["agents", "remove", &id, "--yes"]);
    let said = admin.fails(1, &["agents", "show", &id]);
    assert!(said.contains("no such agent"), "{said}");
}

#[test]
fn n12_a_machine_enrols_when_an_operator_lets_it_in() {
    let (ratd, authority) = world();
    let admin = ratd.operator("operator");
    let owner = ratd.operator("admin");
    owner.ok(&["groups", "create", "lab", "--approval", "manual"]);
    owner.ok(&["groups", "create", "shop"]);
    let key = || SoftwareKey::generate(KeyKind::Ecc).unwrap();
    let keys = Keys::new(key(), key(), &EkCa::open(&authority).unwrap()).unwrap();
    let boot = Arc::new(Mutex::new(Boot::first()));
    let device = SoftwareTpm::new(Arc::new(keys), Arc::clone(&boot));
    let machine = Machine::new(device, SoftwareLogs::new(boot));
    let wanted = EnrolOptions {
        token: token(&admin, &["lab"]).parse().unwrap(),
        server: ratd.url.parse().unwrap(),
        agent: Some(AgentId::parse("bench-1").unwrap()),
        hostname: "bench-1".into(),
        kind: KeyKind::Ecc,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = runtime.block_on(enrol(&machine, &wanted, None));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("ek.not_approved"), "{refused}");
    assert_eq!(admin.json(&["agents", "list"]), json!([]));
    let waiting = &admin.json(&["agents", "pending"])[0];
    assert_eq!(waiting["agent_id"], "bench-1");
    let ek = waiting["ek_sha256"].as_str().unwrap();
    let approve = ["agents", "approve", "bench-1", "--ek-sha256"];
    let said = admin.fails(1, &[&approve[..], &["00".repeat(32).as_str()]].concat());
    assert!(said.contains("nothing waits"), "{said}");
    let approved = admin.json(&[&approve[..], &[ek]].concat());
    assert_eq!(
        (&approved["approved"], &approved["policy_group_id"]),
        (&json!("enrolment"), &json!("lab"))
    );
    assert_eq!(admin.json(&["ek", "list", "lab"])[0]["ek_sha256"], ek);
    runtime.block_on(enrol(&machine, &wanted, None)).unwrap();
    assert_eq!(admin.ok(&["agents", "pending"]), "(none)\n");
    let shown = admin.json(&["agents", "show", "bench-1"]);
    assert_eq!(
        (&shown["ek_sha256"], &shown["ak_epoch"]),
        (&json!(ek), &json!(1))
    );
    let moved = admin.json(&["agents", "move", "bench-1", "shop"]);
    assert_eq!(moved["policy_group_id"], "shop");
    let of_group = |group| admin.json(&["agents", "list", "--group", group]);
    assert_eq!(of_group("lab"), json!([]));
    assert_eq!(of_group("shop")[0]["id"], "bench-1");
}

#[test]
fn groups_are_made_and_changed() {
    let ratd = Ratd::start(&[]);
    let admin = ratd.operator("admin");
    let made = admin.json(&[
        "groups",
        "create",
        "prod",
        "--approval",
        "list",
        "--bank",
        "sha384",
    ]);
    assert_eq!(
        (&made["approval"], &made["bank"]),
        (&json!("list"), &json!("sha384"))
    );
    let said = admin.fails(1, &["groups", "create", "prod"]);
    assert!(said.contains("there is a group of this name"), "{said}");
    assert!(
        admin
            .fails(2, &["groups", "set", "prod"])
            .contains("setting")
    );
    let version = made["row_version"].to_string();
    let pcrs = format!(r#"{{"15":["{}"],"mask":"0x8000"}}"#, "00".repeat(48));
    let set = [
        "groups",
        "set",
        "prod",
        "--if-version",
        &version,
        "--pcr-policy",
        &pcrs,
    ];
    let changed = admin.json(&set);
    assert_eq!(changed["pcr_policy"]["mask"], "0x8000");
    let run = admin.rat(&[&set[..], &["--output", "json"]].concat());
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(run.json()["error"]["code"], "request.changed");
    let cleared = admin.json(&["groups", "set", "prod", "--pcr-policy", "null"]);
    assert_eq!(cleared["pcr_policy"], Value::Null);
    let file = admin.secret("pcrs.json", &pcrs);
    let from_file = format!("@{file}");
    let changed = admin.json(&["groups", "set", "prod", "--pcr-policy", &from_file]);
    assert_eq!(changed["pcr_policy"]["mask"], "0x8000");
    assert!(admin.ok(&["groups", "list"]).contains("prod"));
    assert!(admin.ok(&["groups", "show", "prod"]).contains("coverage"));
    let set = |options: &[&str]| admin.json(&[&["groups", "set", "prod"], options].concat());
    let slower = set(&["--interval-ms", "60000", "--require-valid-ima-sig", "true"]);
    assert_eq!(slower["interval_ms"], 60_000);
    assert_eq!(slower["require_valid_ima_sig"], true);
    let shown = admin.ok(&["groups", "show", "prod"]);
    assert!(shown.contains("interval ms"), "{shown}");
    assert_eq!(set(&["--interval-ms", "null"])["interval_ms"], Value::Null);
    let refused = ["groups", "set", "prod", "--interval-ms", "10"];
    let said = admin.fails(1, &refused);
    assert!(said.contains("must be 2500 to 86400000"), "{said}");
    let said = admin.fails(1, &["groups", "set", "prod", "--bank", "sha1"]);
    assert!(said.contains("sha1 needs allow_sha1"), "{said}");
    let changed = set(&["--bank", "sha1", "--allow-sha1", "true"]);
    assert_eq!(
        (&changed["bank"], &changed["allow_sha1"]),
        (&json!("sha1"), &json!(true))
    );
}

#[test]
fn machines_and_tokens_of_a_group_are_managed() {
    let ratd = Ratd::start(&[]);
    let admin = ratd.operator("admin");
    admin.ok(&["groups", "create", "prod"]);
    let ek = "ab".repeat(32);
    assert_eq!(admin.ok(&["ek", "list", "prod"]), "(none)\n");
    assert_eq!(
        admin.json(&["ek", "add", "prod", &ek.to_uppercase()])["added"],
        ek.as_str()
    );
    assert_eq!(
        admin.json(&["ek", "list", "prod"])[0]["ek_sha256"],
        ek.as_str()
    );
    admin.ok(&["ek", "remove", "prod", &ek]);
    admin.fails(1, &["ek", "remove", "prod", &ek]);
    admin.fails(1, &["ek", "list", "nowhere"]);
    admin.fails(2, &["ek", "add", "prod", "abc"]);

    let issued = admin.json(&[
        "tokens",
        "create",
        "prod",
        "--max-uses",
        "2",
        "--ttl-hours",
        "3",
    ]);
    let text = issued["token"].as_str().unwrap();
    let id = &text[4..20];
    let listed = admin.json(&["tokens", "list"]);
    assert_eq!(
        (&listed[0]["id"], &listed[0]["max_uses"]),
        (&json!(id), &json!(2))
    );
    assert!(!admin.ok(&["tokens", "list"]).contains(&text[20..52]));
    admin.ok(&["tokens", "revoke", id]);
    assert_eq!(admin.json(&["tokens", "list"])[0]["status"], "revoked");
    assert_eq!(admin.ok(&["agents", "pending"]), "(none)\n");
    let said = admin.fails(1, &["agents", "approve", "nobody"]);
    assert!(said.contains("nothing waits"), "{said}");
}

#[test]
fn malformed_policies_are_refused_and_say_where() {
    let ratd = Ratd::start(&[]);
    let admin = ratd.operator("admin");
    admin.ok(&["groups", "create", "prod"]);
    let file = admin.secret("broken.json", "{\"digests\":\n 7");
    let said = admin.fails(2, &["policies", "add", &file, "--group", "prod"]);
    assert!(said.contains("line 2"), "{said}");
    let file = admin.secret("wrong.json", r#"{"digests":7}"#);
    let add = [
        "policies", "add", &file, "--group", "prod", "--output", "json",
    ];
    let run = admin.rat(&add);
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(run.json()["error"]["code"], "policy.malformed");
    assert_eq!(admin.json(&["policies", "list"]), json!([]));
    for missing in ["p-prod-001", "nonsense"] {
        admin.fails(1, &["policies", "show", missing]);
    }
    admin.fails(1, &["policies", "show", "--active", "prod"]);
    admin.fails(1, &["policies", "rollback", "prod"]);
    admin.fails(2, &["policies", "show"]);
    // What is doubtful is said, most severe first.
    let text = r#"{"meta":{"version":1},"digests":{},"excludes":["/tmp/.*"]}"#;
    let file = admin.secret("loose.json", text);
    let added = admin.ok(&["policies", "add", &file, "--group", "prod"]);
    assert!(added.contains("exclude."), "{added}");
    assert!(
        added.contains("rat policies activate p-prod-001"),
        "{added}"
    );
    let shown = admin.ok(&["policies", "show", "p-prod-001", "--content"]);
    assert_eq!(shown.trim_end(), text);
}
