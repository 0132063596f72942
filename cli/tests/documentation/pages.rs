//! Every page, followed from its beginning to its end.

use rat_load::keys::EkCa;
use rat_tests::{keylime_databases, workspace_root};

use crate::cloud::UserData;
use crate::machine::Machine;
use crate::page::{Kind, blocks};
use crate::session::Session;

/// The pages, each of which a test below follows.
const PAGES: [&str; 9] = [
    "how-to/back-up-and-restore.md",
    "how-to/enrol-a-fleet.md",
    "how-to/install-the-server.md",
    "how-to/make-runtime-policies.md",
    "how-to/migrate-from-keylime.md",
    "how-to/read-a-failure.md",
    "how-to/roll-a-policy.md",
    "how-to/users-and-tokens.md",
    "tutorial.md",
];

/// Blocks that need a package manager, systemd, another machine or somebody at the terminal. There
/// are not more than these.
const NOT_RUN_MAX: usize = 8;

#[test]
fn every_page_is_followed_and_few_blocks_are_not_run() {
    let docs = workspace_root().join("docs");
    let mut found: Vec<String> = std::fs::read_dir(docs.join("how-to"))
        .unwrap()
        .map(|entry| format!("how-to/{}", entry.unwrap().file_name().display()))
        .collect();
    found.push("tutorial.md".to_owned());
    found.sort();
    assert_eq!(found, PAGES);
    let blocks: Vec<_> = PAGES.iter().flat_map(|page| blocks(page)).collect();
    let reasons = blocks.iter().filter_map(|block| match &block.kind {
        Kind::NotRun { reason } => Some(format!("{}: {reason}", block.place)),
        _ => None,
    });
    let reasons: Vec<String> = reasons.collect();
    assert!(reasons.len() <= NOT_RUN_MAX, "{reasons:#?}");
    assert!(blocks.len() > 10 * reasons.len() / 2, "{reasons:#?}");
}

#[test]
fn the_tutorial() {
    Session::new().follow("tutorial.md");
}

#[test]
fn install_the_server() {
    let mut session = Session::new();
    let folder = session.path("maker");
    EkCa::open(&folder).unwrap();
    let (certificate, _) = EkCa::paths(&folder);
    session.write("tpm-maker-ca.pem", std::fs::read(certificate).unwrap());
    session.follow("how-to/install-the-server.md");
    // What was configured starts.
    let ready = "…\ncore 127.0.0.1:8001\nevidence 127.0.0.1:8882\nca sha256:…";
    session.start("server", "ratd --config /etc/ratd/ratd.toml", ready);
}

#[test]
fn enrol_a_fleet() {
    const ARRIVAL: &str = "See them arrive";
    let mut session = Session::with_two_machines();
    let (folder, maker) = (
        session.path("cloud-machine"),
        session.path("machines/ek-ca"),
    );
    let machine = Machine::boot(&folder, &maker);
    session.sit_down_at_machine(machine.variables(&folder));
    let kept = workspace_root().join("deploy/cloud-init/user-data.yaml");
    session.write("user-data.yaml", std::fs::read(kept).unwrap());
    session.follow_until("how-to/enrol-a-fleet.md", ARRIVAL);
    let data = UserData::read(&session.path("user-data"));
    data.write_files(&folder);
    session.start("machine-boot", &data.script(&folder), "…");
    let waiting =
        "until test \"$(rat agents pending --output json | jq length)\" -gt 0; do sleep 0.2; done";
    session.ok("operator", waiting);
    session.follow_from("how-to/enrol-a-fleet.md", ARRIVAL);
    // The token is gone from the machine.
    assert!(!folder.join("run/rat-enroll").exists());
}

#[test]
fn make_runtime_policies() {
    let mut session = Session::with_two_machines();
    let recorded = |name: &str| {
        let path = workspace_root().join("tests/vectors").join(name);
        std::fs::read(path).unwrap()
    };
    session.write("golden/usr/bin/service", "release 1");
    let images = "keylime-policy/images";
    session.write(
        "initrd.img",
        recorded(&format!("{images}/initrd-early-zst")),
    );
    let package = recorded("keylime-policy/vector-1-1.noarch.rpm");
    session.write("packages/vector-1-1.noarch.rpm", package);
    let list = "sets/hpe-rsa-sha256-ima780-uefi/ima_log.ascii";
    session.write("ima_log", recorded(list));
    let digest = "ab".repeat(32);
    session.write("allowlist.txt", format!("{digest}  /usr/bin/older\n"));
    session.write(
        "excludes.txt",
        "# what no program reads\n/usr/share/doc/.*$\n",
    );
    session.follow("how-to/make-runtime-policies.md");
}

#[test]
fn roll_a_policy() {
    let mut session = Session::with_two_machines();
    session.write("release/usr/bin/service", "release 2");
    session.follow("how-to/roll-a-policy.md");
}

#[test]
fn a_release_that_was_permitted_first_runs_without_a_failure() {
    let mut session = Session::with_two_machines();
    session.write("release/usr/bin/service", "release 2");
    session.follow_until("how-to/roll-a-policy.md", "Roll it back");
    let before = session.ok(
        "operator",
        "rat evidence m2 --output json | jq .attestation.count",
    );
    let run = "run m2 /usr/bin/service release 2";
    session.type_to(
        "machines",
        run,
        "…\n{\"command\":\"run m2 /usr/bin/service\",\"event\":\"done\"}",
    );
    let passes = format!(
        "until test \"$(rat evidence m2 --output json | jq .attestation.count)\" -gt {}; do sleep 0.2; done",
        before.trim().parse::<u64>().unwrap() + 1
    );
    session.ok("operator", &passes);
    let status = session.ok(
        "operator",
        "rat agents show m2 --output json | jq -r .effective_status",
    );
    assert_eq!(status.trim(), "trusted");
}

#[test]
fn read_a_failure() {
    let mut session = Session::with_two_machines();
    session.type_to(
        "machines",
        "hide m2",
        "…\n{\"command\":\"hide m2\",\"event\":\"done\"}",
    );
    session.ok(
        "operator",
        "rat agents watch m2 --until untrusted --timeout 60",
    );
    session.follow("how-to/read-a-failure.md");
}

#[test]
fn back_up_and_restore() {
    Session::with_two_machines().follow("how-to/back-up-and-restore.md");
}

#[test]
fn users_and_tokens() {
    Session::with_two_machines().follow("how-to/users-and-tokens.md");
}

#[test]
fn migrate_from_keylime() {
    let mut session = Session::new();
    let text = "[verifier]\nversion = 2.6\nuuid = default\nip = 0.0.0.0\nport = 8881\ntls_dir = generate\n\
                database_url = sqlite\nquote_interval = 2\nmax_retries = 8\nserver_key_password = hunter2\n";
    session.write("keylime/etc/verifier.conf", text);
    let text = "[registrar]\nversion = 2.6\nip = 0.0.0.0\nport = 8890\ntls_port = 8891\ndatabase_url = sqlite\n";
    session.write("keylime/etc/registrar.conf", text);
    session.write("keylime/state/README", "");
    keylime_databases::write(&session.path("keylime/state"), "7.14.3");
    session.follow("how-to/migrate-from-keylime.md");
}
