//! Extending entries into running PCR values until they equal the quoted ones.

use serde::{Deserialize, Serialize};

use super::Entry;
use super::error::ImaError;
use super::few::Few;
use super::hashes::{Algorithms, Hashes};
use crate::crypto;
use crate::fault::fault_point;
use crate::hash::{Digest, HashAlg};
use crate::pcr::{PcrIndex, PcrSet, PcrValues};

/// What the kernel extends into a bank for one entry.
///
/// Which of the two a machine does is declared for it; it is never found out by trying.
/// Source: Linux 5.8, "ima: Calculate and extend PCR with digests in ima_template_entry".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum BankScheme {
    /// Each bank gets the template data's hash in the bank's own algorithm.
    #[default]
    OwnHash,
    /// Each bank gets the SHA-1 hash, padded with zeros: kernels before 5.8.
    PaddedSha1,
}

impl BankScheme {
    fn event(self, bank: HashAlg, hashes: &Hashes<'_>) -> Digest {
        match self {
            Self::OwnHash => hashes.get(bank),
            Self::PaddedSha1 => padded(bank, &hashes.get(HashAlg::Sha1)),
        }
    }

    /// The algorithm in which the template data is hashed for a bank.
    const fn hashed_in(self, bank: HashAlg) -> HashAlg {
        match self {
            Self::OwnHash => bank,
            Self::PaddedSha1 => HashAlg::Sha1,
        }
    }

    /// A violation extends 0xff bytes, as many as the hash has that is extended otherwise.
    fn violation(self, bank: HashAlg) -> Digest {
        match self {
            Self::OwnHash => Digest::ones(bank),
            Self::PaddedSha1 => padded(bank, &Digest::ones(HashAlg::Sha1)),
        }
    }
}

/// What an entry extends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Extended<'d> {
    /// 0xff bytes.
    Violation,
    /// The template data's hash.
    Event(&'d Hashes<'d>),
}

fn padded(bank: HashAlg, sha1: &Digest) -> Digest {
    let mut bytes = [0; crate::hash::DIGEST_SIZE_MAX];
    bytes
        .iter_mut()
        .zip(sha1.as_bytes())
        .for_each(|(to, from)| *to = *from);
    // No bank is narrower than SHA-1 or wider than the array.
    bytes
        .get(..bank.size())
        .and_then(|b| Digest::new(bank, b).ok())
        .unwrap_or(Digest::zero(bank))
}

/// How far a machine's list was proven in this boot: the state between two attestations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    position: u64,
    running: Few<(PcrIndex, Digest)>,
}

impl Committed {
    /// The state with this position and these running values, as a store kept them.
    pub fn new(position: u64, running: Vec<(PcrIndex, Digest)>) -> Self {
        let running = running.into_iter().collect();
        Self { position, running }
    }

    /// Entries proven.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The PCR values after them, by PCR and bank.
    pub fn running(&self) -> &[(PcrIndex, Digest)] {
        &self.running
    }

    fn value(&self, pcr: PcrIndex, bank: HashAlg) -> Option<Digest> {
        let same = |(p, d): &&(PcrIndex, Digest)| *p == pcr && d.alg() == bank;
        self.running.iter().find(same).map(|(_, digest)| *digest)
    }
}

/// One quoted IMA PCR in one bank.
#[derive(Debug, Clone)]
struct Register {
    pcr: PcrIndex,
    running: Digest,
    quoted: Digest,
    /// After how many entries it first equalled the quoted value.
    matched: Option<u64>,
}

/// Running values of every quoted IMA PCR in every quoted bank.
///
/// The *cut* is the first position at which all of them equal the quoted values at once. Entries
/// beyond it were added after the quote: they neither pass nor fail.
#[derive(Debug, Clone)]
pub struct Replay {
    registers: Few<Register>,
    scheme: BankScheme,
    position: u64,
    cut: Option<u64>,
}

impl Replay {
    /// A replay of a whole list, or of one that continues a committed state.
    ///
    /// # Errors
    /// [`ImaError::NotQuoted`] when a PCR of `pcrs` has no value in `quoted`;
    /// [`ImaError::OffsetMismatch`] when a bank is quoted that the committed state has no value
    /// of, so that only the whole list can be replayed; [`ImaError::Resettable`] when software can reset one of `pcrs`,
    /// so that any list could be replayed into it (P05).
    pub fn new(
        quoted: &PcrValues,
        pcrs: PcrSet,
        scheme: BankScheme,
        from: Option<&Committed>,
    ) -> Result<Self, ImaError> {
        fault_point!(ImaError::NotQuoted { pcr: PcrIndex::IMA });
        let mut registers = Few::<Register>::new();
        for pcr in pcrs.iter() {
            if pcr.is_resettable() {
                return Err(ImaError::Resettable { pcr });
            }
            for bank in HashAlg::ALL {
                let Some(value) = quoted.get(bank, pcr) else {
                    continue;
                };
                let running = match from {
                    None => Digest::zero(bank),
                    Some(state) => {
                        let from = state.position;
                        let unknown = ImaError::OffsetMismatch { from, expected: 0 };
                        state.value(pcr, bank).ok_or(unknown)?
                    }
                };
                registers.push(Register {
                    pcr,
                    running,
                    quoted: value,
                    matched: None,
                });
            }
            if !registers.iter().any(|register| register.pcr == pcr) {
                return Err(ImaError::NotQuoted { pcr });
            }
        }
        if registers.is_empty() {
            return Err(ImaError::NotQuoted { pcr: PcrIndex::IMA });
        }
        let position = from.map_or(0, Committed::position);
        let mut replay = Self {
            registers,
            scheme,
            position,
            cut: None,
        };
        replay.look_for_cut();
        Ok(replay)
    }

