//! `rat agents approve`: what was shown is approved, and nothing else. (N06, N12)

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rat_load::swtpm::{Kernel, Manufacturer, Process};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::hostile_server::{HostileServer, Reply};
use crate::operator::Operator;
use crate::ratd::Ratd;

/// However busy the machine is, it takes less.
const PATIENCE: Duration = Duration::from_secs(120);

/// A machine that booted, and `rat-agent` on it.
struct Machine {
    process: Process,
    kernel: Kernel,
}

impl Machine {
    fn boot(folder: &Path, maker: &Manufacturer) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        maker.make(&folder.join("tpm")).unwrap();
        let process = Process::start(&folder.join("tpm")).unwrap();
        let kernel = Kernel::new(folder);
        kernel.boot(process.tcti()).unwrap();
        Self { process, kernel }
    }

    /// `rat-agent enroll`, with more arguments; it ends with the test.
    fn enroll(&self, folder: &Path, arguments: &[&str]) -> Running {
        let program = Path::new(env!("CARGO_BIN_EXE_rat")).with_file_name("rat-agent");
        let place = program.display();
        assert!(program.exists(), "no {place}: cargo build -p rat-agent");
        let paths = self.kernel.paths();
        let child = Command::new(program)
            .env_clear()
            .env("RAT_AGENT_TCTI", self.process.tcti().to_string())
            .env("RAT_AGENT_STATE_DIR", folder.join("state"))
            .env("RAT_AGENT_IMA_BINARY", &paths.ima_binary)
            .env("RAT_AGENT_IMA_ASCII", &paths.ima_ascii)
            .env("RAT_AGENT_BOOT_LOG", &paths.boot_log)
            .env("RAT_AGENT_BOOT_ID", &paths.boot_id)
            .arg("enroll")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Running(child.unwrap())
    }
}

/// A child that ends with the test.
struct Running(Child);

