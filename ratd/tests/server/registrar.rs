//! Keylime's registrar, as the program serves it: where, with which files, and over restarts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rat_tests::http_client::{Answer, Client, read};
use rat_tests::registrar::{Agent, client_files};
use serde_json::{Value, json};

use crate::process::{Home, Ratd, metric};

const OPEN: [&str; 3] = [
    "keylime.registrar.listen=127.0.0.1:0",
    "keylime.registrar.tls_listen=127.0.0.1:0",
    "keylime.registrar.ek_check=off",
];

/// A request of an agent with a body in JSON.
pub(crate) fn plain(address: SocketAddr, method: &str, path: &str, body: &Value) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let body = body.to_string();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    read(&mut stream)
}

fn register(ratd: &Ratd, agent: &Agent) {
    let address = ratd.registrar.unwrap();
    let answer = plain(address, "POST", &agent.path(), &agent.body());
    assert_eq!(answer.status, 200);
    let tag = agent.answer(&answer.json());
    assert_eq!(plain(address, "PUT", &agent.path(), &tag).status, 200);
}

/// A tenant with the files of a folder.
fn tenant(ratd: &Ratd, folder: &Path) -> Client {
    let (certificate, key) = client_files(folder);
    let address = ratd.registrar_tls.unwrap();
    Client::with_certificate(address, &folder.join("cacert.crt"), &certificate, &key)
}

fn ids(client: &Client) -> Value {
    let answer = client.request_of_own("GET", "/v2.6/agents/", &[], b"");
    assert_eq!(answer.status, 200);
    answer.json()["results"]["uuids"].clone()
}

#[test]
fn it_is_served_nowhere_unless_somebody_says_where() {
    let home = Home::new();
    let ratd = home.start(&[]);
    assert_eq!((ratd.registrar, ratd.registrar_tls), (None, None));
    assert!(!home.data().join("cv_ca").exists());
    let answer = ratd
        .client()
        .request_of_own("GET", "/v2.6/agents", &[], b"");
    assert_eq!(answer.status, 404);
}

#[test]
fn n09_without_anybody_who_vouches_it_does_not_start_unless_an_operator_says_so() {
    let home = Home::new();
    let listen = ["--set", OPEN[0]];
    let said = home.fails(3, &listen);
    assert!(said.contains("keylime.registrar.ek_check"), "{said}");
    assert!(said.contains("identity.ek_ca"), "{said}");
    for check in ["off", "warn"] {
        let check = format!("keylime.registrar.ek_check={check}");
        let ratd = home.start(&[OPEN[0], &check]);
        assert!(ratd.log().contains("ek_check"), "it is said in the log");
    }
}

