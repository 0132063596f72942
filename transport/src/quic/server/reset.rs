//! Stateless resets that outlive a process.
//!
//! A server that was killed leaves connections behind that only its agents know of. When one of
//! their packets reaches the server that was started after it, that one answers with a reset,
//! which the agent believes because it is made of a secret that both servers have.
//!
//! Source: RFC 9000, 10.3 "Stateless Reset".

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use quinn_proto::HashedConnectionIdGenerator;
use quinn_proto::crypto::{CryptoError, HmacKey};
use rat_engine::crypto::{constant_time_eq, hmac_sha256};

/// An endpoint whose connection ids and reset tokens are made with this secret.
pub(super) fn endpoint(
    config: ServerConfig,
    address: SocketAddr,
    secret: &[u8; 32],
) -> io::Result<Endpoint> {
    let mut endpoint = EndpointConfig::new(Arc::new(ResetKey(hmac_sha256(secret, b"reset"))));
    let ids = id_key(secret);
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    let socket = UdpSocket::bind(address)?;
    Endpoint::new(endpoint, Some(config), socket, Arc::new(TokioRuntime))
}

/// The key by which connection ids are known as this server's.
fn id_key(secret: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hmac_sha256(secret, b"connection ids");
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let tag = hmac_sha256(&self.0, data);
        for (out, byte) in signature_out.iter_mut().zip(tag) {
            *out = byte;
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if constant_time_eq(&hmac_sha256(&self.0, data), signature) {
            Ok(())
        } else {
            Err(CryptoError)
        }
    }
}
