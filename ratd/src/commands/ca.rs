//! `ratd ca`: the certificate authority.

use std::io::{self, Write};

use anyhow::Context;
use rat_api::clock::unix_ms;
use rat_engine::crypto::digest;
use rat_engine::hash::HashAlg;
use rat_identity::ca::Ca;
use rat_store::{AuditEntry, Store};

use super::ACTOR;
use crate::arguments::CaCommand;
use crate::config::Config;
use crate::data_dir::{self, ca_in, make_private, open_ca, read_private, require_whole};
use crate::failure::{Exit, Failure, Means};

pub(super) async fn run(config: &Config, command: &CaCommand) -> Result<(), Failure> {
    match command {
        CaCommand::Fingerprint => {
            let ca = open_ca(&config.data_dir)?;
            writeln!(io::stdout(), "{}", hex::encode(ca.fingerprint()))?;
        }
        CaCommand::Import { certificate, key } => {
            let certificate = std::fs::read_to_string(certificate)
                .with_context(|| certificate.display().to_string())?;
            let key = read_private(key)?;
            let sha256 = digest(HashAlg::Sha256, certificate.as_bytes());
            require_whole(&config.data_dir)?;
            let folder = ca_in(&config.data_dir);
            make_private(&folder).means(Exit::Unusable)?;
            let store = data_dir::open_or_make(&config.data_dir).await?;
            audit(store, "ca.import", &sha256.to_string()).await?;
            let ca = Ca::import(&folder, &certificate, &key, unix_ms())?;
            writeln!(
                io::stderr(),
                "ratd: imported; the current CA is {}",
                hex::encode(ca.fingerprint())
            )?;
        }
        CaCommand::Rotate => {
            let mut ca = open_ca(&config.data_dir)?;
            let store = data_dir::open(&config.data_dir).await?;
            audit(store, "ca.rotate", &hex::encode(ca.fingerprint())).await?;
            ca.rotate(unix_ms())?;
            ca.prepare_next(unix_ms())?;
            writeln!(
                io::stderr(),
                "ratd: the CA is now {}; restart the server, and make new tokens",
                hex::encode(ca.fingerprint())
            )?;
        }
    }
    Ok(())
}

/// Records who is about to change the CA. Its files and the database cannot change together:
/// nothing is done unless it stands in the log.
async fn audit(store: Store, action: &str, target: &str) -> Result<(), Failure> {
    let entry = AuditEntry {
        at_unix_ms: unix_ms(),
        actor: ACTOR,
        action,
        target,
        detail: "",
    };
    let written = store.audit(entry).await;
    store.close().await;
    written?;
    Ok(())
}
