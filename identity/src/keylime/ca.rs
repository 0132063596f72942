//! The CA of Keylime's servers and clients, in files as Keylime names them.
//!
//! The folder is what Keylime calls `cv_ca`. Agents take `cacert.crt` out of it, tenants
//! `cacert.crt`, `client-cert.crt` and `client-private.pem`; the servers show `server-cert.crt`.
//! Keys are on P-256, in PKCS#8 and not encrypted. Where Keylime keeps the CA's own key in an
//! encrypted `private.yml`, it is in `ca-private.pem` here; a folder that was imported without it
//! is used as it is, and nothing in it is renewed.
//!
//! Source: Keylime 7.14 `keylime/ca_util.py`, `keylime/web_util.py`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::ca::file::{authority, private_text, replace, text};
use crate::ca::{Authority, BACKDATE_MS, CaError, ROOT_LIFE_MS, check_valid, server_names};
use crate::pem;
use crate::x509::certificate::Certificate;
use crate::x509::issue::{self, Purpose, ServerName, SigningKey, Validity};

/// The folder's name in a data directory.
pub const CA_FOLDER: &str = "cv_ca";

const CA_CERTIFICATE: &str = "cacert.crt";
const CA_KEY: &str = "ca-private.pem";
/// Its files.
pub const FILES: [&str; 9] = [
    CA_CERTIFICATE,
    CA_KEY,
    "ca-public.pem",
    "client-cert.crt",
    "client-private.pem",
    "client-public.pem",
    "server-cert.crt",
    "server-private.pem",
    "server-public.pem",
];
/// What tenants and other clients need.
const CLIENT_FILES: [&str; 4] = [
    CA_CERTIFICATE,
    "client-cert.crt",
    "client-private.pem",
    "client-public.pem",
];

/// How long certificates of servers and clients are valid: as long as Keylime's.
const LEAF_LIFE_MS: u64 = 365 * 24 * 60 * 60 * 1000;

/// Why there is no such CA.
#[derive(Debug, Error)]
pub enum KeylimeCaError {
    /// A key, a certificate or a file.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A file that must be there is not.
    #[error("{0} is missing")]
    Missing(PathBuf),
    /// There is a CA already.
    #[error("{0} is there; a CA is never overwritten")]
    Exists(PathBuf),
    /// A certificate was not issued by the CA beside it.
    #[error("{0} was not issued by the CA in cacert.crt")]
    NotIssued(PathBuf),
}

/// The CA of Keylime's servers and clients.
#[derive(Debug, Clone)]
pub struct KeylimeCa {
    folder: PathBuf,
    certificate: Certificate,
    key: Option<SigningKey>,
}

/// What a server shows.
pub struct ServerFiles {
    /// The certificate and then the CA's, in DER.
    pub chain_der: Vec<Vec<u8>>,
    /// The private key in PKCS#8.
    pub key_pkcs8_der: Vec<u8>,
    /// The last moment of validity.
    pub not_after_unix_ms: u64,
}

/// Whose certificate it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf<'a> {
    Server(&'a [ServerName]),
    Client,
}

impl Leaf<'_> {
    const fn name(self) -> &'static str {
        match self {
            Self::Server(_) => "server",
            Self::Client => "client",
        }
    }
}

impl KeylimeCa {
    /// The CA in this folder; `None` when there is none.
    ///
    /// # Errors
    /// [`KeylimeCaError`]: a damaged file, a key that others can read, a CA that is not valid now.
    pub fn open(folder: &Path, now_unix_ms: u64) -> Result<Option<Self>, KeylimeCaError> {
        let Some(pem) = read(folder, CA_CERTIFICATE)? else {
            return Ok(None);
        };
        let key = match private(folder, CA_KEY)? {
            Some(key) => Some(authority(&pem, &key)?.key),
            None => None,
        };
        let certificate = certificate(&pem)?;
        check_valid(&certificate, now_unix_ms)?;
        Ok(Some(Self {
            folder: folder.to_owned(),
            certificate,
            key,
        }))
    }

