//! `rat-agent doctor`: what an agent needs, one check a line, and what to do about it.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::time::UNIX_EPOCH;

use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_transport::quic::client::Sockets;
use serde::Serialize;

use crate::device::{Device, Tpm};
use crate::https::{CoreClient, Trust};
use crate::keys::{self, ClientKey};
use crate::logs::LogPaths;
use crate::run;
use crate::settings::Settings;
use crate::state::{Enrolled, StateDir};
use crate::unix_ms;

/// A clock that differs more from the server's breaks certificates.
const SKEW_WARN_MS: u64 = 60_000;
const SKEW_FAIL_MS: u64 = 3_600_000;
const IMA_POLICY: &str = "/sys/kernel/security/ima/policy";
/// A list as short as this says that the kernel measures nothing but its own boot.
const ENTRIES_OF_NO_POLICY: u64 = 1;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// The agent works, and something should be looked at.
    Warn,
    /// The agent cannot work.
    Fail,
}

/// One check.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: &'static str,
    /// How it went.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do; empty when all is well.
    pub remedy: &'static str,
}

/// All checks.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In the order in which an agent needs them.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether one failed.
    pub fn has_failures(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.level == Level::Fail)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, finding) in self.findings.iter().enumerate() {
            if nth > 0 {
                writeln!(f)?;
            }
            let level = match finding.level {
                Level::Ok => "ok  ",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            write!(f, "{level}  {:<15} {}", finding.check, finding.found)?;
            if !finding.remedy.is_empty() {
                write!(f, "\n      {:<15} {}", "", finding.remedy)?;
            }
        }
        Ok(())
    }
}

/// Collects findings.
struct Examination(Vec<Finding>);

impl Examination {
    fn ok(&mut self, check: &'static str, found: impl fmt::Display) {
        self.add(check, Level::Ok, found, "");
    }

    fn warn(&mut self, check: &'static str, found: impl fmt::Display, remedy: &'static str) {
        self.add(check, Level::Warn, found, remedy);
    }

    fn fail(&mut self, check: &'static str, found: impl fmt::Display, remedy: &'static str) {
        self.add(check, Level::Fail, found, remedy);
    }

    fn add(
        &mut self,
        check: &'static str,
        level: Level,
        found: impl fmt::Display,
        remedy: &'static str,
    ) {
        self.0.push(Finding {
            check,
            level,
            found: found.to_string(),
            remedy,
        });
    }
}

/// Checks everything that can be checked from here. Keeps no key and changes nothing.
pub async fn examine(settings: &Settings) -> Report {
    let mut examination = Examination(Vec::new());
    let enrolled = examine_state(&mut examination, settings);
    examine_tpm(&mut examination, settings, enrolled.as_ref());
    examine_logs(&mut examination, &settings.logs());
    if let Some(enrolled) = enrolled {
        examine_certificate(&mut examination, &enrolled);
        examine_server(&mut examination, &enrolled).await;
        examine_evidence(&mut examination, &enrolled).await;
    }
    Report {
        findings: examination.0,
    }
}

fn examine_state(to: &mut Examination, settings: &Settings) -> Option<Enrolled> {
    const CHECK: &str = "enrolment";
    const REMEDY: &str =
        "run as root, with the token on standard input: rat-agent enroll - --server <url>";
    let path = settings.state_dir();
    if !path.exists() {
        to.fail(CHECK, format!("{} is not there", path.display()), REMEDY);
        return None;
    }
    match StateDir::open(&path).and_then(|state| state.enrolled()) {
        Ok(Some(enrolled)) => {
            let Enrolled { agent, group, .. } = &enrolled;
            to.ok(CHECK, format!("{agent} in group {group}"));
            Some(enrolled)
        }
        Ok(None) => {
            to.fail(CHECK, "this machine is not enrolled", REMEDY);
            None
        }
        Err(error) => {
            to.fail(CHECK, error, "");
            None
        }
    }
}

