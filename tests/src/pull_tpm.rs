//! The machine of an agent that is polled, with a simulated TPM and the tools of tpm2-tools.

use anyhow::Result;
use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrSet;

use crate::evidence::boot_value;
use crate::keylime::quote_text;
use crate::measured::Measured;
use crate::oracle;
use crate::swtpm::Tpm;

/// A machine that booted, with its list in PCR 10.
#[derive(Debug)]
pub struct TpmMachine {
    tpm: Tpm,
    /// Its measurement list.
    pub list: Vec<Measured>,
}

impl TpmMachine {
    /// A machine with an RSA-2048 key that ran nothing yet.
    ///
    /// # Errors
    /// Without swtpm and tpm2-tools.
    pub fn boot() -> Result<Self> {
        let tpm = Tpm::start()?;
        tpm.create_ek("rsa")?;
        tpm.create_ak("rsa", "sha256", "rsassa")?;
        let boot: Vec<Vec<u8>> = (0..10)
            .map(|pcr| {
                let event = oracle::digest(HashAlg::Sha256, format!("stage {pcr}").as_bytes());
                let extended = format!("{pcr}:sha256={}", hex::encode(&event));
                tpm.tool("tpm2_pcrextend", &[&extended])?;
                Ok(oracle::extend(HashAlg::Sha256, &[0; 32], &event))
            })
            .collect::<Result<_>>()?;
        assert_ne!(
            boot[0],
            boot_value(HashAlg::Sha256, 0),
            "a machine of its own"
        );
        let mut machine = Self {
            tpm,
            list: Vec::new(),
        };
        machine.measure(Measured::boot_aggregate(HashAlg::Sha256, &boot))?;
        Ok(machine)
    }

    /// The kernel measures something.
    ///
    /// # Errors
    /// The tool's.
    pub fn measure(&mut self, entry: Measured) -> Result<()> {
        let event = oracle::digest(HashAlg::Sha256, &entry.data());
        let extended = format!("10:sha256={}", hex::encode(event));
        self.tpm.tool("tpm2_pcrextend", &[&extended])?;
        self.list.push(entry);
        Ok(())
    }

    /// `TPMT_PUBLIC` of its attestation key.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn ak_public(&self) -> Result<Vec<u8>> {
        Ok(self.tpm.read("ak.pub")?.split_off(2))
    }

    /// A quote, with PCR 16 showing this key.
    ///
    /// # Errors
    /// The tools'.
    pub fn quote(&self, nonce: &str, pcrs: PcrSet, shown: &str) -> Result<String> {
        let event = oracle::digest(HashAlg::Sha256, shown.as_bytes());
        self.tpm.tool("tpm2_pcrreset", &["16"])?;
        let extended = format!("16:sha256={}", hex::encode(event));
        self.tpm.tool("tpm2_pcrextend", &[&extended])?;
        let indices: Vec<String> = pcrs.iter().map(|pcr| pcr.to_string()).collect();
        let selection = format!("sha256:{}", indices.join(","));
        let nonce = hex::encode(nonce);
        let mut arguments = vec!["-Q", "-c", "ak.ctx", "-l", &selection, "-q", &nonce];
        arguments.extend(["-g", "sha256", "-m", "msg", "-s", "sig", "-o", "pcrs"]);
        arguments.extend(["-F", "serialized", "--scheme", "rsassa"]);
        self.tpm.run("tpm2_quote", &arguments)?;
        let [message, signature, blob] = ["msg", "sig", "pcrs"].map(|name| self.tpm.read(name));
        Ok(quote_text(&message?, &signature?, &blob?))
    }
}
