//! The times and counts that a shard works by.

use super::record::Group;

/// Keylime's `maximum_attestation_interval`: one of its agents that nothing was heard of for so many
/// of its intervals is not trusted any more.
const KEYLIME_INTERVALS: u64 = 5;

/// Times in milliseconds, and counts. The same for every shard of a server; a group may have an
/// interval of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// From one challenge of an agent to the next.
    pub interval_ms: u64,
    /// From a challenge to the last moment at which its evidence may arrive.
    pub challenge_deadline_ms: u32,
    /// From a challenge's issue to the end of the trust that its evidence earned. (Q14)
    pub max_age_ms: u64,
    /// The longest appraisal, beside the upload of logs; after it the evidence counts as
    /// abandoned. (S01)
    pub appraisal_ms_max: u64,
    /// The least rate at which logs arrive, by which uploads have their time. (X04)
    pub upload_bytes_per_second_min: u64,
    /// The longest that judging a stored list may stand still; its agent is not asked meanwhile, so
    /// this is less than what trust can bridge. (L07)
    pub rejudge_ms_max: u64,
    /// How often agents that failed are asked again.
    pub failed_interval_ms: u64,
    /// A boot takes at least this long; a TPM whose machine was gone for less was reset alone.
    /// (T08)
    pub boot_gap_ms_min: u64,
    /// Quotes in a row that may leave entries beyond an unmoved cut. (I04)
    pub no_progress_rounds_max: u32,
    /// Faults of a sender in a row, after which its session ends for a while. (S13)
    pub sender_faults_max: u32,
    /// Turns that connections of one agent take within the longest age, after which two machines
    /// seem to share a key. (T03)
    pub alternations_max: u32,
    /// How long an agent is sent away when it cannot be served.
    pub retry_after_ms: u32,
    /// Outcomes of one tick.
    pub outcomes_per_tick_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self::with_interval(10_000)
    }
}

impl Settings {
    /// The shortest interval that a group can have where answers may take this long: trust lasts for
    /// three intervals, of which one passes before the challenge, and the answer has the others.
    pub fn interval_ms_min(challenge_deadline_ms: u32) -> u64 {
        u64::from(challenge_deadline_ms.div_ceil(2))
    }

    /// These settings for agents of this group: with an interval of its own, age and patience follow
    /// that one.
    ///
    /// Trust outlasts one interval and the wait for the answer after it, whatever the server is set
    /// to: the deadline is shorter where it has to be. (Q14)
    pub(super) fn of_group(self, group: &Group) -> Self {
        let Some(interval_ms) = group.interval_ms else {
            return self;
        };
        let mut own = Self::with_interval(interval_ms);
        let mut answer_ms = self.challenge_deadline_ms;
        if let Some(terms) = &group.keylime {
            answer_ms = terms.answer_ms;
            own.max_age_ms = interval_ms.saturating_mul(KEYLIME_INTERVALS);
        }
        let deadline_ms_max = own.max_age_ms.saturating_sub(interval_ms);
        let deadline_ms_max = u32::try_from(deadline_ms_max).unwrap_or(u32::MAX);
        Self {
            interval_ms,
            challenge_deadline_ms: answer_ms.min(deadline_ms_max),
            max_age_ms: own.max_age_ms,
            rejudge_ms_max: own.rejudge_ms_max,
            failed_interval_ms: own.failed_interval_ms,
            ..self
        }
    }

    /// Jitter is less than this.
    pub(super) const fn jitter_ms_max(&self) -> u64 {
        self.interval_ms / 10
    }

    /// The longest that an agent waits for its next challenge.
    pub(super) const fn wait_ms_max(&self, has_failed: bool) -> u64 {
        let interval_ms = match has_failed {
            true => self.failed_interval_ms,
            false => self.interval_ms,
        };
        interval_ms.saturating_add(self.jitter_ms_max())
    }

    /// How long logs of this length may take to arrive.
    pub(super) fn upload_ms(&self, bytes: u64) -> u64 {
        let ms = bytes.saturating_mul(1_000);
        ms.checked_div(self.upload_bytes_per_second_min)
            .unwrap_or(0)
    }

    /// How long an appraisal may take for which so many bytes of logs are to come.
    pub(super) fn longest_appraisal_ms(&self, bytes: u64) -> u64 {
        self.appraisal_ms_max.saturating_add(self.upload_ms(bytes))
    }

    /// The defaults for this interval: the age is three intervals, as is Keylime's patience.
    pub const fn with_interval(interval_ms: u64) -> Self {
        Self {
            interval_ms,
            challenge_deadline_ms: 5_000,
            max_age_ms: interval_ms.saturating_mul(3),
            appraisal_ms_max: 600_000,
            upload_bytes_per_second_min: 16 * 1024,
            rejudge_ms_max: interval_ms,
            failed_interval_ms: interval_ms.saturating_mul(6),
            boot_gap_ms_min: 1_000,
            no_progress_rounds_max: 5,
            sender_faults_max: 8,
            alternations_max: 3,
            retry_after_ms: 5_000,
            outcomes_per_tick_max: 1_024,
        }
    }
}
