//! Everything that begins with `(`.

use super::{Parser, Piece, Place, Sequence};
use crate::limits::{EXCLUDE_LOOK_BEHIND_MAX, EXCLUDE_NESTING_MAX};
use crate::policy::exclude::syntax::{Flags, Item, Node, PatternError, Width};
use crate::policy::exclude::token::Token;

/// Inline flags: those that a group turns on and off.
#[derive(Debug, Default)]
struct FlagChange {
    on: Flags,
    off: Flags,
    unicode: bool,
}

impl FlagChange {
    fn apply(&self, flags: Flags) -> Flags {
        Flags {
            ascii: (flags.ascii && !self.unicode) || self.on.ascii,
            ignore_case: (flags.ignore_case || self.on.ignore_case) && !self.off.ignore_case,
            multiline: (flags.multiline || self.on.multiline) && !self.off.multiline,
            dot_all: (flags.dot_all || self.on.dot_all) && !self.off.dot_all,
            verbose: (flags.verbose || self.on.verbose) && !self.off.verbose,
        }
    }

    fn contradicts(&self) -> bool {
        (self.on.ignore_case && self.off.ignore_case)
            || (self.on.multiline && self.off.multiline)
            || (self.on.dot_all && self.off.dot_all)
            || (self.on.verbose && self.off.verbose)
    }
}

enum FlagGroup {
    Global(FlagChange),
    Scoped(FlagChange),
}

impl Parser {
    /// Reads a group after its `(`.
    pub(super) fn group(
        &mut self,
        open: Token,
        flags: &mut Flags,
        opens_pattern: bool,
        sequence: &mut Sequence,
    ) -> Result<(), PatternError> {
        // Every recursion of the parser passes here.
        if self.depth >= EXCLUDE_NESTING_MAX {
            return Err(PatternError::Limit {
                limit: "EXCLUDE_NESTING_MAX",
                max: EXCLUDE_NESTING_MAX,
            });
        }
        self.spend(0)?;
        self.depth = self.depth.saturating_add(1);
        let result = self.group_inside(open, flags, opens_pattern, sequence);
        self.depth = self.depth.saturating_sub(1);
        result
    }

    fn group_inside(
        &mut self,
        open: Token,
        flags: &mut Flags,
        opens_pattern: bool,
        sequence: &mut Sequence,
    ) -> Result<(), PatternError> {
        if !self.tokens.take_if('?') {
            return self.capturing(open, None, *flags, sequence);
        }
        let kind = self.extension()?;
        match kind {
            'P' => self.named(open, *flags, sequence),
            ':' => {
                let item = self.body(open, *flags)?;
                sequence.push(item.node, item.width, Piece::Repeatable);
                Ok(())
            }
            '>' => {
                let item = self.body(open, *flags)?;
                let node = Node::Atomic(Box::new(item.node));
                sequence.push(node, item.width, Piece::Repeatable);
                Ok(())
            }
            '#' => self.comment(),
            '=' | '!' => self.look(open, None, kind == '!', *flags, sequence),
            '<' => {
                let kind = self.extension()?;
                if kind != '=' && kind != '!' {
                    return Err(self.tokens.syntax("unknown extension"));
                }
                let outermost = self.look_behind_groups.is_none();
                let groups = self.look_behind_groups.unwrap_or(self.widths.len());
                self.look_behind_groups = Some(groups);
                self.look(open, Some(outermost), kind == '!', *flags, sequence)
            }
            '(' => self.conditional(open, *flags, sequence),
            'i' | 'L' | 'm' | 's' | 'x' | 'a' | 't' | 'u' | '-' => match self.flags_of(kind)? {
                FlagGroup::Global(change) => {
                    if !opens_pattern {
                        let fault = "global flags not at the start of the expression";
                        return Err(syntax(open, fault));
                    }
                    self.unicode_flag |= change.unicode;
                    let ascii = self.flags.ascii;
                    self.flags = change.apply(self.flags);
                    self.flags.ascii |= ascii;
                    *flags = self.flags;
                    Ok(())
                }
                FlagGroup::Scoped(change) => {
                    let item = self.body(open, change.apply(*flags))?;
                    sequence.push(item.node, item.width, Piece::Repeatable);
                    Ok(())
                }
            },
            _ => Err(self.tokens.syntax("unknown extension")),
        }
    }

