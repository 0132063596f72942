//! `rat-load` against the program: readers, and agents that misbehave.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use std::collections::BTreeMap;

use clap::Parser;
use rat_load::arguments::{Arguments, Command};
use rat_load::fleet;
use rat_load::keys::EkCa;
use rat_load::misdeeds::Conduct;
use rat_load::report::Report;
use rat_load::requests::{self, RequestOptions};
use tokio::runtime::Runtime;

use crate::operating::Operated;
use crate::process::{Home, metric};

/// A server that lets one address ask as often as it likes, and how to read from it.
fn readable() -> (Operated, RequestOptions) {
    let operated = Operated::start(&["core.requests_per_address_per_second=1000000"]);
    operated.group("web");
    let token_file = operated.home.path("token");
    let mut file = File::create_new(&token_file).unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    writeln!(file, "{}", operated.admin).unwrap();
    let options = RequestOptions {
        server: format!("https://{}", operated.ratd.core).parse().unwrap(),
        ca: operated.home.data().join("ca/ca.pem"),
        token_file,
        paths: vec!["/groups/".to_owned(), "/groups/none".to_owned()],
        connections: 2,
        rate: None,
        seconds: 1,
        warm_up_seconds: 0,
    };
    (operated, options)
}

#[test]
fn clients_that_read_are_counted_by_what_they_are_answered() {
    let (_operated, options) = readable();
    let report = Runtime::new().unwrap().block_on(requests::run(&options));
    let report = report.unwrap();
    let statuses: Vec<u16> = report.by_status.keys().copied().collect();
    assert_eq!(statuses, [200, 404]);
    assert_eq!(report.by_status.values().sum::<u64>(), report.answers);
    // Each connection asks for both in turn.
    assert!(report.by_status[&200].abs_diff(report.by_status[&404]) <= 2);
    assert!(report.body_bytes > report.answers);
}

#[test]
fn clients_that_read_at_a_rate_begin_as_often_as_it_says() {
    let (_operated, options) = readable();
    let options = RequestOptions {
        rate: Some("100".parse().unwrap()),
        warm_up_seconds: 1,
        ..options
    };
    let report = Runtime::new().unwrap().block_on(requests::run(&options));
    let report = report.unwrap();
    let begun = report.schedule.as_ref().unwrap();
    assert_eq!(begun.intended, 100, "{report:?}");
    assert_eq!(begun.begun + begun.not_begun, 100, "{report:?}");
    assert_eq!(report.troubles, BTreeMap::new());
    // All that were begun are answered, also those whose answers come after the end.
    assert_eq!(report.answers, begun.begun);
    assert_eq!(report.latency_ms.count, begun.begun);
    assert!(report.by_status[&200].abs_diff(report.by_status[&404]) <= 1);
}

/// A fleet of ten in which one agent of each kind misbehaves, against the program.
fn misbehaving(more: &[&str]) -> (Operated, Report) {
    let home = Home::new();
    let authority = home.path("ek-ca");
    EkCa::open(&authority).unwrap();
    let (certificate, _) = EkCa::paths(&authority);
    let ek_ca = format!("identity.ek_ca=[{:?}]", certificate.display().to_string());
    let pace = [
        "attestation.interval_ms=1000",
        "attestation.challenge_deadline_ms=1500",
        "attestation.max_age_ms=4000",
        &ek_ca,
    ];
    let operated = Operated::start_in(home, &pace);
    let baseline = &operated.home;
    let baseline = baseline.ok(&["token", "create", "--group", "fleet", "--baseline"]);
    let standard = operated.home.ok(&["token", "create", "--group", "fleet"]);
    let (url, authority) = (
        format!("https://{}", operated.ratd.core),
        authority.display().to_string(),
    );
    let words = [
        "rat-load",
        "fleet",
        "--server",
        &url,
        "--token",
        &standard,
        "--baseline-token",
        &baseline,
        "--ek-ca",
        &authority,
        "--agents",
        "10",
        "--seconds",
        "12",
        "--tampered",
        "10",
        "--late",
        "10",
        "--replaying",
        "10",
        "--flooding",
        "10",
    ];
    let arguments = Arguments::parse_from(words.iter().chain(more));
    let Command::Fleet(options) = arguments.command else {
        panic!("no fleet")
    };
    let report = Runtime::new().unwrap().block_on(fleet::run(&options));
    (operated, report.unwrap())
}

/// The server saw through all of them, said so by these codes, and served the others.
fn are_seen_through(operated: &Operated, report: &Report) {
    assert_eq!(report.accepted(), 0, "{report:?}");
    let codes = |conduct| -> Vec<&str> {
        let told = &report.misbehaving[&conduct];
        assert_eq!(told.agents, 1, "{report:?}");
        assert!(told.sent > 0, "{report:?}");
        told.by_code.keys().map(String::as_str).collect()
    };
    for code in codes(Conduct::Tampered) {
        let known = ["quote.signature", "pcr.digest_mismatch"];
        assert!(known.contains(&code), "{report:?}");
    }
    // Late evidence has a verdict when it comes before the server gave the challenge up.
    assert!(
        codes(Conduct::Late).iter().all(|it| *it == "quote.stale"),
        "{report:?}"
    );
    let late = &report.misbehaving[&Conduct::Late];
    assert!(
        late.refused.keys().all(|it| it == "session.timeout"),
        "{report:?}"
    );
    assert_eq!(
        codes(Conduct::Replaying),
        ["quote.nonce_mismatch"],
        "{report:?}"
    );
    assert_eq!(report.misbehaving[&Conduct::Replaying].honest, 1);
    assert!(codes(Conduct::Flooding).is_empty(), "{report:?}");
    let flooding = &report.misbehaving[&Conduct::Flooding];
    assert!(flooding.ended["wire.malformed"] > 0, "{report:?}");
    // The honest ones were not kept from anything.
    assert_eq!(report.troubles, BTreeMap::new(), "{report:?}");
    assert!(report.by_status["trusted"] >= 6, "{report:?}");
    let exposition = operated.get("/metrics");
    let exposition = String::from_utf8(exposition.body).unwrap();
    let malformed = metric(
        &exposition,
        "attest_transport_refusals_total",
        &["reason=\"wire.malformed\""],
    );
    assert!(malformed >= 1.0, "{exposition}");
    // Nothing that they sent made any of them trusted; one is for what it proved before.
    let agents = operated.expect("GET", "/agents/", None, 200);
    let trusted = agents.as_array().unwrap().iter().filter(|agent| {
        let path = format!("/agents/{}/evidence", agent["id"].as_str().unwrap());
        let evidence = operated.get(&path).json();
        evidence["agent"]["effective_status"] == "trusted"
    });
    assert!(trusted.count() <= 7);
}

#[test]
fn q02_q03_p02_x04_agents_that_stay_and_misbehave_are_seen_through() {
    let (operated, report) = misbehaving(&[]);
    are_seen_through(&operated, &report);
    // One that floods comes back again and again, and the server does not tire.
    assert!(report.misbehaving[&Conduct::Flooding].connections > 2);
}

#[test]
fn q02_q03_p02_x04_agents_that_visit_and_misbehave_are_seen_through() {
    let (operated, report) = misbehaving(&["--rate", "5", "--seed", "3"]);
    are_seen_through(&operated, &report);
    let schedule = report.schedule.as_ref().unwrap();
    assert_eq!(schedule.begun.intended, 60, "{report:?}");
    assert_eq!(schedule.begun.begun + schedule.begun.not_begun, 60);
}
