//! Reads a pattern as CPython 3.11's `re` does, and refuses what it refuses.
//!
//! The comments name CPython's `re._parser` and `re._compiler` where a rule is surprising.

mod escape;
mod group;

use std::collections::HashMap;

use super::charset::{CharSet, Class, literal};
use super::syntax::{Anchor, Flags, Greed, Item, Node, PatternError, Width};
use super::token::{Token, Tokens};
use crate::limits::EXCLUDE_PROGRAM_BYTES_MAX;
use escape::ClassEscape;

/// A whole pattern.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) node: Node,
    /// The number of capturing groups.
    pub(super) groups: u32,
    /// About what the tree and its steps take.
    pub(super) size_bytes: usize,
}

/// Reads `source` as one complete pattern.
pub(super) fn parse(source: &str) -> Result<Parsed, PatternError> {
    let mut parser = Parser {
        tokens: Tokens::new(source)?,
        flags: Flags::default(),
        unicode_flag: false,
        widths: vec![None],
        names: HashMap::new(),
        look_behind_groups: None,
        conditions: Vec::new(),
        depth: 0,
        bytes: 0,
    };
    let item = parser.alternation(Flags::default(), Place::Top)?;
    if parser.tokens.peek().is_some() {
        return Err(parser.tokens.syntax("unbalanced parenthesis"));
    }
    if parser.flags.ascii && parser.unicode_flag {
        return Err(parser
            .tokens
            .syntax("ASCII and UNICODE flags are incompatible"));
    }
    for (group, offset) in &parser.conditions {
        if *group >= parser.widths.len() {
            return Err(PatternError::Syntax {
                offset: *offset,
                fault: "invalid group reference",
            });
        }
    }
    let groups = parser.widths.len().saturating_sub(1);
    Ok(Parsed {
        node: item.node,
        groups: u32::try_from(groups).unwrap_or(u32::MAX),
        size_bytes: parser.bytes,
    })
}

/// Where an alternation stands: global flags may only open the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Top,
    Inside,
}

/// What the last piece of a sequence is, as far as a quantifier after it cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Repeatable,
    Anchor,
    Repeat,
}

#[derive(Debug)]
struct Parser {
    tokens: Tokens,
    /// The global flags.
    flags: Flags,
    /// Whether `(?u)` was given globally.
    unicode_flag: bool,
    /// Width of each group by number, none while it is open. Entry 0 is the whole pattern.
    widths: Vec<Option<Width>>,
    names: HashMap<String, usize>,
    /// Inside a look-behind: the number of groups when the outermost one began.
    look_behind_groups: Option<usize>,
    /// Groups that conditions name by number, with the place; they may be defined later.
    conditions: Vec<(usize, usize)>,
    depth: usize,
    /// Memory that the sets of the pattern take.
    bytes: usize,
}

/// A sequence while it is read.
#[derive(Debug, Default)]
struct Sequence {
    pieces: Vec<(Node, Width, Piece)>,
}

impl Sequence {
    fn push(&mut self, node: Node, width: Width, piece: Piece) {
        self.pieces.push((node, width, piece));
    }

    fn finish(self) -> Item {
        let mut width = Width::ZERO;
        let mut nodes = Vec::with_capacity(self.pieces.len());
        for (node, piece_width, _) in self.pieces {
            width = width.then(piece_width);
            nodes.push(node);
        }
        let node = match nodes.pop() {
            Some(only) if nodes.is_empty() => only,
            Some(last) => {
                nodes.push(last);
                Node::Concat(nodes)
            }
            None => Node::Concat(nodes),
        };
        Item { node, width }
    }
}

impl Parser {
    /// Reads branches separated by `|`, up to `)` or the end.
    fn alternation(&mut self, flags: Flags, place: Place) -> Result<Item, PatternError> {
        let mut opens_pattern = place == Place::Top;
        let mut branches = Vec::new();
        let mut width: Option<Width> = None;
        loop {
            let flags = if place == Place::Top {
                self.flags
            } else {
                flags
            };
            let branch = self.sequence(flags, opens_pattern)?;
            opens_pattern = false;
            width = Some(width.map_or(branch.width, |sum| sum.or(branch.width)));
            branches.push(branch.node);
            if !self.tokens.take_if('|') {
                break;
            }
        }
        let node = match branches.pop() {
            Some(only) if branches.is_empty() => only,
            Some(last) => {
                branches.push(last);
                Node::Alternate(branches)
            }
            None => Node::Concat(Vec::new()),
        };
        Ok(Item {
            node,
            width: width.unwrap_or(Width::ZERO),
        })
    }

