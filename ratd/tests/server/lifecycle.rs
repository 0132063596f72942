//! Start, readiness, metrics, drain, backup: a server's life.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rat_tests::http_client::read;
use rat_tests::workspace_root;
use rustix::process::Signal;

use crate::process::{Home, eventually};

#[test]
fn the_first_start_makes_what_it_needs() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let password = ratd.first_password();
    assert!(ratd.core.ip().is_loopback() && ratd.evidence.ip().is_loopback());
    let mode = |name: &str| {
        let metadata = std::fs::metadata(home.data().join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("admin-password"), 0o600);
    assert_eq!(mode("ca"), 0o700);
    assert_eq!(mode("ca/ca.key"), 0o600);
    let fingerprint = home.ok(&["ca", "fingerprint"]);
    assert_eq!(ratd.stop().code(), Some(0));
    let again = home.start(&[]);
    assert_eq!(again.first_password(), password);
    assert_eq!(home.ok(&["ca", "fingerprint"]), fingerprint);
}

/// Commands on a server's data directory that make none.
const OF_A_SERVER: [(&[&str], &str); 14] = [
    (&["ca", "fingerprint"], "ca/ca.key"),
    (&["ca", "rotate"], "ca/ca.key"),
    (&["user", "list"], "ratd.db"),
    (&["user", "password", "admin"], "ratd.db"),
    (&["user", "disable", "admin"], "ratd.db"),
    (&["api-token", "list"], "ratd.db"),
    (&["api-token", "revoke", "0123456789abcdef"], "ratd.db"),
    (&["token", "create", "--group", "web"], "ratd.db"),
    (&["token", "revoke", "0123456789abcdef"], "ratd.db"),
    (&["group", "show"], "ratd.db"),
    (&["group", "set", "web", "--protected", "true"], "ratd.db"),
    (&["ek", "approve", EK, "--group", "web"], "ratd.db"),
    (&["ek", "withdraw", EK, "--group", "web"], "ratd.db"),
    (&["backup", "copy"], "ca/ca.key"),
];
const EK: &str = "abababababababababababababababababababababababababababababababab";

