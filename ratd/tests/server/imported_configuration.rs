//! Keylime's configuration becomes ratd's: what is taken, what is said of the rest, and that ratd takes
//! what was printed.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use serde_json::Value;

use crate::process::Home;

/// What Keylime's own `verifier.conf` says, with an operator's changes.
const VERIFIER: &str = "\
[verifier]
version = 2.6
uuid = east
ip = 192.0.2.7
port = 8881
registrar_ip = 192.0.2.7
registrar_port = 8891
enable_agent_mtls = True
tls_dir = generate
server_key = default
server_key_password = hunter2
server_cert = default
client_key = default
client_key_password =
client_cert = default
trusted_client_ca = default
trusted_server_ca = default
cert_subject_alternative_names = DNS:verifier.example, IP:192.0.2.7
authorization_provider = simple
database_url = postgresql://keylime:s3cret@localhost/kl
database_pool_sz_ovfl = 5,10
auto_migrate_db = True
num_workers = 0
exponential_backoff = False
retry_interval = 1.5
max_retries = 5
quote_interval = 2
request_timeout = 60.0
max_upload_size = 104857600
measured_boot_policy_name = mine
measured_boot_imports = ['keylime.mine']
measured_boot_evaluate = once
severity_labels = [\"info\", \"notice\"]
severity_policy = [{\"event_id\": \".*\",
    \"severity_label\": \"emergency\"}]
ignore_tomtou_errors = True
require_allow_list_signatures = True
mode = pull
challenge_lifetime = soon
session_lifetime = 240
auto_recover_attestation_failures = False
shutdown_drain_timeout = 10
durable_attestation_import =
flux_capacitor = on

[revocations]
enabled_revocation_notifications = ['agent', 'webhook']
zmq_ip = 127.0.0.1
zmq_port = 8992
webhook_url = https://hooks.example/
";

const REGISTRAR: &str = "\
[registrar]
version = 2.6
ip = 0.0.0.0
port = 8890
tls_port = 8891
tls_dir = default
server_key_password = hunter3
database_url = sqlite
malformed_cert_action = reject
tpm_identity = ek_cert
";

struct Keylime {
    home: Home,
}

impl Keylime {
    fn new() -> Self {
        let home = Home::new();
        for folder in [
            "etc",
            "usr",
            "etc/verifier.conf.d",
            "usr/verifier.conf.d",
            "state",
            "state/cv_ca",
        ] {
            std::fs::create_dir(home.path(folder)).unwrap();
        }
        for file in ["client-cert.crt", "client-private.pem"] {
            std::fs::write(home.path("state/cv_ca").join(file), "PEM").unwrap();
        }
        Self { home }
    }

    fn with(self, file: &str, text: &str) -> Self {
        std::fs::write(self.home.path(file), text).unwrap();
        self
    }

    fn run(&self, variables: &[(&str, &str)], json: bool) -> Output {
        let path = |name: &str| self.home.path(name).to_str().unwrap().to_owned();
        let mut command = self.home.command();
        command
            .args([
                "keylime",
                "import-config",
                "--from",
                &path("etc"),
                "--from",
                &path("usr"),
            ])
            .args(["--keylime-dir", &path("state")])
            .envs(variables.iter().copied());
        if json {
            command.arg("--json");
        }
        command.output().unwrap()
    }

    /// The configuration, which `ratd config check` takes, as `ratd config show` shows it.
    fn shown(&self, variables: &[(&str, &str)]) -> String {
        let output = self.run(variables, false);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        let path = self.home.path("ratd.toml");
        std::fs::write(&path, &output.stdout).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let path = path.to_str().unwrap();
        self.home.ok(&["--config", path, "config", "check"]);
        self.home.ok(&["--config", path, "config", "show"])
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.run(&[], true).stdout).unwrap()
    }
}

fn fate(printed: &Value, option: &str) -> BTreeSet<String> {
    let remarks = printed["options"].as_array().unwrap().iter();
    let of = remarks.filter(|remark| remark["option"] == option);
    of.map(|remark| remark["fate"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn ratd_takes_what_is_made_of_keylimes_configuration() {
    let keylime = Keylime::new()
        .with("etc/verifier.conf", VERIFIER)
        .with("etc/registrar.conf", REGISTRAR)
        .with(
            "etc/logging.conf",
            "[logging]\nversion = 2.6\n[logger_root]\nlevel = WARNING\n",
        );
    let shown = keylime.shown(&[]);
    for line in [
        "address = \"192.0.2.7\"",
        "keylime.verifier.listen = \"192.0.2.7:8881\"",
        "keylime.verifier.uuid = \"east\"",
        "keylime.verifier.mode = \"auto\"",
        "keylime.verifier.quote_interval_seconds = 2",
        "keylime.verifier.session_lifetime_seconds = 240",
        // `soon` is no number: ratd's own stands.
        "keylime.verifier.challenge_lifetime_seconds = 30",
        "keylime.verifier.accept_violations = true",
        // What nobody can judge does not pass.
        "keylime.measured_boot_policy_name = \"reject-all\"",
        "keylime.measured_boot_evaluate = \"always\"",
        "keylime.verifier.require_allow_list_signatures = true",
        "keylime.revocation.channels = [\"agent\"]",
        "keylime.registrar.listen = \"0.0.0.0:8890\"",
        "keylime.registrar.tls_listen = \"0.0.0.0:8891\"",
        "keylime.registrar.tpm_identity = \"ek_cert\"",
        "keylime.registrar.ek_check = \"warn\"",
        "keylime.pull.retry_interval_seconds = 2",
        "keylime.pull.exponential_backoff = false",
        "identity.server_names = [\"verifier.example\", \"192.0.2.7\"]",
        "log.level = \"warn\"",
        "drain.deadline_ms = 20000",
    ] {
        assert!(shown.lines().any(|found| found == line), "{line}: {shown}");
    }
    let certificate = keylime.home.path("state/cv_ca/client-cert.crt");
    let line = format!(
        "keylime.pull.certificate = {:?}",
        certificate.to_str().unwrap()
    );
    assert!(shown.contains(&line), "{shown}");
}

#[test]
fn no_option_is_dropped_without_a_word_and_no_secret_is_printed() {
    let keylime = Keylime::new()
        .with("etc/verifier.conf", VERIFIER)
        .with("etc/registrar.conf", REGISTRAR)
        .with(
            "etc/tenant.conf",
            "[tenant]\nversion = 2.6\nrequire_ek_cert = False\nek_check_script = /x\n",
        )
        .with(
            "etc/ca.conf",
            "[ca]\nversion = 2.6\npassword = default\ncert_bits = 2048\n",
        );
    let printed = keylime.json();
    let remarks = printed["options"].as_array().unwrap();
    let told: BTreeSet<&str> = remarks
        .iter()
        .map(|it| it["option"].as_str().unwrap())
        .collect();
    let mut section = "";
    for line in VERIFIER.lines().chain(REGISTRAR.lines()) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((option, _)) = line.split_once(" =").filter(|_| !line.starts_with(' ')) {
            let option = format!("{section}.{option}");
            assert!(
                told.contains(option.as_str()),
                "nothing is said of {option}: {told:?}"
            );
        }
    }
    for (option, expected) in [
        ("verifier.server_key_password", &["secret"][..]),
        ("registrar.server_key_password", &["secret"]),
        ("ca.password", &["secret"]),
        ("verifier.client_key_password", &["default"]),
        ("verifier.flux_capacitor", &["unknown"]),
        ("verifier.challenge_lifetime", &["invalid"]),
        // A rule names none of the labels.
        ("verifier.severity_labels", &["invalid"]),
        ("verifier.severity_policy", &["invalid"]),
        ("verifier.max_retries", &["default"]),
        ("verifier.require_allow_list_signatures", &["taken"]),
        ("verifier.measured_boot_imports", &["insecure"]),
        ("verifier.ignore_tomtou_errors", &["insecure", "taken"]),
        ("verifier.database_url", &["elsewhere"]),
        ("tenant.ek_check_script", &["insecure"]),
        (
            "revocations.enabled_revocation_notifications",
            &["insecure", "taken"],
        ),
        ("revocations.zmq_port", &["default"]),
        ("revocations.webhook_url", &["elsewhere"]),
        ("ca.cert_bits", &["no_counterpart"]),
    ] {
        let expected = expected.iter().map(|it| (*it).to_owned()).collect();
        assert_eq!(fate(&printed, option), expected, "{option}");
    }
    let everything = [
        keylime.run(&[], false).stderr,
        keylime.run(&[], false).stdout,
    ]
    .concat();
    let everything = String::from_utf8(everything).unwrap() + &printed.to_string();
    for secret in ["hunter2", "hunter3", "s3cret"] {
        assert!(!everything.contains(secret), "{secret} is printed");
    }
}

#[test]
fn variables_beat_snippets_and_snippets_beat_the_file() {
    let file =
        "[verifier]\nversion = 2.6\nip = 127.0.0.1\nport = 1000\nuuid = file\nquote_interval = 3\n";
    let keylime = Keylime::new()
        .with(
            "usr/verifier.conf",
            "[verifier]\nversion = 2.6\nsession_lifetime = 999\n",
        )
        .with("etc/verifier.conf", file)
        .with(
            "usr/verifier.conf.d/90-usr",
            "[verifier]\nuuid = usr\nport = 2000\nquote_interval = 4\n",
        )
        .with(
            "etc/verifier.conf.d/10-first.conf",
            "[verifier]\nuuid = first\nport = 3000\n",
        )
        .with(
            "etc/verifier.conf.d/20-second",
            "[verifier]\nuuid = \"second\"\n",
        );
    let line =
        |shown: &str, line: &str| assert!(shown.lines().any(|it| it == line), "{line}: {shown}");
    let shown = keylime.shown(&[]);
    line(&shown, "keylime.verifier.uuid = \"second\"");
    line(&shown, "keylime.verifier.listen = \"127.0.0.1:3000\"");
    line(&shown, "keylime.verifier.quote_interval_seconds = 4");
    // Of the base files only the first counts.
    line(&shown, "keylime.verifier.session_lifetime_seconds = 180");
    let shown = keylime.shown(&[
        ("KEYLIME_VERIFIER_UUID", "variable"),
        ("KEYLIME_VERIFIER_PORT", "4000"),
    ]);
    line(&shown, "keylime.verifier.uuid = \"variable\"");
    line(&shown, "keylime.verifier.listen = \"127.0.0.1:4000\"");
    let named = keylime.home.path("named.conf");
    std::fs::write(&named, "[verifier]\nversion = 2.6\nuuid = named\n").unwrap();
    let named = [("KEYLIME_VERIFIER_CONFIG", named.to_str().unwrap())];
    let shown = keylime.shown(&named);
    line(&shown, "keylime.verifier.uuid = \"named\"");
    line(&shown, "keylime.verifier.listen = \"127.0.0.1:8881\"");
}

#[test]
fn severity_and_who_is_told_are_what_keylime_had() {
    let text = r#"[verifier]
version = 2.6
severity_labels = ["info", "grave"]
severity_policy = [{"event_id": "ima\\..*", "severity_label": "info"},
    {"event_id": ".*", "severity_label": "grave"}]
[revocations]
enabled_revocation_notifications = ['zeromq', "agent"]
zmq_ip = 192.0.2.9
zmq_port = 9000
webhook_url =
"#;
    let keylime = Keylime::new().with("etc/verifier.conf", text);
    let shown = keylime.shown(&[]);
    for line in [
        "keylime.verifier.severity_labels = [\"info\", \"grave\"]",
        "keylime.revocation.channels = [\"zeromq\", \"agent\"]",
        "keylime.revocation.zmq_listen = \"192.0.2.9:9000\"",
    ] {
        assert!(shown.lines().any(|found| found == line), "{line}: {shown}");
    }
    let rules = shown
        .lines()
        .find(|line| line.starts_with("keylime.verifier.severity_policy"));
    let rules: Value = {
        // As it is shown: {event_id = "…", severity_label = "…"}, which but for `=` is JSON.
        let rules = rules.unwrap().split_once(" = ").unwrap().1;
        let rules = rules.replace("event_id = ", "\"event_id\":");
        let rules = rules.replace("severity_label = ", "\"severity_label\":");
        serde_json::from_str(&rules).unwrap_or_else(|error| panic!("{error}: {rules}"))
    };
    assert_eq!(
        rules,
        serde_json::json!([
            {"event_id": "ima\\..*", "severity_label": "info"},
            {"event_id": ".*", "severity_label": "grave"},
        ])
    );
    let printed = keylime.json();
    for option in [
        "verifier.severity_labels",
        "verifier.severity_policy",
        "revocations.enabled_revocation_notifications",
        "revocations.zmq_ip",
        "revocations.zmq_port",
    ] {
        assert_eq!(fate(&printed, option), ["taken".to_owned()].into());
    }
}

#[test]
fn what_keylime_cannot_read_either_is_refused_by_file_and_line() {
    let keylime = Keylime::new().with("etc/verifier.conf", "[verifier]\nuuid = a\nUUID = b\n");
    let output = keylime.run(&[], false);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        error.contains("verifier.conf") && error.contains("line 3: uuid"),
        "{error}"
    );
    assert!(output.stdout.is_empty());
    let none = Keylime::new().run(&[], false);
    assert_eq!(none.status.code(), Some(3));
    assert!(
        String::from_utf8(none.stderr)
            .unwrap()
            .contains("no verifier.conf and no registrar.conf")
    );
}

#[test]
fn an_address_that_is_none_is_not_served_and_text_ends_no_value() {
    let text =
        "[verifier]\nversion = 2.6\nip = everywhere\nport = 8881\nuuid = a\"\\\n core.listen = x\n";
    let keylime = Keylime::new().with("etc/verifier.conf", text);
    let shown = keylime.shown(&[]);
    assert!(
        shown.contains("keylime.verifier.listen = \"\"\n"),
        "{shown}"
    );
    assert!(
        shown.contains("core.listen = \"127.0.0.1:8001\""),
        "{shown}"
    );
    assert_eq!(
        fate(&keylime.json(), "verifier.ip"),
        ["invalid".to_owned()].into()
    );
}
