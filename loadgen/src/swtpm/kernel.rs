//! The kernel of a simulated machine: measures into a TPM and shows its lists as files.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rat_agent::device::Tcti;
use rat_agent::logs::LogPaths;
use rat_engine::pcr::PcrIndex;

use super::firmware::Firmware;
use crate::measured::{Entry, boot_events, boot_log, boot_values};

/// The logs of one machine.
#[derive(Debug)]
pub struct Kernel {
    paths: LogPaths,
}

impl Kernel {
    /// A kernel that keeps its files in this directory.
    pub fn new(directory: &Path) -> Self {
        let at = |name: &str| -> PathBuf { directory.join(name) };
        Self {
            paths: LogPaths {
                ima_binary: at("binary_runtime_measurements"),
                ima_ascii: at("ascii_runtime_measurements"),
                boot_log: at("binary_bios_measurements"),
                boot_id: at("boot_id"),
            },
        }
    }

    /// Where its files are.
    pub const fn paths(&self) -> &LogPaths {
        &self.paths
    }

    /// Boots: firmware and boot loader extend PCR 0-9, then the list begins with their hash.
    ///
    /// # Errors
    /// When the TPM or a file refuses.
    pub fn boot(&self, tcti: &Tcti) -> Result<()> {
        let events = boot_events();
        let extends: Vec<_> = events
            .iter()
            .map(|event| (event.pcr, event.digest()))
            .collect();
        Firmware::new(tcti).extend(&extends)?;
        let mut boot_id = [0; 16];
        getrandom::fill(&mut boot_id)?;
        fs::write(&self.paths.boot_log, boot_log(&events))?;
        fs::write(&self.paths.ima_binary, b"")?;
        fs::write(&self.paths.ima_ascii, b"")?;
        fs::write(&self.paths.boot_id, hex::encode(boot_id))?;
        self.measure(tcti, &Entry::boot_aggregate(&boot_values(&events)))
    }

    /// Appends an entry to both lists, then extends PCR 10, in the kernel's order.
    ///
    /// # Errors
    /// When the TPM or a file refuses.
    pub fn measure(&self, tcti: &Tcti, entry: &Entry) -> Result<()> {
        append(&self.paths.ima_ascii, &entry.ascii)?;
        append(&self.paths.ima_binary, &entry.binary)?;
        self.hide(tcti, entry)
    }

    /// Extends PCR 10 without an entry: what the lists say is no longer what was measured.
    ///
    /// # Errors
    /// When the TPM refuses.
    pub fn hide(&self, tcti: &Tcti, entry: &Entry) -> Result<()> {
        Firmware::new(tcti).extend(&[(PcrIndex::IMA, entry.event)])
    }
}

fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .open(path)
        .with_context(|| path.display().to_string())?;
    Ok(file.write_all(bytes)?)
}
