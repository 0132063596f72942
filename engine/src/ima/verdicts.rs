//! What one policy said of records that the caches hold.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::judge::{Denial, Pass};

/// Bits of a word that hold answers; the record's number stands above them.
const ANSWER_BITS: u32 = 20;
const ANSWER_MASK: u64 = (1 << ANSWER_BITS) - 1;
/// Records have smaller numbers than this, so that a word holds the whole of each.
pub(super) const NUMBERS_MAX: u64 = 1 << (u64::BITS - ANSWER_BITS);

const PAGE_WORDS: usize = 1024;
const PAGES: usize = 1024;

/// Answers by the number of a record, for one policy.
///
/// A word holds one record's whole number, so that an answer is never taken for another record's:
/// where two records meet in a word, the newer one's answers replace the older one's.
///
/// # Cost
/// Eight bytes for each record that was judged, in pages, at most 8 MiB.
#[derive(Default)]
pub(super) struct Verdicts {
    pages: OnceLock<Box<[OnceLock<Page>]>>,
}

type Page = Box<[AtomicU64]>;

/// What is known of one event under a policy and one value of `require_valid_ima_sig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It passes, on any machine.
    Allow(Pass),
    /// It fails, on any machine, for one of the reasons that say nothing more of it.
    Deny(Denial),
    /// It depends on keys that the machine's list taught, or on what its list used up.
    NeedsAgentState,
}

impl Kept {
    /// The answer as four bits; `None` for one that is never kept.
    const fn code(self) -> Option<u64> {
        match self {
            Self::Allow(Pass::Listed) => Some(1),
            Self::Allow(Pass::Signed) => Some(2),
            Self::Allow(Pass::Excluded) => Some(3),
            Self::Deny(Denial::PathNotListed) => Some(4),
            Self::Deny(Denial::DigestNotListed) => Some(5),
            Self::NeedsAgentState => Some(6),
            Self::Allow(_) | Self::Deny(_) => None,
        }
    }

    const fn from_code(code: u64) -> Option<Self> {
        match code {
            1 => Some(Self::Allow(Pass::Listed)),
            2 => Some(Self::Allow(Pass::Signed)),
            3 => Some(Self::Allow(Pass::Excluded)),
            4 => Some(Self::Deny(Denial::PathNotListed)),
            5 => Some(Self::Deny(Denial::DigestNotListed)),
            6 => Some(Self::NeedsAgentState),
            _ => None,
        }
    }
}

/// What the exclude patterns say of a path, and the steps that it took to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PathAnswer {
    pub(super) is_excluded: bool,
    pub(super) steps: u16,
}

/// Answers on one record, as they stand in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Answers(u64);

impl Answers {
    const fn shift(require_valid_ima_sig: bool) -> u32 {
        if require_valid_ima_sig { 4 } else { 0 }
    }

    /// The answer for an event.
    pub(super) const fn of_event(kept: Kept, require_valid_ima_sig: bool) -> Self {
        match kept.code() {
            Some(code) => Self(code.wrapping_shl(Self::shift(require_valid_ima_sig))),
            None => Self(0),
        }
    }

    /// The answer for a path.
    pub(super) fn of_path(answer: PathAnswer) -> Self {
        let code = if answer.is_excluded { 2 } else { 1 };
        Self(u64::from(answer.steps).wrapping_shl(4) | code)
    }

    /// The bits that are zero while there is no answer to the same question.
    const fn place(self) -> u64 {
        if self.0 & 0xf == 0 { 0xf0 } else { 0xf }
    }

    const fn event(self, require_valid_ima_sig: bool) -> Option<Kept> {
        Kept::from_code(self.0.wrapping_shr(Self::shift(require_valid_ima_sig)) & 0xf)
    }

    pub(super) fn path(self) -> Option<PathAnswer> {
        let is_excluded = match self.0 & 0xf {
            1 => false,
            2 => true,
            _ => return None,
        };
        let steps = u16::try_from(self.0.wrapping_shr(4) & 0xffff).ok()?;
        Some(PathAnswer { is_excluded, steps })
    }
}

impl Verdicts {
    fn word(&self, number: u64) -> Option<(&OnceLock<Page>, usize)> {
        let pages = self
            .pages
            .get_or_init(|| (0..PAGES).map(|_| OnceLock::new()).collect());
        let at = usize::try_from(number).ok()?;
        let page = pages.get(at.wrapping_div(PAGE_WORDS).wrapping_rem(PAGES))?;
        Some((page, at.wrapping_rem(PAGE_WORDS)))
    }

