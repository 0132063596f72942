//! Sets of characters, and CPython's rules for ignoring case.

use std::sync::{Arc, LazyLock};

use super::unicode::{DIGIT, EXTRA_CASES, LOWER, SPACE, UPPER, WORD};

/// The largest code point.
pub(super) const CODE_MAX: u32 = 0x10_ffff;
const BASIC_PLANE_MAX: u32 = 0xffff;

/// Characters as sorted, disjoint, inclusive ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CharSet(Ranges);

#[derive(Debug, Clone)]
enum Ranges {
    Table(&'static [(u32, u32)]),
    Owned(Arc<[(u32, u32)]>),
}

impl PartialEq for Ranges {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}
impl Eq for Ranges {}

impl Ranges {
    fn as_slice(&self) -> &[(u32, u32)] {
        match self {
            Self::Table(table) => table,
            Self::Owned(ranges) => ranges,
        }
    }
}

impl CharSet {
    pub(super) fn from_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(run) if first <= run.1.saturating_add(1) => run.1 = run.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(Ranges::Owned(merged.into()))
    }

    pub(super) fn single(code: u32) -> Self {
        Self::from_ranges(vec![(code, code)])
    }

    pub(super) fn ranges(&self) -> &[(u32, u32)] {
        self.0.as_slice()
    }

    pub(super) fn negated(&self) -> Self {
        let mut gaps = Vec::new();
        let mut next = 0;
        for &(first, last) in self.ranges() {
            if first > next {
                gaps.push((next, first.saturating_sub(1)));
            }
            next = last.saturating_add(1);
        }
        if next <= CODE_MAX {
            gaps.push((next, CODE_MAX));
        }
        Self(Ranges::Owned(gaps.into()))
    }

    pub(super) fn contains(&self, code: u32) -> bool {
        let ranges = self.ranges();
        let after = ranges.partition_point(|&(first, _)| first <= code);
        after
            .checked_sub(1)
            .and_then(|index| ranges.get(index))
            .is_some_and(|&(_, last)| code <= last)
    }

    /// The one character of the set, if it has exactly one.
    pub(super) fn sole_member(&self) -> Option<u32> {
        match self.ranges() {
            [(first, last)] if first == last => Some(*first),
            _ => None,
        }
    }
}

/// The category escapes of a class: `\d`, `\s`, `\w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Category {
    Digit,
    Space,
    Word,
}

impl Category {
    /// Its characters for a `str` pattern, with or without the ASCII flag.
    pub(super) fn set(self, ascii: bool) -> CharSet {
        CharSet(Ranges::Table(match (self, ascii) {
            (Self::Digit, false) => DIGIT,
            (Self::Space, false) => SPACE,
            (Self::Word, false) => WORD,
            (Self::Digit, true) => &[(0x30, 0x39)],
            (Self::Space, true) => &[(0x09, 0x0d), (0x20, 0x20)],
            (Self::Word, true) => &[(0x30, 0x39), (0x41, 0x5a), (0x5f, 0x5f), (0x61, 0x7a)],
        }))
    }
}

/// Whether, and by which alphabet, case is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Kept,
    IgnoredAscii,
    IgnoredUnicode,
}

type Run = (u32, u32, u32, u32);
static ASCII_LOWER: &[Run] = &[(0x41, 0x5a, 1, 0x61)];

