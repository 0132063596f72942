//! The rewriting of a pattern for the linear-time engine, where the meaning is the same.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, Look, Repetition};

use super::charset::CharSet;
use super::syntax::{Anchor, Greed, Node, PatternError};
use crate::limits::{EXCLUDE_AUTOMATON_BYTES_MAX, EXCLUDE_PROGRAM_BYTES_MAX};

/// A program of the linear engine that matches where the pattern does, or none when the pattern
/// holds a construct that needs the backtracking engine.
///
/// Only whether the pattern matches is asked, never where the match ends. Greed is therefore
/// without meaning, and a `$` that ends the pattern may consume the last newline.
pub(super) fn program(node: &Node) -> Result<Option<regex::Regex>, PatternError> {
    let Some(body) = rewrite(node, true) else {
        return Ok(None);
    };
    let anchored = Hir::concat(vec![Hir::look(Look::Start), body]);
    let program = regex::RegexBuilder::new(&anchored.to_string())
        .size_limit(EXCLUDE_PROGRAM_BYTES_MAX)
        .dfa_size_limit(EXCLUDE_AUTOMATON_BYTES_MAX)
        // Our own parser has bounded the depth; the rewriting adds levels to each group.
        .nest_limit(u32::MAX)
        .build();
    match program {
        Ok(program) => Ok(Some(program)),
        Err(regex::Error::CompiledTooBig(_)) => Err(PatternError::Limit {
            limit: "EXCLUDE_PROGRAM_BYTES_MAX",
            max: EXCLUDE_PROGRAM_BYTES_MAX,
        }),
        // The text is printed from a checked tree. Were that ever refused, so is the pattern.
        Err(_) => Err(PatternError::Unsupported {
            offset: 0,
            construct: "the rewritten pattern",
        }),
    }
}

/// `last` says that nothing of the pattern follows the node.
fn rewrite(node: &Node, last: bool) -> Option<Hir> {
    Some(match node {
        Node::Set(set) => class(set),
        Node::Anchor(anchor) => rewrite_anchor(*anchor, last)?,
        Node::Concat(nodes) => {
            let end = nodes.len().checked_sub(1);
            let parts = nodes
                .iter()
                .enumerate()
                .map(|(index, node)| rewrite(node, last && Some(index) == end));
            Hir::concat(parts.collect::<Option<_>>()?)
        }
        Node::Alternate(nodes) => {
            let parts = nodes.iter().map(|node| rewrite(node, last));
            Hir::alternation(parts.collect::<Option<_>>()?)
        }
        Node::Group { body, .. } => rewrite(body, last)?,
        Node::Repeat {
            greed: Greed::Possessive,
            ..
        } => return None,
        Node::Repeat { min, max, body, .. } => {
            let once = max.is_some_and(|max| max <= 1);
            Hir::repetition(Repetition {
                min: *min,
                max: *max,
                greedy: true,
                sub: Box::new(rewrite(body, last && once)?),
            })
        }
        Node::Atomic(_)
        | Node::Look { .. }
        | Node::BackReference { .. }
        | Node::Conditional { .. } => return None,
    })
}

fn rewrite_anchor(anchor: Anchor, last: bool) -> Option<Hir> {
    Some(match anchor {
        Anchor::Start => Hir::look(Look::Start),
        Anchor::End => Hir::look(Look::End),
        Anchor::LineStart => Hir::look(Look::StartLF),
        Anchor::LineEnd => Hir::look(Look::EndLF),
        Anchor::EndOrLastNewline if last => {
            let newline = Repetition {
                min: 0,
                max: Some(1),
                greedy: true,
                sub: Box::new(class(&CharSet::single(0x0a))),
            };
            Hir::concat(vec![Hir::repetition(newline), Hir::look(Look::End)])
        }
        // In mid-pattern it may look at a newline that the pattern then consumes. Word
        // boundaries are of CPython's word characters, which the linear engine cannot be given.
        Anchor::EndOrLastNewline | Anchor::WordBoundary { .. } => return None,
    })
}

fn class(set: &CharSet) -> Hir {
    const SURROGATES: (u32, u32) = (0xd800, 0xdfff);
    let mut ranges = Vec::new();
    let mut push = |first: u32, last: u32| {
        if let (Some(first), Some(last)) = (char::from_u32(first), char::from_u32(last)) {
            ranges.push(ClassUnicodeRange::new(first, last));
        }
    };
    for &(first, last) in set.ranges() {
        // Text holds no surrogates, so a set loses nothing without them.
        if first < SURROGATES.0 {
            push(first, last.min(SURROGATES.0.saturating_sub(1)));
        }
        if last > SURROGATES.1 {
            push(first.max(SURROGATES.1.saturating_add(1)), last);
        }
    }
    Hir::class(Class::Unicode(ClassUnicode::new(ranges)))
}