    /// A new CA in this folder, with certificates for a client and for a server of these names.
    ///
    /// # Errors
    /// [`KeylimeCaError::Exists`]; [`CaError::ServerName`].
    pub fn make(folder: &Path, names: &[String], now_unix_ms: u64) -> Result<Self, KeylimeCaError> {
        require_empty(folder)?;
        let names = server_names(names)?;
        let key = SigningKey::generate().map_err(CaError::from)?;
        let validity = Validity {
            not_before_unix_ms: now_unix_ms.saturating_sub(BACKDATE_MS),
            not_after_unix_ms: now_unix_ms.saturating_add(ROOT_LIFE_MS),
        };
        let der = issue::root(&key, "ratd Keylime CA", validity).map_err(CaError::from)?;
        let certificate = Certificate::parse(&der).map_err(CaError::from)?;
        let ca = Self {
            folder: folder.to_owned(),
            certificate,
            key: Some(key.clone()),
        };
        ca.write_key("ca", &key)?;
        for leaf in [Leaf::Client, Leaf::Server(&names)] {
            let key = SigningKey::generate().map_err(CaError::from)?;
            ca.write_key(leaf.name(), &key)?;
            ca.issue(leaf, &key, now_unix_ms)?;
        }
        // Last: with it, all of it is there.
        ca.write(CA_CERTIFICATE, 0o644, &pem::encode("CERTIFICATE", &der))?;
        Ok(ca)
    }

    /// Takes over a `cv_ca` folder of Keylime, whose own key the caller may have.
    ///
    /// # Errors
    /// [`KeylimeCaError`]: a CA is there already, files are missing, keys and certificates do not
    /// belong together, or the CA is not valid now. Nothing is changed then.
    pub fn import(
        folder: &Path,
        from: &Path,
        ca_key_pem: Option<&str>,
        now_unix_ms: u64,
    ) -> Result<Self, KeylimeCaError> {
        require_empty(folder)?;
        let ca_pem = required(from, CA_CERTIFICATE)?;
        let ca_certificate = certificate(&ca_pem)?;
        check_valid(&ca_certificate, now_unix_ms)?;
        let key = match ca_key_pem {
            Some(key) => Some(authority(&ca_pem, key)?.key),
            None => None,
        };
        let ca = Self {
            folder: folder.to_owned(),
            certificate: ca_certificate,
            key,
        };
        let mut leaves = Vec::new();
        for name in ["client", "server"] {
            let file = format!("{name}-cert.crt");
            let leaf = certificate(&required(from, &file)?)?;
            if !leaf.is_issued_by(&ca.certificate) {
                return Err(KeylimeCaError::NotIssued(from.join(file)));
            }
            // Keylime's own have mode 0640: what is written here has 0600.
            let key = signing_key(&required(from, &format!("{name}-private.pem"))?)?;
            let info = key.public_key_info().map_err(CaError::from)?;
            if leaf.public_key_info().map_err(CaError::from)? != info {
                return Err(CaError::Mismatch.into());
            }
            leaves.push((file, leaf, name, key));
        }
        for (file, leaf, name, key) in leaves {
            ca.write_key(name, &key)?;
            ca.write(&file, 0o644, &pem::encode("CERTIFICATE", leaf.der()))?;
        }
        if let Some(key) = &ca.key {
            ca.write_key("ca", key)?;
        }
        let own = pem::encode("CERTIFICATE", ca.certificate.der());
        ca.write(CA_CERTIFICATE, 0o644, &own)?;
        Ok(ca)
    }

    /// The CA's certificate, in DER.
    pub fn certificate_der(&self) -> &[u8] {
        self.certificate.der()
    }

    /// Whether certificates can be renewed: the CA's own key is there.
    pub const fn renews(&self) -> bool {
        self.key.is_some()
    }

    /// Whether this CA is one of these (DER), has the key of one, or stands above or below one. Then
    /// what these issue could be taken for a certificate of its clients. (A02)
    pub fn is_related_to(&self, others: &[Vec<u8>]) -> bool {
        let own = self.certificate.public_key_info().ok();
        others.iter().any(|der| match Certificate::parse(der) {
            Ok(other) => {
                other.public_key_info().ok() == own
                    || other.is_issued_by(&self.certificate)
                    || self.certificate.is_issued_by(&other)
            }
            // What cannot be read cannot be told apart.
            Err(_) => true,
        })
    }