impl Case {
    fn runs(self) -> &'static [Run] {
        match self {
            Self::Kept => &[],
            Self::IgnoredAscii => ASCII_LOWER,
            Self::IgnoredUnicode => LOWER,
        }
    }

    /// The lower-case form by which two characters are compared.
    pub(super) fn lower(self, code: u32) -> u32 {
        map(self.runs(), code)
    }

    /// The characters of `ranges` that are their own lower case.
    fn unchanging(self, ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
        static UNICODE: LazyLock<CharSet> = LazyLock::new(|| unchanging(LOWER));
        static ASCII: LazyLock<CharSet> = LazyLock::new(|| unchanging(ASCII_LOWER));
        match self {
            Self::Kept => ranges.to_vec(),
            Self::IgnoredAscii => intersection(ranges, ASCII.ranges()),
            Self::IgnoredUnicode => intersection(ranges, UNICODE.ranges()),
        }
    }

    fn is_cased(self, code: u32) -> bool {
        match self {
            Self::Kept => false,
            Self::IgnoredAscii => u8::try_from(code).is_ok_and(|byte| byte.is_ascii_alphabetic()),
            Self::IgnoredUnicode => map(LOWER, code) != code || map(UPPER, code) != code,
        }
    }

    /// The other lower-case characters that match this one.
    fn extra(self, lower: u32) -> &'static [u32] {
        if self != Self::IgnoredUnicode {
            return &[];
        }
        EXTRA_CASES
            .binary_search_by_key(&lower, |&(key, _)| key)
            .ok()
            .and_then(|index| EXTRA_CASES.get(index))
            .map_or(&[], |&(_, others)| others)
    }
}

fn unchanging(runs: &[Run]) -> CharSet {
    let mut changing = Vec::new();
    for &(first, last, step, _) in runs {
        push_steps(first, last, step, &mut changing);
    }
    CharSet::from_ranges(changing).negated()
}

fn map(runs: &[Run], code: u32) -> u32 {
    // Runs of step two interleave with others only by parity, so look at two of them.
    let after = runs.partition_point(|&(first, ..)| first <= code);
    for index in [after.checked_sub(1), after.checked_sub(2)]
        .into_iter()
        .flatten()
    {
        if let Some(&(first, last, step, target)) = runs.get(index)
            && code <= last
            && code.wrapping_sub(first).checked_rem(step) == Some(0)
        {
            return target.wrapping_add(code.wrapping_sub(first));
        }
    }
    code
}

/// The characters of `first..=last` that lie in a run, as a range of that run's step.
fn within(run: Run, first: u32, last: u32) -> Option<(u32, u32)> {
    let (run_first, run_last, step, _) = run;
    let low = first.max(run_first);
    let past = low.wrapping_sub(run_first).checked_rem(step)?;
    let low = if past == 0 {
        low
    } else {
        low.saturating_add(step.saturating_sub(past))
    };
    (low <= last.min(run_last)).then_some((low, last.min(run_last)))
}

/// Appends `first..=last` in steps.
fn push_steps(first: u32, last: u32, step: u32, ranges: &mut Vec<(u32, u32)>) {
    if step <= 1 {
        ranges.push((first, last));
        return;
    }
    let step = usize::try_from(step).unwrap_or(1);
    ranges.extend((first..=last).step_by(step).map(|code| (code, code)));
}

/// Appends what the changing characters of `first..=last` change to.
fn push_images(runs: &[Run], first: u32, last: u32, ranges: &mut Vec<(u32, u32)>) {
    for &run in runs {
        if let Some((low, high)) = within(run, first, last) {
            let (run_first, _, step, target) = run;
            let image = |code: u32| target.wrapping_add(code.wrapping_sub(run_first));
            push_steps(image(low), image(high), step, ranges);
        }
    }
}

/// Appends the changing characters that change to one of `wanted`.
fn push_preimages(runs: &[Run], wanted: &[(u32, u32)], ranges: &mut Vec<(u32, u32)>) {
    for &(run_first, run_last, step, target) in runs {
        let target_last = target.wrapping_add(run_last.wrapping_sub(run_first));
        let reversed = (target, target_last, step, run_first);
        let begin = wanted.partition_point(|&(_, last)| last < target);
        for &(first, last) in wanted.get(begin..).unwrap_or(&[]) {
            if first > target_last {
                break;
            }
            push_images(&[reversed], first, last, ranges);
        }
    }
}

/// The characters that a literal matches.
pub(super) fn literal(code: u32, case: Case) -> CharSet {
    if !case.is_cased(code) {
        return CharSet::single(code);
    }
    let lower = case.lower(code);
    let mut wanted = vec![(lower, lower)];
    wanted.extend(case.extra(lower).iter().map(|&other| (other, other)));
    lowered_into(&CharSet::from_ranges(wanted), case)
}

