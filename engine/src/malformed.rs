//! One error type for bytes that are not what their specification says.

use std::fmt;

use thiserror::Error;

/// Bytes from a peer that do not form the structure they should.
///
/// Says which structure, which field of it and at which byte, so that a reader of the message can
/// find the place with a hex editor. Never carries the bytes themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{structure}: {field} at byte {offset}: {fault}")]
pub struct Malformed {
    /// The specification's name of the structure, for example `TPMS_ATTEST`.
    pub structure: &'static str,
    /// The field of it, by the specification's name.
    pub field: &'static str,
    /// Offset in bytes from the start of the structure's buffer.
    pub offset: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The buffer ends before the field does.
    Truncated {
        /// Bytes that the field needs.
        wanted: usize,
        /// Bytes that are left.
        have: usize,
    },
    /// Bytes are left over after the last field.
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A length or count is outside what the specification or our limits allow.
    Length {
        /// The length found.
        value: usize,
        /// The smallest allowed.
        min: usize,
        /// The largest allowed.
        max: usize,
    },
    /// An identifier or enumerated value that we do not know.
    Unknown {
        /// The value found.
        value: u64,
    },
    /// A value that is known but not allowed here.
    Forbidden {
        /// The value found.
        value: u64,
    },
    /// The same thing stands twice where it may stand once.
    Duplicate {
        /// The value that is repeated.
        value: u64,
    },
    /// Text that does not follow its grammar.
    Syntax {
        /// What was expected there.
        expected: &'static str,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { wanted, have } => {
                write!(f, "truncated: {wanted} bytes wanted, {have} left")
            }
            Self::Trailing { bytes } => write!(f, "{bytes} trailing bytes"),
            Self::Length { value, min, max } => {
                write!(f, "length {value} is outside {min}..={max}")
            }
            Self::Unknown { value } => write!(f, "unknown value {value:#x}"),
            Self::Forbidden { value } => write!(f, "value {value:#x} is not allowed here"),
            Self::Duplicate { value } => write!(f, "{value:#x} is given twice"),
            Self::Syntax { expected } => write!(f, "expected {expected}"),
        }
    }
}
