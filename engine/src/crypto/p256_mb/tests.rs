//! Verdicts of the lanes against OpenSSL's.