#[test]
fn a_command_on_a_folder_that_is_no_servers_makes_nothing_there() {
    let home = Home::new();
    let names = |of: &Path| -> BTreeSet<OsString> {
        let entries = std::fs::read_dir(of).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    let refused = |what: &str| {
        for (arguments, file) in OF_A_SERVER {
            let output = home.run(arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            let code = if arguments[0] == "backup" { 1 } else { 4 };
            assert_eq!(
                output.status.code(),
                Some(code),
                "{what}: {arguments:?}: {said}"
            );
            assert!(output.stdout.is_empty(), "{what}: {arguments:?}");
            // What was looked for, and where.
            let directory = home.data().display().to_string();
            assert!(said.contains(file) && said.contains(&directory), "{said}");
        }
    };
    refused("no folder");
    assert!(!home.data().exists());
    std::fs::create_dir(home.data()).unwrap();
    refused("an empty folder");
    assert!(names(&home.data()).is_empty());
    std::fs::write(home.data().join("notes"), "mine").unwrap();
    refused("somebody's folder");
    assert_eq!(names(&home.data()), BTreeSet::from(["notes".into()]));
    assert!(!home.path("copy").exists());
    // What is made before the first start is made, and the rest works on it.
    let said = home.run(&["group", "create", "web"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("is new"), "{said}");
    home.ok(&["group", "show", "web"]);
    home.fails(4, &["ca", "fingerprint"]);
    home.ok(&["token", "create", "--group", "web"]);
    assert_eq!(home.ok(&["ca", "fingerprint"]).len(), 64);
}

/// An address that no machine has: the start ends there, after the first user was made.
const NOWHERE: &str = "core.listen=192.0.2.1:1";

#[test]
fn a03_the_first_password_is_shown_at_a_terminal_once_and_put_into_no_journal() {
    let home = Home::new();
    let read = |home: &Home| {
        let text = std::fs::read_to_string(home.data().join("admin-password")).unwrap();
        text.trim().to_owned()
    };
    let output = home.run(&["--set", NOWHERE]);
    assert_eq!(output.status.code(), Some(4));
    let (password, path) = (read(&home), home.data().join("admin-password"));
    let printed = [&output.stdout[..], &output.stderr].concat();
    let printed = String::from_utf8(printed).unwrap();
    assert!(!printed.contains(&password), "{printed}");
    assert!(printed.contains(path.to_str().unwrap()), "{printed}");
    let at_a_terminal = |home: &Home| {
        let command = home.command();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
        let line = format!("{} --set {NOWHERE}", words.join(" "));
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .stdin(Stdio::null())
            .output();
        String::from_utf8(output.expect("script, of util-linux").stdout).unwrap()
    };
    let printed = at_a_terminal(&home);
    assert!(
        !printed.contains(&password),
        "only when it is new: {printed}"
    );
    let other = Home::new();
    let printed = at_a_terminal(&other);
    assert!(printed.contains(&read(&other)), "{printed}");
}

#[test]
fn a07_secrets_that_others_can_read_and_a_second_server_are_refused() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let second = home.fails(
        4,
        &[
            "--set",
            "core.listen=127.0.0.1:0",
            "--set",
            "evidence.listen=127.0.0.1:0",
        ],
    );
    assert!(second.contains("in use"), "{second}");
    ratd.stop();
    for file in ["admin-password", "ca/ca.key"] {
        let path = home.data().join(file);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = home.fails(4, &["--set", "core.listen=127.0.0.1:0"]);
        assert!(error.contains("644"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn health_says_why() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    assert_eq!(client.get("/livez", None).status, 200);
    let ready = client.get("/readyz", None);
    let body = ready.json();
    let checks = body["checks"].as_array().unwrap();
    let names: Vec<&str> = checks.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["draining", "store", "workers", "certificates", "clock"]
    );
    let all = checks.iter().all(|check| check["ok"] == true);
    assert_eq!(body["ready"], all);
    assert_eq!(ready.status, if all { 200 } else { 503 });
    for check in checks.iter().filter(|check| check["ok"] == false) {
        assert!(!check["reason"].as_str().unwrap().is_empty());
    }
}

#[test]
fn metrics_pass_promtool_and_are_all_documented() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    client.get("/livez", None);
    client.get("/agents/", None);
    client.get("/readyz", None);
    let answer = client.get("/metrics", None);
    assert_eq!(answer.status, 200);
    let text = String::from_utf8(answer.body).unwrap();
    let page = std::fs::read_to_string(workspace_root().join("docs/reference/metrics.md")).unwrap();
    let names: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    assert!(names.contains("attest_http_requests_total"), "{text}");
    for name in names {
        assert!(
            page.contains(&format!("`{name}`")),
            "{name} is not documented"
        );
        assert!(
            text.contains(&format!("# HELP {name} ")),
            "{name} has no help"
        );
    }
    let checked = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut checked = checked.expect("promtool, of the package prometheus");
    let mut stdin = checked.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = checked.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

#[test]
fn draining_finishes_what_is_under_way_and_takes_nothing_new() {
    let home = Home::new();
    let mut ratd = home.start(&[]);
    let client = ratd.client();
    // A request whose body has not come yet.
    let mut open = client.tls();
    let body = b"{\"token\":\"x\"}";
    let head = format!(
        "POST /tokens/validate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    open.write_all(head.as_bytes()).unwrap();
    let in_flight = || {
        let text = String::from_utf8(client.get("/metrics", None).body).unwrap();
        text.contains("attest_http_requests_in_flight 2")
    };
    eventually("the request is under way", in_flight);
    ratd.signal(Signal::TERM);
    eventually("nothing new is taken", || {
        std::net::TcpStream::connect(ratd.core).is_err()
    });
    open.write_all(body).unwrap();
    assert_eq!(read(&mut open).status, 401, "answered all the same");
    assert_eq!(ratd.wait().code(), Some(0), "{}", ratd.log());
}

#[test]
fn draining_under_load_answers_or_refuses_every_request() {
    let home = Home::new();
    let mut ratd = home.start(&[]);
    let client = ratd.client();
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let stopping = StopsWhenDropped(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match client.try_get("/readyz") {
                        Some(200 | 503) => answered.fetch_add(1, Ordering::Relaxed),
                        // Refused, or not taken any more.
                        Some(429) | None => 0,
                        Some(other) => panic!("{other}"),
                    };
                }
            });
        }
        eventually("there is load", || answered.load(Ordering::Relaxed) > 20);
        ratd.signal(Signal::TERM);
        assert_eq!(ratd.wait().code(), Some(0), "{}", ratd.log());
        drop(stopping);
    });
}