    /// The character after `(?`, `(?<` or `(?P`.
    fn extension(&mut self) -> Result<char, PatternError> {
        let token = self.tokens.take();
        let token = token.ok_or(self.tokens.syntax("unexpected end of pattern"))?;
        if token.escaped {
            return Err(self.tokens.syntax("unknown extension"));
        }
        Ok(token.character)
    }

    /// The alternation inside a group, and its `)`.
    fn body(&mut self, open: Token, flags: Flags) -> Result<Item, PatternError> {
        let item = self.alternation(flags, Place::Inside)?;
        self.close(open)?;
        Ok(item)
    }

    fn close(&mut self, open: Token) -> Result<(), PatternError> {
        if self.tokens.take_if(')') {
            Ok(())
        } else {
            Err(syntax(open, "missing ), unterminated subpattern"))
        }
    }

    fn comment(&mut self) -> Result<(), PatternError> {
        loop {
            let token = self.tokens.take();
            let unterminated = self.tokens.syntax("missing ), unterminated comment");
            if token.ok_or(unterminated)?.is(')') {
                return Ok(());
            }
        }
    }

    fn capturing(
        &mut self,
        open: Token,
        name: Option<String>,
        flags: Flags,
        sequence: &mut Sequence,
    ) -> Result<(), PatternError> {
        let number = self.widths.len();
        self.widths.push(None);
        if let Some(name) = name
            && self.names.insert(name, number).is_some()
        {
            return Err(syntax(open, "redefinition of group name"));
        }
        let item = self.body(open, flags)?;
        if let Some(width) = self.widths.get_mut(number) {
            *width = Some(item.width);
        }
        let node = Node::Group {
            capture: u32::try_from(number).unwrap_or(u32::MAX),
            body: Box::new(item.node),
        };
        sequence.push(node, item.width, Piece::Repeatable);
        Ok(())
    }

    /// `(?P<name>…)` or `(?P=name)`.
    fn named(
        &mut self,
        open: Token,
        flags: Flags,
        sequence: &mut Sequence,
    ) -> Result<(), PatternError> {
        match self.extension()? {
            '<' => {
                let name = self.tokens.take_until('>')?;
                check_name(&name, open)?;
                self.capturing(open, Some(name), flags, sequence)
            }
            '=' => {
                let name = self.tokens.take_until(')')?;
                check_name(&name, open)?;
                let unknown = syntax(open, "unknown group name");
                let group = *self.names.get(&name).ok_or(unknown)?;
                self.back_reference(group, open, flags, sequence)
            }
            _ => Err(self.tokens.syntax("unknown extension ?P")),
        }
    }

    /// A look-ahead, or a look-behind when `behind` says whether it is the outermost one.
    fn look(
        &mut self,
        open: Token,
        behind: Option<bool>,
        negated: bool,
        flags: Flags,
        sequence: &mut Sequence,
    ) -> Result<(), PatternError> {
        let item = self.alternation(flags, Place::Inside)?;
        if behind == Some(true) {
            self.look_behind_groups = None;
        }
        self.close(open)?;
        let behind = match behind {
            None => None,
            Some(_) => Some(fixed_width(item.width, open)?),
        };
        let body = Box::new(item.node);
        let node = Node::Look {
            behind,
            negated,
            body,
        };
        sequence.push(node, Width::ZERO, Piece::Repeatable);
        Ok(())
    }

