//! The relay that an agent speaks through.

use std::net::SocketAddr;

use rat_engine::evidence::Refusal;
use rat_identity::relay_certificate::{self, TLS_NAME};
use rat_transport::quic::Reason;
use rat_transport::quic::client::{Client, ClientError, Connection};
use thiserror::Error;
use tokio::net::lookup_host;

use super::RunError;

/// A relay, as a machine is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Through {
    /// `host:port`.
    pub address: String,
    /// SHA-256 of its public key; without it any relay of the server is taken there. The server
    /// takes the evidence only of the one that the agent's record names.
    pub key_sha256: Option<[u8; 32]>,
}

/// A text is no SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a relay's key is named by the 64 hexadecimal digits that `rat relays list` shows")]
pub struct RelayKeyError;

/// By which way an agent goes to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the server itself.
    Direct,
    /// To its relay.
    Relay,
}

/// How long an agent waits before it goes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// As the error advises.
    AsAdvised,
    /// Not long: the server wants the other way, or an operator is about to say so.
    OtherWay,
}

impl Way {
    /// The way after this error.
    pub(super) const fn after(self, error: &RunError) -> (Self, Turn) {
        let is_unwanted = matches!(
            error,
            RunError::Client(ClientError::Refused {
                reason: Reason::Session(Refusal::PathNotEnrolled),
                ..
            })
        );
        match (self, is_unwanted) {
            (Self::Relay, true) => (Self::Direct, Turn::OtherWay),
            (Self::Direct, true) => (Self::Relay, Turn::OtherWay),
            // Whatever it was: by the relay is how it goes as a rule.
            (Self::Relay | Self::Direct, false) => (Self::Relay, Turn::AsAdvised),
        }
    }
}

impl Through {
    /// A relay at this address, with this key if one is named.
    ///
    /// # Errors
    /// [`RelayKeyError`].
    pub fn new(address: &str, key: Option<&str>) -> Result<Self, RelayKeyError> {
        let key_sha256 = key.map(|text| {
            let bytes = hex::decode(text).ok();
            bytes
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(RelayKeyError)
        });
        Ok(Self {
            address: address.to_owned(),
            key_sha256: key_sha256.transpose()?,
        })
    }

    /// Connects to it; gives SHA-256 of its public key, which quotes are bound to.
    ///
    /// # Errors
    /// [`RunError`], of the last address that was tried.
    ///
    /// # Security
    /// The certificate is one that our server's CA issued to a relay: no server and no agent has
    /// the name that is asked for. The agent's quotes are bound to its key, so they are worth
    /// nothing to another relay. (Q16)
    pub(super) async fn connect(
        &self,
        client: &Client,
    ) -> Result<(Connection, SocketAddr, [u8; 32]), RunError> {
        let resolved = lookup_host(self.address.as_str()).await;
        let resolved = resolved.map_err(|source| RunError::Resolve {
            address: self.address.clone(),
            source,
        })?;
        let mut last = RunError::Client(ClientError::Unreachable);
        for address in resolved {
            match client.connect(address, TLS_NAME).await {
                Ok(connection) => match self.check(&connection) {
                    Ok(key) => return Ok((connection, address, key)),
                    Err(error) => last = error,
                },
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    fn check(&self, connection: &Connection) -> Result<[u8; 32], RunError> {
        let other = |found: String| RunError::NotTheRelay { found };
        let certificate = connection.server_certificate().unwrap_or_default();
        let relay =
            relay_certificate::read(&certificate).map_err(|error| other(error.to_string()))?;
        match self.key_sha256 {
            Some(named) if named != relay.key_sha256 => {
                let key = hex::encode(relay.key_sha256);
                Err(other(format!("relay {} with key {key}", relay.name)))
            }
            _ => Ok(relay.key_sha256),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q16_an_agent_whose_relay_is_not_wanted_goes_directly_and_comes_back() {
        let refused = |refusal: Refusal| {
            RunError::Client(ClientError::Refused {
                reason: refusal.into(),
                retry_after_ms: 0,
            })
        };
        let unwanted = refused(Refusal::PathNotEnrolled);
        assert_eq!(Way::Relay.after(&unwanted), (Way::Direct, Turn::OtherWay));
        assert_eq!(Way::Direct.after(&unwanted), (Way::Relay, Turn::OtherWay));
        for error in [refused(Refusal::Busy), RunError::Client(ClientError::Lost)] {
            for way in [Way::Relay, Way::Direct] {
                assert_eq!(way.after(&error), (Way::Relay, Turn::AsAdvised));
            }
        }
    }

    #[test]
    fn a_relays_key_is_named_whole() {
        let digits = "ab".repeat(32);
        let named = Through::new("relay:8883", Some(&digits)).unwrap();
        assert_eq!(named.key_sha256, Some([0xab; 32]));
        assert_eq!(Through::new("relay:8883", None).unwrap().key_sha256, None);
        for other in ["", "ab", &digits[1..], &"xy".repeat(32)] {
            assert_eq!(Through::new("relay:8883", Some(other)), Err(RelayKeyError));
        }
    }
}
