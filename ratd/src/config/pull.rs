//! `[keylime.pull]`: how Keylime's agents are polled.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rat_identity::keylime::CA_FOLDER;
use rat_transport::pull::{ClientIdentity, Settings};
use serde::{Deserialize, Serialize};

/// Bytes of a file with certificates or a key.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// How agents are polled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Pull {
    /// Empty: the client's of Keylime's CA, if that is there.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) plain_http: bool,
    pub(crate) retry_interval_seconds: u64,
    pub(crate) exponential_backoff: bool,
    pub(crate) exchanges: usize,
}

impl Default for Pull {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            plain_http: settings.plain_http,
            retry_interval_seconds: settings.retry_interval_seconds,
            exponential_backoff: settings.exponential_backoff,
            exchanges: settings.exchanges_max,
        }
    }
}

impl Pull {
    /// What is wrong, though each value is of its type.
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if self.certificate.as_os_str().is_empty() != self.key.as_os_str().is_empty() {
            let text = "certificate and key must be named together".to_owned();
            faults.push(("keylime.pull.certificate", text));
        }
        if self.exchanges == 0 {
            faults.push(("keylime.pull.exchanges", "must be 1 or more".to_owned()));
        }
        if self.retry_interval_seconds == 0 {
            let text = "must be 1 or more".to_owned();
            faults.push(("keylime.pull.retry_interval_seconds", text));
        }
        faults
    }

    /// The same for a poller whose agents have this interval and so long for an answer.
    pub(crate) fn settings(&self, interval_ms: u64, answer_ms: u64) -> Settings {
        Settings {
            interval_ms,
            answer_ms,
            retry_interval_seconds: self.retry_interval_seconds,
            exponential_backoff: self.exponential_backoff,
            plain_http: self.plain_http,
            exchanges_max: self.exchanges,
            ..Settings::default()
        }
    }

    /// What agents are shown: by default what tenants show, too.
    pub(crate) fn identity(&self, data_dir: &Path) -> Result<Option<ClientIdentity>> {
        let folder = data_dir.join(CA_FOLDER);
        let mut files = [
            folder.join("client-cert.crt"),
            folder.join("client-private.pem"),
        ];
        if !self.certificate.as_os_str().is_empty() {
            files = [self.certificate.clone(), self.key.clone()];
        } else if files.iter().any(|file| !file.exists()) {
            return Ok(None);
        }
        let [certificate, key] = files;
        let (chain, private) = (read(&certificate)?, read(&key)?);
        let identity = ClientIdentity::of_pem(&chain, &private);
        let identity = identity.with_context(|| {
            let (certificate, key) = (certificate.display(), key.display());
            format!("keylime.pull.certificate {certificate}, key {key}")
        })?;
        Ok(Some(identity))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let about = || path.display().to_string();
    let bytes = std::fs::metadata(path).with_context(about)?.len();
    ensure!(
        bytes <= FILE_BYTES_MAX,
        "{} is longer than {FILE_BYTES_MAX} bytes",
        path.display()
    );
    std::fs::read(path).with_context(about)
}
