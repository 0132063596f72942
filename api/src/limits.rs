//! Every limit on what a client can make the HTTP surfaces do, in one place.
//!
//! Each has a name, a value with its unit and a reason. [`ALL`] lists them. Where capacity, time or
//! a rate is at an end, `attest_limit_rejections_total` moves with the name as its label; where a
//! field or JSON is too long or deep, the answer's status and detail say so.

use std::time::Duration;

pub use rat_engine::limits::Limit;

rat_engine::limits! {
    // Connections
    CONNECTIONS_MAX = 8192, "connections",
        "Open connections of one listener: a file descriptor and tens of KiB each.";
    CONNECTIONS_PER_ADDRESS_MAX = 128, "connections",
        "Open connections from one address (one /64 of IPv6): a site behind one address enrols in turns.";
    HANDSHAKE_MS_MAX = 10_000, "milliseconds",
        "From accept to the end of the TLS handshake; real ones take a few round trips.";
    HEADER_MS_MAX = 10_000, "milliseconds",
        "From the end of one request, or of the handshake, to the end of the next request's head.";
    REQUEST_MS_MAX = 30_000, "milliseconds",
        "From the end of a request's head to the head of its answer, its body read in between.";
    RESPONSE_MS_MAX = 300_000, "milliseconds",
        "How long a client may take to read one answer.";
    IDLE_MS_MAX = 60_000, "milliseconds",
        "How long a connection may stay open with no request under way.";
    STREAMS_PER_CONNECTION_MAX = 64, "streams",
        "Requests of one HTTP/2 connection at once.";
    // Requests
    HEADER_BYTES_MAX = 16 * 1024, "bytes",
        "Request line and headers together; ours are under 1 KiB.";
    HEADERS_MAX = 64, "headers",
        "Header fields of one request.";
    CONCURRENT_REQUESTS_MAX = 512, "requests",
        "Requests in work on one surface.";
    BODIES_AT_ONCE_MAX = 512, "bodies",
        "Request bodies that are on their way on one surface; those in work count elsewhere.";
    BODIES_PER_ADDRESS_MAX = 32, "bodies",
        "Of these, from one address: a sixteenth, so that no single one keeps others out.";
    REQUESTS_PER_ADDRESS_PER_SECOND = 50, "requests per second",
        "Steady rate of one address (one /64 of IPv6); what is saved up is four seconds' worth.";
    TOKEN_FAILURES_PER_ADDRESS_PER_MINUTE = 20, "failures per minute",
        "Wrong or unknown tokens from one address; then it waits before any token of its is looked at.";
    TOKEN_HOLD_MS = 30_000, "milliseconds",
        "How long an address waits then.";
    LOGINS_PER_ADDRESS_PER_MINUTE = 30, "logins per minute",
        "Attempts of one address (one /64 of IPv6), right or wrong: programs hold API tokens.";
    LOGINS_PER_USERNAME_AND_ADDRESS_PER_MINUTE = 10, "logins per minute",
        "Attempts of one address at one username, so that others can still log in as that.";
    LOGINS_PER_USERNAME_PER_MINUTE = 60, "logins per minute",
        "Attempts at one username from wherever, so that many addresses guess slowly, too.";
    PASSWORD_CHECKS_PER_USER_PER_MINUTE = 10, "attempts per minute",
        "Attempts at the present password by somebody who found a session open.";
    PASSWORD_HASHES_AT_ONCE_MAX = 2, "computations",
        "Passwords hashed at once: 19 MiB and tens of milliseconds of a core each.";
    PASSWORD_HASHES_WAITING_MAX = 32, "computations",
        "Passwords that wait for one of these; the last waits for about a second.";
    ADDRESS_BUCKETS = 1024 * 1024, "buckets",
        "Addresses, or names, share this many rate buckets by keyed hash, so that no number of them costs more memory.";
    TOKEN_HOLDS = 4096, "addresses",
        "So many of these buckets, by remainder, are held back one by one for wrong tokens.";
    TOKEN_BODY_BYTES_MAX = 4 * 1024, "bytes",
        "A token and nothing else.";
    ENROL_BODY_BYTES_MAX = 64 * 1024, "bytes",
        "An EK certificate, two public areas and a certificate request, in base64.";
    ACTIVATE_BODY_BYTES_MAX = 4 * 1024, "bytes",
        "An activation id and a proof.";
    BASELINE_BODY_BYTES_MAX = 32 * 1024 * 1024, "bytes",
        "An enrolment and an ascii measurement list of some 150,000 entries.";
    BASELINES_AT_ONCE_MAX = 4, "requests",
        "Baseline enrolments in work at once, because each may hold its body twice.";
    ACCOUNT_BODY_BYTES_MAX = 8 * 1024, "bytes",
        "A name, two passwords, an address and roles.";
    OPERATOR_BODY_BYTES_MAX = 16 * 1024, "bytes",
        "A few members, the longest of them a reason.";
    GROUP_BODY_BYTES_MAX = 128 * 1024, "bytes",
        "A group's settings with a PCR policy of 64 KiB.";
    POLICY_BODY_BYTES_MAX = 64 * 1024 * 1024, "bytes",
        "A runtime policy of half a million paths, as long as the store takes one.";
    POLICIES_AT_ONCE_MAX = 2, "requests",
        "Policies that are read or compared at once, because each may hold a policy several times.";
    POLICY_TEXTS_AT_ONCE_MAX = 4, "requests",
        "Policies on their way to whoever asked for one: each is in memory until it was read.";
    POLICY_TEXTS_PER_ADDRESS_MAX = 2, "requests",
        "Of these, to one address.";
    EVIDENCE_BODY_BYTES_MAX = 64 * 1024 * 1024, "bytes",
        "Evidence to be verified for somebody: a list of 300,000 entries and the policy for it.";
    EVIDENCE_PLACES_MAX = 256, "places",
        "Evidence that is read, waits or is judged at once, in places of EVIDENCE_PLACE_BYTES.";
    EVIDENCE_PLACES_PER_ADDRESS_MAX = 128, "places",
        "Of these, of one address: the longest body there may be, or as many short ones.";
    EVIDENCE_PLACE_BYTES = 512 * 1024, "bytes",
        "A body takes a place for each so many bytes, so that places bound the memory of all bodies.";
    VERIFICATION_MS_MAX = 20_000, "milliseconds",
        "From the end of a request with evidence to its answer: whoever chooses both keys and list \
         could ask for minutes of signatures.";
    COMPILED_POLICIES_MAX = 16, "policies",
        "Policies of requests that are kept compiled, found by their whole text.";
    COMPILED_POLICIES_BYTES_MAX = 64 * 1024 * 1024, "bytes",
        "All of these together, texts included.";
    // Keylime's verifier
    KEYLIME_BODY_BYTES_MAX = 100 * 1024 * 1024, "bytes",
        "Keylime's `max_upload_size`: an agent or a policy with a runtime policy in base64.";
    KEYLIME_BODIES_AT_ONCE_MAX = 4, "requests",
        "Of each such route, requests in work at once: each may hold a policy several times.";
    KEYLIME_TEXT_CHARACTERS_MAX = 256 * 1024, "characters",
        "A text that a tenant says of an agent: certificates, keys, and policies of PCRs.";
    // Keylime's push mode
    PUSH_CHALLENGE_MS = 60_000, "milliseconds",
        "How long the challenge of a session may be answered.";
    PUSH_CHALLENGES_MAX = 65_536, "challenges",
        "Challenges of sessions that wait for an answer: a few hundred bytes each.";
    PUSH_CHALLENGES_PER_AGENT_MAX = 4, "challenges",
        "Of these, for one agent: anybody may ask for any, and the newest count.";
    PUSH_SESSIONS_MAX = 1_000_000, "sessions",
        "Open sessions, one for each agent: a few hundred bytes each.";
    PUSH_SESSIONS_PER_ADDRESS_PER_MINUTE = 50, "sessions per minute",
        "Keylime's `session_create_rate_limit_per_ip`.";
    PUSH_SESSIONS_PER_AGENT_PER_MINUTE = 15, "sessions per minute",
        "Keylime's `session_create_rate_limit_per_agent`, for each address: others keep no agent from its own.";
    PUSH_AWAITED_MAX = 100_000, "attestations",
        "Attestations that were begun and whose evidence is awaited: about a KiB each.";
    PUSH_EVIDENCE_ITEMS_MAX = 16, "kinds",
        "Kinds of evidence that an agent offers; there are three.";
    PUSH_NAMES_MAX = 32, "names",
        "Algorithms, schemes, banks, keys or formats in one list of what an agent offers.";
    PUSH_BODY_BYTES_MAX = 64 * 1024, "bytes",
        "What an agent offers, or its proof of a key; under 4 KiB each.";
    REGISTRATION_BODY_BYTES_MAX = 96 * 1024, "bytes",
        "A registration with Keylime's registrar: chains of certificates and public areas in base64.";
    REGISTRATION_KEY_BYTES_MAX = 2 * 1024, "bytes",
        "A public area, an attestation or a signature of a registration.";
    REGISTRATION_CERTIFICATE_CHARACTERS_MAX = 64 * 1024, "characters",
        "A chain of certificates in PEM, of which the first counts.";
    REGISTRATION_LISTS_AT_ONCE_MAX = 4, "requests",
        "Lists of all registrations on their way: each may have a million ids.";
    BODY_BYTES_PER_SECOND_MIN = 512 * 1024, "bytes per second",
        "A long body has more time than REQUEST_MS_MAX: what came of it, divided by this.";
    // JSON
    JSON_DEPTH_MAX = 16, "levels",
        "Nesting of a request's JSON; documented requests have one level.";
    JSON_MEMBERS_MAX = 256, "members",
        "Members of one object of a request; documented requests have under ten.";
    JSON_TEXTS_MAX = 256, "texts",
        "Texts of one array of a request that are kept; documented requests have at most 16.";
    // Fields
    TOKEN_CHARACTERS_MAX = 256, "characters",
        "A token has under 130 characters.";
    HOSTNAME_CHARACTERS_MAX = 253, "characters",
        "A fully qualified domain name (RFC 1035, 2.3.4).";
    GROUP_CHARACTERS_MAX = 63, "characters",
        "A group's slug stands in routes and file names.";
    PROOF_CHARACTERS_MAX = 64, "characters",
        "An HMAC-SHA-256 in hexadecimal.";
    ACTIVATION_ID_CHARACTERS_MAX = 64, "characters",
        "16 random bytes in hexadecimal need 32.";
    USERNAME_CHARACTERS_MAX = 64, "characters",
        "A username stands in audit entries and logs.";
    EMAIL_CHARACTERS_MAX = 254, "characters",
        "An address that mail can be sent to (RFC 5321, 4.5.3.1.3).";
    PASSWORD_CHARACTERS_MIN = 8, "characters",
        "The least that a password may have (NIST SP 800-63B, 5.1.1.2).";
    PASSWORD_CHARACTERS_MAX = 256, "characters",
        "Hashing reads a password whole.";
    ROLES_MAX = 16, "roles",
        "Roles that a request names.";
    API_TOKEN_NAME_CHARACTERS_MAX = 64, "characters",
        "What a program's token is for stands in lists.";
    API_TOKEN_TTL_HOURS_MAX = 8760, "hours",
        "A token lives a year at most, then somebody must want it again.";
    POLICY_NAME_CHARACTERS_MAX = 128, "characters",
        "A policy's or a group's name stands in tables.";
    REASON_CHARACTERS_MAX = 512, "characters",
        "Why an operator does something, in a sentence, for the audit log.";
    TOKEN_TTL_HOURS_MAX = 8_760, "hours",
        "An enrolment token lives for at most a year.";
    TOKEN_USES_MAX = 10_000_000, "uses",
        "How often one enrolment token can be used, when that is limited.";
    // Answers
    PAGE_ITEMS_MAX = 1000, "items",
        "Items of one page of a list.";
    AGENTS_SCANNED_MAX = 10_000, "agents",
        "Agents that one request looks at while a filter leaves most of them out; then the page ends.";
    DIFF_ITEMS_MAX = 1000, "items",
        "Items of each list of a comparison of two policies; how many there are is counted to the end.";
    LINTS_SHOWN_MAX = 100, "findings",
        "Findings about a policy that its answer names.";
    COUNTED_POLICIES_MAX = 1024, "policies",
        "Policies whose number of paths is remembered; a few dozen bytes each.";
    WEBHOOK_TESTS_AT_ONCE_MAX = 4, "requests",
        "Test messages to webhooks that are under way at once: each waits for somebody else's server.";
    COUNT_MS_MAX = 3_000, "milliseconds",
        "How long a request waits for a count that looks at every agent; it is unknown after that.";
    COVERAGE_COUNTS_AT_ONCE_MAX = 8, "counts",
        "Counts of judged agents under way at once, each of another group: each looks at every agent.";
    CLEAR_MS_MAX = 10_000, "milliseconds",
        "How long a request waits until the clearing of a failure is durable.";
}

/// A limit in milliseconds as a duration.
pub(crate) fn duration(limit_ms: usize) -> Duration {
    Duration::from_millis(u64::try_from(limit_ms).unwrap_or(u64::MAX))
}
