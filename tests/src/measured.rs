//! Measurement lists as a kernel would write them.

use rat_engine::hash::HashAlg;
use rat_engine::ima::Template;

use crate::oracle::{self, OracleEntry};

/// One measured event.
#[derive(Debug, Clone)]
pub struct Measured {
    /// PCR.
    pub pcr: u8,
    /// Template.
    pub template: Template,
    /// `sha256`, or `ima:sha256` and `verity:sha256` for the second version's templates.
    pub digest_prefix: String,
    /// Digest of the file or buffer.
    pub digest: Vec<u8>,
    /// Path or name.
    pub name: Vec<u8>,
    /// Signature or buffer.
    pub tail: Vec<u8>,
    /// Logged as a violation.
    pub violation: bool,
}

impl Measured {
    /// A file in `ima-ng`, whose content is `content`.
    pub fn file(name: &str, content: &[u8]) -> Self {
        Self {
            pcr: 10,
            template: Template::ImaNg,
            digest_prefix: "sha256".into(),
            digest: oracle::digest(HashAlg::Sha256, content),
            name: name.as_bytes().to_vec(),
            tail: Vec::new(),
            violation: false,
        }
    }

    /// The same event in another template, its digest prefix as that template wants it.
    pub fn in_template(mut self, template: Template) -> Self {
        self.template = template;
        self.digest_prefix = match template {
            Template::ImaNgV2 | Template::ImaSigV2 => "ima:sha256".into(),
            _ => "sha256".into(),
        };
        if template == Template::Ima {
            self.digest = self.digest[..20].to_vec();
            self.digest_prefix = "sha1".into();
        }
        self
    }

    /// A buffer in `ima-buf`.
    pub fn buffer(name: &str, buffer: &[u8]) -> Self {
        Self {
            template: Template::ImaBuf,
            tail: buffer.to_vec(),
            ..Self::file(name, buffer)
        }
    }

    /// The aggregate of these boot PCR values.
    pub fn boot_aggregate(bank: HashAlg, values: &[Vec<u8>]) -> Self {
        Self {
            digest_prefix: bank.name().into(),
            digest: oracle::digest(bank, &values.concat()),
            ..Self::file("boot_aggregate", b"")
        }
    }

    /// The hashed bytes.
    pub fn data(&self) -> Vec<u8> {
        if self.template == Template::Ima {
            let mut name = self.name.clone();
            name.resize(256, 0);
            return [self.digest.clone(), name].concat();
        }
        let field = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat();
        let digest = [self.digest_prefix.as_bytes(), b":\0", &self.digest].concat();
        let name = [&self.name[..], b"\0"].concat();
        let mut data = [field(&digest), field(&name)].concat();
        match self.template {
            Template::Ima | Template::ImaNg | Template::ImaNgV2 => {}
            Template::ImaSig | Template::ImaBuf | Template::ImaSigV2 => {
                data.extend(field(&self.tail));
            }
            Template::ImaModSig => {
                data.extend(field(&self.tail));
                data.extend(field(b""));
                data.extend(field(b""));
            }
        }
        data
    }

    fn template_hash(&self, alg: HashAlg) -> Vec<u8> {
        if self.violation {
            vec![0; alg.size()]
        } else {
            oracle::digest(alg, &self.data())
        }
    }

    /// A line of `ascii_runtime_measurements`.
    pub fn ascii(&self, log_hash: HashAlg) -> Vec<u8> {
        let digest = hex::encode(&self.digest);
        let fields = match self.template {
            Template::Ima => digest,
            _ => format!("{}:{digest}", self.digest_prefix),
        };
        let hash = hex::encode(self.template_hash(log_hash));
        let mut line = format!("{:2} {hash} {} {fields} ", self.pcr, self.template).into_bytes();
        line.extend_from_slice(&self.name);
        match self.template {
            Template::Ima | Template::ImaNg | Template::ImaNgV2 => {}
            Template::ImaSig | Template::ImaBuf | Template::ImaSigV2 => {
                line.push(b' ');
                line.extend(hex::encode(&self.tail).bytes());
            }
            Template::ImaModSig => {
                line.push(b' ');
                line.extend(hex::encode(&self.tail).bytes());
                line.extend(b"  ");
            }
        }
        line.push(b'\n');
        line
    }

    /// A record of `binary_runtime_measurements`.
    pub fn binary(&self, log_hash: HashAlg) -> Vec<u8> {
        self.binary_labelled(log_hash, self.template)
    }

    /// The same record with another template's name on it, which is not hashed.
    pub fn binary_labelled(&self, log_hash: HashAlg, label: Template) -> Vec<u8> {
        let le = |n: usize| (n as u32).to_le_bytes().to_vec();
        let name = label.name().as_bytes();
        let mut record = [
            le(self.pcr.into()),
            self.template_hash(log_hash),
            le(name.len()),
            name.to_vec(),
        ]
        .concat();
        if self.template == Template::Ima {
            record.extend_from_slice(&self.digest);
            record.extend(le(self.name.len()));
            record.extend_from_slice(&self.name);
        } else {
            let data = self.data();
            record.extend(le(data.len()));
            record.extend(data);
        }
        record
    }

    /// What the oracle needs of it.
    pub fn oracle(&self) -> OracleEntry {
        OracleEntry {
            pcr: self.pcr,
            data: (!self.violation).then(|| self.data()),
        }
    }
}

/// A whole list in ascii form.
pub fn ascii(list: &[Measured]) -> Vec<u8> {
    list.iter()
        .flat_map(|entry| entry.ascii(HashAlg::Sha1))
        .collect()
}

/// A whole list in binary form.
pub fn binary(list: &[Measured]) -> Vec<u8> {
    list.iter()
        .flat_map(|entry| entry.binary(HashAlg::Sha1))
        .collect()
}
