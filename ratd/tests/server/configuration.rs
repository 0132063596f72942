//! Configuration: where values come from, and what is refused.

use std::os::unix::fs::PermissionsExt;

use crate::process::Home;

fn file(home: &Home, text: &str) -> String {
    let path = home.path("ratd.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn flags_beat_variables_and_variables_beat_the_file() {
    let home = Home::new();
    let path = file(
        &home,
        "[attestation]\ninterval_ms = 1000\nmax_age_ms = 60000\n[log]\nlevel = \"warn\"\n",
    );
    let output = home
        .command()
        .args([
            "--config",
            &path,
            "--set",
            "log.level=error",
            "config",
            "show",
            "--origin",
        ])
        .env("RATD_ATTESTATION_INTERVAL_MS", "2000")
        .env("RATD_LOG_LEVEL", "debug")
        .output()
        .unwrap();
    assert!(output.status.success());
    let shown = String::from_utf8(output.stdout).unwrap();
    let line = |key: &str| {
        let line = shown.lines().find(|line| line.starts_with(key));
        line.unwrap_or_else(|| panic!("{key}: {shown}")).to_owned()
    };
    assert!(line("attestation.max_age_ms").contains("= 60000  # file"));
    let interval = line("attestation.interval_ms");
    assert!(
        interval.contains("= 2000  #") && interval.contains("variable"),
        "{interval}"
    );
    assert!(line("log.level").contains("= \"error\"  # command line"));
    assert!(
        line("core.listen").contains("\"127.0.0.1:8001\"  # default"),
        "{shown}"
    );
}

#[test]
fn unknown_keys_and_variables_are_errors() {
    let home = Home::new();
    let path = file(
        &home,
        "[core]\nlisten = \"127.0.0.1:0\"\nlissten = \"0.0.0.0:1\"\n",
    );
    let error = home.fails(3, &["--config", &path, "config", "check"]);
    assert!(
        error.contains("lissten") && error.contains("ratd.toml"),
        "{error}"
    );
    let error = home.fails(3, &["--set", "core.lissten=1", "config", "check"]);
    assert!(error.contains("core.lissten"), "{error}");
    let output = home
        .command()
        .args(["config", "check"])
        .env("RATD_CORE_LISSTEN", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("RATD_CORE_LISSTEN"));
}

#[test]
fn values_that_do_not_fit_are_errors_by_key() {
    let home = Home::new();
    for (set, key) in [
        ("core.listen=8001", "core.listen"),
        ("attestation.interval_ms=-1", "attestation.interval_ms"),
        ("attestation.interval_ms=ten", "attestation.interval_ms"),
        ("attestation.interval_ms=1", "attestation.interval_ms"),
        ("attestation.max_age_ms=1", "attestation.max_age_ms"),
        ("runtime.ima_cache_bytes=1048575", "runtime.ima_cache_bytes"),
        (
            "runtime.ima_cache_bytes=68719476737",
            "runtime.ima_cache_bytes",
        ),
        (
            "runtime.ima_cache_agent_bytes=65535",
            "runtime.ima_cache_agent_bytes",
        ),
        (
            "runtime.ima_cache_agent_bytes=16777217",
            "runtime.ima_cache_agent_bytes",
        ),
        ("keylime.listen=8881", "keylime.listen"),
        (
            "keylime.requests_per_address_per_second=0",
            "keylime.requests_per_address_per_second",
        ),
        ("attestation.mode=sometimes", "attestation.mode"),
        ("address=0.0.0.0", "address"),
        ("evidence.addresses=[\"nowhere\"]", "evidence.addresses"),
        ("core.public_url=http://x", "core.public_url"),
        ("log.level=a=b=c", "log.level"),
    ] {
        let error = home.fails(3, &["--set", set, "config", "check"]);
        assert!(error.contains(key), "{set}: {error}");
    }
    home.ok(&["config", "check"]);
}

#[test]
fn a07_plain_http_is_for_loopback_and_files_are_their_owners() {
    let home = Home::new();
    let plain = [
        "--set",
        "core.plain_http=true",
        "--set",
        "core.listen=0.0.0.0:0",
    ];
    let error = home.fails(3, &plain);
    assert!(error.contains("core.plain_http"), "{error}");
    let path = file(&home, "");
    for mode in [0o622, 0o662, 0o666] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, permissions).unwrap();
        let error = home.fails(3, &["--config", &path, "config", "check"]);
        assert!(error.contains("write"), "{error}");
    }
    home.fails(
        3,
        &["--config", "/nonexistent/ratd.toml", "config", "check"],
    );
    let error = home.fails(3, &["--set", "identity.ek_ca=[\"/nonexistent\"]"]);
    assert!(error.contains("identity.ek_ca"), "{error}");
}
