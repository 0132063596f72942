//! A measurement list that came with evidence or follows it, until the appraisal has what it proves.

use super::Overrun;
use crate::appraisal::{Appraisal, ImaState};
use crate::evidence::{ChallengeId, ImaUpload};
use crate::ima::{ImaAppraiser, ImaError, ImaReport, LogFormat};
use crate::shard::tick::KeptLog;
use crate::verdict::Reason;

/// A measurement list on its way.
#[derive(Debug)]
pub(super) struct List {
    appraiser: ImaAppraiser,
    from_entry: u64,
    format: LogFormat,
    announced: u64,
    received: u64,
    last_byte: Option<u8>,
    /// Whether more of it can still matter.
    wanted: bool,
    /// The bytes, when they came with the evidence.
    whole: Option<Vec<u8>>,
}

/// A list that was proven.
pub(super) struct Ended {
    report: ImaReport,
    from_entry: u64,
    format: LogFormat,
    whole: Option<Vec<u8>>,
}

impl List {
    pub(super) fn begin(appraiser: ImaAppraiser, upload: ImaUpload) -> Self {
        let mut list = Self {
            appraiser,
            from_entry: upload.from_entry,
            format: upload.format,
            announced: upload.length,
            received: 0,
            last_byte: None,
            wanted: true,
            whole: None,
        };
        if let Some(whole) = upload.whole {
            // An overrun stands in the counts; `finish` says so.
            let _ = list.feed(&whole);
            list.whole = Some(whole);
        }
        list
    }

    pub(super) fn remaining(&self) -> u64 {
        // Nothing follows a list that came with the evidence.
        if self.wanted && self.whole.is_none() {
            self.announced.saturating_sub(self.received)
        } else {
            0
        }
    }

    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<(), Overrun> {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.received = self.received.saturating_add(length);
        let announced = self.announced;
        if self.received > announced {
            self.wanted = false;
            return Err(Overrun { announced });
        }
        self.last_byte = piece.last().copied().or(self.last_byte);
        if self.wanted {
            self.wanted = self.appraiser.feed(piece);
        }
        Ok(())
    }

    pub(super) fn finish(self, appraisal: &mut Appraisal) -> Option<Ended> {
        let (announced, received) = (self.announced, self.received);
        if received > announced || (received < announced && self.wanted) {
            let error = ImaError::Incomplete {
                announced,
                received,
            };
            appraisal.fail(Reason::Ima(error));
            return None;
        }
        let report = appraisal.ima_finished(self.appraiser.finish())?;
        if self.format == LogFormat::Ascii
            && report.proven_bytes == received
            && self.last_byte.is_some_and(|last| last != b'\n')
        {
            appraisal.fail(Reason::Ima(ImaError::Unterminated));
        }
        Some(Ended {
            report,
            from_entry: self.from_entry,
            format: self.format,
            whole: self.whole,
        })
    }
}

impl Ended {
    /// What is kept of the list: its proven entries; `None` when there is no new one.
    pub(super) fn kept(
        self,
        state: &ImaState,
        upload: ChallengeId,
    ) -> (ImaReport, Option<KeptLog>) {
        let length = self.report.proven_bytes;
        let whole = self.whole.map(|mut bytes| {
            bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
            bytes
        });
        let log = (length > 0).then_some(KeptLog {
            from_entry: self.from_entry,
            to_entry: state.committed.position(),
            format: self.format,
            length,
            upload,
            whole,
        });
        (self.report, log)
    }
}
