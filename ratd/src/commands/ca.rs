//! `ratd ca`: the certificate authority.

use std::io::{self, Write};

use anyhow::Context;
use rat_api::clock::unix_ms;
use rat_identity::ca::Ca;

use crate::arguments::CaCommand;
use crate::config::Config;
use crate::data_dir::{ca_in, make_private, open_ca, read_private, require_whole};
use crate::failure::{Exit, Failure, Means};

pub(super) fn run(config: &Config, command: &CaCommand) -> Result<(), Failure> {
    match command {
        CaCommand::Fingerprint => {
            let ca = open_ca(&config.data_dir)?;
            writeln!(io::stdout(), "{}", hex::encode(ca.fingerprint()))?;
        }
        CaCommand::Import { certificate, key } => {
            let folder = ca_in(&config.data_dir);
            require_whole(&config.data_dir)?;
            make_private(&folder).means(Exit::Unusable)?;
            let certificate = std::fs::read_to_string(certificate)
                .with_context(|| certificate.display().to_string())?;
            let key = read_private(key)?;
            let ca = Ca::import(&folder, &certificate, &key, unix_ms())?;
            writeln!(
                io::stderr(),
                "ratd: imported; the current CA is {}",
                hex::encode(ca.fingerprint())
            )?;
        }
        CaCommand::Rotate => {
            let mut ca = open_ca(&config.data_dir)?;
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
