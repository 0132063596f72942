//! Escapes, inside and outside of a class.

use super::{Parser, Sequence, push_anchor};
use crate::policy::exclude::charset::{CODE_MAX, Category, CharSet};
use crate::policy::exclude::syntax::{Anchor, Flags, Node, PatternError};
use crate::policy::exclude::token::Token;

/// What an escape or a character in a class stands for.
#[derive(Debug)]
pub(super) enum ClassEscape {
    Literal(u32),
    Set(CharSet),
}

impl Parser {
    /// An escape outside of a class.
    pub(super) fn escape(
        &mut self,
        token: Token,
        flags: Flags,
        sequence: &mut Sequence,
    ) -> Result<(), PatternError> {
        let ascii = flags.ascii;
        let boundary = |negated| Anchor::WordBoundary { ascii, negated };
        match token.character {
            'A' => push_anchor(Anchor::Start, sequence),
            'Z' => push_anchor(Anchor::End, sequence),
            'b' => push_anchor(boundary(false), sequence),
            'B' => push_anchor(boundary(true), sequence),
            '0' => {
                let code = self.octal('0', 2);
                self.push_literal(code, token, flags, sequence)?;
            }
            '1'..='9' => match self.octal_or_group(token)? {
                Numbered::Octal(code) => self.push_literal(code, token, flags, sequence)?,
                Numbered::Group(group) => self.back_reference(group, token, flags, sequence)?,
            },
            _ => match self.common_escape(token, flags)? {
                ClassEscape::Literal(code) => self.push_literal(code, token, flags, sequence)?,
                ClassEscape::Set(set) => self.push_set(set, sequence)?,
            },
        }
        Ok(())
    }

    /// An escape inside a class.
    pub(super) fn class_escape(
        &mut self,
        token: Token,
        flags: Flags,
    ) -> Result<ClassEscape, PatternError> {
        match token.character {
            'b' => Ok(ClassEscape::Literal(0x08)),
            '0'..='7' => {
                let code = self.octal(token.character, 2);
                if code > 0o377 {
                    return Err(bad(token, "octal escape value outside of range 0-0o377"));
                }
                Ok(ClassEscape::Literal(code))
            }
            '8' | '9' => Err(bad(token, "bad escape")),
            _ => self.common_escape(token, flags),
        }
    }

    /// The escapes that mean the same in both places.
    fn common_escape(&mut self, token: Token, flags: Flags) -> Result<ClassEscape, PatternError> {
        let category = |category: Category| category.set(flags.ascii);
        let literal = match token.character {
            'd' => return Ok(ClassEscape::Set(category(Category::Digit))),
            's' => return Ok(ClassEscape::Set(category(Category::Space))),
            'w' => return Ok(ClassEscape::Set(category(Category::Word))),
            'D' => return Ok(ClassEscape::Set(category(Category::Digit).negated())),
            'S' => return Ok(ClassEscape::Set(category(Category::Space).negated())),
            'W' => return Ok(ClassEscape::Set(category(Category::Word).negated())),
            'a' => 0x07,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'v' => 0x0b,
            'x' => self.hexadecimal(token, 2)?,
            'u' => self.hexadecimal(token, 4)?,
            'U' => self.hexadecimal(token, 8)?,
            // The names are a table of CPython's that we do not carry.
            'N' => {
                return Err(PatternError::Unsupported {
                    offset: token.offset,
                    construct: r"\N{…}",
                });
            }
            letter if letter.is_ascii_alphabetic() => return Err(bad(token, "bad escape")),
            other => u32::from(other),
        };
        Ok(ClassEscape::Literal(literal))
    }

    fn hexadecimal(&mut self, token: Token, digits: usize) -> Result<u32, PatternError> {
        let text = self
            .tokens
            .take_while(digits, |character| character.is_ascii_hexdigit());
        if text.len() != digits {
            return Err(bad(token, "incomplete escape"));
        }
        u32::from_str_radix(&text, 16)
            .ok()
            .filter(|code| *code <= CODE_MAX)
            .ok_or(bad(token, "bad escape"))
    }

    /// The octal digit `first` and up to `more` that follow it.
    fn octal(&mut self, first: char, more: usize) -> u32 {
        let rest = self
            .tokens
            .take_while(more, |character| ('0'..='7').contains(&character));
        let digits = std::iter::once(first).chain(rest.chars());
        digits.fold(0, |value: u32, digit| {
            value
                .saturating_mul(8)
                .saturating_add(digit.to_digit(8).unwrap_or(0))
        })
    }

    /// `\N`, `\NN` or `\NNN` with a first digit that is not zero.
    fn octal_or_group(&mut self, token: Token) -> Result<Numbered, PatternError> {
        let octal_digit = |character: char| ('0'..='7').contains(&character);
        let mut digits = String::from(token.character);
        digits.push_str(&self.tokens.take_while(1, |c| c.is_ascii_digit()));
        if digits.len() == 2 && digits.chars().all(octal_digit) {
            // CPython: three octal digits are a character, fewer are a group.
            let third = self.tokens.take_while(1, octal_digit);
            if !third.is_empty() {
                digits.push_str(&third);
                let code = u32::from_str_radix(&digits, 8).unwrap_or(u32::MAX);
                if code > 0o377 {
                    return Err(bad(token, "octal escape value outside of range 0-0o377"));
                }
                return Ok(Numbered::Octal(code));
            }
        }
        Ok(Numbered::Group(digits.parse().unwrap_or(usize::MAX)))
    }

    /// A reference to a group that is closed already.
    pub(super) fn back_reference(
        &mut self,
        group: usize,
        token: Token,
        flags: Flags,
        sequence: &mut Sequence,
    ) -> Result<(), PatternError> {
        let Some(width) = self.widths.get(group) else {
            return Err(bad(token, "invalid group reference"));
        };
        let Some(width) = *width else {
            return Err(bad(token, "cannot refer to an open group"));
        };
        self.check_look_behind(group, token)?;
        let node = Node::BackReference {
            group: u32::try_from(group).unwrap_or(u32::MAX),
            case: flags.case(),
        };
        self.spend(0)?;
        sequence.push(node, width, super::Piece::Repeatable);
        Ok(())
    }

    /// Inside a look-behind, only groups closed before it may be referred to.
    pub(super) fn check_look_behind(&self, group: usize, token: Token) -> Result<(), PatternError> {
        let Some(groups_before) = self.look_behind_groups else {
            return Ok(());
        };
        let closed = self.widths.get(group).copied().flatten().is_some();
        if !closed {
            return Err(bad(token, "cannot refer to an open group"));
        }
        if group >= groups_before {
            let fault = "cannot refer to group defined in the same lookbehind subpattern";
            return Err(bad(token, fault));
        }
        Ok(())
    }
}

enum Numbered {
    Octal(u32),
    Group(usize),
}

fn bad(token: Token, fault: &'static str) -> PatternError {
    PatternError::Syntax {
        offset: token.offset,
        fault,
    }
}
