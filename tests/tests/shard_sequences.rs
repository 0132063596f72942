//! Random sequences of messages against one shard; `fuzz/` looks for worse ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use rat_tests::sequences::{shard_messages, shard_messages_replayed};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn s09_s14_q02_no_sequence_of_messages_breaks_what_must_hold(
        steps in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        shard_messages(&steps);
    }

    #[test]
    fn the_same_inputs_at_the_same_times_give_the_same_actions(
        steps in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        shard_messages_replayed(&steps);
    }
}
