//! `ratd keylime`: the CA of Keylime's clients and servers, and what registered agents ask for.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use rat_api::clock::{rfc3339, unix_ms};
use rat_engine::agent_id::AgentId;
use rat_engine::crypto::digest;
use rat_engine::hash::HashAlg;
use rat_identity::keylime::KeylimeCa;
use rat_store::{AuditEntry, KeylimeDetails, KeylimeMtlsCertificate};

use super::ACTOR;
use crate::arguments::{KeylimeCaCommand, KeylimeCommand};
use crate::config::Config;
use crate::data_dir::{self, keylime_ca_in, make_private, read_private, require_whole};
use crate::failure::{Exit, Failure, Means};

pub(super) async fn run(config: &Config, command: &KeylimeCommand) -> Result<(), Failure> {
    match command {
        KeylimeCommand::Ca(KeylimeCaCommand::Show) => show(config),
        KeylimeCommand::Ca(KeylimeCaCommand::Export { path }) => {
            make_private(path).with_context(|| path.display().to_string())?;
            open(config)?.export_client(path)?;
            Ok(())
        }
        KeylimeCommand::Ca(KeylimeCaCommand::Import { path, ca_key }) => {
            import(config, path, ca_key.as_deref()).await
        }
        // Done before, because it must work whatever the configuration of this machine is.
        KeylimeCommand::ImportConfig(_) => Ok(()),
        KeylimeCommand::Migrate(options) => super::keylime_migrate::run(config, options).await,
        KeylimeCommand::Proposals => proposals(config).await,
        KeylimeCommand::Approve { agent } => settle(config, agent, true).await,
        KeylimeCommand::Reject { agent } => settle(config, agent, false).await,
    }
}

/// The CA in the data directory of a server, which is made at the first use.
fn open(config: &Config) -> Result<KeylimeCa, Failure> {
    data_dir::require_records(&config.data_dir)?;
    data_dir::open_or_make_keylime_ca(&config.data_dir, &config.server_names())
}

fn show(config: &Config) -> Result<(), Failure> {
    let ca = open(config)?;
    let mut out = io::stdout().lock();
    writeln!(out, "folder {}", keylime_ca_in(&config.data_dir).display())?;
    let fingerprint = digest(HashAlg::Sha256, ca.certificate_der());
    writeln!(out, "sha256 {}", hex::encode(fingerprint.as_bytes()))?;
    for (file, end_unix_ms) in ca.ends()? {
        let end = rfc3339(end_unix_ms).unwrap_or_default();
        writeln!(out, "{file} until {end}")?;
    }
    let renewal = if ca.renews() { "yes" } else { "no" };
    writeln!(out, "renewed {renewal}")?;
    Ok(())
}

async fn import(config: &Config, from: &Path, ca_key: Option<&Path>) -> Result<(), Failure> {
    require_whole(&config.data_dir)?;
    let key = ca_key.map(read_private).transpose()?;
    let folder = keylime_ca_in(&config.data_dir);
    make_private(&folder).means(Exit::Unusable)?;
    // Files and database cannot change together: nothing is done unless it stands in the log.
    let store = data_dir::open_or_make(&config.data_dir).await?;
    let entry = AuditEntry {
        at_unix_ms: unix_ms(),
        actor: ACTOR,
        action: "keylime_ca.import",
        target: &from.display().to_string(),
        detail: "",
    };
    let written = store.audit(entry).await;
    store.close().await;
    written?;
    let ca = KeylimeCa::import(&folder, from, key.as_deref(), unix_ms())?;
    if !ca.renews() {
        eprintln!("ratd: imported without the CA's key; its certificates are not renewed");
    }
    Ok(())
}

async fn proposals(config: &Config) -> Result<(), Failure> {
    let store = data_dir::open(&config.data_dir).await?;
    let found = store.keylime_proposals().await;
    store.close().await;
    let mut out = io::stdout().lock();
    for registration in found? {
        if let Some(proposed) = &registration.proposed {
            let changes = changes(&registration.details, proposed).join("; ");
            writeln!(out, "{} {changes}", registration.id)?;
        }
    }
    Ok(())
}

/// What would be different, for people.
fn changes(present: &KeylimeDetails, proposed: &KeylimeDetails) -> Vec<String> {
    let certificate = |it: &KeylimeMtlsCertificate| match it {
        KeylimeMtlsCertificate::Absent => "none".to_owned(),
        KeylimeMtlsCertificate::Disabled => "disabled".to_owned(),
        KeylimeMtlsCertificate::Certificate(der) => {
            format!(
                "sha256 {}",
                hex::encode(digest(HashAlg::Sha256, der).as_bytes())
            )
        }
    };
    let port = |port: Option<u16>| port.map_or("none".to_owned(), |port| port.to_string());
    let address = |it: &KeylimeDetails| it.ip.clone().unwrap_or_else(|| "none".to_owned());
    let is_there = |is_there: bool| if is_there { "there" } else { "none" }.to_owned();
    let mut changes = Vec::new();
    let mut compare = |name: &str, from: String, to: String, differs: bool| {
        if differs {
            changes.push(format!("{name}: {from} to {to}"));
        }
    };
    let (old, new) = (present, proposed);
    compare("ip", address(old), address(new), old.ip != new.ip);
    compare("port", port(old.port), port(new.port), old.port != new.port);
    compare(
        "mtls_cert",
        certificate(&old.mtls_cert),
        certificate(&new.mtls_cert),
        old.mtls_cert != new.mtls_cert,
    );
    compare(
        "ekcert",
        is_there(old.ek_certificate.is_some()),
        is_there(new.ek_certificate.is_some()),
        old.ek_certificate != new.ek_certificate,
    );
    compare(
        "iak and idevid",
        is_there(old.device.is_some()),
        is_there(new.device.is_some()),
        old.device != new.device,
    );
    changes
}

async fn settle(config: &Config, agent: &str, is_approved: bool) -> Result<(), Failure> {
    let id = AgentId::parse(agent).context("the agent's id")?;
    let store = data_dir::open(&config.data_dir).await?;
    let settled = store.settle_keylime_proposal(&id, is_approved, ACTOR, unix_ms());
    let settled = settled.await;
    store.close().await;
    if settled? {
        return Ok(());
    }
    Err(anyhow!("agent {id} asks for no change")).means(Exit::Failed)
}
