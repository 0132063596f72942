//! Every limit on what webhooks can be made to do, and on what their receivers can make us do.

pub use rat_engine::limits::Limit;

rat_engine::limits! {
    // Configuration
    WEBHOOKS_MAX = 32, "webhooks",
        "Each has a queue and metrics of its own.";
    WEBHOOK_NAME_CHARACTERS_MAX = 63, "characters",
        "A name stands in routes, labels and logs.";
    WEBHOOK_URL_CHARACTERS_MAX = 2048, "characters",
        "A request line that every server takes.";
    WEBHOOK_NETWORKS_MAX = 64, "networks",
        "Networks that one webhook allows.";
    WEBHOOK_SECRET_BYTES_MAX = 4096, "bytes",
        "A key for HMAC; longer ones are hashed first and add nothing.";
    WEBHOOK_CA_BYTES_MAX = 4 * 1024 * 1024, "bytes",
        "A bundle of all public CAs is a quarter of a MiB.";
    // Changes on their way to the queues
    WEBHOOK_CHANGES_WAITING_MAX = 4096, "changes",
        "Changes of status that wait to be written, 1 KiB each; beyond that agents are compared with what was noted.";
    WEBHOOK_CHANGES_PER_COMMIT_MAX = 256, "changes",
        "Changes of status in one transaction, which holds up ticks for a few milliseconds.";
    // Deliveries
    WEBHOOK_MESSAGES_MAX = 1_000_000, "messages",
        "Messages that one webhook has not taken yet, on disk, half a KiB each; beyond that the oldest are given up.";
    WEBHOOK_ATTEMPTS_AT_ONCE_MAX = 8, "attempts",
        "Messages under way to one webhook, each about another agent.";
    WEBHOOK_ADDRESSES_MAX = 16, "addresses",
        "Addresses of a receiver's name that are looked at.";
    WEBHOOK_ANSWER_HEAD_BYTES_MAX = 16 * 1024, "bytes",
        "The head of an answer, of which the status and one header count.";
    WEBHOOK_ANSWER_HEADERS_MAX = 64, "headers",
        "Header fields of an answer.";
    WEBHOOK_ANSWER_BODY_BYTES_MAX = 16 * 1024, "bytes",
        "What is read of an answer's body, and thrown away.";
    // A ZeroMQ publisher
    ZEROMQ_SUBSCRIBERS_MAX = 1024, "connections",
        "Subscribers of one publisher, 16 KiB each.";
    ZEROMQ_MESSAGES_WAITING_MAX = 256, "messages",
        "Messages that a subscriber has not taken, half a KiB each and shared by all; beyond that it loses the newest.";
    ZEROMQ_FRAME_BYTES_MAX = 4096, "bytes",
        "A subscriber sends its socket type and its subscriptions.";
    ZEROMQ_SUBSCRIPTIONS_MAX = 64, "subscriptions",
        "Prefixes that one subscriber asks for; Keylime's clients ask for all.";
    ZEROMQ_TOPIC_BYTES_MAX = 256, "bytes",
        "The prefix of a message.";
    WEBHOOK_RETRY_SECONDS_MAX = 3600, "seconds",
        "The longest pause between two attempts that a receiver can ask for.";
}
