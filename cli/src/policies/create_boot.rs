//! `rat policies create measured-boot`: the reference state of a machine that is as it should be.

use std::io::{self, Write};

use anyhow::Result;
use rat_engine::uefi::EventLog;
use rat_engine::uefi::policy::{CreateError, Created, reference_state};

use crate::Outcome;
use crate::arguments::CreateBootArguments;
use crate::input::{self, InputError};
use crate::output::{Terminal, counted, printable};

/// How many of the log's own faults are told.
const FAULTS_SHOWN: usize = 5;

/// Makes a reference state, and says on stderr what it cannot be used for.
pub(super) fn run(options: &CreateBootArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let path = &*options.eventlog;
    let fault = |reason: &dyn std::fmt::Display| InputError::new("--eventlog", path, reason);
    let bytes = input::read("--eventlog", path, "UEFI_LOG_BYTES_MAX")?;
    let log = EventLog::parse(&bytes).map_err(|error| fault(&error))?;
    let created = match reference_state(&log, options.without_secureboot) {
        Ok(created) => created,
        Err(error @ CreateError::SecureBootOff) => {
            let advice = "--without-secureboot makes a reference state of it all the same";
            return Err(fault(&format_args!("{error}\n     {advice}")).into());
        }
        Err(error) => return Err(fault(&error).into()),
    };
    if created.has_secureboot && options.without_secureboot {
        writeln!(
            io::stderr(),
            "rat: --without-secureboot changes nothing: the log says that Secure Boot is on"
        )?;
    }
    tell(&created)?;
    if !created.incomplete.is_empty() && !options.allow_incomplete {
        writeln!(
            io::stderr(),
            "rat: nothing is written: `example` cannot be held with it\n     \
             --allow-incomplete writes it, for another policy to use"
        )?;
        return Ok(Outcome::Failed);
    }
    match &options.out {
        Some(path) => std::fs::write(path, format!("{}\n", created.text))
            .map_err(|error| InputError::new("--out", path, &error))?,
        None => writeln!(terminal, "{}", created.text)?,
    }
    Ok(if created.breaches.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Failed
    })
}

/// Says what is missing, and how the log fails by its own reference state.
fn tell(created: &Created) -> Result<()> {
    let mut stderr = io::stderr();
    for missing in &created.incomplete {
        writeln!(stderr, "rat: {missing}")?;
    }
    if created.breaches.is_empty() {
        return Ok(());
    }
    let count = u64::try_from(created.breaches.len()).unwrap_or(u64::MAX);
    writeln!(
        stderr,
        "rat: under the policy `example` this log fails by its own reference state, {}:",
        counted(count, "time", "times")
    )?;
    for breach in created.breaches.iter().take(FAULTS_SHOWN) {
        writeln!(stderr, "     {}", printable(&breach.to_string()))?;
    }
    Ok(())
}