impl Running {
    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Its end: whether it succeeded, and what it said.
    fn end(&mut self) -> (bool, String) {
        let mut said = String::new();
        let (mut out, mut error) = (self.0.stdout.take().unwrap(), self.0.stderr.take().unwrap());
        out.read_to_string(&mut said).unwrap();
        error.read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().success(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn n12_a_machine_that_waits_is_shown_approved_by_its_key_and_enrols_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let maker = Manufacturer::new(&folder.path().join("maker")).unwrap();
    let (place, chain) = (
        folder.path().join("machine"),
        folder.path().join("chain.pem"),
    );
    let machine = Machine::boot(&place, &maker);
    // The maker begins with its first TPM.
    maker.write_chain(&chain).unwrap();
    let trust = format!("identity.ek_ca=[{:?}]", chain.display().to_string());
    let ratd = Ratd::start(&[&trust]);
    let (owner, admin) = (ratd.operator("admin"), ratd.operator("operator"));
    owner.ok(&["groups", "create", "lab", "--approval", "manual"]);
    let issued = admin.json(&["tokens", "create", "lab"]);
    let token = admin.secret("token", issued["token"].as_str().unwrap());
    let arguments = ["--token-file", &token, "--server", &ratd.url];

    // Without patience it is refused, and says by which key it is approved.
    let (enrolled, said) = machine.enroll(&place, &arguments).end();
    assert!(!enrolled && said.contains("ek.not_approved"), "{said}");
    let waiting = admin.json(&["agents", "pending"]);
    let (id, ek) = (
        waiting[0]["agent_id"].as_str().unwrap(),
        waiting[0]["ek_sha256"].as_str().unwrap(),
    );
    assert!(said.contains(ek), "{said}");

    let mut patient = machine.enroll(&place, &[&arguments[..], &["--wait=30m"]].concat());
    let deadline = Instant::now() + PATIENCE;
    while admin.json(&["agents", "pending"])[0]["tries"].as_u64() < Some(2) {
        assert!(Instant::now() < deadline, "it never asks again");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Nobody can be asked, and whoever waits is not let in unseen.
    let said = admin.fails(2, &["agents", "approve", id]);
    for text in [ek, id, "lab", "127.0.0.1", "--ek-sha256 or --yes"] {
        assert!(said.contains(text), "{text}: {said}");
    }
    let said = admin.fails(1, &["agents", "approve", id, "--ek", &"00".repeat(32)]);
    assert!(said.contains("nothing waits"), "{said}");
    assert_eq!(admin.ok(&["ek", "list", "lab"]), "(none)\n");
    assert!(patient.is_running());

    let approved = admin.json(&["agents", "approve", id, "--yes"]);
    assert_eq!(
        (&approved["approved"], &approved["ek_sha256"]),
        (&json!("enrolment"), &json!(ek))
    );
    let (enrolled, said) = patient.end();
    assert!(enrolled && said.contains("in group lab"), "{said}");
    assert!(said.contains("asks again in"), "{said}");
    assert_eq!(admin.json(&["agents", "show", id])["ek_sha256"], ek);
    let synced = admin.json(&["agents", "sync-status", id]);
    assert_eq!(
        (&synced["status"], &synced["operational_state"]),
        (&json!("pending"), &json!(1))
    );
}

const MINE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHERS: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn waiting(id: &str, group: &str, ek: &str) -> Value {
    json!({
        "agent_id": id, "hostname": "web-1", "ip_address": "192.0.2.1", "policy_group_id": group,
        "ek_sha256": ek, "first_seen": null, "last_seen": null, "tries": 1,
    })
}

/// A server where these machines wait, at the second look others than at the first.
fn server(looks: [Value; 2]) -> HostileServer {
    let looked = AtomicUsize::new(0);
    HostileServer::answering(move |request| match request.line() {
        ("GET", "/health") => Reply::ok(r#"{"status":"ok","version":"0.1.0","uptime":5}"#),
        ("GET", "/agents/pending") => {
            let look = looked.fetch_add(1, Ordering::SeqCst).min(1);
            Reply::ok(&looks[look].to_string())
        }
        ("POST", "/agents/a/approve") => Reply::ok("{}"),
        _ => Reply::of(
            404,
            r#"{"detail":"no such agent","code":"agent.not_found"}"#,
        ),
    })
}

/// What approvals were asked for.
fn asked(server: &HostileServer) -> Vec<Value> {
    let requests = server.requests.lock().unwrap();
    let posts = requests.iter().filter(|it| it.line().0 == "POST");
    posts
        .map(|it| serde_json::from_slice(&it.body).unwrap())
        .collect()
}

#[test]
fn n12_what_was_shown_is_what_is_approved() {
    let later = json!([waiting("a", "g", OTHERS)]);
    let server = server([
        json!([waiting("b", "g", OTHERS), waiting("a", "g", MINE)]),
        later,
    ]);
    let operator = server.operator();
    let run = operator.rat(&["agents", "approve", "a", "--yes"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.stderr.contains(MINE) && !run.stderr.contains(OTHERS),
        "{run:?}"
    );
    assert_eq!(asked(&server), [json!({ "ek_sha256": MINE })]);
}

#[test]
fn n06_where_several_wait_one_is_named() {
    let machines = json!([
        waiting("a", "g", MINE),
        waiting("a", "g", OTHERS),
        waiting("c", "g", MINE)
    ]);
    let server = server([machines.clone(), machines]);
    let operator = server.operator();
    for arguments in [
        &["agents", "approve", "a"][..],
        &["agents", "approve", "a", "--yes"],
    ] {
        let said = operator.fails(1, arguments);
        assert!(said.contains(MINE) && said.contains(OTHERS), "{said}");
        assert!(said.contains("name one with --ek-sha256"), "{said}");
    }
    let said = operator.fails(1, &["agents", "approve", "b", "--yes"]);
    assert!(said.contains("nothing waits"), "{said}");
    assert_eq!(asked(&server), [Value::Null; 0]);
    operator.ok(&["agents", "approve", "a", "--ek-sha256", OTHERS]);
    assert_eq!(asked(&server), [json!({ "ek_sha256": OTHERS })]);
}

#[test]
fn n12_one_machine_in_two_groups_is_let_into_one_by_its_name() {
    let machines = json!([waiting("a", "g", MINE), waiting("a", "h", MINE)]);
    let server = server([machines.clone(), machines]);
    let operator = server.operator();
    let said = operator.fails(1, &["agents", "approve", "a", "--ek", MINE]);
    assert!(said.contains("rat ek add"), "{said}");
    assert_eq!(asked(&server), [Value::Null; 0]);
}

#[test]
fn n06_a_new_attestation_key_is_approved_by_what_was_shown_of_it() {
    let server = HostileServer::start(|target| match target {
        "/agents/a" => Reply::ok(
            &json!({
                "id": "a", "hostname": "web-1", "ip_address": "192.0.2.1", "ek_sha256": MINE,
                "policy_group_id": "g", "registered_at": null, "ak_epoch": 1,
                "ak_proposed": true, "ak_proposed_sha256": OTHERS,
            })
            .to_string(),
        ),
        _ => Reply::ok("{}"),
    });
    let operator = server.operator();
    let said = operator.fails(2, &["agents", "approve", "a"]);
    assert!(
        said.contains("attestation key") && said.contains(OTHERS),
        "{said}"
    );
    assert_eq!(asked(&server), [Value::Null; 0]);
    operator.ok(&["agents", "approve", "a", "--yes"]);
    let both = json!({ "ek_sha256": MINE, "ak_proposed_sha256": OTHERS });
    assert_eq!(asked(&server), [both]);
}

#[test]
fn x07_what_a_machine_calls_itself_is_shown_escaped() {
    let mut machine = waiting("a", "g", MINE);
    machine["hostname"] = json!("\u{1b}[2Jweb");
    let server = server([json!([machine.clone()]), json!([machine])]);
    let said = server.operator().fails(2, &["agents", "approve", "a"]);
    assert!(
        said.contains("[2Jweb") && !said.contains('\u{1b}'),
        "{said}"
    );
}

/// Typed at a terminal, where the question is asked.
#[test]
fn an_approval_is_asked_for_at_a_terminal() {
    use std::io::Write;
    for (answer, approved) in [("n", false), ("", false), ("y", true)] {
        let machines = json!([waiting("a", "g", MINE)]);
        let server = server([machines.clone(), machines]);
        let operator: Operator = server.operator();
        let mut command = Command::new("script");
        operator.prepare(&mut command);
        let line = format!("{} agents approve a", env!("CARGO_BIN_EXE_rat"));
        let mut child = command
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script, of util-linux");
        let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let question = crate::login::read_until(&mut output, "Approve this machine? [y/N] ");
        assert!(question.contains(MINE), "{question}");
        writeln!(input, "{answer}").unwrap();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().success(), approved, "{rest}");
        assert_eq!(asked(&server).len(), usize::from(approved), "{rest}");
    }
}
