//! `rat doctor`: what keeps this program from its server.

use std::io::{self, Write};

use anyhow::Result;
use hyper::header::{DATE, HeaderMap};
use rat_client::https::HttpsError;

use super::login::{Identity, identity};
use super::status::Health;
use crate::Outcome;
use crate::arguments::RemoteArguments;
use crate::client::saved::Saved;
use crate::client::{Address, Client, ClientError, Credential, Pinned, server};
use crate::output::{Format, Item, Record, Terminal, printable, status_look};

/// Certificates and sessions are judged by the clock.
const SKEW_WARN_SECONDS: u64 = 30;
const SKEW_FAIL_SECONDS: u64 = 300;

/// What was found so far.
#[derive(Default)]
struct Examination {
    checks: Vec<Record>,
    has_failed: bool,
}

impl Examination {
    fn add(&mut self, check: &str, result: &str, found: String, remedy: &str) {
        self.has_failed |= result == "failed";
        let record = Record::new()
            .with("check", check)
            .with("result", result)
            .with("found", found)
            .with("remedy", (!remedy.is_empty()).then(|| remedy.to_owned()));
        self.checks.push(record);
    }

    fn ok(&mut self, check: &str, found: impl Into<String>) {
        self.add(check, "ok", found.into(), "");
    }

    fn warn(&mut self, check: &str, found: impl Into<String>, remedy: &str) {
        self.add(check, "warning", found.into(), remedy);
    }

    fn fail(&mut self, check: &str, found: impl Into<String>, remedy: &str) {
        self.add(check, "failed", found.into(), remedy);
    }
}

/// Looks at everything in the order in which it is needed.
pub(crate) fn run(remote: &RemoteArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let mut to = Examination::default();
    examine_files(&mut to);
    if let Some(pinned) = examine_configuration(&mut to, remote)
        && examine_connection(&mut to, &pinned)
    {
        examine_login(&mut to, remote, &pinned);
    }
    match remote.output {
        Format::Table => write(&to.checks, terminal)?,
        format => {
            let checks = Record::new().with("checks", to.checks);
            terminal.document(format, &checks)?;
        }
    }
    Ok(if to.has_failed {
        Outcome::Failed
    } else {
        Outcome::Passed
    })
}

fn write(checks: &[Record], terminal: &mut Terminal) -> io::Result<()> {
    for check in checks {
        let check = Item::Record(check.clone());
        let said = |member| printable(check.text(member).unwrap_or_default());
        let result = format!("{:7}", said("result"));
        let result = match status_look(result.trim()) {
            Some(look) => terminal.styled(look, &result),
            None => result,
        };
        writeln!(
            terminal,
            "{result}  {:13}  {}",
            said("check"),
            said("found")
        )?;
        if let Some(remedy) = check.text("remedy") {
            writeln!(terminal, "{:24}to do: {}", "", printable(remedy))?;
        }
    }
    Ok(())
}

/// What is saved can be read, and by nobody else. (A07)
fn examine_files(to: &mut Examination) {
    const CHECK: &str = "files";
    const REMEDY: &str = "run chmod 600 on it; or remove it, and connect and log in again";
    let saved = match Saved::of_environment() {
        Ok(saved) => saved,
        Err(error) => return to.fail(CHECK, error.to_string(), "set HOME"),
    };
    match saved.server().and_then(|_| saved.session()) {
        Ok(_) => to.ok(CHECK, saved.server_file().display().to_string()),
        Err(error) => to.fail(CHECK, error.to_string(), REMEDY),
    }
}

fn examine_configuration(to: &mut Examination, remote: &RemoteArguments) -> Option<Pinned> {
    const CHECK: &str = "configuration";
    match server(remote) {
        Ok(pinned) => {
            let ca = hex::encode(pinned.ca_sha256);
            to.ok(CHECK, format!("{}, CA {ca}", pinned.server));
            Some(pinned)
        }
        Err(error) => {
            const REMEDY: &str = "run `rat connect`";
            to.fail(CHECK, error.to_string(), REMEDY);
            None
        }
    }
}

