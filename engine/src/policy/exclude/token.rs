//! A pattern cut into CPython's tokens: a character, or a backslash and the character after it.

use super::syntax::PatternError;
use crate::limits::EXCLUDE_PATTERN_BYTES_MAX;

/// One token, with its place in the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) character: char,
    pub(super) escaped: bool,
    pub(super) offset: usize,
}

impl Token {
    /// Whether this is `character` itself, without a backslash.
    pub(super) fn is(self, character: char) -> bool {
        !self.escaped && self.character == character
    }
}

/// Reads tokens one by one, with one token of look-ahead.
#[derive(Debug)]
pub(super) struct Tokens {
    tokens: Vec<Token>,
    next: usize,
    end: usize,
}

impl Tokens {
    pub(super) fn new(source: &str) -> Result<Self, PatternError> {
        if source.len() > EXCLUDE_PATTERN_BYTES_MAX {
            return Err(PatternError::Limit {
                limit: "EXCLUDE_PATTERN_BYTES_MAX",
                max: EXCLUDE_PATTERN_BYTES_MAX,
            });
        }
        let mut tokens = Vec::new();
        let mut characters = source.char_indices();
        while let Some((offset, character)) = characters.next() {
            let escaped = character == '\\';
            let character = if escaped {
                let fault = "bad escape (end of pattern)";
                let missing = PatternError::Syntax { offset, fault };
                characters.next().ok_or(missing)?.1
            } else {
                character
            };
            tokens.push(Token {
                character,
                escaped,
                offset,
            });
        }
        Ok(Self {
            tokens,
            next: 0,
            end: source.len(),
        })
    }

    pub(super) fn peek(&self) -> Option<Token> {
        self.tokens.get(self.next).copied()
    }

    pub(super) fn take(&mut self) -> Option<Token> {
        let token = self.peek()?;
        self.next = self.next.saturating_add(1);
        Some(token)
    }

    /// Takes the next token if it is exactly this character.
    pub(super) fn take_if(&mut self, character: char) -> bool {
        let found = self.peek().is_some_and(|token| token.is(character));
        if found {
            self.take();
        }
        found
    }

    /// Takes up to `count` characters that `accept` does.
    pub(super) fn take_while(&mut self, count: usize, accept: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while taken.len() < count
            && let Some(token) = self.peek()
            && !token.escaped
            && accept(token.character)
        {
            taken.push(token.character);
            self.take();
        }
        taken
    }

    /// Takes everything up to and including `terminator`; at least one character stands before.
    pub(super) fn take_until(&mut self, terminator: char) -> Result<String, PatternError> {
        let mut taken = String::new();
        loop {
            let token = self.take().ok_or(self.syntax("unterminated name"))?;
            if token.is(terminator) {
                break;
            }
            if token.escaped {
                taken.push('\\');
            }
            taken.push(token.character);
        }
        if taken.is_empty() {
            return Err(self.syntax("missing name"));
        }
        Ok(taken)
    }

    /// The place of the next token in the pattern.
    pub(super) fn offset(&self) -> usize {
        self.peek().map_or(self.end, |token| token.offset)
    }

    /// A place to come back to.
    pub(super) fn mark(&self) -> usize {
        self.next
    }

    pub(super) fn rewind(&mut self, mark: usize) {
        self.next = mark;
    }

    /// An error at the current place that CPython reports too.
    pub(super) fn syntax(&self, fault: &'static str) -> PatternError {
        PatternError::Syntax {
            offset: self.offset(),
            fault,
        }
    }

    pub(super) fn unsupported(&self, construct: &'static str) -> PatternError {
        PatternError::Unsupported {
            offset: self.offset(),
            construct,
        }
    }
}
