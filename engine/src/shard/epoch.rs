//! What the TPM's clock and counters say against what they said before.

use serde::{Deserialize, Serialize};

use super::settings::Settings;
use super::state::BootEpoch;
use crate::time::Now;
use crate::tpm::ClockInfo;
use crate::verdict::Code;

/// How an authenticated clock follows the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    /// There was none.
    First,
    /// The same boot.
    SameBoot,
    /// A later boot.
    LaterBoot,
}

/// What the last accepted quote said, and how long ago.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) boot: BootEpoch,
    pub(super) clock_ms: u64,
    /// Milliseconds since its challenge was issued; `None` when our clock was set meanwhile.
    pub(super) ago_ms: Option<u64>,
}

/// A quote of the boot that was proven last, whose clock had gone back. It is no quote to go on
/// from, but what comes after it must follow it, too, if both are of one TPM. (T09)
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Strayed {
    pub(super) clock_ms: u64,
    /// When its challenge was issued.
    pub(super) issued: Now,
}

impl Strayed {
    /// Whether a clock that follows the last accepted one is ahead of this one by more than the time
    /// that passed: two TPMs take turns. One that was set right by some seconds is no proof of that.
    pub(super) fn is_of_another(self, clock: &ClockInfo, now: Now) -> bool {
        let passed_ms = now.mono_ms.saturating_sub(self.issued.mono_ms);
        let passed_ms = passed_ms.max(now.unix_ms.saturating_sub(self.issued.unix_ms));
        let most_ms = longest(passed_ms).saturating_add(SET_RIGHT_MS);
        clock.clock_ms.saturating_sub(self.clock_ms) > most_ms
    }
}

/// How far a TPM's clock that went back is set forward again by somebody who means well.
const SET_RIGHT_MS: u64 = 30_000;

/// The connection that the evidence came over.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Over {
    /// The boot that evidence before it proved.
    pub(super) proved: Option<BootEpoch>,
    /// How long the machine was gone before it connected; `None` when that is not known.
    pub(super) gap_ms: Option<u64>,
}

/// Whether `clock` can follow what was seen before.
///
/// # Errors
/// `time.rollback`, `time.reset_without_reboot`, `identity.clone_suspected`.
///
/// # Security
/// `clock` must come from a bound quote.
// (T01, T05-T09)
pub(super) fn follows(
    before: Option<Seen>,
    over: Over,
    clock: &ClockInfo,
    settings: &Settings,
) -> Result<Follows, Code> {
    let Some(seen) = before else {
        return Ok(Follows::First);
    };
    let boot = seen.boot;
    let resets = wrapping_step(boot.reset_count, clock.reset_count)?;
    if resets > 0 {
        let too_soon = over
            .gap_ms
            .is_some_and(|gap_ms| gap_ms < settings.boot_gap_ms_min);
        if over.proved == Some(boot) || too_soon {
            return Err(Code::TimeResetWithoutReboot);
        }
        return Ok(Follows::LaterBoot);
    }
    if wrapping_step(boot.restart_count, clock.restart_count)? > 0 {
        return Ok(Follows::LaterBoot);
    }
    let tpm_ms = clock
        .clock_ms
        .checked_sub(seen.clock_ms)
        .ok_or(Code::TimeRollback)?;
    if seen.ago_ms.is_some_and(|ago| tpm_ms > longest(ago)) {
        return Err(Code::IdentityCloneSuspected);
    }
    Ok(Follows::SameBoot)
}

/// How far a counter went on. Counters wrap, so half of all steps are backward. (T07)
fn wrapping_step(from: u32, to: u32) -> Result<u32, Code> {
    let step = to.wrapping_sub(from);
    if step > u32::MAX / 2 {
        return Err(Code::TimeRollback);
    }
    Ok(step)
}