fn examine_connection(to: &mut Examination, pinned: &Pinned) -> bool {
    const CHECK: &str = "connection";
    let asked = Client::new(pinned).and_then(|client| client.get(&Address::new("/health")));
    let answer = match asked {
        Ok(answer) => answer,
        Err(ClientError::NoAnswer(error @ HttpsError::ForeignCa { .. })) => {
            const REMEDY: &str = "if the server's CA was replaced, connect again with the new \
                                  fingerprint; else somebody stands between";
            to.fail("CA", error.to_string(), REMEDY);
            return false;
        }
        Err(error) => {
            const REMEDY: &str = "is it running, and does a firewall stand between?";
            to.fail(CHECK, error.to_string(), REMEDY);
            return false;
        }
    };
    to.ok("CA", "the server's certificate leads to the pinned CA");
    match answer.read::<Health>() {
        Ok(health) => {
            to.ok(CHECK, format!("ratd {}, {}", health.version, health.status));
            examine_version(to, &health.version);
        }
        Err(error) => to.fail(CHECK, error.to_string(), "is this a ratd server?"),
    }
    examine_clock(to, &answer.headers);
    true
}

fn examine_version(to: &mut Examination, theirs: &str) {
    let ours = env!("CARGO_PKG_VERSION");
    if theirs != ours {
        const REMEDY: &str = "use programs of one version where you can";
        to.warn("version", format!("rat {ours}, ratd {theirs}"), REMEDY);
    }
}

#[allow(
    clippy::disallowed_types,
    reason = "this is about the machine's clock; the rule is the engine's"
)]
fn examine_clock(to: &mut Examination, headers: &HeaderMap) {
    use std::time::SystemTime;
    const CHECK: &str = "clock";
    const REMEDY: &str = "set the clock of whichever is wrong: timedatectl set-ntp true";
    let date = headers.get(DATE).and_then(|date| date.to_str().ok());
    let Some(theirs) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
        return to.warn(CHECK, "the server does not say its time", "");
    };
    let ours = SystemTime::now();
    let skew = ours
        .duration_since(theirs)
        .or_else(|_| theirs.duration_since(ours))
        .unwrap_or_default()
        .as_secs();
    let found = format!("{skew} s from the server's");
    match skew {
        0..SKEW_WARN_SECONDS => to.ok(CHECK, found),
        SKEW_FAIL_SECONDS.. => to.fail(CHECK, found, REMEDY),
        _ => to.warn(CHECK, found, REMEDY),
    }
}

fn examine_login(to: &mut Examination, remote: &RemoteArguments, pinned: &Pinned) {
    const CHECK: &str = "login";
    let credential = match remote.credential(pinned) {
        Ok(Some(credential)) => credential,
        Ok(None) => return to.fail(CHECK, "not logged in at this server", "run `rat login`"),
        Err(error) => return to.fail(CHECK, error.to_string(), "give another credential"),
    };
    let asked = Client::new(pinned)
        .and_then(|client| Ok(client.with(&credential)?))
        .and_then(|client| identity(&client, &credential));
    let from = credential.source();
    match asked {
        Ok(Identity::User(user)) => examine_user(to, &user, &credential),
        Ok(Identity::Program) => to.ok(CHECK, format!("an API token, from {from}")),
        Err(error) if error.status() == Some(401) => {
            let found = format!("the server does not take the credential from {from}");
            to.fail(
                CHECK,
                found,
                "run `rat login`, or have a new API token made",
            );
        }
        Err(error) => to.fail(CHECK, error.to_string(), "look into the server's log"),
    }
}

fn examine_user(to: &mut Examination, user: &Item, credential: &Credential) {
    const CHECK: &str = "login";
    let name = user.text("username").unwrap_or("-");
    let roles: Vec<String> = user.list("roles").iter().map(ToString::to_string).collect();
    let found = format!(
        "{name} ({}), from {}",
        roles.join(", "),
        credential.source()
    );
    if user.get("must_change_password") == Some(&Item::Flag(true)) {
        const REMEDY: &str = "run `rat login`, which asks for a new password";
        to.fail(
            CHECK,
            format!("{found}: the password must be changed"),
            REMEDY,
        );
    } else {
        to.ok(CHECK, found);
    }
}
