//! Who calls a route of Keylime's.

use rat_identity::keylime::admin_name;

use crate::auth::{Link, Peer};

/// Who calls, as Keylime tells callers apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Somebody without a credential that counts.
    Anonymous,
    /// The holder of a certificate of the CA for Keylime's clients, by its common name.
    Admin(String),
}

impl Identity {
    /// Who is at the other end of this connection.
    ///
    /// # Security
    /// Only a listener that asks for certificates of the CA for Keylime's clients, and of no other,
    /// has administrators. A certificate that ratd's own CA issued to an agent or a relay is never
    /// one's, whatever stands above that CA. (A02)
    pub fn of(peer: &Peer) -> Self {
        let certificate = match peer.link {
            Link::KeylimeTls => peer.certificate.as_deref(),
            Link::Plain | Link::Tls => None,
        };
        let name = certificate.and_then(admin_name);
        name.map_or(Self::Anonymous, Self::Admin)
    }

    /// How the audit log names them.
    pub fn actor(&self) -> String {
        match self {
            Self::Anonymous => "keylime:".to_owned(),
            Self::Admin(name) => format!("keylime:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rat_identity::keylime::KeylimeCa;
    use rustls::pki_types::CertificateDer;

    use super::*;

    fn peer(link: Link, certificate: Option<&[u8]>) -> Peer {
        Peer {
            address: "127.0.0.1:1".parse().unwrap(),
            certificate: certificate.map(|der| CertificateDer::from(der.to_vec())),
            link,
        }
    }

    #[test]
    fn a02_only_a_certificate_on_a_listener_for_keylimes_clients_is_an_administrators() {
        let folder = tempfile::tempdir().unwrap();
        let now = crate::clock::unix_ms();
        let names = ["localhost".to_owned()];
        let ca = KeylimeCa::make(folder.path(), &names, now).unwrap();
        let issued = ca.server().unwrap().chain_der;
        let leaf = issued.first().unwrap().as_slice();
        let admin = Identity::of(&peer(Link::KeylimeTls, Some(leaf)));
        assert_eq!(admin, Identity::Admin("server".to_owned()));
        assert_eq!(admin.actor(), "keylime:server");
        for (link, certificate) in [
            (Link::Tls, Some(leaf)),
            (Link::Plain, Some(leaf)),
            (Link::KeylimeTls, None),
            (Link::KeylimeTls, Some(&b"no certificate"[..])),
        ] {
            assert_eq!(Identity::of(&peer(link, certificate)), Identity::Anonymous);
        }
    }
}