    /// Reads pieces up to `|`, `)` or the end.
    fn sequence(&mut self, mut flags: Flags, opens_pattern: bool) -> Result<Item, PatternError> {
        let mut sequence = Sequence::default();
        while let Some(token) = self.tokens.peek() {
            if token.is('|') || token.is(')') {
                break;
            }
            self.tokens.take();
            if flags.verbose && self.skip_verbose(token) {
                continue;
            }
            if token.escaped {
                self.escape(token, flags, &mut sequence)?;
                continue;
            }
            match token.character {
                '[' => {
                    let set = self.class(token, flags)?;
                    self.push_set(set, &mut sequence)?;
                }
                '*' | '+' | '?' | '{' => self.quantifier(token, flags, &mut sequence)?,
                '.' => {
                    let newline = CharSet::single(0x0a);
                    let nothing = CharSet::from_ranges(Vec::new());
                    let except = if flags.dot_all { nothing } else { newline };
                    self.push_set(except.negated(), &mut sequence)?;
                }
                '^' if flags.multiline => push_anchor(Anchor::LineStart, &mut sequence),
                '^' => push_anchor(Anchor::Start, &mut sequence),
                '$' if flags.multiline => push_anchor(Anchor::LineEnd, &mut sequence),
                '$' => push_anchor(Anchor::EndOrLastNewline, &mut sequence),
                '(' => {
                    let opens_pattern = opens_pattern && sequence.pieces.is_empty();
                    self.group(token, &mut flags, opens_pattern, &mut sequence)?;
                }
                character => {
                    self.push_literal(u32::from(character), token, flags, &mut sequence)?
                }
            }
        }
        Ok(sequence.finish())
    }

    /// Whether the token is white space or a comment of a verbose pattern.
    fn skip_verbose(&mut self, token: Token) -> bool {
        if token.escaped {
            return false;
        }
        if matches!(token.character, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c') {
            return true;
        }
        let comment = token.character == '#';
        while comment && self.tokens.take().is_some_and(|next| !next.is('\n')) {}
        comment
    }

    fn push_literal(
        &mut self,
        code: u32,
        token: Token,
        flags: Flags,
        sequence: &mut Sequence,
    ) -> Result<(), PatternError> {
        refuse_cased_astral(code, token, flags)?;
        self.push_set(literal(code, flags.case()), sequence)
    }

    fn push_set(&mut self, set: CharSet, sequence: &mut Sequence) -> Result<(), PatternError> {
        self.spend(set.ranges().len())?;
        sequence.push(Node::Set(set), Width::ONE, Piece::Repeatable);
        Ok(())
    }

    /// Counts the memory of one more piece of the pattern, with `ranges` ranges.
    fn spend(&mut self, ranges: usize) -> Result<(), PatternError> {
        let bytes = ranges.saturating_mul(8).saturating_add(32);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > EXCLUDE_PROGRAM_BYTES_MAX {
            return Err(PatternError::Limit {
                limit: "EXCLUDE_PROGRAM_BYTES_MAX",
                max: EXCLUDE_PROGRAM_BYTES_MAX,
            });
        }
        Ok(())
    }

    /// Reads a class after its `[`.
    fn class(&mut self, open: Token, flags: Flags) -> Result<CharSet, PatternError> {
        let unterminated = PatternError::Syntax {
            offset: open.offset,
            fault: "unterminated character set",
        };
        let negated = self.tokens.take_if('^');
        let mut class = Class::new(flags.case(), negated);
        let mut first = true;
        loop {
            let token = self.tokens.take().ok_or(unterminated)?;
            // A `]` that comes first stands for itself.
            if token.is(']') && !first {
                break;
            }
            first = false;
            let low = self.class_member(token, flags)?;
            if !self.tokens.take_if('-') {
                push_member(&mut class, low);
                self.spend_class(&class)?;
                continue;
            }
            let token = self.tokens.take().ok_or(unterminated)?;
            if token.is(']') {
                push_member(&mut class, low);
                class.push_literal(u32::from('-'));
                break;
            }
            let high = self.class_member(token, flags)?;
            let (ClassEscape::Literal(low), ClassEscape::Literal(high)) = (low, high) else {
                return Err(self.tokens.syntax("bad character range"));
            };
            if high < low {
                return Err(self.tokens.syntax("bad character range"));
            }
            class.push_range(low, high);
            self.spend_class(&class)?;
        }
        Ok(class.finish())
    }

    /// Refuses a class that outgrows the limit while it is read.
    fn spend_class(&self, class: &Class) -> Result<(), PatternError> {
        let bytes = class.range_count().saturating_mul(8);
        if self.bytes.saturating_add(bytes) > EXCLUDE_PROGRAM_BYTES_MAX {
            return Err(PatternError::Limit {
                limit: "EXCLUDE_PROGRAM_BYTES_MAX",
                max: EXCLUDE_PROGRAM_BYTES_MAX,
            });
        }
        Ok(())
    }

