//! `rat-load requests` against the program.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use rat_load::requests::{self, RequestOptions};
use tokio::runtime::Runtime;

use crate::operating::Operated;

#[test]
fn clients_that_read_are_counted_by_what_they_are_answered() {
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
    let report = Runtime::new().unwrap().block_on(requests::run(&options));
    let report = report.unwrap();
    let statuses: Vec<u16> = report.by_status.keys().copied().collect();
    assert_eq!(statuses, [200, 404]);
    assert_eq!(report.by_status.values().sum::<u64>(), report.answers);
    // Each connection asks for both in turn.
    assert!(report.by_status[&200].abs_diff(report.by_status[&404]) <= 2);
    assert!(report.body_bytes > report.answers);
}