    fn answers(&self, number: u64) -> Answers {
        let Some((page, at)) = self.word(number) else {
            return Answers(0);
        };
        let word = page.get().and_then(|page| page.get(at));
        let word = word.map_or(0, |word| word.load(Ordering::Relaxed));
        if word.wrapping_shr(ANSWER_BITS) == number {
            Answers(word & ANSWER_MASK)
        } else {
            Answers(0)
        }
    }

    /// What was kept of the event with this number.
    pub(super) fn event(&self, number: u64, require_valid_ima_sig: bool) -> Option<Kept> {
        self.answers(number).event(require_valid_ima_sig)
    }

    /// What was kept of the path with this number.
    pub(super) fn path(&self, number: u64) -> Option<PathAnswer> {
        self.answers(number).path()
    }

    /// Keeps an answer on a record, beside those to other questions on the same record. The first
    /// answer to a question stays.
    ///
    /// Two threads that do so at once may lose one of the answers, and never mix two records'.
    pub(super) fn keep(&self, number: u64, answers: Answers) {
        if answers == Answers(0) || number >= NUMBERS_MAX {
            return;
        }
        let Some((page, at)) = self.word(number) else {
            return;
        };
        let page = page.get_or_init(|| (0..PAGE_WORDS).map(|_| AtomicU64::new(0)).collect());
        let Some(word) = page.get(at) else {
            return;
        };
        let known = word.load(Ordering::Relaxed);
        let known = if known.wrapping_shr(ANSWER_BITS) == number {
            known & ANSWER_MASK
        } else {
            0
        };
        if known & answers.place() == 0 {
            let new = number.wrapping_shl(ANSWER_BITS) | known | answers.0;
            word.store(new, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verdicts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: u64 = 1024 * 1024;

    #[test]
    fn i19_an_answer_is_of_one_record_and_one_value_of_the_option() {
        let verdicts = Verdicts::default();
        let allow = Kept::Allow(Pass::Listed);
        let deny = Kept::Deny(Denial::DigestNotListed);
        verdicts.keep(7, Answers::of_event(allow, false));
        assert_eq!(verdicts.event(7, false), Some(allow));
        assert_eq!(verdicts.event(7, true), None);
        verdicts.keep(7, Answers::of_event(deny, true));
        assert_eq!(verdicts.event(7, false), Some(allow));
        assert_eq!(verdicts.event(7, true), Some(deny));
        verdicts.keep(7, Answers::of_event(Kept::NeedsAgentState, false));
        assert_eq!(verdicts.event(7, false), Some(allow), "the first stays");
        // The next record in the same word: nothing of the first is left, nor comes back.
        assert_eq!(verdicts.event(7 + WORDS, false), None);
        verdicts.keep(7 + WORDS, Answers::of_event(deny, false));
        assert_eq!(verdicts.event(7 + WORDS, false), Some(deny));
        assert_eq!(verdicts.event(7 + WORDS, true), None);
        assert_eq!(verdicts.event(7, false), None);
        assert_eq!(Verdicts::default().event(7, false), None);
        // A number that a word cannot hold is not kept.
        verdicts.keep(NUMBERS_MAX, Answers::of_event(allow, false));
        assert_eq!(verdicts.event(NUMBERS_MAX, false), None);
    }

    #[test]
    fn every_answer_comes_back() {
        let verdicts = Verdicts::default();
        let kept = [
            Kept::Allow(Pass::Listed),
            Kept::Allow(Pass::Signed),
            Kept::Allow(Pass::Excluded),
            Kept::Deny(Denial::PathNotListed),
            Kept::Deny(Denial::DigestNotListed),
            Kept::NeedsAgentState,
        ];
        for (number, kept) in (1..).zip(kept) {
            verdicts.keep(number, Answers::of_event(kept, true));
            assert_eq!(verdicts.event(number, true), Some(kept));
        }
        for (number, steps) in (100..).zip([0, 1, 255, u16::MAX]) {
            for is_excluded in [false, true] {
                let answer = PathAnswer { is_excluded, steps };
                let verdicts = Verdicts::default();
                verdicts.keep(number, Answers::of_path(answer));
                assert_eq!(verdicts.path(number), Some(answer));
            }
        }
    }

    #[test]
    fn i19_answers_that_rest_on_more_than_the_event_are_not_kept() {
        for kept in [
            Kept::Allow(Pass::KeyLearned),
            Kept::Allow(Pass::KeyringIgnored),
            Kept::Deny(Denial::SignatureInvalid),
            Kept::Deny(Denial::KeyNotListed),
        ] {
            assert_eq!(Answers::of_event(kept, false), Answers(0));
        }
    }
}