    fn class_member(&mut self, token: Token, flags: Flags) -> Result<ClassEscape, PatternError> {
        let member = if token.escaped {
            self.class_escape(token, flags)?
        } else {
            ClassEscape::Literal(u32::from(token.character))
        };
        if let ClassEscape::Literal(code) = member {
            refuse_cased_astral(code, token, flags)?;
        }
        Ok(member)
    }

    /// Reads a quantifier and applies it to the piece before it.
    fn quantifier(
        &mut self,
        token: Token,
        flags: Flags,
        sequence: &mut Sequence,
    ) -> Result<(), PatternError> {
        let (min, max) = match token.character {
            '?' => (0, Some(1)),
            '*' => (0, None),
            '+' => (1, None),
            _ => match self.counts()? {
                Some(counts) => counts,
                // CPython: a brace that opens no quantifier is a literal.
                None => return self.push_literal(u32::from('{'), token, flags, sequence),
            },
        };
        let fault = |fault| PatternError::Syntax {
            offset: token.offset,
            fault,
        };
        match sequence.pieces.last().map(|(_, _, piece)| *piece) {
            None | Some(Piece::Anchor) => return Err(fault("nothing to repeat")),
            Some(Piece::Repeat) => return Err(fault("multiple repeat")),
            Some(Piece::Repeatable) => {}
        }
        let Some((body, width, _)) = sequence.pieces.pop() else {
            return Err(fault("nothing to repeat"));
        };
        let lazy = self.tokens.take_if('?');
        let possessive = !lazy && self.tokens.take_if('+');
        if possessive && !matches!(body, Node::Set(_)) {
            // Releases of CPython 3.11 disagree on where a longer body is left when it fails
            // half-way (gh-106052, repaired in 3.11.5).
            return Err(PatternError::Unsupported {
                offset: token.offset,
                construct: "a possessive quantifier over more than one character",
            });
        }
        let repeat = Node::Repeat {
            min,
            max,
            greed: if lazy { Greed::Lazy } else { Greed::Greedy },
            body: Box::new(body),
        };
        let repeat = if possessive {
            Node::Atomic(Box::new(repeat))
        } else {
            repeat
        };
        sequence.push(repeat, width.times(min, max), Piece::Repeat);
        Ok(())
    }

    /// Reads `m}`, `m,}`, `,n}` or `m,n}` after a `{`; none when that is not what follows.
    fn counts(&mut self) -> Result<Option<(u32, Option<u32>)>, PatternError> {
        let start = self.tokens.mark();
        if self.tokens.peek().is_some_and(|token| token.is('}')) {
            return Ok(None);
        }
        let digit = |character: char| character.is_ascii_digit();
        let low = self.tokens.take_while(usize::MAX, digit);
        let high = if self.tokens.take_if(',') {
            self.tokens.take_while(usize::MAX, digit)
        } else {
            low.clone()
        };
        if !self.tokens.take_if('}') {
            self.tokens.rewind(start);
            return Ok(None);
        }
        // CPython: MAXREPEAT is the largest u32, and itself too large.
        let number = |text: &str| match text.parse() {
            Ok(u32::MAX) | Err(_) => Err(self.tokens.syntax("the repetition number is too large")),
            Ok(count) => Ok(count),
        };
        let min = if low.is_empty() { 0 } else { number(&low)? };
        let max = if high.is_empty() {
            None
        } else {
            Some(number(&high)?)
        };
        if max.is_some_and(|max| max < min) {
            return Err(self.tokens.syntax("min repeat greater than max repeat"));
        }
        Ok(Some((min, max)))
    }
}

fn push_anchor(anchor: Anchor, sequence: &mut Sequence) {
    sequence.push(Node::Anchor(anchor), Width::ZERO, Piece::Anchor);
}

fn push_member(class: &mut Class, member: ClassEscape) {
    match member {
        ClassEscape::Literal(code) => class.push_literal(code),
        ClassEscape::Set(set) => class.push_set(&set),
    }
}

/// Refuses a cased literal outside the basic plane where case is ignored: whether CPython 3.11
/// matches it depends on which neighbours it shares an optimised set with.
fn refuse_cased_astral(code: u32, token: Token, flags: Flags) -> Result<(), PatternError> {
    let changes = literal(code, flags.case()).sole_member().is_none();
    if code > 0xffff && changes {
        return Err(PatternError::Unsupported {
            offset: token.offset,
            construct: "ignoring the case of a character beyond U+FFFF",
        });
    }
    Ok(())
}
