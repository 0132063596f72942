//! Stateless resets that outlive a process.
//!
//! A server that was killed leaves connections behind that only its agents know of. When one of
//! their packets reaches the server that was started after it, that one answers with a reset,
//! which the agent believes because it is made of a secret that both servers have.
//!
//! A whole fleet asks at once whether its server is still there, and each agent that gets no
//! answer asks ever more seldom, until its connection times out. So each is answered, as often as
//! it asks.
//!
//! Source: RFC 9000, 10.3 "Stateless Reset".

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use quinn_proto::crypto::{CryptoError, HmacKey};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid, RandomConnectionIdGenerator};
use rat_engine::crypto::{constant_time_eq, hmac_sha256};

use crate::quic::enlarge;

/// An endpoint whose connection ids and reset tokens are made with this secret.
pub(super) fn endpoint(
    config: ServerConfig,
    address: SocketAddr,
    secret: &[u8; 32],
) -> io::Result<Endpoint> {
    let socket = UdpSocket::bind(address)?;
    enlarge(&socket);
    let config = Some(config);
    Endpoint::new(self::config(secret), config, socket, Arc::new(TokioRuntime))
}

/// Ids and resets.
///
/// # Security
/// Every packet that is not known and has an id made with our secret is answered, without a bound
/// on how often: an answer is shorter than what it answers, so that it neither amplifies nor goes
/// round in circles (RFC 9000, 10.3.3), and costs one hash and what the refusal of any first packet
/// costs. Whoever has seen no id of ours is not answered at all. (X06)
fn config(secret: &[u8; 32]) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ResetKey(hmac_sha256(secret, b"reset"))));
    let ids = Ids::new(secret);
    config
        .cid_generator(move || Box::new(ids))
        .min_reset_interval(Duration::ZERO);
    config
}

/// How much of an id is random.
const RANDOM_BYTES: usize = 7;
/// How much of it shows that it is this server's.
const TAG_BYTES: usize = 5;

/// Makes ids of connections, and knows those that were made with the same secret.
///
/// quinn's own have 24 random bits, and each connection has five: with 100,000 agents one in
/// thirty ids from before a restart would be another connection's by now. Its owner would get no
/// reset, and wait for its time-out.
#[derive(Clone, Copy)]
struct Ids {
    key: [u8; 32],
    random: RandomConnectionIdGenerator,
}

impl Ids {
    fn new(secret: &[u8; 32]) -> Self {
        Self {
            key: hmac_sha256(secret, b"connection ids"),
            random: RandomConnectionIdGenerator::new(RANDOM_BYTES),
        }
    }

    fn tag(&self, random: &[u8]) -> [u8; TAG_BYTES] {
        let [a, b, c, d, e, ..] = hmac_sha256(&self.key, random);
        [a, b, c, d, e]
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let random = self.random.generate_cid();
        ConnectionId::new(&[&random[..], &self.tag(&random)].concat())
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match id.split_first_chunk::<RANDOM_BYTES>() {
            Some((random, tag)) if constant_time_eq(&self.tag(random), tag) => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        RANDOM_BYTES.wrapping_add(TAG_BYTES)
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use bytes::BytesMut;
    use quinn_proto::DatagramEvent;
    use tokio::time::Instant;

    use super::*;

    const SECRET: [u8; 32] = [5; 32];

    /// A packet of a connection that a server with this secret had.
    fn lost(secret: &[u8; 32], bytes: usize) -> BytesMut {
        let id = Ids::new(secret).generate_cid();
        // RFC 9000, 17.3.1: the fixed bit, the destination's id, and what is encrypted.
        let mut packet = BytesMut::from(&[0x40][..]);
        packet.extend_from_slice(&id);
        packet.resize(bytes, 0x5a);
        packet
    }

    /// How long the answer is to each of these packets, which all arrive at the same time.
    fn answered(packets: Vec<BytesMut>) -> Vec<Option<usize>> {
        let endpoint = Arc::new(config(&SECRET));
        let mut endpoint = quinn_proto::Endpoint::new(endpoint, None, false, None);
        let (now, from) = (
            Instant::now().into_std(),
            (Ipv4Addr::LOCALHOST, 4433).into(),
        );
        let answer = |packet| {
            let mut bytes = Vec::new();
            let event = endpoint.handle(now, from, None, None, packet, &mut bytes);
            event.map(|event| match event {
                DatagramEvent::Response(transmit) => transmit.size,
                _ => unreachable!("there are no connections"),
            })
        };
        packets.into_iter().map(answer).collect()
    }

    #[test]
    fn s08_a_new_server_gives_nobody_the_id_of_a_connection_before_it() {
        let mut ids = Ids::new(&SECRET);
        let made: std::collections::HashSet<_> = (0..20_000).map(|_| ids.generate_cid()).collect();
        assert_eq!(made.len(), 20_000);
        assert!(made.iter().all(|id| id.len() == ids.cid_len()));
        // The same secret knows them, and another one does not.
        assert!(made.iter().all(|id| Ids::new(&SECRET).validate(id).is_ok()));
        assert!(
            made.iter()
                .all(|id| Ids::new(&[6; 32]).validate(id).is_err())
        );
        assert!(ids.validate(&ConnectionId::new(&[0; 3])).is_err());
    }

    #[test]
    fn s08_all_of_a_herd_that_asks_at_once_are_told_that_the_server_is_another() {
        let herd = (0..1_000).map(|_| lost(&SECRET, 29)).collect();
        let answers = answered(herd);
        assert_eq!(answers.iter().flatten().count(), 1_000);
    }

    #[test]
    fn x06_a_reset_is_shorter_than_what_it_answers_and_none_answers_a_stranger() {
        for bytes in [22, 29, 100, 1_200] {
            let answers = answered(vec![lost(&SECRET, bytes)]);
            assert!(answers[0].unwrap() < bytes, "{answers:?}");
        }
        // One that is as short as a reset may be one.
        assert_eq!(answered(vec![lost(&SECRET, 21)]), [None]);
        assert_eq!(answered(vec![lost(&[6; 32], 29)]), [None]);
    }
}
