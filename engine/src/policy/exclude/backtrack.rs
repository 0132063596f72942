//! A backtracking engine with CPython's rules and a cap on its steps.
//!
//! It runs what the linear engine cannot: look-around, back-references, atomic groups, possessive
//! quantifiers, conditions, word boundaries. Choices stand on an explicit stack; every change of a
//! register is on a trail, so that going back to a choice restores what was known there.

mod compile;

use super::charset::{Case, Category, CharSet};
use super::syntax::{Anchor, Greed, Node};
use super::{Match, StepBudget};
use crate::limits::EXCLUDE_STEPS_MAX;

/// A register that holds nothing.
const UNSET: usize = usize::MAX;

/// A loop's bounds, registers and exit.
#[derive(Debug, Clone, Copy)]
struct Loop {
    min: usize,
    max: usize,
    greed: Greed,
    /// Counts the iterations begun.
    count: usize,
    /// The place where the newest optional iteration began: an empty one is not repeated.
    began: usize,
    exit: usize,
}

#[derive(Debug, Clone)]
enum Step {
    /// One character of the set.
    Set(CharSet),
    Anchor(Anchor),
    BackReference {
        group: usize,
        case: Case,
    },
    /// Go on with the next step; if that fails, with `other`.
    Fork {
        other: usize,
    },
    Jump(usize),
    /// Write the place into a register.
    Store(usize),
    /// Go back to the place in a register.
    Recall(usize),
    /// Write the height of the choices into a register.
    Mark(usize),
    /// Forget the choices above the height in a register.
    Cut(usize),
    /// Step back over characters.
    Back(usize),
    /// Begin a loop: clear its registers.
    Begin(Loop),
    /// Decide on the next iteration.
    Loop(Loop),
    /// Begin an optional iteration.
    Enter(Loop),
    /// Go on when the group has matched, else at `otherwise`.
    IfGroup {
        group: usize,
        otherwise: usize,
    },
    Fail,
    Done,
}

/// A pattern for the backtracking engine.
#[derive(Debug, Clone)]
pub(super) struct Program {
    steps: Vec<Step>,
    registers: usize,
    word_ascii: CharSet,
    word_unicode: CharSet,
}

impl Program {
    pub(super) fn new(node: &Node, groups: u32) -> Self {
        let (steps, registers) = compile::compile(node, groups);
        Self {
            steps,
            registers,
            word_ascii: Category::Word.set(true),
            word_unicode: Category::Word.set(false),
        }
    }

    /// Whether the pattern matches at the start of `text`. Takes its steps from the budget.
    pub(super) fn run(&self, text: &str, budget: &mut StepBudget) -> Match {
        let text: Vec<u32> = text.chars().map(u32::from).collect();
        let mut machine = Machine {
            program: self,
            text: &text,
            registers: vec![UNSET; self.registers],
            choices: Vec::new(),
            trail: Vec::new(),
            place: 0,
            next: 0,
            steps: 0,
            steps_max: budget.left.min(EXCLUDE_STEPS_MAX),
        };
        let result = machine.run();
        budget.left = budget.left.saturating_sub(machine.steps);
        result
    }

    fn is_word(&self, code: Option<&u32>, ascii: bool) -> bool {
        let words = if ascii {
            &self.word_ascii
        } else {
            &self.word_unicode
        };
        code.is_some_and(|code| words.contains(*code))
    }
}

/// Where to go on when the present try fails.
#[derive(Debug, Clone, Copy)]
struct Choice {
    next: usize,
    place: usize,
    trail: usize,
}

struct Machine<'a> {
    program: &'a Program,
    text: &'a [u32],
    registers: Vec<usize>,
    choices: Vec<Choice>,
    /// (register, value before).
    trail: Vec<(usize, usize)>,
    place: usize,
    next: usize,
    steps: usize,
    steps_max: usize,
}

/// What one step did.
enum Outcome {
    Going,
    Failed,
    Matched,
}

