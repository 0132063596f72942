//! Settings of the agent: a TOML file, then `RAT_AGENT_*`, then flags.

use std::io::ErrorKind;
use std::num::ParseIntError;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::access::{self, AccessError};
use crate::device::{Authorizations, KeyKind, Tcti, TpmSettings};
use crate::logs::LogPaths;
use crate::run::{RelayKeyError, Through};

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
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_handle"
    )]
    pub ek_handle: Option<u32>,
    /// Persistent handle of the attestation key.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_handle"
    )]
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
    /// The relay that the agent speaks through, as `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// SHA-256 of that relay's public key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_key: Option<String>,
}

/// A handle as `0x81010001`, or the same in decimal.
pub(crate) fn handle(text: &str) -> Result<u32, ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

/// A number, or a text: variables know no hexadecimal numbers, and files write them either way.
fn optional_handle<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u32),
        Text(String),
    }
    match Option::<Written>::deserialize(from)? {
        None => Ok(None),
        Some(Written::Number(number)) => Ok(Some(number)),
        Some(Written::Text(text)) => handle(&text).map(Some).map_err(D::Error::custom),
    }
}

/// Why settings cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// File or environment.
    #[error("{0}")]
    Read(Box<figment::Error>),
    /// A file that is not there, or to which others have access. (A07)
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The TCTI.
    #[error("tcti {text:?}: {source}")]
    Tcti {
        /// What was set.
        text: String,
        /// What is wrong.
        source: crate::device::TctiError,
    },
    /// The relay's key.
    #[error("relay_key: {0}")]
    RelayKey(#[from] RelayKeyError),
    /// A relay's key without a relay.
    #[error("relay_key is set, and relay is not: no relay would be used")]
    RelayMissing,
}

/// A file that nobody else can write, variables with this prefix, and flags, each over the one
/// before. The default file may be missing.
pub(crate) fn layered<T: Serialize + DeserializeOwned>(
    file: Option<&Path>,
    default_file: &str,
    environment: &str,
    flags: &T,
) -> Result<T, SettingsError> {
    let path = file.unwrap_or(Path::new(default_file));
    let written = match access::require_unwritable(path) {
        Err(AccessError::File { source, .. })
            if file.is_none() && source.kind() == ErrorKind::NotFound =>
        {
            Figment::new()
        }
        checked => {
            checked?;
            Figment::from(Toml::file_exact(path))
        }
    };
    written
        .merge(Env::prefixed(environment))
        .merge(Serialized::defaults(flags))
        .extract()
        .map_err(|error| SettingsError::Read(Box::new(error)))
}

/// A state directory: as set, else systemd's, else the default.
pub(crate) fn state_dir(set: Option<&PathBuf>, default: &str) -> PathBuf {
    let systemd = || std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
    let set = set.cloned().or_else(systemd);
    set.unwrap_or_else(|| default.into())
}

impl Settings {
    /// File, environment and flags, each over the one before. The default file may be missing.
    ///
    /// # Errors
    /// [`SettingsError`], also for keys that nobody knows.
    ///
    /// # Security
    /// Who writes the file chooses the TPM and the logs that are believed: a file that others than
    /// its owner can write is refused. (A07)
    pub fn load(file: Option<&Path>, flags: &Self) -> Result<Self, SettingsError> {
        layered(file, DEFAULT_FILE, ENVIRONMENT, flags)
    }

    /// The state directory: as set, else systemd's, else the default.
    pub fn state_dir(&self) -> PathBuf {
        state_dir(self.state_dir.as_ref(), DEFAULT_STATE_DIR)
    }

    /// The relay that the agent speaks through; `None` for one that goes to its server.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn relay(&self) -> Result<Option<Through>, SettingsError> {
        match (&self.relay, &self.relay_key) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(SettingsError::RelayMissing),
            (Some(address), key) => Ok(Some(Through::new(address, key.as_deref())?)),
        }
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
fn secret(path: Option<&Path>) -> Result<Vec<u8>, AccessError> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let mut value = access::read_secret(path, AUTHORIZATION_BYTES_MAX.saturating_add(1))?;
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    if value.len() > AUTHORIZATION_BYTES_MAX {
        return Err(AccessError::TooLong {
            path: path.into(),
            max_bytes: AUTHORIZATION_BYTES_MAX,
        });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn handles_are_written_as_the_reference_page_has_them() {
        let read = |text: &str| {
            let settings: Option<Settings> = Figment::from(Toml::string(text)).extract().ok();
            settings.map(|settings| settings.ek_handle)
        };
        for text in [
            "0x81010001",
            "\"0x81010001\"",
            "2164326401",
            "\"2164326401\"",
        ] {
            let found = read(&format!("ek_handle = {text}")).unwrap();
            assert_eq!(found, Some(0x8101_0001), "{text}");
        }
        assert!(read("ek_handle = \"81010001h\"").is_none());
    }

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
            relay: Some("x".to_owned()),
            relay_key: Some("x".to_owned()),
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

    fn file(directory: &Path, content: &str, mode: u32) -> PathBuf {
        let path = directory.join("file");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a07_settings_that_others_can_write_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let content = "boot_log = \"/somewhere\"\n";
        for mode in [0o600, 0o400, 0o640, 0o644] {
            let path = file(directory.path(), content, mode);
            let settings = Settings::load(Some(&path), &Settings::default()).unwrap();
            assert_eq!(settings.boot_log, Some("/somewhere".into()), "{mode:o}");
        }
        for mode in [0o660, 0o664, 0o602, 0o646, 0o666, 0o620] {
            let path = file(directory.path(), content, mode);
            let refused = Settings::load(Some(&path), &Settings::default());
            let Err(SettingsError::Access(AccessError::Writable(named))) = refused else {
                panic!("{mode:o} was taken: {refused:?}")
            };
            assert_eq!(named, path);
        }
    }

    #[test]
    fn a07_authorization_values_that_others_can_read_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let longest = "x".repeat(AUTHORIZATION_BYTES_MAX);
        let path = file(directory.path(), &format!("{longest}\n"), 0o600);
        assert_eq!(secret(Some(&path)).unwrap(), longest.as_bytes());
        for content in [format!("{longest}x"), format!("{longest}x\n")] {
            let path = file(directory.path(), &content, 0o600);
            let refused = secret(Some(&path));
            assert!(matches!(refused, Err(AccessError::TooLong { .. })));
        }
        for mode in [0o640, 0o604, 0o620] {
            let path = file(directory.path(), "secret", mode);
            let refused = secret(Some(&path));
            assert!(matches!(refused, Err(AccessError::Readable(_))), "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_was_named_must_be_there_and_faults_name_it() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let refused = Settings::load(Some(&missing), &Settings::default());
        let Err(SettingsError::Access(AccessError::File { path, .. })) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(path, missing);
        let path = file(directory.path(), "colour = \"red\"\n", 0o600);
        let refused = Settings::load(Some(&path), &Settings::default()).unwrap_err();
        let said = refused.to_string();
        assert!(said.contains("colour"), "{said}");
        assert!(said.contains(&path.display().to_string()), "{said}");
    }
}
