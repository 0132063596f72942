//! A pattern as CPython's `re` reads it, and why one is refused.

use thiserror::Error;

use super::charset::{Case, CharSet};

/// Why an exclude pattern cannot be used. Offsets are bytes from the start of the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PatternError {
    /// CPython refuses the pattern too.
    #[error("byte {offset} of the pattern: {fault}")]
    Syntax {
        /// Where.
        offset: usize,
        /// What is wrong there.
        fault: &'static str,
    },
    /// CPython accepts it, and we cannot give it the same meaning.
    #[error("byte {offset} of the pattern: {construct} is not supported")]
    Unsupported {
        /// Where.
        offset: usize,
        /// What stands there.
        construct: &'static str,
    },
    /// The pattern needs more than a limit of ours allows.
    #[error("the pattern exceeds {limit} ({max})")]
    Limit {
        /// The name of the limit in [`limits`](mod@crate::limits).
        limit: &'static str,
        /// Its value.
        max: usize,
    },
}

/// A place that a pattern can demand without consuming a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    /// `\A`, and `^` without the multiline flag.
    Start,
    /// `^` with the multiline flag.
    LineStart,
    /// `$` without the multiline flag: the end, or before a newline that ends the text.
    EndOrLastNewline,
    /// `$` with the multiline flag.
    LineEnd,
    /// `\Z`.
    End,
    /// `\b`, or `\B` when `negated`.
    WordBoundary { ascii: bool, negated: bool },
}

/// How a quantifier chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greed {
    Greedy,
    Lazy,
}

/// A pattern or a part of one. Depth is bounded by `EXCLUDE_NESTING_MAX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// One character of a set.
    Set(CharSet),
    Anchor(Anchor),
    Concat(Vec<Node>),
    Alternate(Vec<Node>),
    /// A capturing group and its number.
    Group {
        capture: u32,
        body: Box<Node>,
    },
    /// `max` is none when unbounded.
    Repeat {
        min: u32,
        max: Option<u32>,
        greed: Greed,
        body: Box<Node>,
    },
    Atomic(Box<Node>),
    /// Look-ahead, or look-behind over `behind` characters.
    Look {
        behind: Option<usize>,
        negated: bool,
        body: Box<Node>,
    },
    BackReference {
        group: u32,
        case: Case,
    },
    Conditional {
        group: u32,
        yes: Box<Node>,
        no: Box<Node>,
    },
}

/// The number of characters that a part can match, as CPython computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Width {
    pub(super) min: u64,
    /// `u64::MAX` when unbounded.
    pub(super) max: u64,
}

impl Width {
    pub(super) const ZERO: Self = Self { min: 0, max: 0 };
    pub(super) const ONE: Self = Self { min: 1, max: 1 };

    pub(super) fn then(self, next: Self) -> Self {
        Self {
            min: self.min.saturating_add(next.min),
            max: self.max.saturating_add(next.max),
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

    pub(super) fn times(self, min: u32, max: Option<u32>) -> Self {
        let max = max.map_or(u64::MAX, u64::from);
        Self {
            min: self.min.saturating_mul(u64::from(min)),
            max: self.max.saturating_mul(max),
        }
    }
}

/// A node and its width.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) node: Node,
    pub(super) width: Width,
}

/// The inline flags that matter for text patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Flags {
    pub(super) ascii: bool,
    pub(super) ignore_case: bool,
    pub(super) multiline: bool,
    pub(super) dot_all: bool,
    pub(super) verbose: bool,
}

impl Flags {
    pub(super) fn case(self) -> Case {
        match (self.ignore_case, self.ascii) {
            (false, _) => Case::Kept,
            (true, true) => Case::IgnoredAscii,
            (true, false) => Case::IgnoredUnicode,
        }
    }
}
