//! The machine of an agent that is polled, with a simulated TPM and the tools of tpm2-tools.

use std::path::PathBuf;

use anyhow::Result;
use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrSet;

use crate::evidence::boot_value;
use crate::keylime::quote_text;
use crate::measured::Measured;
use crate::oracle;
use crate::swtpm::Tpm;

/// Where a manufactured TPM keeps its RSA endorsement key and that key's certificate.
const EK_HANDLE: &str = "0x81010001";
const EK_CERTIFICATE: &str = "0x1c00002";
/// Where its attestation key is put.
const AK_HANDLE: u32 = 0x8101_0002;

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
        Self::measured(tpm)
    }

    /// The same with an endorsement key that its maker certified; its keys stay in the TPM.
    ///
    /// # Errors
    /// Without swtpm, its tools and tpm2-tools.
    pub fn manufacture() -> Result<Self> {
        let tpm = Tpm::manufacture()?;
        let arguments = ["-Q", "-C", EK_HANDLE, "-c", "ak.ctx", "-G", "rsa"];
        let outputs = [
            "-g", "sha256", "-s", "rsassa", "-u", "ak.pub", "-n", "ak.name",
        ];
        tpm.run("tpm2_createak", &[&arguments[..], &outputs].concat())?;
        let handle = format!("{AK_HANDLE:#x}");
        tpm.run(
            "tpm2_evictcontrol",
            &["-Q", "-C", "o", "-c", "ak.ctx", &handle],
        )?;
        Self::measured(tpm)
    }

    fn measured(tpm: Tpm) -> Result<Self> {
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

    /// The folder with the certificates of the TPM's maker, of [`TpmMachine::manufacture`].
    pub fn maker(&self) -> PathBuf {
        self.tpm.ca()
    }

    /// The endorsement key's certificate (DER) and its `TPM2B_PUBLIC`, of
    /// [`TpmMachine::manufacture`].
    ///
    /// # Errors
    /// The tools'.
    pub fn endorsement(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        self.tpm.endorsement(EK_CERTIFICATE, EK_HANDLE)
    }

    /// What the TPM releases of a credential, of [`TpmMachine::manufacture`].
    ///
    /// # Errors
    /// The tools': the credential is not for this TPM and its attestation key.
    pub fn activate(&self, credential: &[u8]) -> Result<Vec<u8>> {
        self.tpm.activate(EK_HANDLE, credential, true)
    }

    /// The attestation key certified by itself, of [`TpmMachine::manufacture`]: `TPMS_ATTEST` and
    /// `TPMT_SIGNATURE`.
    ///
    /// # Errors
    /// The tools'.
    pub fn certify(&self, challenge: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
        self.tpm.certify(AK_HANDLE, challenge)
    }

    /// A quote, with PCR 16 showing this key.
    ///
    /// # Errors
    /// The tools'.
    pub fn quote(&self, nonce: &str, pcrs: PcrSet, shown: &str) -> Result<String> {
        let [message, signature, blob] = self.quoted(nonce.as_bytes(), pcrs, shown)?;
        Ok(quote_text(&message, &signature, &blob))
    }

    /// The same in its parts: `TPMS_ATTEST`, `TPMT_SIGNATURE` and tpm2-tools' PCR values.
    ///
    /// # Errors
    /// The tools'.
    pub fn quoted(&self, nonce: &[u8], pcrs: PcrSet, shown: &str) -> Result<[Vec<u8>; 3]> {
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
        Ok([message?, signature?, blob?])
    }
}