/// Ends the load also when the test fails: a scope waits for its threads.
struct StopsWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_second_signal_and_the_deadline_end_it_at_once() {
    for second in [true, false] {
        let home = Home::new();
        let deadline = if second { 60_000 } else { 200 };
        let mut ratd = home.start(&[&format!("drain.deadline_ms={deadline}")]);
        let client = ratd.client();
        let mut open = client.tls();
        let head = "POST /tokens/validate HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{";
        open.write_all(head.as_bytes()).unwrap();
        eventually("the request is under way", || {
            let text = String::from_utf8(client.get("/metrics", None).body).unwrap();
            text.contains("attest_http_requests_in_flight 2")
        });
        ratd.signal(Signal::TERM);
        if second {
            eventually("it is draining", || ratd.log().contains("stopping"));
            ratd.signal(Signal::TERM);
        }
        assert_eq!(ratd.wait().code(), Some(5), "{}", ratd.log());
    }
}

#[test]
fn s05_a_peer_that_never_ends_leaves_the_shards_time_to_commit() {
    let home = Home::new();
    let mut ratd = home.start(&["drain.deadline_ms=3000"]);
    let client = ratd.client();
    let mut open = client.tls();
    let head = "POST /tokens/validate HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{";
    open.write_all(head.as_bytes()).unwrap();
    eventually("the request is under way", || {
        let text = String::from_utf8(client.get("/metrics", None).body).unwrap();
        text.contains("attest_http_requests_in_flight 2")
    });
    ratd.signal(Signal::TERM);
    assert_eq!(ratd.wait().code(), Some(5), "{}", ratd.log());
    let log = ratd.log();
    let ended = log.lines().find(|line| line.contains("the shards ended"));
    let ended = ended.unwrap_or_else(|| panic!("{log}"));
    assert!(ended.contains("is_committed=true"), "{ended}");
    assert!(ended.contains("requests_ended=false"), "{ended}");
}

#[test]
fn a_backup_of_a_running_server_starts_elsewhere() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let (admin, password) = (ratd.admin(), ratd.first_password());
    home.ok(&["group", "create", "fleet", "--bank", "sha384"]);
    let backup = home.path("backup");
    let backup = backup.to_str().unwrap();
    home.ok(&["backup", backup]);
    home.fails(1, &["backup", backup]);
    home.ok(&["group", "create", "later"]);
    let fingerprint = home.ok(&["ca", "fingerprint"]);
    home.fails(1, &["restore", backup]);
    let elsewhere = Home::new();
    elsewhere.ok(&["restore", backup]);
    let restored = elsewhere.start(&[]);
    assert_eq!(restored.first_password(), password);
    assert_eq!(restored.client().get("/agents/", Some(&admin)).status, 200);
    assert_eq!(elsewhere.ok(&["ca", "fingerprint"]), fingerprint);
    let groups = elsewhere.ok(&["group", "show"]);
    assert_eq!(groups.lines().count(), 1);
    assert!(groups.contains("\"bank\":\"sha384\""), "{groups}");
}

/// A user that is not root, by number; it need not have a name.
const SERVICE: u32 = 61_234;

#[test]
fn a07_what_root_writes_into_a_services_directory_belongs_to_the_service() {
    let home = Home::new();
    std::fs::create_dir(home.data()).unwrap();
    if std::fs::metadata(home.data()).unwrap().uid() != 0 {
        eprintln!("not run by root: files cannot be given away, and nothing is tested");
        return;
    }
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(home.data(), private).unwrap();
    std::os::unix::fs::chown(home.data(), Some(SERVICE), Some(SERVICE)).unwrap();
    let others = |folder: &std::path::Path| {
        let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
        let others = entries.filter(|entry| entry.metadata().unwrap().uid() != SERVICE);
        others.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let all_belong = || {
        for folder in [home.data(), home.data().join("ca")] {
            let others = others(&folder);
            assert!(others.is_empty(), "{others:?}");
        }
    };
    home.ok(&["group", "create", "fleet"]);
    home.ok(&["token", "create", "--group", "fleet"]);
    all_belong();
    home.ok(&["ca", "rotate"]);
    home.start(&[]).stop();
    all_belong();
    // A restore into a service's directory, too.
    let backup = home.path("backup");
    home.ok(&["backup", backup.to_str().unwrap()]);
    std::fs::remove_dir_all(home.data()).unwrap();
    std::fs::create_dir(home.data()).unwrap();
    std::os::unix::fs::chown(home.data(), Some(SERVICE), Some(SERVICE)).unwrap();
    home.ok(&["restore", backup.to_str().unwrap()]);
    all_belong();
}

#[test]
fn a_backup_without_its_ca_is_neither_made_nor_restored() {
    let home = Home::new();
    home.ok(&["group", "create", "fleet"]);
    let backup = home.path("backup");
    let named = backup.to_str().unwrap();
    let error = home.fails(1, &["backup", named]);
    assert!(error.contains("ca.key is missing"), "{error}");
    assert!(!backup.exists());
    home.ok(&["token", "create", "--group", "fleet"]);
    home.ok(&["backup", named]);
    for needed in ["ca/ca.key", "database"] {
        let (path, aside) = (backup.join(needed), backup.join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        let elsewhere = Home::new();
        let error = elsewhere.fails(1, &["restore", named]);
        assert!(error.contains("no whole backup"), "{error}");
        assert!(!elsewhere.data().exists());
        std::fs::rename(&aside, &path).unwrap();
    }
}

#[test]
fn a_restore_that_fails_leaves_the_directory_empty() {
    let home = Home::new();
    home.ok(&["group", "create", "fleet"]);
    home.ok(&["token", "create", "--group", "fleet"]);
    let fingerprint = home.ok(&["ca", "fingerprint"]);
    let backup = home.path("backup");
    let named = backup.to_str().unwrap();
    home.ok(&["backup", named]);
    for broken in ["database", "ca/ca.key"] {
        let path = backup.join(broken);
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, b"torn").unwrap();
        let elsewhere = Home::new();
        elsewhere.fails(4, &["restore", named]);
        let left = std::fs::read_dir(elsewhere.data()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "lock"), "{broken}: {left:?}");
        // With the backup whole again, it is restored to the same place.
        std::fs::write(&path, good).unwrap();
        elsewhere.ok(&["restore", named]);
        assert_eq!(elsewhere.ok(&["ca", "fingerprint"]), fingerprint);
    }
}

