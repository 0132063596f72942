//! A TPM 2.0, through the TSS and any TCTI.

mod connection;
mod endorsement;
mod quote;

use std::fmt;
use std::str::FromStr;

use rat_engine::hash::HashAlg;
use rat_engine::tpm::{ClockInfo, PcrSelection};
use thiserror::Error;
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::PersistentTpmHandle;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, EncryptedSecret, IdObject};
use tss_esapi::tcti_ldr::TctiNameConf;

use super::{Device, DeviceError, Endorsement, KeyKind, Quoted, SealedSecret};
use connection::Connection;
use endorsement::{attestation_key, certificate, endorsement_key, endorsement_public};

/// How a TPM is reached: `device:/dev/tpmrm0`, `tabrmd:…`, `swtpm:…`, `mssim:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcti(String);

impl Tcti {
    /// The kernel's resource manager.
    pub const DEFAULT: &'static str = "device:/dev/tpmrm0";

    /// The text, as the TSS takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tcti {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

/// A text that names no TCTI.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no TCTI is written like this; try {}", Tcti::DEFAULT)]
pub struct TctiError;

impl FromStr for Tcti {
    type Err = TctiError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        TctiNameConf::from_str(text).map_err(|_| TctiError)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Tcti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Authorization values of hierarchies; empty on most machines.
#[derive(Clone, Default)]
pub struct Authorizations {
    /// The endorsement hierarchy's: to use the EK.
    pub endorsement: Vec<u8>,
    /// The owner's: to make keys persistent.
    pub owner: Vec<u8>,
}

/// Never the values.
impl fmt::Debug for Authorizations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorizations").finish_non_exhaustive()
    }
}

/// Which TPM, which keys, and where they are.
#[derive(Debug, Clone)]
pub struct TpmSettings {
    /// The way to the TPM.
    pub tcti: Tcti,
    /// The type of both keys.
    pub kind: KeyKind,
    /// Persistent handle of the EK; `None` for the profile's own.
    pub ek_handle: Option<u32>,
    /// Persistent handle of the AK; `None` for [`TpmSettings::AK_HANDLE_RSA`] or
    /// [`TpmSettings::AK_HANDLE_ECC`].
    pub ak_handle: Option<u32>,
    /// Authorization values of the hierarchies.
    pub authorizations: Authorizations,
}

impl TpmSettings {
    /// Where the EK of template L-1 stays. Source: TCG EK Credential Profile and TPM provisioning
    /// guidance, table of reserved handles.
    pub const EK_HANDLE_RSA: u32 = 0x8101_0001;
    /// Where the EK of template L-2 stays.
    pub const EK_HANDLE_ECC: u32 = 0x8101_000a;
    /// Where the RSA AK stays.
    pub const AK_HANDLE_RSA: u32 = 0x8101_8101;
    /// Where the ECC AK stays.
    pub const AK_HANDLE_ECC: u32 = 0x8101_8102;

    /// The defaults for a type of key.
    pub fn new(tcti: Tcti, kind: KeyKind) -> Self {
        Self {
            tcti,
            kind,
            ek_handle: None,
            ak_handle: None,
            authorizations: Authorizations::default(),
        }
    }

    fn ek(&self) -> Result<PersistentTpmHandle, TpmError> {
        handle(self.ek_handle.unwrap_or(match self.kind {
            KeyKind::Rsa => Self::EK_HANDLE_RSA,
            KeyKind::Ecc => Self::EK_HANDLE_ECC,
        }))
    }

    fn ak(&self) -> Result<PersistentTpmHandle, TpmError> {
        handle(self.ak_handle.unwrap_or(match self.kind {
            KeyKind::Rsa => Self::AK_HANDLE_RSA,
            KeyKind::Ecc => Self::AK_HANDLE_ECC,
        }))
    }
}

fn handle(number: u32) -> Result<PersistentTpmHandle, TpmError> {
    PersistentTpmHandle::new(number).map_err(|_| TpmError::NotPersistent(number))
}

/// What a handle does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// No EK of the default template of this type.
    NoEndorsementKey(KeyKind),
    /// No AK of this type under our EK.
    NoAttestationKey(KeyKind),
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEndorsementKey(kind) => {
                write!(f, "an {kind} endorsement key of the default template")
            }
            Self::NoAttestationKey(kind) => {
                write!(f, "an {kind} attestation key under this endorsement key")
            }
        }
    }
}

/// Why a TPM did not do what it was asked.
#[derive(Debug, Error)]
pub enum TpmError {
    /// It cannot be reached.
    #[error(
        "the TPM cannot be opened through {tcti}: {source}; is there one (ls /dev/tpm*), \
         and may this user open it (group tss)?"
    )]
    Tcti {
        /// The way that was tried.
        tcti: Tcti,
        /// The TSS's reason.
        source: tss_esapi::Error,
    },
    /// A command failed.
    #[error("{command} failed: {source}")]
    Command {
        /// The command.
        command: &'static str,
        /// The TSS's reason.
        source: tss_esapi::Error,
    },
    /// A command was put off time after time.
    #[error(
        "{command} was put off {} times; the TPM is busy or testing itself",
        connection::COMMAND_TRIES
    )]
    Busy {
        /// The command.
        command: &'static str,
    },
    /// A command's answer has another type than the command.
    #[error("{0} answered with something else than was asked for")]
    Unexpected(&'static str),
    /// A persistent handle holds another object, which is left alone.
    #[error(
        "handle {handle:#010x} is taken by something other than {holds}; \
         choose another handle (--ek-handle, --ak-handle), or free it with tpm2_evictcontrol"
    )]
    Occupied {
        /// The handle.
        handle: u32,
        /// What should have been there.
        holds: Holds,
    },
    /// The number is no persistent handle.
    #[error("{0:#010x} is no persistent handle (0x81000000 to 0x81ffffff)")]
    NotPersistent(u32),
}

