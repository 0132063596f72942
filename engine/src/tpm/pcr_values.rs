//! PCR values as senders write them, and the digest that a quote signs over them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use thiserror::Error;

use crate::bytes::Reader;
use crate::crypto::Hasher;
use crate::fault::fault_point;
use crate::hash::{Digest, HashAlg};
use crate::limits;
use crate::malformed::{Fault, Malformed};
use crate::pcr::{PcrIndex, PcrSet, PcrValues};
use crate::tpm::selection::PcrSelection;

/// `TPML_PCR_SELECTION` and `TPML_DIGEST` of the TSS headers have this many places.
const SELECTION_PLACES: usize = 16;
const DIGEST_PLACES: usize = 8;

/// The `pcrDigest` of a quote: the hash over the values of the selected PCRs, the banks in the
/// order of `selection`, the PCRs of each in ascending order.
///
/// `hash` is the algorithm of the signing scheme, whatever the banks are (P08). `selection` must
/// be the one from the quote itself: only its order is the order that was signed.
///
/// Values of PCRs that are not selected do not matter here.
///
/// Source: TPM 2.0 Part 1, 17.6 "PCR Computation by Bank" and Part 3, 18.4 `TPM2_Quote`.
///
/// # Errors
/// [`MissingPcr`] names the first selected PCR without a value.
pub fn pcr_digest(
    hash: HashAlg,
    selection: &PcrSelection,
    values: &PcrValues,
) -> Result<Digest, MissingPcr> {
    let mut hasher = Hasher::new(hash);
    for (bank, pcrs) in selection.banks() {
        fault_point!(MissingPcr {
            bank,
            pcr: PcrIndex::IMA
        });
        // The rule: there are values of what is selected, and of nothing else.
        if values.pcrs(bank) == pcrs {
            hasher.update(values.bytes_of_bank(bank));
            continue;
        }
        for pcr in pcrs.iter() {
            let value = values.bytes(bank, pcr);
            hasher.update(value.ok_or(MissingPcr { bank, pcr })?);
        }
    }
    Ok(hasher.finish())
}

/// A selected PCR whose value was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("PCR {pcr} of bank {bank} is selected but has no value")]
pub struct MissingPcr {
    /// The bank.
    pub bank: HashAlg,
    /// The PCR.
    pub pcr: PcrIndex,
}

/// Reads the PCR blob that `tpm2_quote --pcrs_format=serialized` and Keylime agents write.
///
/// It is `TPML_PCR_SELECTION` as it lies in memory on a little-endian machine, a little-endian
/// count, and that many `TPML_DIGEST` in the same layout: 132 + 4 + 532 n bytes. The digests of
/// all lists, one after the other, are the values in the order of the selection; a list of eight
/// may hold the end of one bank and the begin of the next. Places that the counts do not cover
/// must hold no digest; padding and unused selections are not looked at, because writers leave
/// what was in their memory there.
///
/// The other format, `values`, is bare digests without a selection and cannot be read alone.
///
/// # Errors
/// [`Malformed`], also when digests are missing or left over.
///
/// # Security
/// The values are the sender's claim until [`pcr_digest`] of them equals a verified quote's.
///
/// Source: tss2 `tss2_tpm2_types.h`; TPM 2.0 Part 2, 10.9.6 and 10.9.7.
pub fn parse_pcr_blob(bytes: &[u8]) -> Result<(PcrSelection, PcrValues), Malformed> {
    let mut reader = Reader::new("PCR blob", bytes);
    if bytes.len() > limits::PCR_BLOB_BYTES_MAX {
        return Err(length(
            &reader,
            "size",
            bytes.len(),
            limits::PCR_BLOB_BYTES_MAX,
        ));
    }
    let selection = read_blob_selection(&mut reader)?;
    let mut wanted = selection
        .banks()
        .flat_map(|(bank, pcrs)| pcrs.iter().map(move |pcr| (bank, pcr)));
    let mut values = PcrValues::new();
    let lists = reader.u32_le("digest list count")?;
    // Each turn takes 532 bytes or fails, so the count needs no limit of its own.
    for _ in 0..lists {
        let at_count = reader.clone();
        let count = usize::try_from(reader.u32_le("digests.count")?).unwrap_or(usize::MAX);
        if count > DIGEST_PLACES {
            return Err(length(&at_count, "digests.count", count, DIGEST_PLACES));
        }
        for place in 0..DIGEST_PLACES {
            let at_size = reader.clone();
            let size = usize::from(reader.u16_le("digest.size")?);
            let buffer: [u8; 64] = reader.array("digest.buffer")?;
            if place >= count {
                if size != 0 {
                    return Err(length(&at_size, "digest.size", size, 0));
                }
                continue;
            }
            let Some((bank, pcr)) = wanted.next() else {
                let value = u64::try_from(count).unwrap_or(u64::MAX);
                return Err(at_count.fault("digests.count", Fault::Forbidden { value }));
            };
            let (min, max) = (bank.size(), bank.size());
            let digest = buffer
                .get(..size)
                .and_then(|digest| Digest::new(bank, digest).ok());
            let Some(digest) = digest else {
                let value = size;
                return Err(at_size.fault("digest.size", Fault::Length { value, min, max }));
            };
            values.insert(pcr, digest);
        }
    }
    let missing = wanted.count();
    if missing > 0 {
        let have = values.len();
        let wanted = have.saturating_add(missing);
        return Err(reader.fault("digests", Fault::Truncated { wanted, have }));
    }
    reader.finish()?;
    Ok((selection, values))
}