    /// `(?(group)yes|no)` after its second `(`.
    fn conditional(
        &mut self,
        open: Token,
        flags: Flags,
        sequence: &mut Sequence,
    ) -> Result<(), PatternError> {
        let offset = self.tokens.offset();
        let condition = self.tokens.take_until(')')?;
        let group = if is_ascii_identifier(&condition) {
            let unknown = syntax(open, "unknown group name");
            *self.names.get(&condition).ok_or(unknown)?
        } else if condition
            .chars()
            .all(|character| character.is_ascii_digit())
        {
            let number: usize = condition.parse().unwrap_or(usize::MAX);
            if number == 0 {
                return Err(syntax(open, "bad group number"));
            }
            self.conditions.push((number, offset));
            number
        } else {
            // CPython 3.11 still reads what int() reads: blanks, signs, other scripts' digits.
            return Err(PatternError::Unsupported {
                offset,
                construct: "a condition that is neither an ASCII name nor a number",
            });
        };
        self.check_look_behind(group, open)?;
        let yes = self.sequence(flags, false)?;
        let (no, width) = if self.tokens.take_if('|') {
            let no = self.sequence(flags, false)?;
            if self.tokens.peek().is_some_and(|token| token.is('|')) {
                let fault = "conditional backref with more than two branches";
                return Err(self.tokens.syntax(fault));
            }
            let width = yes.width.or(no.width);
            (no.node, width)
        } else {
            let width = Width {
                min: 0,
                max: yes.width.max,
            };
            (Node::Concat(Vec::new()), width)
        };
        self.close(open)?;
        let node = Node::Conditional {
            group: u32::try_from(group).unwrap_or(u32::MAX),
            yes: Box::new(yes.node),
            no: Box::new(no),
        };
        sequence.push(node, width, Piece::Repeatable);
        Ok(())
    }

    /// Inline flags whose first character is `first`, up to `)` or `:`.
    fn flags_of(&mut self, first: char) -> Result<FlagGroup, PatternError> {
        let mut change = FlagChange::default();
        let mut next = first;
        while next != ')' && next != '-' && next != ':' {
            self.turn_on(next, &mut change)?;
            next = self.extension()?;
        }
        if next == ')' {
            return Ok(FlagGroup::Global(change));
        }
        if next == '-' {
            next = self.extension()?;
            if next == ':' {
                return Err(self.tokens.syntax("missing flag"));
            }
            while next != ':' {
                match next {
                    'i' => change.off.ignore_case = true,
                    'm' => change.off.multiline = true,
                    's' => change.off.dot_all = true,
                    'x' => change.off.verbose = true,
                    't' => return Err(self.tokens.unsupported("the template flag")),
                    _ => return Err(self.tokens.syntax("this flag cannot be turned off")),
                }
                next = self.extension()?;
            }
        }
        if change.contradicts() {
            return Err(self.tokens.syntax("flag turned on and off"));
        }
        Ok(FlagGroup::Scoped(change))
    }

    fn turn_on(&self, flag: char, change: &mut FlagChange) -> Result<(), PatternError> {
        match flag {
            'i' => change.on.ignore_case = true,
            'm' => change.on.multiline = true,
            's' => change.on.dot_all = true,
            'x' => change.on.verbose = true,
            'a' => change.on.ascii = true,
            'u' => change.unicode = true,
            't' => return Err(self.tokens.unsupported("the template flag")),
            'L' => return Err(self.tokens.syntax("cannot use 'L' flag with a str pattern")),
            _ => return Err(self.tokens.syntax("unknown flag")),
        }
        if change.on.ascii && change.unicode {
            return Err(self.tokens.syntax("flags 'a' and 'u' are incompatible"));
        }
        Ok(())
    }
}

fn syntax(token: Token, fault: &'static str) -> PatternError {
    PatternError::Syntax {
        offset: token.offset,
        fault,
    }
}

fn is_ascii_identifier(name: &str) -> bool {
    let mut characters = name.chars();
    characters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|next| next.is_ascii_alphanumeric() || next == '_')
}

fn check_name(name: &str, open: Token) -> Result<(), PatternError> {
    if is_ascii_identifier(name) {
        Ok(())
    } else if name.is_ascii() {
        Err(syntax(open, "bad character in group name"))
    } else {
        Err(PatternError::Unsupported {
            offset: open.offset,
            construct: "a group name outside ASCII",
        })
    }
}

fn fixed_width(width: Width, open: Token) -> Result<usize, PatternError> {
    if width.min != width.max {
        return Err(syntax(open, "look-behind requires fixed-width pattern"));
    }
    usize::try_from(width.min)
        .ok()
        .filter(|characters| *characters <= EXCLUDE_LOOK_BEHIND_MAX)
        .ok_or(PatternError::Limit {
            limit: "EXCLUDE_LOOK_BEHIND_MAX",
            max: EXCLUDE_LOOK_BEHIND_MAX,
        })
}