    /// Extends one entry, unless the cut was found already.
    ///
    /// # Errors
    /// [`ImaError::WrongPcr`] when the entry's PCR is not among the quoted IMA PCRs.
    pub fn extend(&mut self, entry: &Entry<'_>) -> Result<(), ImaError> {
        let hashes = Hashes::of(entry.data);
        let event = match entry.is_violation() {
            true => Extended::Violation,
            false => Extended::Event(&hashes),
        };
        self.extend_with(entry.pcr, event)
    }

    /// The algorithms in which template data is hashed to extend it.
    pub(super) fn algorithms(&self) -> Algorithms {
        let banks = self.registers.iter().map(|r| r.running.alg());
        banks.fold(Algorithms::default(), |all, bank| {
            all.with(self.scheme.hashed_in(bank))
        })
    }

    /// The same with what was found out of the entry.
    pub(super) fn extend_with(&mut self, pcr: u32, event: Extended<'_>) -> Result<(), ImaError> {
        if self.cut.is_some() {
            return Ok(());
        }
        fault_point!(ImaError::WrongPcr {
            entry: self.position,
            pcr
        });
        let mut extended = false;
        for register in self.registers.iter_mut() {
            if u32::from(register.pcr.get()) != pcr {
                continue;
            }
            let bank = register.running.alg();
            let value = match event {
                Extended::Violation => self.scheme.violation(bank),
                Extended::Event(hashes) => match (self.scheme, hashes.bytes(bank)) {
                    (BankScheme::OwnHash, Some(bytes)) => {
                        crypto::extend_in_place(&mut register.running, bytes);
                        extended = true;
                        continue;
                    }
                    _ => self.scheme.event(bank, hashes),
                },
            };
            crypto::extend_in_place(&mut register.running, value.as_bytes());
            extended = true;
        }
        if !extended {
            return Err(ImaError::WrongPcr {
                entry: self.position,
                pcr,
            });
        }
        self.position = self.position.saturating_add(1);
        self.look_for_cut();
        Ok(())
    }

    /// Entries extended, from the start of the machine's list.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The position at which all values matched, if they did.
    pub const fn cut(&self) -> Option<u64> {
        self.cut
    }

    /// Whether the running values at this moment are those of a committed state.
    pub(super) fn is_at(&self, state: &Committed) -> bool {
        self.position == state.position
            && self.registers.iter().all(|r| {
                state
                    .value(r.pcr, r.running.alg())
                    .is_none_or(|v| v == r.running)
            })
    }

    /// The state at the cut, to continue from next time.
    ///
    /// # Errors
    /// [`ImaError::PcrMismatch`] or [`ImaError::BanksDisagree`] when there is no cut.
    pub fn finish(&self) -> Result<Committed, ImaError> {
        fault_point!(ImaError::NotQuoted { pcr: PcrIndex::IMA });
        if let Some(position) = self.cut {
            let running = self.registers.iter().map(|r| (r.pcr, r.quoted)).collect();
            return Ok(Committed { position, running });
        }
        match self
            .registers
            .iter()
            .find(|register| register.matched.is_none())
        {
            Some(register) => Err(ImaError::PcrMismatch {
                pcr: register.pcr,
                bank: register.quoted.alg(),
                entries: self.position,
            }),
            None => Err(self.disagreement()),
        }
    }

    fn disagreement(&self) -> ImaError {
        let first = self
            .registers
            .iter()
            .min_by_key(|register| register.matched);
        first.map_or(ImaError::NotQuoted { pcr: PcrIndex::IMA }, |r| {
            ImaError::BanksDisagree {
                pcr: r.pcr,
                bank: r.quoted.alg(),
                entry: r.matched.unwrap_or(0),
            }
        })
    }

    fn look_for_cut(&mut self) {
        let mut all = true;
        for register in self.registers.iter_mut() {
            if register.running == register.quoted {
                register.matched.get_or_insert(self.position);
            } else {
                all = false;
            }
        }
        if all {
            self.cut = Some(self.position);
        }
    }
}
