//! Signatures whose verdicts are known, for lanes that are to spare.

use super::Operand;
use crate::crypto::ecdsa::hex_literal;

/// A valid signature over the SHA-256 of "a known answer", by a key that was made for this and
/// forgotten.
pub(crate) const KNOWN_VALID: Operand = Operand {
    x: hex_literal(b"683ebc82a0908c6f634a96648a1c9b98ff4008f7b6ca4ec093d94cf6cfd74e33"),
    y: hex_literal(b"b67d6e2c04a1ed6f401265a201d5b2238baa7ac92ce6df9742770a5c83710ba3"),
    digest: hex_literal(b"0f897d7538dcf0d915e03d17f5d15f7bbb486658f8db3a7b245f309ac66c8814"),
    r: hex_literal(b"465b077c5e38ed144872944c9f33469076e4195b2b4dc8f5060f31db1b41921f"),
    s: hex_literal(b"e682bda10b06fde3852324e40698c78edb7effe89cb9ff92a7dca21bf3cdf010"),
};

/// The same with one bit changed.
pub(crate) const KNOWN_CHANGED: Operand = Operand {
    s: hex_literal(b"e682bda10b06fde3852324e40698c78edb7effe89cb9ff92a7dca21bf3cdf011"),
    ..KNOWN_VALID
};