fn examine_tpm(to: &mut Examination, settings: &Settings, enrolled: Option<&Enrolled>) {
    let kind = settings.kind(enrolled.map(|enrolled| enrolled.kind));
    let tpm = match settings.tpm(kind) {
        Ok(tpm) => tpm,
        Err(error) => return to.fail("tpm", error, "correct the setting"),
    };
    let mut device = Tpm::new(tpm);
    let banks = match device.banks() {
        Ok(banks) => banks,
        Err(error) => {
            const REMEDY: &str = "switch the TPM on in the firmware; add the agent's user to tss";
            return to.fail("tpm", error, REMEDY);
        }
    };
    to.ok("tpm", &device.settings().tcti);
    let names: Vec<String> = banks.iter().map(ToString::to_string).collect();
    if banks.contains(&HashAlg::Sha256) {
        to.ok("banks", names.join(" "));
    } else {
        const REMEDY: &str = "switch the SHA-256 bank on: tpm2_pcrallocate sha256:all, then reboot";
        to.fail("banks", names.join(" "), REMEDY);
    }
    examine_endorsement(to, &mut device);
    match (enrolled, device.has_attestation_key()) {
        (Some(enrolled), Ok(true)) => examine_key(to, &mut device, enrolled),
        (Some(_), Ok(false)) => {
            to.fail(
                "attestation key",
                "it is gone",
                "was the TPM cleared? Enrol again",
            );
        }
        (None, Ok(_)) => {}
        (_, Err(error)) => to.fail("attestation key", error, ""),
    }
}

fn examine_endorsement(to: &mut Examination, device: &mut Tpm) {
    const CHECK: &str = "endorsement key";
    let examined = device
        .endorsement_unkept()
        .and_then(|endorsement| Ok((hex::encode(endorsement.sha256()?), endorsement)));
    let (sha256, endorsement) = match examined {
        Ok(examined) => examined,
        Err(error) => return to.fail(CHECK, error, ""),
    };
    to.ok(
        CHECK,
        format!("{}, SHA-256 {sha256}", device.settings().kind),
    );
    const CERTIFICATE: &str = "ek certificate";
    match endorsement.certificate {
        Some(der) => to.ok(CERTIFICATE, format!("{} bytes, in the TPM", der.len())),
        None => {
            const REMEDY: &str = "an operator can put the endorsement key's SHA-256 on a list of \
                                  the server (identity.ek_list); or try another --key";
            let found = "the TPM holds none for this type of key";
            to.warn(CERTIFICATE, found, REMEDY);
        }
    }
}

fn examine_key(to: &mut Examination, device: &mut Tpm, enrolled: &Enrolled) {
    const CHECK: &str = "attestation key";
    let name = device.attestation_key().map(|area| {
        rat_engine::tpm::Public::parse(&area)
            .map(|public| public.name().to_string())
            .unwrap_or_default()
    });
    match name {
        Ok(name) if name == enrolled.ak_name => match device.clock() {
            Ok(clock) => to.ok(
                CHECK,
                format!(
                    "it signs; {} resets, {} restarts",
                    clock.reset_count, clock.restart_count
                ),
            ),
            Err(error) => to.fail(CHECK, error, ""),
        },
        Ok(_) => to.fail(CHECK, "it is another key than was enrolled", "enrol again"),
        Err(error) => to.fail(CHECK, error, ""),
    }
}

fn examine_logs(to: &mut Examination, paths: &LogPaths) {
    const CHECK: &str = "ima list";
    match paths.count() {
        Ok((_, count)) if count <= ENTRIES_OF_NO_POLICY => {
            const REMEDY: &str =
                "load an IMA policy: ima_policy=tcb on the kernel's command line, or a file";
            to.warn(
                CHECK,
                format!("{count} entries: nothing is measured"),
                REMEDY,
            );
        }
        Ok((format, count)) => {
            let format = match format {
                LogFormat::Binary => "binary",
                LogFormat::Ascii => "ascii",
            };
            to.ok(CHECK, format!("{count} entries, {format}"));
        }
        Err(error) => {
            const REMEDY: &str = "mount securityfs, and let the agent read it";
            to.fail(CHECK, error, REMEDY);
        }
    }
    examine_policy(to);
    match File::open(&paths.boot_log).and_then(|file| file.metadata()) {
        Ok(_) => to.ok("boot log", paths.boot_log.display()),
        Err(error) => {
            const REMEDY: &str = "may the agent read it? Where firmware writes none, an operator has to set the \
                 group: ratd group set GROUP --require-boot-log false";
            to.warn(
                "boot log",
                format!("{}: {error}", paths.boot_log.display()),
                REMEDY,
            );
        }
    }
}

