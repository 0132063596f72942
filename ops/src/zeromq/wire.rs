//! ZMTP 3.0, as far as a publisher speaks it: greeting, the NULL mechanism, frames, subscriptions.
//!
//! Source: ZeroMQ RFC 23/ZMTP 3.0; RFC 29/PUBSUB.

use thiserror::Error;

use crate::limits::{ZEROMQ_FRAME_BYTES_MAX, ZEROMQ_SUBSCRIPTIONS_MAX, ZEROMQ_TOPIC_BYTES_MAX};

/// Bytes of a greeting.
pub const GREETING_BYTES: usize = 64;
/// A frame follows that belongs to the same message.
const MORE: u8 = 1;
/// The length has eight bytes.
const LONG: u8 = 2;
/// It is a command.
const COMMAND: u8 = 4;
/// Every flag that there is.
const FLAGS: u8 = MORE | LONG | COMMAND;

/// Why a peer is no subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// It does not greet as ZeroMQ does, or only in versions before 3.0.
    #[error("it does not speak ZMTP 3")]
    Greeting,
    /// It wants to be authenticated, which nobody here does.
    #[error("it wants another security mechanism than NULL")]
    Mechanism,
    /// A frame is longer than any that subscribers send.
    #[error("its frame is longer than {ZEROMQ_FRAME_BYTES_MAX} bytes")]
    TooLong,
    /// Flags of a frame that do not exist.
    #[error("its frame has unknown flags")]
    Flags,
    /// A command that is not of its form.
    #[error("its command cannot be read")]
    Command,
    /// It is another kind of socket than one that subscribes.
    #[error("it is no socket that subscribes")]
    Socket,
    /// It subscribes to more than is kept for anybody.
    #[error("it has more than {ZEROMQ_SUBSCRIPTIONS_MAX} subscriptions")]
    Subscriptions,
    /// It subscribes to a topic that is longer than any.
    #[error("its topic is longer than {ZEROMQ_TOPIC_BYTES_MAX} bytes")]
    Topic,
}

/// Our greeting: version 3.0, NULL, no server.
pub fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    for (place, byte) in [(0, 0xff), (9, 0x7f), (10, 3)] {
        if let Some(there) = bytes.get_mut(place) {
            *there = byte;
        }
    }
    for (there, byte) in bytes.iter_mut().skip(12).zip(b"NULL") {
        *there = *byte;
    }
    bytes
}

/// Reads a peer's greeting.
///
/// # Errors
/// [`WireError::Greeting`], [`WireError::Mechanism`].
pub fn read_greeting(bytes: &[u8; GREETING_BYTES]) -> Result<(), WireError> {
    let [0xff, .., _] = bytes else {
        return Err(WireError::Greeting);
    };
    let (signature, rest) = bytes.split_at(10);
    if signature.last().is_none_or(|last| last & 1 == 0) {
        return Err(WireError::Greeting);
    }
    if rest.first().is_none_or(|major| *major < 3) {
        return Err(WireError::Greeting);
    }
    let mechanism = rest.get(2..22).unwrap_or_default();
    let is_null = mechanism
        .strip_prefix(b"NULL")
        .is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
    is_null.then_some(()).ok_or(WireError::Mechanism)
}

/// The command that ends our side of the handshake.
pub fn ready() -> Vec<u8> {
    let mut body = b"\x05READY\x0bSocket-Type".to_vec();
    body.extend(3_u32.to_be_bytes());
    body.extend(b"PUB");
    frame(COMMAND, &body)
}

/// A message of one frame.
pub fn message(body: &[u8]) -> Vec<u8> {
    frame(0, body)
}

fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len().saturating_add(9));
    match u8::try_from(body.len()) {
        Ok(short) => bytes.extend([flags, short]),
        Err(_) => {
            bytes.push(flags | LONG);
            bytes.extend(u64::try_from(body.len()).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    bytes.extend(body);
    bytes
}

/// What a frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head.
    pub head_bytes: usize,
    /// Bytes of the body.
    pub body_bytes: usize,
    /// Whether it is a command.
    pub is_command: bool,
    /// Whether another frame of the same message follows.
    pub has_more: bool,
}

/// Reads the head of a frame; `None` while bytes are missing.
///
/// # Errors
/// [`WireError::Flags`], [`WireError::TooLong`]: before anything is allocated for it.
pub fn read_head(bytes: &[u8]) -> Result<Option<Head>, WireError> {
    let Some((flags, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let is_command = flags & COMMAND != 0;
    let has_more = flags & MORE != 0;
    if flags & !FLAGS != 0 || (is_command && has_more) {
        return Err(WireError::Flags);
    }
    let (head_bytes, length) = if flags & LONG != 0 {
        let Some(length) = rest.first_chunk::<8>() else {
            return Ok(None);
        };
        (9, u64::from_be_bytes(*length))
    } else {
        let Some(length) = rest.first() else {
            return Ok(None);
        };
        (2, u64::from(*length))
    };
    let body_bytes = usize::try_from(length).unwrap_or(usize::MAX);
    if body_bytes > ZEROMQ_FRAME_BYTES_MAX {
        return Err(WireError::TooLong);
    }
    Ok(Some(Head {
        head_bytes,
        body_bytes,
        is_command,
        has_more,
    }))
}

/// Reads the peer's READY.
///
/// # Errors
/// [`WireError::Command`], [`WireError::Socket`].
pub fn read_ready(body: &[u8]) -> Result<(), WireError> {
    let mut rest = body.strip_prefix(b"\x05READY").ok_or(WireError::Command)?;
    let mut socket = None;
    while let Some((length, after)) = rest.split_first() {
        let (name, after) = after
            .split_at_checked(usize::from(*length))
            .ok_or(WireError::Command)?;
        let (length, after) = after.split_first_chunk::<4>().ok_or(WireError::Command)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (value, after) = after.split_at_checked(length).ok_or(WireError::Command)?;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            socket = Some(value);
        }
        rest = after;
    }
    match socket {
        Some(b"SUB" | b"XSUB") => Ok(()),
        _ => Err(WireError::Socket),
    }
}

/// What a subscriber wants to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscriptions(Vec<Box<[u8]>>);

impl Subscriptions {
    /// Reads what a subscriber sent after the handshake. Commands that mean nothing here, and
    /// messages that are no subscriptions, are passed over.
    ///
    /// # Errors
    /// [`WireError::Subscriptions`], [`WireError::Topic`].
    pub fn take(&mut self, head: Head, body: &[u8]) -> Result<(), WireError> {
        let (is_wanted, topic) = match (head.is_command, body) {
            (false, [1, topic @ ..]) => (true, topic),
            (false, [0, topic @ ..]) => (false, topic),
            (true, _) => match (
                body.strip_prefix(b"\x09SUBSCRIBE"),
                body.strip_prefix(b"\x06CANCEL"),
            ) {
                (Some(topic), _) => (true, topic),
                (None, Some(topic)) => (false, topic),
                (None, None) => return Ok(()),
            },
            (false, _) => return Ok(()),
        };
        if topic.len() > ZEROMQ_TOPIC_BYTES_MAX {
            return Err(WireError::Topic);
        }
        if is_wanted {
            if self.0.len() >= ZEROMQ_SUBSCRIPTIONS_MAX {
                return Err(WireError::Subscriptions);
            }
            self.0.push(topic.into());
        } else if let Some(place) = self.0.iter().position(|it| **it == *topic) {
            self.0.remove(place);
        }
        Ok(())
    }

    /// Whether it wants a message with this body.
    pub fn wants(&self, body: &[u8]) -> bool {
        self.0.iter().any(|topic| body.starts_with(topic))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn head(bytes: &[u8]) -> Head {
        read_head(bytes).unwrap().unwrap()
    }

    #[test]
    fn what_is_written_is_what_the_rfc_says() {
        let greeting = greeting();
        assert_eq!(read_greeting(&greeting), Ok(()));
        assert_eq!(&greeting[..12], b"\xff\0\0\0\0\0\0\0\0\x7f\x03\0");
        assert_eq!(&greeting[12..17], b"NULL\0");
        let ready = ready();
        assert_eq!(
            &ready[..2],
            [COMMAND, u8::try_from(ready.len() - 2).unwrap()]
        );
        // Ours is a publisher's, and no subscriber's.
        assert_eq!(read_ready(&ready[2..]), Err(WireError::Socket));
        assert_eq!(message(b"ab"), b"\0\x02ab");
        let long = message(&[7; 256]);
        assert_eq!(&long[..9], b"\x02\0\0\0\0\0\0\x01\0");
        assert_eq!(head(&long).body_bytes, 256);
    }

    #[test]
    fn x01_greetings_that_are_none_are_refused() {
        for (place, byte, expected) in [
            (0, 0, WireError::Greeting),
            (9, 0x7e, WireError::Greeting),
            (10, 2, WireError::Greeting),
            (12, b'P', WireError::Mechanism),
            (16, b'X', WireError::Mechanism),
            (31, 1, WireError::Mechanism),
        ] {
            let mut bytes = greeting();
            bytes[place] = byte;
            assert_eq!(read_greeting(&bytes), Err(expected), "{place}");
        }
        let mut newer = greeting();
        (newer[10], newer[11]) = (3, 1);
        assert_eq!(read_greeting(&newer), Ok(()));
    }

    #[test]
    fn x02_no_frame_is_longer_than_its_limit() {
        let max = u64::try_from(ZEROMQ_FRAME_BYTES_MAX).unwrap();
        let long = |length: u64| [&[LONG][..], &length.to_be_bytes()].concat();
        assert_eq!(head(&long(max)).body_bytes, ZEROMQ_FRAME_BYTES_MAX);
        for length in [max + 1, u64::MAX] {
            assert_eq!(read_head(&long(length)), Err(WireError::TooLong));
        }
        for partial in [&b""[..], b"\0", b"\x02\0\0\0\0\0\0\0"] {
            assert_eq!(read_head(partial), Ok(None));
        }
        for flags in [8, 0x80, COMMAND | MORE] {
            assert_eq!(read_head(&[flags, 0]), Err(WireError::Flags));
        }
    }

    #[test]
    fn x01_commands_that_are_cut_off_are_refused() {
        let whole = b"\x05READY\x0bSocket-Type\0\0\0\x03SUB\x08Identity\0\0\0\0".as_slice();
        assert_eq!(read_ready(whole), Ok(()));
        for length in 0..whole.len() {
            assert!(
                read_ready(&whole[..length]).is_err() || length == 25,
                "{length}"
            );
        }
        for socket in [&b"PUB"[..], b"REQ", b""] {
            let length = u32::try_from(socket.len()).unwrap().to_be_bytes();
            let body = [b"\x05READY\x0bsocket-type", &length[..], socket].concat();
            assert_eq!(read_ready(&body), Err(WireError::Socket));
        }
        assert_eq!(read_ready(b"\x05READY"), Err(WireError::Socket));
        assert_eq!(read_ready(b"\x05ERROR\x00"), Err(WireError::Command));
    }

    #[test]
    fn subscriptions_are_prefixes_and_few() {
        let message = head(b"\0\0");
        let command = head(b"\x04\0");
        let mut wanted = Subscriptions::default();
        assert!(!wanted.wants(b"{}"));
        wanted.take(message, b"\x01").unwrap();
        assert!(wanted.wants(b"{}") && wanted.wants(b""));
        wanted.take(message, b"\0").unwrap();
        assert!(!wanted.wants(b"{}"));
        wanted.take(command, b"\x09SUBSCRIBE{\"msg").unwrap();
        assert!(wanted.wants(b"{\"msg\":1}") && !wanted.wants(b"{"));
        wanted.take(command, b"\x06CANCEL{\"msg").unwrap();
        wanted.take(command, b"\x04PING\0\0").unwrap();
        wanted.take(message, b"\x07?").unwrap();
        wanted.take(message, b"").unwrap();
        assert_eq!(wanted, Subscriptions::default());
        for _ in 0..ZEROMQ_SUBSCRIPTIONS_MAX {
            wanted.take(message, b"\x01a").unwrap();
        }
        assert_eq!(wanted.take(message, b"\x01"), Err(WireError::Subscriptions));
        let long = [&[1][..], &[b'x'; ZEROMQ_TOPIC_BYTES_MAX + 1]].concat();
        assert_eq!(wanted.take(message, &long), Err(WireError::Topic));
    }
}
