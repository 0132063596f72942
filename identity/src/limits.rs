//! Every limit on what an applicant or an operator can make this crate do, in one place.

pub use rat_engine::limits::Limit;

rat_engine::limits! {
    CERTIFICATE_BYTES_MAX = 8 * 1024, "bytes",
        "EK certificates lie in NV indices of 2 KiB at most; real ones have under 1.6 KiB.";
    REQUEST_BYTES_MAX = 8 * 1024, "bytes",
        "A PKCS#10 request for RSA-4096 is about 1.2 KiB.";
    CHAIN_CERTIFICATES_MAX = 6, "certificates",
        "EK certificate, issuers and root; the longest real chain has four.";
    TRUST_CERTIFICATES_MAX = 4096, "certificates",
        "All vendors together publish some hundreds.";
    TRUST_FILE_BYTES_MAX = 4 * 1024 * 1024, "bytes",
        "One file of certificates: 4096 of 1 KiB.";
    LIST_BYTES_MAX = 256 * 1024 * 1024, "bytes",
        "Two million lines of 65 bytes, with room for comments.";
    LIST_ENTRIES_MAX = 2_000_000, "entries",
        "The largest fleet twice.";
    CA_FILE_BYTES_MAX = 64 * 1024, "bytes",
        "Two keys and three certificates are under 16 KiB.";
    CARRIED_CERTIFICATE_BYTES_MAX = 4096, "bytes",
        "What a frame of the evidence protocol carries: ratd's CA certificates and what it issues.";
    SERVER_NAMES_MAX = 64, "names",
        "Names and addresses of one server.";
    SERVER_NAME_BYTES_MAX = 253, "bytes",
        "A DNS name (RFC 1035, 2.3.4).";
    ACTIVATION_TRIES_MAX = 5, "tries",
        "Answers to one activation before its record is dropped (N05).";
    ACTIVATION_TTL_MS = 5 * 60 * 1000, "milliseconds",
        "An honest machine answers within seconds (N05).";
}