    /// Issues the certificates of client and server anew, for the keys that they have, where two
    /// thirds of their time are over or the server has other names. True when the server's was.
    ///
    /// # Errors
    /// [`KeylimeCaError`]. Without the CA's key nothing is done.
    pub fn renew(&self, names: &[String], now_unix_ms: u64) -> Result<bool, KeylimeCaError> {
        if !self.renews() {
            return Ok(false);
        }
        let names = server_names(names)?;
        let mut server_changed = false;
        for leaf in [Leaf::Client, Leaf::Server(&names)] {
            let file = format!("{}-cert.crt", leaf.name());
            let present = certificate(&required(&self.folder, &file)?)?;
            let is_due = present.validity_unix_ms().is_none_or(|(start, end)| {
                let third = end.saturating_sub(start).checked_div(3).unwrap_or(0);
                now_unix_ms >= end.saturating_sub(third)
            });
            let has_names = match leaf {
                Leaf::Client => true,
                Leaf::Server(names) => {
                    let wanted = names.iter().map(|name| match name {
                        ServerName::Dns(dns) => dns.clone(),
                        ServerName::Address(address) => address.to_string(),
                    });
                    present.server_names() == wanted.collect()
                }
            };
            if is_due || !has_names {
                let key = signing_key(&self.private_key(leaf.name())?)?;
                self.issue(leaf, &key, now_unix_ms)?;
                server_changed |= matches!(leaf, Leaf::Server(_));
            }
        }
        Ok(server_changed)
    }

    /// What the servers show.
    ///
    /// # Errors
    /// [`KeylimeCaError`].
    pub fn server(&self) -> Result<ServerFiles, KeylimeCaError> {
        let leaf = certificate(&required(&self.folder, "server-cert.crt")?)?;
        let key = signing_key(&self.private_key("server")?)?;
        let end = leaf.validity_unix_ms().map(|(_, end)| end);
        Ok(ServerFiles {
            chain_der: vec![leaf.der().to_vec(), self.certificate.der().to_vec()],
            key_pkcs8_der: key.to_pkcs8_der().map_err(CaError::from)?,
            not_after_unix_ms: end.ok_or(CaError::Validity)?,
        })
    }