impl Machine<'_> {
    fn run(&mut self) -> Match {
        loop {
            self.steps = self.steps.saturating_add(1);
            if self.steps > self.steps_max {
                return Match::StepCap;
            }
            match self.step() {
                Outcome::Going => {}
                Outcome::Matched => return Match::Excluded,
                Outcome::Failed => {
                    let Some(choice) = self.choices.pop() else {
                        return Match::NotExcluded;
                    };
                    self.return_to(choice);
                }
            }
        }
    }

    fn return_to(&mut self, choice: Choice) {
        while self.trail.len() > choice.trail
            && let Some((register, value)) = self.trail.pop()
        {
            if let Some(slot) = self.registers.get_mut(register) {
                *slot = value;
            }
        }
        self.next = choice.next;
        self.place = choice.place;
    }

    fn step(&mut self) -> Outcome {
        let program = self.program;
        let Some(step) = program.steps.get(self.next) else {
            return Outcome::Failed;
        };
        self.next = self.next.saturating_add(1);
        let holds = match *step {
            Step::Set(ref set) => self.take(set),
            Step::Anchor(anchor) => self.stands_at(anchor),
            Step::BackReference { group, case } => self.repeat_group(group, case),
            Step::Back(count) => {
                let before = self.place.checked_sub(count);
                self.place = before.unwrap_or(self.place);
                before.is_some()
            }
            Step::Fail => false,
            Step::Done => return Outcome::Matched,
            ref other => {
                self.steer(other);
                true
            }
        };
        if holds {
            Outcome::Going
        } else {
            Outcome::Failed
        }
    }

    /// The steps that cannot fail.
    fn steer(&mut self, step: &Step) {
        match *step {
            Step::Fork { other } => self.choose(other),
            Step::Jump(target) => self.next = target,
            Step::Store(register) => self.set(register, self.place),
            Step::Recall(register) => self.place = self.get(register),
            Step::Mark(register) => self.set(register, self.choices.len()),
            Step::Cut(register) => self.choices.truncate(self.get(register)),
            Step::Begin(bounds) => {
                self.set(bounds.count, 0);
                self.set(bounds.began, UNSET);
            }
            Step::Loop(bounds) => self.iterate(bounds),
            Step::Enter(bounds) => {
                self.set(bounds.count, self.get(bounds.count).saturating_add(1));
                self.set(bounds.began, self.place);
            }
            Step::IfGroup { group, otherwise } => {
                if self.group(group).is_none() {
                    self.next = otherwise;
                }
            }
            Step::Set(_)
            | Step::Anchor(_)
            | Step::BackReference { .. }
            | Step::Back(_)
            | Step::Fail
            | Step::Done => {}
        }
    }

    /// CPython: `SRE_OP_MAX_UNTIL`, `SRE_OP_MIN_UNTIL`. The next step is the loop's `Enter`, and the body follows that.
    fn iterate(&mut self, bounds: Loop) {
        let enter = self.next;
        let count = self.get(bounds.count);
        let wanted = count < bounds.min;
        let allowed = count < bounds.max && self.place != self.get(bounds.began);
        if wanted {
            self.set(bounds.count, count.saturating_add(1));
            self.next = enter.saturating_add(1);
        } else if allowed && bounds.greed == Greed::Lazy {
            self.choose(enter);
            self.next = bounds.exit;
        } else if allowed {
            self.choose(bounds.exit);
        } else {
            self.next = bounds.exit;
        }
    }

    fn choose(&mut self, next: usize) {
        self.choices.push(Choice {
            next,
            place: self.place,
            trail: self.trail.len(),
        });
    }

    fn get(&self, register: usize) -> usize {
        self.registers.get(register).copied().unwrap_or(UNSET)
    }

    fn set(&mut self, register: usize, value: usize) {
        if let Some(slot) = self.registers.get_mut(register) {
            if !self.choices.is_empty() {
                self.trail.push((register, *slot));
            }
            *slot = value;
        }
    }

    fn take(&mut self, set: &CharSet) -> bool {
        let found = self
            .text
            .get(self.place)
            .is_some_and(|code| set.contains(*code));
        self.place = self.place.saturating_add(usize::from(found));
        found
    }

    /// What the group matched last, if it has.
    fn group(&self, group: usize) -> Option<(usize, usize)> {
        let start = self.get(group.saturating_mul(2));
        let end = self.get(group.saturating_mul(2).saturating_add(1));
        (start != UNSET && end != UNSET && start <= end).then_some((start, end))
    }

    fn repeat_group(&mut self, group: usize, case: Case) -> bool {
        let Some((start, end)) = self.group(group) else {
            return false;
        };
        let length = end.saturating_sub(start);
        self.steps = self.steps.saturating_add(length);
        let after = self.place.saturating_add(length);
        let (Some(before), Some(here)) =
            (self.text.get(start..end), self.text.get(self.place..after))
        else {
            return false;
        };
        let same = |(left, right): (&u32, &u32)| case.lower(*left) == case.lower(*right);
        let found = before.iter().zip(here).all(same);
        if found {
            self.place = after;
        }
        found
    }

    fn stands_at(&self, anchor: Anchor) -> bool {
        const NEWLINE: u32 = 0x0a;
        let end = self.text.len();
        let here = self.text.get(self.place);
        let before = self
            .place
            .checked_sub(1)
            .and_then(|place| self.text.get(place));
        match anchor {
            Anchor::Start => self.place == 0,
            Anchor::End => self.place == end,
            Anchor::LineStart => self.place == 0 || before == Some(&NEWLINE),
            Anchor::LineEnd => self.place == end || here == Some(&NEWLINE),
            Anchor::EndOrLastNewline => {
                self.place == end || (here == Some(&NEWLINE) && self.place.saturating_add(1) == end)
            }
            Anchor::WordBoundary { ascii, negated } => {
                // CPython 3.11: the empty text has neither a boundary nor the lack of one.
                let differs =
                    self.program.is_word(before, ascii) != self.program.is_word(here, ascii);
                end != 0 && differs != negated
            }
        }
    }
}
