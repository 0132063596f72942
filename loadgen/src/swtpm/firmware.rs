//! What firmware and kernel do with a TPM, as opposed to the agent.

use std::net::TcpStream;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use rat_agent::device::Tcti;
use rat_engine::hash::Digest;
use rat_engine::pcr::PcrIndex;
use tss_esapi::Context;
use tss_esapi::constants::StartupType;
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Digest as TpmDigest, DigestValues};
use tss_esapi::tcti_ldr::TctiNameConf;

/// A TPM, from below the operating system.
#[derive(Debug)]
pub struct Firmware<'t> {
    tcti: &'t Tcti,
}

impl<'t> Firmware<'t> {
    /// The TPM behind this TCTI.
    pub const fn new(tcti: &'t Tcti) -> Self {
        Self { tcti }
    }

    /// Whether it listens and answers.
    pub fn is_there(&self) -> bool {
        // A look at the port first: the TSS complains aloud about a TPM that is not there.
        let port = self.tcti.as_str().rsplit('=').next();
        let listens = port
            .and_then(|port| port.parse::<u16>().ok())
            .is_some_and(|port| TcpStream::connect(("127.0.0.1", port)).is_ok());
        listens
            && self
                .open()
                .and_then(|mut context| Ok(context.get_random(4)?))
                .is_ok()
    }

    /// Extends PCRs in the SHA-256 bank, one after the other.
    ///
    /// # Errors
    /// When the TPM refuses.
    pub fn extend(&self, events: &[(PcrIndex, Digest)]) -> Result<()> {
        let mut context = self.open()?;
        for (pcr, event) in events {
            let mut values = DigestValues::new();
            let value = TpmDigest::try_from(event.as_bytes())?;
            values.set(HashingAlgorithm::Sha256, value);
            let handle = PcrHandle::try_from(u32::from(pcr.get()))?;
            context.execute_with_session(Some(AuthSession::Password), |context| {
                context.pcr_extend(handle, values)
            })?;
        }
        Ok(())
    }

    /// What a kernel sends before the power goes.
    ///
    /// # Errors
    /// When the TPM refuses.
    pub fn shut_down(&self) -> Result<()> {
        Ok(self.open()?.shutdown(StartupType::Clear)?)
    }

    fn open(&self) -> Result<Context> {
        let name = TctiNameConf::from_str(self.tcti.as_str())?;
        Context::new(name).with_context(|| self.tcti.to_string())
    }
}
