//! Settings of the agent: a TOML file, then `RAT_AGENT_*`, then flags.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::device::{Authorizations, KeyKind, Tcti, TpmSettings};
use crate::logs::LogPaths;

/// Where the file is, unless a flag says otherwise.
pub const DEFAULT_FILE: &str = "/etc/rat-agent.toml";
/// Where the state is, unless a flag or systemd says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/rat-agent";
const ENVIRONMENT: &str = "RAT_AGENT_";
/// TPM authorization values have at most the size of a digest.
const AUTHORIZATION_BYTES_MAX: usize = 64;

/// Everything that can be set. Flags that are given override the file and the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The state directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// The way to the TPM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcti: Option<String>,
    /// The type of the TPM's keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyKind>,
    /// Persistent handle of the endorsement key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ek_handle: Option<u32>,
    /// Persistent handle of the attestation key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ak_handle: Option<u32>,
    /// File with the endorsement hierarchy's authorization value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endorsement_auth_file: Option<PathBuf>,
    /// File with the owner hierarchy's authorization value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_auth_file: Option<PathBuf>,
    /// The kernel's binary measurement list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ima_binary: Option<PathBuf>,
    /// The kernel's ascii measurement list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ima_ascii: Option<PathBuf>,
    /// The firmware's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_log: Option<PathBuf>,
    /// A text that changes with each boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<PathBuf>,
}

/// Why settings cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// File or environment.
    #[error("{0}")]
    Read(Box<figment::Error>),
    /// A file that was named is not there.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read a file with a secret. (A07)
    #[error("{0} can be read by others; run chmod 600 {0}")]
    Mode(PathBuf),
    /// A secret that no TPM takes.
    #[error("{path} holds more than {AUTHORIZATION_BYTES_MAX} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The TCTI.
    #[error("tcti {text:?}: {source}")]
    Tcti {
        /// What was set.
        text: String,
        /// What is wrong.
        source: crate::device::TctiError,
    },
}

impl Settings {
    /// File, environment and flags, each over the one before. The default file may be missing.
    ///
    /// # Errors
    /// [`SettingsError`], also for keys that nobody knows.
    pub fn load(file: Option<&Path>, flags: &Self) -> Result<Self, SettingsError> {
        if let Some(path) = file {
            fs::metadata(path).map_err(|source| SettingsError::File {
                path: path.into(),
                source,
            })?;
        }
        let file = file.unwrap_or(Path::new(DEFAULT_FILE));
        Figment::new()
            .merge(Toml::file_exact(file))
            .merge(Env::prefixed(ENVIRONMENT))
            .merge(Serialized::defaults(flags))
            .extract()
            .map_err(|error| SettingsError::Read(Box::new(error)))
    }

    /// The state directory: as set, else systemd's, else the default.
    pub fn state_dir(&self) -> PathBuf {
        let systemd = || std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
        let set = self.state_dir.clone().or_else(systemd);
        set.unwrap_or_else(|| DEFAULT_STATE_DIR.into())
    }

    /// The type of the TPM's keys: as set, else the one of an enrolment, else RSA.
    pub fn kind(&self, enrolled: Option<KeyKind>) -> KeyKind {
        self.key.or(enrolled).unwrap_or(KeyKind::Rsa)
    }

    /// The TPM: as set, else the environment's `TCTI`, else the kernel's resource manager.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn tpm(&self, kind: KeyKind) -> Result<TpmSettings, SettingsError> {
        let text = self.tcti.clone().or_else(|| std::env::var("TCTI").ok());
        let tcti = match text {
            Some(text) => text
                .parse()
                .map_err(|source| SettingsError::Tcti { text, source })?,
            None => Tcti::default(),
        };
        Ok(TpmSettings {
            tcti,
            kind,
            ek_handle: self.ek_handle,
            ak_handle: self.ak_handle,
            authorizations: Authorizations {
                endorsement: secret(self.endorsement_auth_file.as_deref())?,
                owner: secret(self.owner_auth_file.as_deref())?,
            },
        })
    }

    /// Where the logs are.
    pub fn logs(&self) -> LogPaths {
        let usual = LogPaths::default();
        let or = |set: &Option<PathBuf>, usual| set.clone().unwrap_or(usual);
        LogPaths {
            ima_binary: or(&self.ima_binary, usual.ima_binary),
            ima_ascii: or(&self.ima_ascii, usual.ima_ascii),
            boot_log: or(&self.boot_log, usual.boot_log),
            boot_id: or(&self.boot_id, usual.boot_id),
        }
    }
}

/// An authorization value; a newline at its end is an editor's.
fn secret(path: Option<&Path>) -> Result<Vec<u8>, SettingsError> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let failed = |source| SettingsError::File {
        path: path.into(),
        source,
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(SettingsError::Mode(path.into()));
    }
    let mut value = fs::read(path).map_err(failed)?;
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    if value.len() > AUTHORIZATION_BYTES_MAX {
        return Err(SettingsError::TooLong { path: path.into() });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_reference_page_names_every_setting_and_its_default() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/agent.md");
        let page = fs::read_to_string(page).unwrap();
        let path = || Some(PathBuf::from("x"));
        let all = Settings {
            state_dir: path(),
            tcti: Some("x".to_owned()),
            key: Some(KeyKind::Rsa),
            ek_handle: Some(1),
            ak_handle: Some(1),
            endorsement_auth_file: path(),
            owner_auth_file: path(),
            ima_binary: path(),
            ima_ascii: path(),
            boot_log: path(),
            boot_id: path(),
        };
        let keys = serde_json::to_value(all).unwrap();
        let documented: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let keys = keys.as_object().unwrap();
        assert_eq!(documented, keys.keys().map(String::as_str).collect());
        let handles = [
            TpmSettings::EK_HANDLE_RSA,
            TpmSettings::EK_HANDLE_ECC,
            TpmSettings::AK_HANDLE_RSA,
            TpmSettings::AK_HANDLE_ECC,
        ];
        let logs = LogPaths::default();
        let paths = [logs.ima_binary, logs.ima_ascii, logs.boot_log, logs.boot_id];
        let defaults = handles.map(|handle| format!("`{handle:#x}`")).into_iter();
        for default in defaults.chain(paths.map(|path| format!("`{}`", path.display()))) {
            assert!(page.contains(&default), "{default}");
        }
    }
}