/// The most that a TPM's clock can advance in this time of ours. TPM 2.0 Part 1, 36.3: its rate
/// may be set up to 32.5 % too fast; the rest is for the way between the TPM and us. A clock that
/// advanced less was suspended, which is normal.
const fn longest(ours_ms: u64) -> u64 {
    let drift = ours_ms.saturating_mul(7) / 20;
    ours_ms.saturating_add(drift).saturating_add(10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(reset_count: u32, restart_count: u32) -> Option<Seen> {
        let boot = BootEpoch {
            reset_count,
            restart_count,
        };
        Some(Seen {
            boot,
            clock_ms: 50_000,
            ago_ms: Some(10_000),
        })
    }

    fn clock(reset_count: u32, restart_count: u32, clock_ms: u64) -> ClockInfo {
        ClockInfo {
            clock_ms,
            reset_count,
            restart_count,
            safe: false,
        }
    }

    fn ask(before: Option<Seen>, proved: bool, clock: ClockInfo) -> Result<Follows, Code> {
        let over = Over {
            proved: before.map(|seen| seen.boot).filter(|_| proved),
            gap_ms: None,
        };
        follows(before, over, &clock, &Settings::default())
    }

    #[test]
    fn t01_a_clock_or_counter_that_goes_back_is_a_rollback() {
        assert_eq!(
            ask(before(7, 3), false, clock(7, 3, 49_999)),
            Err(Code::TimeRollback)
        );
        assert_eq!(
            ask(before(7, 3), false, clock(6, 3, 60_000)),
            Err(Code::TimeRollback)
        );
        assert_eq!(
            ask(before(7, 3), false, clock(7, 2, 60_000)),
            Err(Code::TimeRollback)
        );
    }

    #[test]
    fn t02_t05_a_reset_or_a_restart_alone_is_a_later_boot() {
        assert_eq!(
            ask(before(7, 3), false, clock(8, 0, 100)),
            Ok(Follows::LaterBoot)
        );
        assert_eq!(
            ask(before(7, 3), false, clock(7, 4, 100)),
            Ok(Follows::LaterBoot)
        );
        assert_eq!(ask(None, false, clock(7, 4, 100)), Ok(Follows::First));
    }

    #[test]
    fn t06_an_unsafe_clock_is_no_fault() {
        assert_eq!(
            ask(before(7, 3), false, clock(7, 3, 60_000)),
            Ok(Follows::SameBoot)
        );
    }

    #[test]
    fn t07_counters_wrap() {
        assert_eq!(
            ask(before(u32::MAX, 0), false, clock(0, 0, 1)),
            Ok(Follows::LaterBoot)
        );
        assert_eq!(
            ask(before(0, 0), false, clock(u32::MAX, 0, 1)),
            Err(Code::TimeRollback)
        );
    }

    #[test]
    fn t08_a_reset_while_the_connection_lives_is_no_reboot() {
        assert_eq!(
            ask(before(7, 3), true, clock(8, 0, 100)),
            Err(Code::TimeResetWithoutReboot)
        );
        // And neither is one that took no time.
        let after = |gap_ms| {
            let (proved, gap_ms) = (None, Some(gap_ms));
            let over = Over { proved, gap_ms };
            let clock = clock(8, 0, 100);
            follows(before(7, 3), over, &clock, &Settings::default())
        };
        assert_eq!(after(999), Err(Code::TimeResetWithoutReboot));
        assert_eq!(after(1_000), Ok(Follows::LaterBoot));
        // A resume keeps the connection and the PCRs.
        assert_eq!(
            ask(before(7, 3), true, clock(7, 4, 100)),
            Ok(Follows::LaterBoot)
        );
    }

    #[test]
    fn t09_a_clock_that_was_back_and_is_ahead_again_is_of_two_tpms() {
        let at = |ms| Now {
            mono_ms: ms,
            unix_ms: ms,
        };
        let strayed = Strayed {
            clock_ms: 40_000,
            issued: at(100_000),
        };
        // Ten seconds later it may be so far on, and no further.
        assert!(!strayed.is_of_another(&clock(7, 3, 93_500), at(110_000)));
        assert!(strayed.is_of_another(&clock(7, 3, 93_501), at(110_000)));
        // T04: of our own clocks, the one that saw more time pass counts.
        let paused = Now {
            mono_ms: 110_000,
            unix_ms: 200_000,
        };
        assert!(!strayed.is_of_another(&clock(7, 3, 93_501), paused));
    }

    #[test]
    fn t09_a_clock_that_runs_too_fast_is_of_two_tpms() {
        // Ten seconds passed here.
        assert_eq!(
            ask(before(7, 3), false, clock(7, 3, 73_000)),
            Ok(Follows::SameBoot)
        );
        assert_eq!(
            ask(before(7, 3), false, clock(7, 3, 74_000)),
            Err(Code::IdentityCloneSuspected)
        );
        // T04: our own clock was set, and says nothing about the TPM's.
        let mut seen = before(7, 3).unwrap();
        seen.ago_ms = None;
        assert_eq!(
            ask(Some(seen), false, clock(7, 3, 9_000_000)),
            Ok(Follows::SameBoot)
        );
    }
}