/// A TPM with an endorsement key and an attestation key at persistent handles.
#[derive(Debug)]
pub struct Tpm {
    settings: TpmSettings,
}

impl Tpm {
    /// The TPM of these settings. Nothing is opened yet.
    pub const fn new(settings: TpmSettings) -> Self {
        Self { settings }
    }

    /// Its settings.
    pub const fn settings(&self) -> &TpmSettings {
        &self.settings
    }

    /// Whether an attestation key was made already; without making one.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn has_attestation_key(&mut self) -> Result<bool, DeviceError> {
        let handle = self.settings.ak()?;
        Ok(self.open()?.is_defined(handle.into())?)
    }

    /// What [`Device::endorsement`] gives, without keeping the EK in the TPM.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn endorsement_unkept(&mut self) -> Result<Endorsement, DeviceError> {
        let mut connection = self.open()?;
        let kind = self.settings.kind;
        Ok(Endorsement {
            public: endorsement_public(&mut connection, kind, self.settings.ek()?)?,
            certificate: certificate(&mut connection, kind)?,
        })
    }

    fn open(&self) -> Result<Connection, TpmError> {
        Connection::open(&self.settings.tcti, &self.settings.authorizations)
    }
}

impl Device for Tpm {
    fn endorsement(&mut self) -> Result<Endorsement, DeviceError> {
        let mut connection = self.open()?;
        let kind = self.settings.kind;
        let key = endorsement_key(&mut connection, kind, self.settings.ek()?)?;
        Ok(Endorsement {
            certificate: certificate(&mut connection, kind)?,
            public: key.public,
        })
    }

    fn attestation_key(&mut self) -> Result<Vec<u8>, DeviceError> {
        let mut connection = self.open()?;
        let kind = self.settings.kind;
        let endorsement = endorsement_key(&mut connection, kind, self.settings.ek()?)?;
        let key = attestation_key(&mut connection, kind, &endorsement, self.settings.ak()?)?;
        Ok(key.public)
    }

    fn activate(&mut self, sealed: &SealedSecret) -> Result<Vec<u8>, DeviceError> {
        const COMMAND: &str = "TPM2_ActivateCredential";
        let mut connection = self.open()?;
        let kind = self.settings.kind;
        let endorsement = endorsement_key(&mut connection, kind, self.settings.ek()?)?;
        let key = attestation_key(&mut connection, kind, &endorsement, self.settings.ak()?)?;
        let failed = |source| TpmError::Command {
            command: COMMAND,
            source,
        };
        // The TSS wants the contents of the sized buffers.
        let blob = IdObject::try_from(contents(&sealed.blob)?).map_err(failed)?;
        let secret = EncryptedSecret::try_from(contents(&sealed.secret)?).map_err(failed)?;
        let policy = connection.endorsement_policy()?;
        let sessions = (Some(AuthSession::Password), Some(policy), None);
        let released = connection.run(COMMAND, |context| {
            context.execute_with_sessions(sessions, |context| {
                context.activate_credential(
                    key.handle,
                    endorsement.handle,
                    blob.clone(),
                    secret.clone(),
                )
            })
        })?;
        Ok(released.value().to_vec())
    }

    fn quote(
        &mut self,
        qualifying_data: &[u8; 32],
        selection: &PcrSelection,
    ) -> Result<Quoted, DeviceError> {
        let mut connection = self.open()?;
        let kind = self.settings.kind;
        let endorsement = endorsement_key(&mut connection, kind, self.settings.ek()?)?;
        let key = attestation_key(&mut connection, kind, &endorsement, self.settings.ak()?)?;
        quote::quote(&mut connection, &key, qualifying_data, selection)
    }

    fn clock(&mut self) -> Result<ClockInfo, DeviceError> {
        // What a key of the endorsement hierarchy signs shows the counters as they are. (T07)
        let selection = PcrSelection::new([(
            HashAlg::Sha256,
            rat_engine::pcr::PcrIndex::new(0).into_iter().collect(),
        )])
        .unwrap_or(PcrSelection::EMPTY);
        Ok(self.quote(&[0; 32], &selection)?.clock)
    }

    fn banks(&mut self) -> Result<Vec<HashAlg>, DeviceError> {
        const COMMAND: &str = "TPM2_GetCapability";
        let (capability, _) = self.open()?.run(COMMAND, |context| {
            context.get_capability(CapabilityType::AssignedPcr, 0, 1)
        })?;
        let CapabilityData::AssignedPcr(selections) = capability else {
            return Err(TpmError::Unexpected(COMMAND).into());
        };
        let in_use = selections
            .get_selections()
            .iter()
            .filter(|selection| !selection.is_empty())
            .filter_map(|selection| quote::bank(selection.hashing_algorithm()));
        Ok(in_use.collect())
    }
}

/// What is in a `TPM2B`.
fn contents(sized: &[u8]) -> Result<Vec<u8>, DeviceError> {
    match sized.split_first_chunk::<2>() {
        Some((size, inner)) if usize::from(u16::from_be_bytes(*size)) == inner.len() => {
            Ok(inner.to_vec())
        }
        _ => Err(DeviceError::SealedForOthers),
    }
}
