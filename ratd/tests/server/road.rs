//! The whole road: machines enrol, attest over QUIC, are caught, and survive the server's death.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rat_agent::device::KeyKind;
use rat_agent::enrol::{EnrolOptions, enrol};
use rat_agent::logs::{LogError, Logs, Measurements};
use rat_agent::machine::Machine;
use rat_agent::run::Agent;
use rat_engine::agent_id::AgentId;
use rat_engine::ima::LogFormat;
use rat_load::fleet::{self, FleetOptions};
use rat_load::keys::{EkCa, SoftwareKey};
use rat_load::measured::Entry;
use rat_load::misdeeds::MisbehaviourOptions;
use rat_load::software_tpm::{Boot, Keys, SoftwareLogs, SoftwareTpm};
use rat_load::swtpm::{self, Machines, SwtpmOptions};
use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Home, Ratd, eventually, metric};

pub(crate) const INTERVAL: [&str; 3] = [
    "attestation.interval_ms=1000",
    "attestation.challenge_deadline_ms=3000",
    "attestation.max_age_ms=5000",
];

pub(crate) fn ek_ca(path: &std::path::Path) -> String {
    format!("identity.ek_ca=[{:?}]", path.display().to_string())
}

pub(crate) fn url(ratd: &Ratd) -> rat_agent::https::ServerUrl {
    format!("https://{}", ratd.core).parse().unwrap()
}

/// R2 of an agent; null while there is none.
pub(crate) fn evidence(ratd: &Ratd, agent: &str) -> Value {
    let path = format!("/agents/{agent}/evidence");
    let answer = ratd.client().get(&path, Some(&ratd.admin()));
    match answer.status {
        200 => answer.json(),
        _ => Value::Null,
    }
}

pub(crate) fn status(ratd: &Ratd, agent: &str) -> String {
    let evidence = evidence(ratd, agent);
    let status = &evidence["agent"]["effective_status"];
    status.as_str().unwrap_or_default().to_owned()
}

pub(crate) fn failure(ratd: &Ratd, agent: &str) -> Value {
    evidence(ratd, agent)["attestation"]["failure"].clone()
}

fn metrics(ratd: &Ratd) -> String {
    let answer = ratd.client().get("/metrics", Some(&ratd.admin()));
    String::from_utf8(answer.body).unwrap()
}

#[test]
fn a_fleet_of_both_key_types_enrols_and_stays_trusted() {
    for (key, prefix) in [(KeyKind::Ecc, "ecc"), (KeyKind::Rsa, "rsa")] {
        let home = Home::new();
        let authority = home.path("ek-ca");
        EkCa::open(&authority).unwrap();
        let (certificate, _) = EkCa::paths(&authority);
        let ratd = home.start(&[&INTERVAL[..], &[&ek_ca(&certificate)]].concat());
        let baseline = home.ok(&["token", "create", "--group", "fleet", "--baseline"]);
        let standard = home.ok(&["token", "create", "--group", "fleet"]);
        let options = FleetOptions {
            server: url(&ratd),
            token: Some(standard.parse().unwrap()),
            identities: None,
            baseline_token: Some(baseline.parse().unwrap()),
            agents: 4,
            rate: None,
            stay: false,
            key,
            ak_pool: None,
            ek_ca: Some(authority),
            relays: None,
            operator_token_file: None,
            prefix: prefix.to_owned(),
            entries: 20,
            growth: 1,
            enrolments: 2,
            seconds: 8,
            warm_up_seconds: 0,
            misbehaviour: MisbehaviourOptions::default(),
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let report = runtime.block_on(fleet::run(&options)).unwrap();
        assert_eq!(report.agents, 4);
        assert!(report.attestations >= 8, "{report:?}");
        // Until the baseline is proven there is no policy; after that nothing fails.
        let codes: Vec<_> = report.by_code.keys().map(String::as_str).collect();
        let expected = |code: &&str| matches!(*code, "-" | "policy.missing");
        assert!(codes.iter().all(expected), "{report:?}");
        assert!(report.by_status["trusted"] >= 4, "{report:?}");
        let passed = metric(&metrics(&ratd), "attest_verifications_total", &["trusted"]);
        assert!(passed >= 4.0, "{}", metrics(&ratd));
        assert_eq!(ratd.stop().code(), Some(0));
    }
}

/// Machines with TPMs, in a thread that ends with them.
pub(crate) struct Fleet {
    control: PathBuf,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Fleet {
    pub(crate) fn start(options: SwtpmOptions, control: PathBuf) -> Self {
        let status = std::process::Command::new("mkfifo").arg(&control).status();
        assert!(status.unwrap().success());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new()?;
            let ran = runtime.block_on(swtpm::run(options));
            runtime.shutdown_background();
            ran
        });
        Self { control, thread }
    }

    pub(crate) fn tell(&self, command: &str) {
        let mut fifo = OpenOptions::new().write(true).open(&self.control).unwrap();
        writeln!(fifo, "{command}").unwrap();
    }

    pub(crate) fn stop(self) {
        self.tell("quit");
        self.thread.join().unwrap().unwrap();
    }
}