/// The characters whose lower case is in `wanted`.
fn lowered_into(wanted: &CharSet, case: Case) -> CharSet {
    let mut ranges = Vec::new();
    push_preimages(case.runs(), wanted.ranges(), &mut ranges);
    ranges.extend(case.unchanging(wanted.ranges()));
    CharSet::from_ranges(ranges)
}

fn intersection(left: &[(u32, u32)], right: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut both = Vec::new();
    for &(first, last) in left {
        let begin = right.partition_point(|&(_, right_last)| right_last < first);
        for &(right_first, right_last) in right.get(begin..).unwrap_or(&[]) {
            if right_first > last {
                break;
            }
            both.push((first.max(right_first), last.min(right_last)));
        }
    }
    both
}

/// A character class `[…]` while it is read.
#[derive(Debug)]
pub(super) struct Class {
    case: Case,
    negated: bool,
    /// Whether the character is lowered before it is looked up.
    lowers: bool,
    ranges: Vec<(u32, u32)>,
}

impl Class {
    pub(super) fn new(case: Case, negated: bool) -> Self {
        Self {
            case,
            negated,
            lowers: false,
            ranges: Vec::new(),
        }
    }

    pub(super) fn range_count(&self) -> usize {
        self.ranges.len()
    }

    pub(super) fn push_set(&mut self, set: &CharSet) {
        self.ranges.extend_from_slice(set.ranges());
    }

    pub(super) fn push_literal(&mut self, code: u32) {
        let lower = self.case.lower(code);
        if self.case != Case::Kept && lower > BASIC_PLANE_MAX {
            // CPython keeps such a literal as it stands but lowers the character: an upper-case
            // one outside the basic plane then matches nothing (`re._compiler`, 3.11).
            self.lowers = true;
            self.ranges.push((code, code));
            return;
        }
        self.push_lowered(lower);
        self.lowers |= self.case.is_cased(code);
    }

    fn push_lowered(&mut self, lower: u32) {
        self.ranges.push((lower, lower));
        let extra = self.case.extra(lower).iter().map(|&other| (other, other));
        self.ranges.extend(extra);
    }

    pub(super) fn push_range(&mut self, first: u32, last: u32) {
        if self.case == Case::Kept {
            self.ranges.push((first, last));
            return;
        }
        if first <= BASIC_PLANE_MAX {
            self.push_lowered_range(first, last.min(BASIC_PLANE_MAX));
        }
        let changes = |runs: &[Run]| runs.iter().any(|&run| within(run, first, last).is_some());
        self.lowers |= match self.case {
            Case::IgnoredUnicode => changes(LOWER) || changes(UPPER),
            Case::IgnoredAscii | Case::Kept => {
                changes(ASCII_LOWER) || (first <= 0x7a && last >= 0x61)
            }
        };
        if last > BASIC_PLANE_MAX {
            // CPython tries the lowered character and its upper case against the whole range,
            // with the Unicode mapping even under the ASCII flag.
            self.lowers = true;
            self.ranges.push((first, last));
            push_preimages(UPPER, &[(first, last)], &mut self.ranges);
        }
    }

    fn push_lowered_range(&mut self, first: u32, last: u32) {
        let mut lowered = self.case.unchanging(&[(first, last)]);
        push_images(self.case.runs(), first, last, &mut lowered);
        let lowered = CharSet::from_ranges(lowered);
        if self.case == Case::IgnoredUnicode {
            for &(lower, _) in EXTRA_CASES {
                if lowered.contains(lower) {
                    self.push_lowered(lower);
                }
            }
        }
        self.push_set(&lowered);
    }

    pub(super) fn finish(self) -> CharSet {
        let mut set = CharSet::from_ranges(self.ranges);
        if self.negated {
            set = set.negated();
        }
        if self.lowers {
            set = lowered_into(&set, self.case);
        }
        set
    }
}
