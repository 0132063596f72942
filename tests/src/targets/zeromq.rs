//! The target of what peers of the ZeroMQ publisher send.

use rat_ops::limits::ZEROMQ_FRAME_BYTES_MAX;
use rat_ops::zeromq::wire::{
    GREETING_BYTES, Subscriptions, message, read_greeting, read_head, read_ready,
};

/// A peer's greeting, and frames after it. Each frame is read as a READY, and as a subscription: what
/// is wanted afterwards is what was subscribed to.
pub fn zeromq_peer(data: &[u8]) {
    let (greeting, mut rest) = match data.split_first_chunk::<GREETING_BYTES>() {
        Some((greeting, rest)) => (read_greeting(greeting).is_ok(), rest),
        None => (false, data),
    };
    let mut wanted = Subscriptions::default();
    while let Ok(Some(head)) = read_head(rest) {
        assert!(head.body_bytes <= ZEROMQ_FRAME_BYTES_MAX);
        assert!(!(head.is_command && head.has_more));
        let Some((body, after)) = rest
            .get(head.head_bytes..)
            .and_then(|rest| rest.split_at_checked(head.body_bytes))
        else {
            break;
        };
        if greeting && read_ready(body).is_ok() {
            assert!(body.starts_with(b"\x05READY"));
        }
        if wanted.take(head, body).is_err() {
            break;
        }
        if !head.is_command
            && let [1, topic @ ..] = body
        {
            assert!(wanted.wants(topic));
        }
        rest = after;
    }
    // What we write is read as what it is.
    let ours = message(data);
    if let Ok(Some(head)) = read_head(&ours) {
        assert_eq!(head.body_bytes, data.len());
        assert_eq!(ours.get(head.head_bytes..), Some(data));
    }
}