#[test]
fn i02_s05_machines_with_tpms_are_caught_and_nothing_is_lost_when_the_server_is_killed() {
    let home = Home::new();
    let machines = Machines {
        dir: home.path("machines"),
        machines: 3,
        ecc: 1,
        prefix: "m".into(),
    };
    // m3 has P-256 keys; no certificate says whose its TPM is.
    let made = machines.manufacture().unwrap();
    let ca = ek_ca(&made.ek_ca);
    let list = format!("identity.ek_list={:?}", [made.ek_list.unwrap()]);
    let mut ratd = home.start(&[&INTERVAL[..], &[&ca, &list]].concat());
    let baseline = home.ok(&["token", "create", "--group", "web", "--baseline"]);
    let standard = home.ok(&["token", "create", "--group", "web"]);
    let control = home.path("control");
    let options = SwtpmOptions {
        machines,
        server: url(&ratd),
        token: standard.parse().unwrap(),
        baseline_token: Some(baseline.parse().unwrap()),
        through: None,
        runs: vec!["/usr/bin/init".into(), "/usr/bin/service".into()],
        control: Some(control.clone()),
    };
    let fleet = Fleet::start(options, control);
    for machine in ["m1", "m2", "m3"] {
        eventually(machine, || status(&ratd, machine) == "trusted");
    }
    let algorithms = ["m1", "m2", "m3"].map(|machine| {
        let algorithm = &evidence(&ratd, machine)["attestation"]["sign_alg"];
        algorithm.as_str().unwrap().to_owned()
    });
    assert_eq!(algorithms, ["rsassa", "rsassa", "ecdsa"]);

    fleet.tell("run m2 /tmp/implant");
    eventually("m2 is caught", || status(&ratd, "m2") == "untrusted");
    let caught = failure(&ratd, "m2");
    assert_eq!(caught["code"], "ima.path_not_listed", "{caught}");
    assert_eq!(caught["path"], "/tmp/implant", "{caught}");
    assert!(
        caught["digest"].as_str().unwrap().starts_with("sha256:"),
        "{caught}"
    );

    fleet.tell("hide m3");
    eventually("m3 is caught", || status(&ratd, "m3") == "untrusted");
    let hidden = failure(&ratd, "m3");
    assert_eq!(hidden["code"], "ima.pcr_mismatch", "{hidden}");
    assert_eq!(status(&ratd, "m1"), "trusted");

    // The same ports: agents know where the server was.
    let (core, quic) = (ratd.core, ratd.evidence);
    ratd.signal(Signal::KILL);
    ratd.wait();
    let mut command = home.command();
    let listen = [
        format!("core.listen={core}"),
        format!("evidence.listen={quic}"),
    ];
    let set = [&listen[0][..], &listen[1], &ca, &list];
    for option in set.iter().chain(&INTERVAL) {
        command.arg("--set").arg(option);
    }
    let ratd = Ratd::spawn(command, &home.data());
    assert_eq!(failure(&ratd, "m2"), caught);
    assert_eq!(failure(&ratd, "m3"), hidden);
    let before = evidence(&ratd, "m1")["attestation"]["count"].as_u64();
    eventually("m1 attests to the new process", || {
        let count = evidence(&ratd, "m1")["attestation"]["count"].as_u64();
        count > before && status(&ratd, "m1") == "trusted"
    });
    assert_eq!(status(&ratd, "m2"), "untrusted");
    fleet.stop();
    assert_eq!(ratd.stop().code(), Some(0));
}

/// The logs of a machine whose firmware writes none.
#[derive(Debug)]
struct WithoutBootLog(SoftwareLogs);

impl Logs for WithoutBootLog {
    fn format(&self) -> LogFormat {
        self.0.format()
    }

    fn count(&mut self) -> Result<u64, LogError> {
        self.0.count()
    }

    fn measurements(&mut self, from_entry: u64) -> Result<Measurements, LogError> {
        self.0.measurements(from_entry)
    }

    fn ascii(&mut self) -> Result<Vec<u8>, LogError> {
        self.0.ascii()
    }

    fn boot_log(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        Ok(None)
    }
}

#[test]
fn t02_a_machine_without_a_boot_log_fails_until_its_group_demands_none() {
    let home = Home::new();
    let authority = home.path("ek-ca");
    let ek_ca_keys = EkCa::open(&authority).unwrap();
    let ca = ek_ca(&EkCa::paths(&authority).0);
    let ratd = home.start(&[&INTERVAL[..], &[&ca]].concat());
    let baseline = home.ok(&["token", "create", "--group", "bios", "--baseline"]);
    let shown = home.ok(&["group", "show", "bios"]);
    assert!(shown.contains("\"require_boot_log\":true"), "{shown}");
    let key = || SoftwareKey::generate(KeyKind::Ecc).unwrap();
    let keys = Arc::new(Keys::new(key(), key(), &ek_ca_keys).unwrap());
    let mut boot = Boot::first();
    boot.measure(&Entry::file("/usr/bin/init", b"init"));
    let boot = Arc::new(Mutex::new(boot));
    let device = SoftwareTpm::new(keys, Arc::clone(&boot));
    let machine = Machine::new(device, WithoutBootLog(SoftwareLogs::new(boot)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let options = EnrolOptions {
        token: baseline.parse().unwrap(),
        server: url(&ratd),
        agent: Some(AgentId::parse("old").unwrap()),
        hostname: "old".into(),
        kind: KeyKind::Ecc,
    };
    let enrolled = runtime.block_on(enrol(&machine, &options, None)).unwrap();
    let agent = Agent::new(machine, enrolled, None, Arc::new(|_| {}));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let running = runtime.spawn(agent.run(stopped));

    eventually("it fails", || status(&ratd, "old") == "untrusted");
    let failed = failure(&ratd, "old");
    assert_eq!(failed["code"], "uefi.log_missing", "{failed}");
    let group = home.ok(&["group", "show", "bios"]);
    assert!(group.contains("\"enforced_version\":null"), "{group}");

    home.ok(&["group", "set", "bios", "--require-boot-log", "false"]);
    eventually("it is trusted", || status(&ratd, "old") == "trusted");
    assert_eq!(failure(&ratd, "old"), Value::Null);
    stop.send(true).unwrap();
    runtime.block_on(running).unwrap();
    assert_eq!(ratd.stop().code(), Some(0));
}
