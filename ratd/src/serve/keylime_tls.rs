//! TLS as Keylime's agents and tenants expect it: certificates of the CA in `cv_ca`, and client
//! certificates of that CA, which are asked for and not required.
//!
//! One of these serves every listener of Keylime's surfaces.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::ensure;
use rat_api::clock::unix_ms;
use rat_api::tls::{Acceptor, Material, ServerCertificate};
use rat_identity::ca::Ca;
use rat_identity::keylime::{KeylimeCa, ServerFiles};

use crate::config::Config;
use crate::data_dir;
use crate::failure::{Exit, Failure, Means};

/// The CA for Keylime's clients and servers, and what servers show.
pub(super) struct KeylimeTls {
    ca: KeylimeCa,
    names: Vec<String>,
    certificate: Arc<ServerCertificate>,
    acceptor: Arc<Acceptor>,
}

impl KeylimeTls {
    /// The CA in the data directory, made at first use.
    ///
    /// # Security
    /// It must not be, or be related to, the CA of ratd's agents: a certificate of one of these would
    /// be an administrator's. (A02)
    pub(super) fn open(config: &Config, own: &Ca) -> Result<Self, Failure> {
        let names = config.server_names();
        let ca = data_dir::open_or_make_keylime_ca(&config.data_dir, &names)?;
        require_unrelated(&ca, own).means(Exit::Unusable)?;
        ca.renew(&names, unix_ms()).means(Exit::Unusable)?;
        let server = material(ca.server().means(Exit::Unusable)?);
        let certificate = ServerCertificate::new(server, unix_ms()).means(Exit::Unusable)?;
        let certificate = Arc::new(certificate);
        let shown = Arc::clone(&certificate);
        let client_ca = ca.certificate_der().to_vec();
        let acceptor = Acceptor::for_keylime(shown, client_ca).means(Exit::Unusable)?;
        Ok(Self {
            ca,
            names,
            certificate,
            acceptor: Arc::new(acceptor),
        })
    }

    /// How listeners of Keylime's speak TLS.
    pub(super) fn acceptor(&self) -> Arc<Acceptor> {
        Arc::clone(&self.acceptor)
    }

    /// New certificates, when the present ones are due; whether there are. Connections live on.
    pub(super) fn renew(&self) -> anyhow::Result<bool> {
        let now = unix_ms();
        if self.ca.renew(&self.names, now)? {
            self.certificate.replace(material(self.ca.server()?), now)?;
            tracing::info!("the certificate of Keylime's servers was renewed");
            return Ok(true);
        } else if !self.ca.renews() {
            for (file, end_unix_ms) in self.ca.ends()? {
                if end_unix_ms.saturating_sub(now) < WARN_BEFORE_MS {
                    tracing::warn!(
                        file,
                        end_unix_ms,
                        "this certificate of cv_ca ends soon, and the CA's key is not here to renew it"
                    );
                }
            }
        }
        Ok(false)
    }
}

/// Thirty days.
const WARN_BEFORE_MS: u64 = 30 * 24 * 60 * 60 * 1000;

fn require_unrelated(ca: &KeylimeCa, own: &Ca) -> anyhow::Result<()> {
    ensure!(
        !ca.is_related_to(&own.certificates()),
        "the CA in {} is ratd's own, or one of the two issued the other: agents of ratd would be \
         administrators",
        PathBuf::from(rat_identity::keylime::CA_FOLDER).display()
    );
    Ok(())
}

fn material(server: ServerFiles) -> Material {
    Material {
        chain: server.chain_der,
        key_pkcs8: server.key_pkcs8_der,
        not_after_unix_ms: server.not_after_unix_ms,
    }
}