fn examine_policy(to: &mut Examination) {
    const CHECK: &str = "ima policy";
    match fs::read_to_string(Path::new(IMA_POLICY)) {
        Ok(policy) => {
            let rules = policy.lines().filter(|line| line.starts_with("measure"));
            match rules.count() {
                0 => to.warn(
                    CHECK,
                    "no rule measures",
                    "load an IMA policy that measures",
                ),
                count => to.ok(CHECK, format!("{count} rules measure")),
            }
        }
        Err(error) => {
            const REMEDY: &str =
                "this kernel does not show its policy (CONFIG_IMA_READ_POLICY); no harm";
            to.warn(CHECK, format!("{IMA_POLICY}: {error}"), REMEDY);
        }
    }
}

fn examine_certificate(to: &mut Examination, enrolled: &Enrolled) {
    const CHECK: &str = "certificate";
    let read = ClientKey::from_pem(&enrolled.key_pem).and_then(|key| {
        let chain = keys::certificates(&enrolled.certificate_pem)?;
        let leaf = chain.first().ok_or(keys::KeysError::NoCertificate)?;
        keys::validity(leaf, &key)
    });
    let now = unix_ms();
    match read {
        Ok(validity) if validity.not_after_unix_ms <= now => {
            to.fail(
                CHECK,
                "it has expired",
                "enrol again, and keep the agent running",
            );
        }
        Ok(validity) if validity.not_before_unix_ms > now => {
            to.fail(CHECK, "it is not valid yet", "set this machine's clock");
        }
        Ok(validity) if validity.renewal_unix_ms() <= now => {
            const REMEDY: &str = "is the agent running? It renews when it is connected";
            to.warn(CHECK, "its renewal is due", REMEDY);
        }
        Ok(validity) => {
            let left = validity.not_after_unix_ms.saturating_sub(now);
            let hours = left.checked_div(3_600_000).unwrap_or(0);
            to.ok(CHECK, format!("valid for {hours} hours"));
        }
        Err(error) => to.fail(CHECK, error, "enrol again"),
    }
}

async fn examine_server(to: &mut Examination, enrolled: &Enrolled) {
    let date = match client(enrolled) {
        Ok(client) => client.date().await.map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    match date {
        Ok(date) => {
            to.ok("server", &enrolled.server);
            examine_clock(to, date.as_deref());
        }
        Err(error) => {
            const REMEDY: &str = "is it running, and does a firewall stand between?";
            to.fail("server", error, REMEDY);
        }
    }
}

/// Shakes hands with the evidence listener, and leaves before saying Hello.
async fn examine_evidence(to: &mut Examination, enrolled: &Enrolled) {
    const CHECK: &str = "evidence";
    let connected = match run::client(enrolled, Sockets::default()) {
        Ok(client) => {
            let connected = run::connect(&client, enrolled).await;
            connected.map(|(connection, address)| {
                connection.close();
                (client, address)
            })
        }
        Err(error) => Err(error),
    };
    match connected {
        Ok((client, address)) => {
            client.finish().await;
            to.ok(CHECK, format!("{address} over QUIC"));
        }
        Err(error) => {
            const REMEDY: &str = "does a firewall let UDP to this port through?";
            to.fail(CHECK, error, REMEDY);
        }
    }
}

fn client(enrolled: &Enrolled) -> Result<CoreClient, String> {
    let server = enrolled.server.parse();
    let server = server.map_err(|error: crate::https::ServerUrlError| error.to_string())?;
    let mut set = Vec::new();
    for pem in &enrolled.ca_pem {
        set.extend(keys::certificates(pem).map_err(|error| error.to_string())?);
    }
    CoreClient::new(server, Trust::Set(set)).map_err(|error| error.to_string())
}

fn examine_clock(to: &mut Examination, date: Option<&str>) {
    const CHECK: &str = "clock";
    const REMEDY: &str = "set the clock of whichever is wrong: timedatectl set-ntp true";
    let theirs = date
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .and_then(|date| date.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_millis()).ok());
    let Some(theirs) = theirs else {
        return to.warn(CHECK, "the server does not say its time", "");
    };
    let skew_ms = theirs.abs_diff(unix_ms());
    let seconds = skew_ms.checked_div(1000).unwrap_or(0);
    let found = format!("{seconds} s from the server's");
    match skew_ms {
        0..=SKEW_WARN_MS => to.ok(CHECK, found),
        SKEW_FAIL_MS.. => to.fail(CHECK, found, REMEDY),
        _ => to.warn(CHECK, found, REMEDY),
    }
}
