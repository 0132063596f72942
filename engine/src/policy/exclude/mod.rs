//! Exclude patterns with the meaning that CPython 3.11's `re.match` gives them.
//!
//! Keylime applies a policy's `excludes` with `re.match`: anchored at the start of the path, not
//! at its end. A pattern here is read by CPython's grammar into a tree of character sets taken
//! from CPython's own tables. Where every construct has the same meaning there, it is rewritten
//! for a linear-time engine; otherwise it runs on a backtracking engine whose steps are capped.
//! What CPython refuses is refused, and so is what we cannot do with the same meaning.
//!
//! Each pattern is compiled alone. Keylime joins them with `|` into one, where an unbalanced
//! parenthesis of one pattern changes the meaning of the next.

mod backtrack;
mod charset;
mod linear;
mod parse;
mod shape;
mod syntax;
mod token;
mod unicode;

#[cfg(test)]
mod tests;

pub use shape::Shape;
pub use syntax::PatternError;

use crate::limits::EXCLUDE_STEPS_PER_LIST_MAX;

/// One compiled exclude pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: Box<str>,
    program: Program,
    size_bytes: usize,
    shape: Shape,
}

#[derive(Debug, Clone)]
enum Program {
    Linear(regex::Regex),
    Backtracking(backtrack::Program),
}

/// Whether a path is excluded by a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The pattern matches at the start of the path.
    Excluded,
    /// It does not.
    NotExcluded,
    /// The backtracking engine reached its cap of steps
    /// ([`crate::limits::EXCLUDE_STEPS_MAX`]): the path counts as not excluded.
    StepCap,
}

/// The engine that a pattern runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Time grows with the length of the path only.
    Linear,
    /// Time is bounded by the cap of steps.
    Backtracking,
}

/// Steps that patterns of the backtracking engine may still take.
///
/// A sender chooses the paths of its list, so one budget covers a whole list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepBudget {
    left: usize,
}

impl StepBudget {
    /// Steps that are left.
    pub(crate) const fn left(&self) -> usize {
        self.left
    }

    /// Takes the steps that an answer took when it was found; false, and nothing is taken, when
    /// not as many are left.
    pub(crate) fn take(&mut self, steps: usize) -> bool {
        let left = self.left.checked_sub(steps);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

impl Default for StepBudget {
    /// The budget of one list.
    fn default() -> Self {
        Self {
            left: EXCLUDE_STEPS_PER_LIST_MAX,
        }
    }
}

impl Pattern {
    /// The pattern that `source` is for CPython 3.11.
    ///
    /// # Errors
    /// [`PatternError`] when CPython refuses the pattern, when we cannot give it the same
    /// meaning, or when it needs more than a limit allows.
    ///
    /// Source: Python 3.11 library reference, `re`, "Regular Expression Syntax".
    pub fn compile(source: &str) -> Result<Self, PatternError> {
        let parsed = parse::parse(source)?;
        let (program, size_bytes) = match linear::program(&parsed.node)? {
            Some(sized) => (Program::Linear(sized.program), sized.size_bytes),
            None => {
                let program = backtrack::Program::new(&parsed.node, parsed.groups);
                (Program::Backtracking(program), parsed.size_bytes)
            }
        };
        Ok(Self {
            source: source.into(),
            program,
            size_bytes,
            shape: Shape::of(&parsed.node),
        })
    }

    /// Whether `re.match(source, path)` finds a match.
    pub fn excludes(&self, path: &str) -> Match {
        self.excludes_within(path, &mut StepBudget::default())
    }

    /// The same for one of many paths: when the budget is used up, it is a [`Match::StepCap`].
    pub fn excludes_within(&self, path: &str, budget: &mut StepBudget) -> Match {
        if !path.starts_with(self.shape.literal_prefix()) {
            return Match::NotExcluded;
        }
        match &self.program {
            Program::Linear(program) if program.is_match(path) => Match::Excluded,
            Program::Linear(_) => Match::NotExcluded,
            Program::Backtracking(program) => program.run(path, budget),
        }
    }

    /// A bound on the size of the compiled program, in bytes, tight to a factor of two.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// The pattern as it stands in the policy.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The engine that it runs on.
    pub fn engine(&self) -> Engine {
        match self.program {
            Program::Linear(_) => Engine::Linear,
            Program::Backtracking(_) => Engine::Backtracking,
        }
    }

    /// What can be said of it by its form, for lint.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }
}