fn read_blob_selection(reader: &mut Reader<'_>) -> Result<PcrSelection, Malformed> {
    let at_count = reader.clone();
    let count = usize::try_from(reader.u32_le("selection.count")?).unwrap_or(usize::MAX);
    if count > SELECTION_PLACES {
        return Err(length(
            &at_count,
            "selection.count",
            count,
            SELECTION_PLACES,
        ));
    }
    let mut selection = PcrSelection::EMPTY;
    for place in 0..SELECTION_PLACES {
        let at_hash = reader.clone();
        let id = reader.u16_le("selection.hash")?;
        let at_size = reader.clone();
        let size = usize::from(reader.u8("selection.sizeofSelect")?);
        let [low, middle, high, _, _] = reader.array("selection.pcrSelect")?;
        if place >= count {
            continue;
        }
        let value = u64::from(id);
        let bank = HashAlg::from_tpm_id(id)
            .ok_or_else(|| at_hash.fault("selection.hash", Fault::Unknown { value }))?;
        let pcrs = match size {
            0 => PcrSet::EMPTY,
            limits::PCR_SELECT_BYTES => PcrSet::from_select([low, middle, high]),
            _ => {
                let field = "selection.sizeofSelect";
                return Err(length(&at_size, field, size, limits::PCR_SELECT_BYTES));
            }
        };
        if !selection.push(bank, pcrs) {
            return Err(at_hash.fault("selection.hash", Fault::Duplicate { value }));
        }
    }
    Ok(selection)
}

fn length(at: &Reader<'_>, field: &'static str, value: usize, max: usize) -> Malformed {
    at.fault(field, Fault::Length { value, min: 0, max })
}

/// Why JSON is not a set of PCR values.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PcrJsonError {
    /// More bytes than [`limits::PCR_JSON_BYTES_MAX`].
    #[error("PCR values: {found} bytes of JSON, {max} are allowed", max = limits::PCR_JSON_BYTES_MAX)]
    TooLong {
        /// How many bytes there are.
        found: usize,
    },
    /// Not an object of objects of strings.
    #[error(
        "PCR values: line {line}, column {column}: expected {{\"bank\":{{\"index\":\"hex\"}}}}"
    )]
    Syntax {
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
    },
    /// A bank that is not `sha1`, `sha256`, `sha384` or `sha512`, or that stands twice.
    #[error("PCR values: bank number {nth} is unknown or given twice")]
    Bank {
        /// Which member of the outer object, from 1.
        nth: usize,
    },
    /// An index that is not a plain decimal number of 0-23, or that stands twice in its bank.
    #[error("PCR values: index number {nth} of bank {bank} is not a PCR or is given twice")]
    Index {
        /// The bank.
        bank: HashAlg,
        /// Which member of the bank's object, from 1.
        nth: usize,
    },
    /// A value that is not exactly a digest of its bank in hexadecimal.
    #[error("PCR values: PCR {pcr} of bank {bank} is not {digits} hexadecimal digits",
        digits = .bank.size().saturating_mul(2))]
    Value {
        /// The bank.
        bank: HashAlg,
        /// The PCR.
        pcr: PcrIndex,
    },
}

/// Members of a JSON object in their order, repeated keys included.
struct Members<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Collect<T> {
            type Value = Members<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect(std::marker::PhantomData))
    }
}

/// Reads `{"sha256":{"0":"hex", …}, …}`; hexadecimal digits of either case, no prefix.
///
/// # Errors
/// [`PcrJsonError`]; repeated keys are refused, because readers disagree about which one counts.
///
/// # Security
/// The values are the sender's claim until [`pcr_digest`] of them equals a verified quote's.
pub fn parse_pcr_json(json: &[u8]) -> Result<PcrValues, PcrJsonError> {
    if json.len() > limits::PCR_JSON_BYTES_MAX {
        return Err(PcrJsonError::TooLong { found: json.len() });
    }
    let banks: Members<Members<String>> =
        serde_json::from_slice(json).map_err(|error| PcrJsonError::Syntax {
            line: error.line(),
            column: error.column(),
        })?;
    let mut values = PcrValues::new();
    let mut seen = Vec::new();
    for ((name, members), nth) in banks.0.iter().zip(1..) {
        let bank = HashAlg::from_name(name.as_bytes())
            .filter(|bank| !seen.contains(bank))
            .ok_or(PcrJsonError::Bank { nth })?;
        seen.push(bank);
        for ((index, value), nth) in members.0.iter().zip(1..) {
            let pcr = decimal_index(index).ok_or(PcrJsonError::Index { bank, nth })?;
            let digest = Digest::from_hex(bank, value.as_bytes())
                .ok_or(PcrJsonError::Value { bank, pcr })?;
            if !values.insert(pcr, digest) {
                return Err(PcrJsonError::Index { bank, nth });
            }
        }
    }
    Ok(values)
}

/// The PCR that this text names, when it is written in the one way that numbers are.
fn decimal_index(text: &str) -> Option<PcrIndex> {
    let pcr = PcrIndex::new(text.parse().ok()?)?;
    (pcr.to_string() == text).then_some(pcr)
}

#[cfg(test)]
mod tests;
