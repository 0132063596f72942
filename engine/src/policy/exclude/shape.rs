//! What the form of a pattern tells, without running it.

use super::syntax::{Anchor, Node};

/// Facts about a pattern that lint reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    literal_prefix: Box<str>,
    end_anchored: bool,
    matches_everything: bool,
    nested_quantifiers: bool,
}

impl Shape {
    pub(super) fn of(node: &Node) -> Self {
        let mut prefix = String::new();
        push_prefix(node, &mut prefix);
        Self {
            literal_prefix: prefix.into(),
            end_anchored: is_end_anchored(node),
            matches_everything: is_nullable(node),
            nested_quantifiers: has_nested_quantifiers(node, false),
        }
    }

    /// The characters that every path it matches begins with.
    pub fn literal_prefix(&self) -> &str {
        &self.literal_prefix
    }

    /// Whether every match reaches the end of the path (or a newline that ends it).
    pub fn is_end_anchored(&self) -> bool {
        self.end_anchored
    }

    /// Whether it matches the empty string wherever it stands: then it excludes every path.
    pub fn matches_everything(&self) -> bool {
        self.matches_everything
    }

    /// Whether an unbounded quantifier stands inside a repeated part.
    pub fn has_nested_quantifiers(&self) -> bool {
        self.nested_quantifiers
    }
}

/// Appends the node's literal characters; false when something else ends the prefix.
fn push_prefix(node: &Node, prefix: &mut String) -> bool {
    match node {
        Node::Set(set) => match set.sole_member().and_then(char::from_u32) {
            Some(character) => {
                prefix.push(character);
                true
            }
            None => false,
        },
        Node::Anchor(Anchor::Start) => true,
        Node::Concat(nodes) => nodes.iter().all(|node| push_prefix(node, prefix)),
        Node::Group { body, .. } | Node::Atomic(body) => push_prefix(body, prefix),
        _ => false,
    }
}

fn is_end_anchored(node: &Node) -> bool {
    match node {
        Node::Anchor(anchor) => matches!(anchor, Anchor::End | Anchor::EndOrLastNewline),
        Node::Concat(nodes) => nodes.iter().any(is_end_anchored),
        Node::Alternate(nodes) => nodes.iter().all(is_end_anchored),
        Node::Group { body, .. } | Node::Atomic(body) => is_end_anchored(body),
        Node::Repeat { min, body, .. } => *min > 0 && is_end_anchored(body),
        Node::Look {
            behind: None,
            negated: false,
            body,
        } => is_end_anchored(body),
        Node::Conditional { yes, no, .. } => is_end_anchored(yes) && is_end_anchored(no),
        Node::Set(_) | Node::Look { .. } | Node::BackReference { .. } => false,
    }
}

fn is_nullable(node: &Node) -> bool {
    match node {
        Node::Anchor(anchor) => *anchor == Anchor::Start,
        Node::Concat(nodes) => nodes.iter().all(is_nullable),
        Node::Alternate(nodes) => nodes.iter().any(is_nullable),
        Node::Group { body, .. } => is_nullable(body),
        Node::Repeat { min, body, .. } => *min == 0 || is_nullable(body),
        // What precedes these decides, so nothing is said of them.
        Node::Atomic(_)
        | Node::Set(_)
        | Node::Look { .. }
        | Node::BackReference { .. }
        | Node::Conditional { .. } => false,
    }
}

fn has_nested_quantifiers(node: &Node, inside: bool) -> bool {
    match node {
        Node::Concat(nodes) | Node::Alternate(nodes) => nodes
            .iter()
            .any(|node| has_nested_quantifiers(node, inside)),
        Node::Group { body, .. } | Node::Atomic(body) | Node::Look { body, .. } => {
            has_nested_quantifiers(body, inside)
        }
        Node::Repeat { max, body, .. } => {
            let repeats = max.is_none_or(|max| max > 1);
            (inside && max.is_none()) || has_nested_quantifiers(body, inside || repeats)
        }
        Node::Conditional { yes, no, .. } => {
            has_nested_quantifiers(yes, inside) || has_nested_quantifiers(no, inside)
        }
        Node::Set(_) | Node::Anchor(_) | Node::BackReference { .. } => false,
    }
}
