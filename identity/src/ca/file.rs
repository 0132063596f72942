//! The CA's files. One of them holds everything, so that one rename changes everything.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use rat_engine::crypto::{Curve, KeyMaterial};

use crate::ca::{Authority, CaError, check_carried};
use crate::limits;
use crate::pem;
use crate::x509::certificate::Certificate;
use crate::x509::fields::FieldError;
use crate::x509::issue::SigningKey;

/// Current key and certificate, next key and certificate, previous certificate, in this order.
const KEYS: &str = "ca.key";
/// The certificates alone.
const CERTIFICATES: &str = "ca.pem";

const KEY_LABEL: &str = "PRIVATE KEY";
const CERTIFICATE_LABEL: &str = "CERTIFICATE";

/// What the CA consists of.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    pub(crate) current: Authority,
    pub(crate) next: Option<Authority>,
    pub(crate) previous: Option<Certificate>,
}

impl Contents {
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        [
            Some(&self.current.certificate),
            self.next.as_ref().map(|next| &next.certificate),
            self.previous.as_ref(),
        ]
        .into_iter()
        .flatten()
    }

    fn parse(text: &str) -> Result<Self, CaError> {
        let blocks = pem::blocks(text)?;
        let mut blocks = blocks.iter();
        let mut authorities = Vec::new();
        let mut previous = None;
        while let Some((label, der)) = blocks.next() {
            match (*label, blocks.next()) {
                (KEY_LABEL, Some((CERTIFICATE_LABEL, certificate))) if previous.is_none() => {
                    authorities.push(pair(der, certificate)?);
                }
                (CERTIFICATE_LABEL, None) if previous.is_none() => {
                    previous = Some(Certificate::parse(der)?);
                }
                _ => return Err(CaError::Blocks),
            }
        }
        let mut authorities = authorities.into_iter();
        let contents = Self {
            current: authorities.next().ok_or(CaError::Blocks)?,
            next: authorities.next(),
            previous,
        };
        match authorities.next() {
            None => Ok(contents),
            Some(_) => Err(CaError::Blocks),
        }
    }

    fn to_pem(&self) -> Result<String, CaError> {
        let mut text = String::new();
        for authority in std::iter::once(&self.current).chain(&self.next) {
            text.push_str(&pem::encode(KEY_LABEL, &authority.key.to_pkcs8_der()?));
            text.push_str(&pem::encode(CERTIFICATE_LABEL, authority.certificate.der()));
        }
        if let Some(previous) = &self.previous {
            text.push_str(&pem::encode(CERTIFICATE_LABEL, previous.der()));
        }
        Ok(text)
    }
}

/// The CA in a folder; `None` when there is none.
pub(crate) fn read(folder: &Path) -> Result<Option<Contents>, CaError> {
    let path = folder.join(KEYS);
    let failed = |source| CaError::Io {
        path: path.clone(),
        source,
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let certificates = folder.join(CERTIFICATES);
            return match certificates.exists() {
                true => Err(CaError::KeyMissing(certificates)),
                false => Ok(None),
            };
        }
        Err(error) => return Err(failed(error)),
    };
    Contents::parse(&private_text(&path, &file)?).map(Some)
}

/// The text of a file that only its owner can use. (A07)
pub(crate) fn private_text(path: &Path, file: &File) -> Result<String, CaError> {
    // Of the open file, not of the path: nobody can swap it in between.
    let metadata = file.metadata().map_err(|source| CaError::Io {
        path: path.to_owned(),
        source,
    })?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(CaError::Mode { path, mode });
    }
    text(path, file)
}

/// The text of a file of a CA.
pub(crate) fn text(path: &Path, file: &File) -> Result<String, CaError> {
    let mut text = String::new();
    let limit = u64::try_from(limits::CA_FILE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut reader = file.take(limit.saturating_add(1));
    reader
        .read_to_string(&mut text)
        .map_err(|source| CaError::Io {
            path: path.to_owned(),
            source,
        })?;
    if text.len() > limits::CA_FILE_BYTES_MAX {
        let path = path.to_owned();
        return Err(CaError::TooLong { path });
    }
    Ok(text)
}

/// Replaces the CA in a folder, whole or not at all.
pub(crate) fn write(folder: &Path, contents: &Contents) -> Result<(), CaError> {
    replace(folder, KEYS, 0o600, contents.to_pem()?.as_bytes())
}

/// Writes the certificates for people and tools, when the file does not hold them already.
pub(crate) fn export(folder: &Path, contents: &Contents) -> Result<(), CaError> {
    let text: String = contents
        .certificates()
        .map(|certificate| pem::encode(CERTIFICATE_LABEL, certificate.der()))
        .collect();
    if fs::read(folder.join(CERTIFICATES)).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    replace(folder, CERTIFICATES, 0o644, text.as_bytes())
}

/// Writes beside, syncs, renames, syncs the folder: after a crash the old or the new file is there.
pub(crate) fn replace(folder: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<(), CaError> {
    let beside = folder.join(format!("{name}.new"));
    let write = || {
        match fs::remove_file(&beside) {
            // What a crash left there.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(bytes)?;
        give_to_owner_of(folder, &file)?;
        file.sync_all()?;
        fs::rename(&beside, folder.join(name))?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| CaError::Io {
        path: folder.join(name),
        source,
    })
}

/// Gives a file that was made just now to the owner of its folder, when root made it: after an
/// operator's command the service must be able to read its CA.
fn give_to_owner_of(folder: &Path, made: &File) -> io::Result<()> {
    const ROOT: u32 = 0;
    let (owner, maker) = (fs::metadata(folder)?, made.metadata()?.uid());
    if maker != ROOT || owner.uid() == ROOT {
        return Ok(());
    }
    fchown(made, Some(owner.uid()), Some(owner.gid()))
}

/// One certificate and its key, each in a PEM text of its own.
pub(crate) fn authority(certificate_pem: &str, key_pem: &str) -> Result<Authority, CaError> {
    let certificates = pem::blocks(certificate_pem)?;
    let keys = pem::blocks(key_pem)?;
    // SEC1 files begin with a block of curve parameters.
    let keys: Vec<_> = keys
        .iter()
        .filter(|(label, _)| *label != "EC PARAMETERS")
        .collect();
    match (&certificates[..], &keys[..]) {
        (
            [(CERTIFICATE_LABEL, certificate)],
            [(KEY_LABEL | "EC PRIVATE KEY" | "RSA PRIVATE KEY", key)],
        ) => pair(key, certificate),
        _ => Err(CaError::Blocks),
    }
}

fn pair(key: &[u8], certificate: &[u8]) -> Result<Authority, CaError> {
    let certificate = Certificate::parse(certificate)?;
    let key = SigningKey::from_der(key).map_err(|_| CaError::Key)?;
    if key.public_key_info()? != certificate.public_key_info()? {
        return Err(CaError::Mismatch);
    }
    let known = certificate.key().map_err(|_| CaError::KeyType)?;
    if let KeyMaterial::Ecc {
        curve: Curve::P521, ..
    } = known.material()
    {
        return Err(CaError::KeyType);
    }
    let fields = certificate.fields()?;
    if !fields.is_ca().map_err(FieldError::Der)? {
        return Err(CaError::NotCa);
    }
    check_carried("the CA's certificate", certificate.der())?;
    let usage = fields.key_usage().map_err(FieldError::Der)?;
    if !usage.is_some_and(|usage| usage.key_cert_sign) {
        return Err(CaError::NotSigner);
    }
    Ok(Authority { key, certificate })
}