#[test]
fn s18_a_restore_that_is_cut_short_is_no_server_and_is_begun_anew() {
    let home = Home::new();
    home.ok(&["group", "create", "fleet"]);
    home.ok(&["token", "create", "--group", "fleet"]);
    let fingerprint = home.ok(&["ca", "fingerprint"]);
    let backup = home.path("backup");
    let named = backup.to_str().unwrap();
    home.ok(&["backup", named]);
    // As after a loss of power: some files and the mark are there, the database is not.
    let cut = Home::new();
    std::fs::create_dir_all(cut.data().join("ca")).unwrap();
    for folder in ["", "ca"] {
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(cut.data().join(folder), private).unwrap();
    }
    for (file, contents) in [("restore.unfinished", ""), ("ca/ca.key", "half of a k")] {
        std::fs::write(cut.data().join(file), contents).unwrap();
    }
    let commands: [&[&str]; 4] = [
        &["--set", "core.listen=127.0.0.1:0"],
        &["ca", "fingerprint"],
        &["group", "create", "fleet"],
        &["backup", "elsewhere"],
    ];
    for arguments in commands {
        let error = cut.fails(4, arguments);
        assert!(error.contains("a restore was cut short"), "{error}");
        assert!(!cut.data().join("ratd.db").exists());
    }
    cut.ok(&["restore", named]);
    assert!(!cut.data().join("restore.unfinished").exists());
    assert_eq!(cut.ok(&["ca", "fingerprint"]), fingerprint);
    let groups = cut.ok(&["group", "show"]);
    assert_eq!(groups.lines().count(), 1);
    // With the database everything is there: only the mark was left.
    std::fs::write(cut.data().join("restore.unfinished"), "").unwrap();
    assert_eq!(cut.ok(&["ca", "fingerprint"]), fingerprint);
    assert!(!cut.data().join("restore.unfinished").exists());
    let error = cut.fails(1, &["restore", named]);
    assert!(error.contains("in use"), "{error}");
}

#[test]
fn groups_and_tokens_need_sense() {
    let home = Home::new();
    for slug in ["", "A", "a b", "../x", &"x".repeat(64)] {
        home.fails(1, &["group", "create", slug]);
    }
    home.ok(&["group", "create", "fleet"]);
    home.fails(1, &["group", "create", "fleet"]);
    home.fails(1, &["group", "set", "fleet", "--bank", "sha1"]);
    home.fails(1, &["group", "set", "nobody", "--protected", "false"]);
    home.fails(1, &["token", "create", "--group", "nobody"]);
    home.fails(
        2,
        &["token", "create", "--group", "fleet", "--ttl-hours", "0"],
    );
    let token = home.ok(&["token", "create", "--group", "fleet"]);
    assert!(token.starts_with("esp_") && !token.starts_with("esp_b_"));
    // A baseline token makes its group.
    let token = home.ok(&["token", "create", "--group", "new", "--baseline"]);
    assert!(token.starts_with("esp_b_"));
    let shown = home.ok(&["group", "show", "new"]);
    assert!(shown.contains("\"protected\":true"), "{shown}");
    assert!(token.ends_with(&home.ok(&["ca", "fingerprint"])));
}