    /// Each certificate by its file, with the last moment of its validity.
    ///
    /// # Errors
    /// [`KeylimeCaError`].
    pub fn ends(&self) -> Result<Vec<(&'static str, u64)>, KeylimeCaError> {
        let files = [CA_CERTIFICATE, "client-cert.crt", "server-cert.crt"];
        let end = |file: &'static str| {
            let certificate = certificate(&required(&self.folder, file)?)?;
            let end = certificate.validity_unix_ms().map(|(_, end)| end);
            Ok((file, end.ok_or(CaError::Validity)?))
        };
        files.into_iter().map(end).collect()
    }

    /// Copies what a tenant needs into a folder, which must have none of it.
    ///
    /// # Errors
    /// [`KeylimeCaError::Exists`].
    pub fn export_client(&self, to: &Path) -> Result<(), KeylimeCaError> {
        for file in CLIENT_FILES {
            require_free(&to.join(file))?;
        }
        for file in CLIENT_FILES {
            let mode = if file.ends_with("-private.pem") {
                0o600
            } else {
                0o644
            };
            replace(to, file, mode, required(&self.folder, file)?.as_bytes())?;
        }
        Ok(())
    }

    fn private_key(&self, name: &str) -> Result<String, KeylimeCaError> {
        let file = format!("{name}-private.pem");
        private(&self.folder, &file)?.ok_or_else(|| KeylimeCaError::Missing(self.folder.join(file)))
    }

    fn issue(
        &self,
        leaf: Leaf<'_>,
        key: &SigningKey,
        now_unix_ms: u64,
    ) -> Result<(), KeylimeCaError> {
        let authority = Authority {
            key: self
                .key
                .clone()
                .ok_or_else(|| KeylimeCaError::Missing(self.folder.join(CA_KEY)))?,
            certificate: self.certificate.clone(),
        };
        check_valid(&authority.certificate, now_unix_ms)?;
        let ca_end = self.certificate.validity_unix_ms().map(|(_, end)| end);
        let end = now_unix_ms.saturating_add(LEAF_LIFE_MS);
        let der = issue::leaf(
            &authority.certificate,
            &authority.key,
            &key.public_key_info().map_err(CaError::from)?,
            leaf.name(),
            match leaf {
                Leaf::Server(names) => Purpose::Server(names),
                Leaf::Client => Purpose::NamedClient("client"),
            },
            Validity {
                not_before_unix_ms: now_unix_ms.saturating_sub(BACKDATE_MS),
                not_after_unix_ms: ca_end.map_or(end, |ca_end| end.min(ca_end)),
            },
        )
        .map_err(CaError::from)?;
        let file = format!("{}-cert.crt", leaf.name());
        self.write(&file, 0o644, &pem::encode("CERTIFICATE", &der))
    }

    fn write_key(&self, name: &str, key: &SigningKey) -> Result<(), KeylimeCaError> {
        let private = key.to_pkcs8_der().map_err(CaError::from)?;
        let public = key.public_key_info().map_err(CaError::from)?;
        let private = pem::encode("PRIVATE KEY", &private);
        self.write(&format!("{name}-private.pem"), 0o600, &private)?;
        let public = pem::encode("PUBLIC KEY", &public);
        self.write(&format!("{name}-public.pem"), 0o644, &public)
    }

    fn write(&self, file: &str, mode: u32, text: &str) -> Result<(), KeylimeCaError> {
        Ok(replace(&self.folder, file, mode, text.as_bytes())?)
    }
}

fn require_empty(folder: &Path) -> Result<(), KeylimeCaError> {
    require_free(&folder.join(CA_CERTIFICATE))
}

fn require_free(path: &Path) -> Result<(), KeylimeCaError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(KeylimeCaError::Exists(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed(path)(source).into()),
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::Io { path, source }
}

fn opened(folder: &Path, file: &str) -> Result<Option<(PathBuf, File)>, KeylimeCaError> {
    let path = folder.join(file);
    match File::open(&path) {
        Ok(file) => Ok(Some((path, file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(&path)(source).into()),
    }
}

fn read(folder: &Path, file: &str) -> Result<Option<String>, KeylimeCaError> {
    match opened(folder, file)? {
        Some((path, file)) => Ok(Some(text(&path, &file)?)),
        None => Ok(None),
    }
}

fn private(folder: &Path, file: &str) -> Result<Option<String>, KeylimeCaError> {
    match opened(folder, file)? {
        Some((path, file)) => Ok(Some(private_text(&path, &file)?)),
        None => Ok(None),
    }
}

fn required(folder: &Path, file: &str) -> Result<String, KeylimeCaError> {
    read(folder, file)?.ok_or_else(|| KeylimeCaError::Missing(folder.join(file)))
}

/// The first certificate of a text.
fn certificate(pem_text: &str) -> Result<Certificate, CaError> {
    match pem::blocks(pem_text)?.first() {
        Some(("CERTIFICATE", der)) => Ok(Certificate::parse(der)?),
        _ => Err(CaError::Blocks),
    }
}

fn signing_key(pem_text: &str) -> Result<SigningKey, CaError> {
    let blocks = pem::blocks(pem_text)?;
    let mut keys = blocks.iter().filter(|(label, _)| *label != "EC PARAMETERS");
    match (keys.next(), keys.next()) {
        (Some(("PRIVATE KEY" | "EC PRIVATE KEY" | "RSA PRIVATE KEY", der)), None) => {
            SigningKey::from_der(der).map_err(|_| CaError::Key)
        }
        _ => Err(CaError::Blocks),
    }
}

#[cfg(test)]
mod tests;