#[test]
fn tenants_use_the_files_that_are_exported_and_restarts_keep_what_registered() {
    let home = Home::new();
    let ratd = home.start(&OPEN);
    let exported = home.path("tenant");
    ratd.ok(&["keylime", "ca", "export", exported.to_str().unwrap()]);
    let mode = |file: &str| {
        let metadata = std::fs::metadata(exported.join(file)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("client-private.pem"), 0o600);
    assert_eq!(mode("cacert.crt"), 0o644);
    let shown = ratd.ok(&["keylime", "ca", "show"]);
    assert!(shown.contains("server-cert.crt until 20"), "{shown}");
    assert!(shown.contains("renewed yes"), "{shown}");
    let agent = Agent::new("a");
    register(&ratd, &agent);
    assert_eq!(ids(&tenant(&ratd, &exported)), json!(["a"]));
    let text = ratd.client().get("/metrics", None).body;
    let text = String::from_utf8(text).unwrap();
    for (name, label) in [
        ("attest_keylime_registrations_total", "result=\"done\""),
        ("attest_keylime_activations_total", "result=\"new\""),
    ] {
        assert_eq!(metric(&text, name, &[label]), 1.0, "{name}");
    }
    let server = std::fs::read(home.data().join("cv_ca/server-cert.crt")).unwrap();
    assert!(ratd.stop().success());
    // Another name for the server: its certificate is another, the CA stays.
    let names = "identity.server_names=[\"ratd.example\"]";
    let ratd = home.start(&[OPEN[0], OPEN[1], OPEN[2], names]);
    assert_eq!(ids(&tenant(&ratd, &exported)), json!(["a"]));
    let renewed = std::fs::read(home.data().join("cv_ca/server-cert.crt")).unwrap();
    assert_ne!(server, renewed);
    assert_eq!(ratd.ok(&["keylime", "proposals"]), "");
    assert!(ratd.stop().success());
    let said = home.fails(1, &["keylime", "approve", "a"]);
    assert!(said.contains("asks for no change"), "{said}");
}

#[test]
fn a_folder_of_keylimes_is_imported_and_a_backup_has_it() {
    let first = Home::new();
    let ratd = first.start(&OPEN);
    register(&ratd, &Agent::new("a"));
    let backup = first.path("backup");
    ratd.ok(&["backup", backup.to_str().unwrap()]);
    assert!(ratd.stop().success());
    let theirs = first.data().join("cv_ca");

    let second = Home::new();
    second.ok(&["keylime", "ca", "import", theirs.to_str().unwrap()]);
    let again = second.fails(1, &["keylime", "ca", "import", theirs.to_str().unwrap()]);
    assert!(again.contains("never overwritten"), "{again}");
    let ratd = second.start(&OPEN);
    assert_eq!(ids(&tenant(&ratd, &theirs)), json!([]));
    assert!(ratd.ok(&["keylime", "ca", "show"]).contains("renewed no"));
    drop(ratd);

    let third = Home::new();
    third.ok(&["restore", backup.to_str().unwrap()]);
    let ratd = third.start(&OPEN);
    assert_eq!(ids(&tenant(&ratd, &theirs)), json!(["a"]));
}

#[test]
fn a02_a_ca_that_is_ratds_own_is_not_taken_for_keylimes() {
    let home = Home::new();
    // A server of ratd's own CA, whose agents would be administrators.
    assert!(home.start(&[]).stop().success());
    let theirs = home.path("cv_ca");
    std::fs::create_dir(&theirs).unwrap();
    let own = std::fs::read_to_string(home.data().join("ca/ca.key")).unwrap();
    let end = own.find("-----BEGIN CERTIFICATE-----").unwrap();
    let (key, rest) = own.split_at(end);
    let end = rest.find("-----END CERTIFICATE-----").unwrap() + 26;
    let certificate = &rest[..end];
    let data = home.data().join("cv_ca");
    std::fs::create_dir(&data).unwrap();
    for (file, text) in [("cacert.crt", certificate), ("ca-private.pem", key)] {
        std::fs::write(data.join(file), text).unwrap();
        let mode = PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(data.join(file), mode).unwrap();
    }
    let set: Vec<&str> = OPEN.iter().flat_map(|it| ["--set", it]).collect();
    let said = home.fails(4, &set);
    assert!(said.contains("ratd's own"), "{said}");
}

#[test]
fn x05_idle_connections_hold_nobody_up() {
    let home = Home::new();
    let ratd = home.start(&OPEN);
    let idle: Vec<TcpStream> = [ratd.registrar.unwrap(), ratd.registrar_tls.unwrap()]
        .into_iter()
        .flat_map(|address| (0..40).map(move |_| TcpStream::connect(address).unwrap()))
        .collect();
    register(&ratd, &Agent::new("a"));
    let exported = home.data().join("cv_ca");
    assert_eq!(ids(&tenant(&ratd, &exported)), json!(["a"]));
    for mut stream in idle {
        stream.set_nonblocking(true).unwrap();
        assert!(stream.read(&mut [0]).is_err(), "nothing was said to it");
    }
}
