//! Every limit on what a peer can make a transport do, in one place.
//!
//! The name of a limit is the label under which `attest_limit_rejections_total` counts what it
//! turned away. Those that an operator may set are defaults of
//! [`ServerLimits`](crate::quic::server::ServerLimits).

pub use rat_engine::limits::Limit;

rat_engine::limits! {
    // Frames
    FRAME_BYTES_MAX: usize = 64 * 1024, "bytes",
        "The body of one frame; logs follow frames as raw bytes.";
    EXTENSIONS_MAX: usize = 16, "extensions",
        "What newer peers add to a frame; more than a few would be a new version.";
    EXTENSION_BYTES_MAX: usize = 4096, "bytes",
        "One extension.";
    CERTIFICATES_MAX: usize = 8, "certificates",
        "A CA set is the current and the next one; a chain is a leaf and its issuer.";
    CERTIFICATE_BYTES_MAX: usize = 4096, "bytes",
        "A certificate with an RSA-4096 key and signature is under 2 KiB.";
    CSR_BYTES_MAX: usize = 4096, "bytes",
        "A PKCS#10 request with an RSA-4096 key and signature is under 2 KiB.";
    LOG_FORMATS_MAX: usize = 2, "formats",
        "The kernel shows its list in two formats.";
    DETAIL_BYTES_MAX: usize = 1024, "bytes",
        "A sentence about a verdict, for the agent's journal.";
    CODE_BYTES_MAX: usize = 64, "bytes",
        "The longest code has half of it.";
    // Evidence
    BOOT_LOG_BYTES_MAX: usize = rat_engine::limits::UEFI_LOG_BYTES_MAX, "bytes",
        "What the engine takes of a boot log.";
    LIST_BYTES_MAX: u64 = 1 << 30, "bytes",
        "What the engine takes of a measurement list.";
    WHOLE_LIST_BYTES_MAX: u64 = 64 * 1024, "bytes",
        "A list up to this size is handed over with its evidence; longer ones follow in pieces.";
    PROMPT_LOG_BYTES_MAX: u64 = 16 * 1024, "bytes",
        "Logs up to this size are here a second after their evidence; the shard is told of longer ones.";
    PIECE_BYTES_MAX: usize = 64 * 1024, "bytes",
        "How much of a list or boot log is read at once.";
    BUFFERED_BYTES_MAX: usize = 256 * 1024 * 1024, "bytes",
        "Boot logs and pieces of lists of all connections, until they are handed over.";
    UPLOAD_BYTES_PER_SECOND_MIN: u64 = 16 * 1024, "bytes per second",
        "A slower upload holds memory for nothing; a bad mobile link is faster.";
    UPLOAD_GRACE_MS: u64 = 3_000, "milliseconds",
        "What each piece may take beyond its size: lost packets, and a disk that wakes up.";
    EVIDENCE_SLACK_MS: u64 = 1_000, "milliseconds",
        "Two journeys over a slow link, beside the challenge's own deadline.";
    // Connections
    CONNECTIONS_MAX: usize = 65_536, "connections",
        "About 40 KiB each while idle: 2.5 GiB.";
    CONNECTIONS_PER_ADDRESS_MAX: usize = 8_192, "connections",
        "A fleet behind one address translator; no single machine needs more than one.";
    HANDSHAKES_MAX: usize = 1_024, "handshakes",
        "Each costs 0.4 ms of a core: more would time out in the queue.";
    HANDSHAKES_UNVALIDATED_MAX: usize = 128, "handshakes",
        "With more open, a peer must show that it receives at its address before it costs anything.";
    HANDSHAKES_PER_ADDRESS_MAX: usize = 128, "handshakes",
        "An eighth of all: peers of one address that begin and fall silent keep nobody else out.";
    HANDSHAKES_UNVALIDATED_PER_ADDRESS_MAX: usize = 16, "handshakes",
        "First packets with a forged address can take no more of the share of whose address it is.";
    HANDSHAKE_MS_MAX: u64 = 5_000, "milliseconds",
        "From the first packet to a verified client certificate.";
    HELLO_MS_MAX: u64 = 5_000, "milliseconds",
        "From the handshake to the whole Hello.";
    WELCOME_MS_MAX: u64 = 10_000, "milliseconds",
        "From the Hello to what the server's shard says to it.";
    WRITE_MS_MAX: u64 = 5_000, "milliseconds",
        "For a peer to take one frame.";
    IDLE_MS_MAX: u64 = 60_000, "milliseconds",
        "A peer that is silent for this long is gone; agents send a packet every third of it.";
    KEEP_ALIVE_MS_MIN: u64 = 1_000, "milliseconds",
        "However short its interval, a quiet agent sends no more than a packet each second.";
    OUTBOX_MESSAGES_MAX: usize = 16, "messages",
        "Messages to one agent that it has not read; a healthy one has at most three.";
    SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024, "bytes",
        "Packets that wait to be read, if the system allows so many: a herd's first 1,700.";
    STREAMS_MAX: u32 = 2, "streams",
        "An agent opens one stream for its Hello, and one at a time for renewals.";
    BUSY_RETRY_MS: u32 = 2_000, "milliseconds",
        "How long an agent is sent away when this transport itself has no room for it.";
    STREAM_WINDOW_BYTES: u32 = 128 * 1024, "bytes",
        "What may be on its way on one stream: two pieces, so that reading one overlaps the next.";
    CONNECTION_WINDOW_BYTES: u32 = 128 * 1024, "bytes",
        "What may be on its way on one connection: evidence comes on one stream at a time.";
    SEND_WINDOW_BYTES: u64 = 128 * 1024, "bytes",
        "What is kept for a peer that has not confirmed it: a frame or two.";
    DRAINING_RETRY_MS: u32 = 10_000, "milliseconds",
        "How long agents of a server that stops are sent away: they find it started again.";
    // Relays
    RELAY_AGENTS_MAX: usize = 131_072, "agents",
        "Of one relay, about 300 bytes each here.";
    RELAY_HELLOS_PER_SECOND_MAX: u32 = 1_000, "Hellos per second",
        "Of one relay: half of what one worker admits, so that others connect beside it.";
    RELAY_OUTBOX_MESSAGES_MAX: usize = 65_536, "messages",
        "Messages to one relay that it has not read: half of its agents have one at once.";
    RELAY_WRITE_BYTES: usize = 64 * 1024, "bytes",
        "How much is written to a relay at once.";
    RELAY_RENEWALS_MAX: usize = 64, "renewals",
        "Of one relay's agents that wait for the CA at once.";
    // Renewal of certificates
    RENEWALS_PER_HOUR_MAX: usize = 4, "renewals",
        "Of one agent: certificates live for days, and each renewal costs a signature of the CA.";
    RENEWALS_REMEMBERED_MAX: usize = 65_536, "renewals",
        "Of the last hour, of all agents, about 150 bytes each: a million agents need 2,100 an hour.";
    RENEWALS_AT_ONCE_MAX: usize = 8, "renewals",
        "Each holds a thread while the CA signs.";
    RENEW_MS_MAX: u64 = 10_000, "milliseconds",
        "From a stream's opening to the whole request for a certificate.";
    // Keylime's agents that are polled
    PULL_AGENTS_MAX: usize = 131_072, "agents",
        "About 2 KiB each here, beside the connection of one that is polled often.";
    PULL_EXCHANGES_MAX: usize = 1_024, "exchanges",
        "Connections at work at once: 20,000 agents a second that answer in 50 ms.";
    PULL_SUSPECTS_MAX: usize = 256, "exchanges",
        "Of these, with agents that gave no evidence twice: they keep nobody else waiting.";
    PULL_KEPT_MAX: usize = 16_384, "connections",
        "Connections that are kept from one poll to the next, about 40 KiB each.";
    PULL_KEPT_MS_MAX: u64 = 4_000, "milliseconds",
        "Keylime's agent closes a connection that was idle for 5 seconds.";
    PULL_CONNECT_MS_MAX: u64 = 5_000, "milliseconds",
        "From the name of an agent to the end of its handshake.";
    PULL_REACH_MS_MAX: u64 = 10_000, "milliseconds",
        "From the name of an agent to what it says of its versions.";
    PULL_ADDRESSES_MAX: usize = 4, "addresses",
        "Of one name, tried one after the other.";
    PULL_HEAD_BYTES_MAX: usize = 16 * 1024, "bytes",
        "The head of an answer; Keylime's agent sends 150 bytes.";
    PULL_HEADERS_MAX: usize = 64, "headers",
        "Of an answer; Keylime's agent sends four.";
    PULL_ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024, "bytes",
        "A list of 400,000 entries. Agents cannot be asked for a part of it.";
    PULL_VERSION_BYTES_MAX: u64 = 4 * 1024, "bytes",
        "What an agent says of its versions, and its answers that nobody reads.";
    PULL_PUBLIC_KEY_BYTES_MAX: usize = 4 * 1024, "bytes",
        "An RSA-4096 key in PEM has 800.";
    PULL_BUFFERED_BYTES_MAX: usize = 256 * 1024 * 1024, "bytes",
        "Answers of all agents, until they are handed over: each counts twice.";
    PULL_PIECE_MS_MAX: u64 = 60_000, "milliseconds",
        "How long the shard may take to ask for the next piece of a list.";
    PULL_NOTICES_WAITING_MAX: usize = 256, "messages",
        "Revocations that wait for the agents that are told before; who brings more is told to come back.";
    PULL_NOTIFIED_AT_ONCE_MAX: usize = 64, "agents",
        "Agents that are told of revocations at once, beside those that are polled.";
    PULL_NOTICE_MS_MAX: u64 = 20_000, "milliseconds",
        "For one agent to take the revocations of one round.";
    // Agents
    ANSWER_MS_MAX: u64 = 120_000, "milliseconds",
        "How long an agent waits for what it asked; then it connects again.";
}
