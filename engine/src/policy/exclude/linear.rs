//! The rewriting of a pattern for the linear-time engine, where the meaning is the same.

use std::fmt::Write as _;

use super::charset::CharSet;
use super::syntax::{Anchor, Node, PatternError};
use crate::limits::{EXCLUDE_AUTOMATON_BYTES_MAX, EXCLUDE_PROGRAM_BYTES_MAX};

/// A program of the linear engine, and the size in bytes within which it was compiled.
pub(super) struct Sized {
    pub(super) program: regex::Regex,
    pub(super) size_bytes: usize,
}

/// The first size that compiling is tried with; the library does not tell a program's own.
const SIZE_BYTES_MIN: usize = 1024;

/// A program of the linear engine that matches where the pattern does, or none when the pattern
/// holds a construct that needs the backtracking engine.
///
/// Only whether the pattern matches is asked, never where the match ends. Greed is therefore
/// without meaning, and a `$` that ends the pattern may consume the last newline.
pub(super) fn program(node: &Node) -> Result<Option<Sized>, PatternError> {
    let mut text = String::from(r"\A");
    if rewrite(node, true, &mut text).is_none() {
        return Ok(None);
    }
    let mut size_bytes = SIZE_BYTES_MIN;
    loop {
        let program = regex::RegexBuilder::new(&text)
            .size_limit(size_bytes)
            .dfa_size_limit(EXCLUDE_AUTOMATON_BYTES_MAX)
            // Our own parser has bounded the depth; the rewriting adds levels to each group.
            .nest_limit(u32::MAX)
            .build();
        match program {
            Ok(program) => {
                return Ok(Some(Sized {
                    program,
                    size_bytes,
                }));
            }
            Err(regex::Error::CompiledTooBig(_)) if size_bytes < EXCLUDE_PROGRAM_BYTES_MAX => {
                size_bytes = size_bytes.saturating_mul(2).min(EXCLUDE_PROGRAM_BYTES_MAX);
            }
            Err(regex::Error::CompiledTooBig(_)) => {
                return Err(PatternError::Limit {
                    limit: "EXCLUDE_PROGRAM_BYTES_MAX",
                    max: EXCLUDE_PROGRAM_BYTES_MAX,
                });
            }
            // The text is written from a checked tree. Were it ever refused, so is the pattern.
            Err(_) => {
                return Err(PatternError::Unsupported {
                    offset: 0,
                    construct: "the rewritten pattern",
                });
            }
        }
    }
}

/// Appends the node in the linear engine's syntax, always as one group or one atom. None when it
/// has no such form. `last` says that nothing of the pattern follows the node.
fn rewrite(node: &Node, last: bool, text: &mut String) -> Option<()> {
    match node {
        Node::Set(set) => write_class(set, text),
        Node::Anchor(anchor) => text.push_str(rewrite_anchor(*anchor, last)?),
        Node::Concat(nodes) => {
            let end = nodes.len().checked_sub(1);
            text.push_str("(?:");
            for (index, node) in nodes.iter().enumerate() {
                rewrite(node, last && Some(index) == end, text)?;
            }
            text.push(')');
        }
        Node::Alternate(nodes) => {
            text.push_str("(?:");
            for (index, node) in nodes.iter().enumerate() {
                if index > 0 {
                    text.push('|');
                }
                rewrite(node, last, text)?;
            }
            text.push(')');
        }
        Node::Group { body, .. } => rewrite(body, last, text)?,
        Node::Repeat { min, max, body, .. } => {
            let once = max.is_some_and(|max| max <= 1);
            text.push_str("(?:");
            rewrite(body, last && once, text)?;
            match max {
                // Writing to a String cannot fail; were it to, the pattern is not rewritten.
                Some(max) => write!(text, "{{{min},{max}}})").ok()?,
                None => write!(text, "{{{min},}})").ok()?,
            }
        }
        Node::Atomic(_)
        | Node::Look { .. }
        | Node::BackReference { .. }
        | Node::Conditional { .. } => return None,
    }
    Some(())
}

fn rewrite_anchor(anchor: Anchor, last: bool) -> Option<&'static str> {
    match anchor {
        Anchor::Start => Some(r"\A"),
        Anchor::End => Some(r"\z"),
        Anchor::LineStart => Some("(?m:^)"),
        Anchor::LineEnd => Some("(?m:$)"),
        Anchor::EndOrLastNewline if last => Some(r"(?:\n?\z)"),
        // In mid-pattern it may look at a newline that the pattern then consumes. Word
        // boundaries are of CPython's word characters, which the linear engine cannot be given.
        Anchor::EndOrLastNewline | Anchor::WordBoundary { .. } => None,
    }
}

fn write_class(set: &CharSet, text: &mut String) {
    if let Some(character) = set.sole_member().and_then(char::from_u32) {
        text.push_str(&format!(r"\x{{{:x}}}", u32::from(character)));
        return;
    }
    const SURROGATES: (u32, u32) = (0xd800, 0xdfff);
    let mut class = String::new();
    let mut push = |first: u32, last: u32| {
        if first <= last {
            class.push_str(&format!(r"\x{{{first:x}}}-\x{{{last:x}}}"));
        }
    };
    for &(first, last) in set.ranges() {
        // Text holds no surrogates, so a set loses nothing without them.
        push(first, last.min(SURROGATES.0.saturating_sub(1)));
        push(first.max(SURROGATES.1.saturating_add(1)), last);
    }
    if class.is_empty() {
        text.push_str(r"[^\x{0}-\x{10ffff}]");
    } else {
        text.push('[');
        text.push_str(&class);
        text.push(']');
    }
}
