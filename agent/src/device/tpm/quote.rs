//! A quote, and PCR values that belong to it.

use rat_engine::crypto::{VerifyingKey, constant_time_eq};
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::pcr::{PcrIndex, PcrSet, PcrValues};
use rat_engine::tpm::{Attest, Attested, PcrSelection, Public, Signature, pcr_digest};
use tss_esapi::Error as TssError;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{
    Data, PcrSelectSize, PcrSelectionList, PcrSelectionListBuilder, PcrSlot, SignatureScheme,
};
use tss_esapi::traits::Marshall;

use super::TpmError;
use super::connection::Connection;
use super::endorsement::{LoadedKey, SCHEME_HASH};
use crate::device::{DeviceError, Quoted};

/// Quotes that are made when the PCRs change between a quote and the reading of their values.
const TRIES: u32 = 16;

/// Quotes, then reads the values, until they belong together.
///
/// The kernel extends PCR 10 whenever a file is measured, also between the two commands, and
/// nothing can stop it. The values of PCR 8 and above are read first, to keep that gap short.
pub(super) fn quote(
    connection: &mut Connection,
    key: &LoadedKey,
    qualifying_data: &[u8; 32],
    selection: &PcrSelection,
) -> Result<Quoted, DeviceError> {
    let public = Public::parse(&key.public)?;
    let verifying = VerifyingKey::from_tpm(&public)?;
    for _ in 0..TRIES {
        let (bytes, signature) = signed(connection, key, qualifying_data, selection)?;
        // First of all the values, then what can be done at leisure.
        let pcr_values = read(connection, selection)?;
        let attest = Attest::parse(&bytes)?;
        let parsed = Signature::parse(&signature).map_err(|_| DeviceError::SignatureWrong)?;
        let is_answer = constant_time_eq(attest.extra_data, qualifying_data);
        if !is_answer || verifying.verify(&parsed, &bytes, false).is_err() {
            return Err(DeviceError::SignatureWrong);
        }
        let Attested::Quote {
            selection: quoted,
            pcr_digest: expected,
        } = attest.attested
        else {
            return Err(DeviceError::SignatureWrong);
        };
        if !quoted.same_pcrs(selection) {
            return Err(DeviceError::SelectionNotQuoted {
                asked: *selection,
                quoted,
            });
        }
        let belongs = pcr_digest(SCHEME_HASH, &quoted, &pcr_values)
            .is_ok_and(|digest| constant_time_eq(digest.as_bytes(), expected));
        if belongs {
            let clock = attest.clock;
            return Ok(Quoted {
                attest: bytes,
                signature,
                pcr_values,
                clock,
            });
        }
    }
    Err(DeviceError::PcrsNeverStill { tries: TRIES })
}

fn signed(
    connection: &mut Connection,
    key: &LoadedKey,
    qualifying_data: &[u8; 32],
    selection: &PcrSelection,
) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
    const COMMAND: &str = "TPM2_Quote";
    let failed = |source| TpmError::Command {
        command: COMMAND,
        source,
    };
    let data = Data::try_from(&qualifying_data[..]).map_err(failed)?;
    let list = list(selection.banks()).map_err(failed)?;
    let (attest, signature) = connection.run_with_password(COMMAND, |context| {
        context.quote(
            key.handle,
            data.clone(),
            SignatureScheme::Null,
            list.clone(),
        )
    })?;
    Ok((
        attest.marshall().map_err(failed)?,
        signature.marshall().map_err(failed)?,
    ))
}

/// Reads the selected values, eight or fewer a command, the upper PCRs first.
fn read(connection: &mut Connection, selection: &PcrSelection) -> Result<PcrValues, TpmError> {
    let mut values = PcrValues::new();
    let lower = PcrSet::FIRMWARE;
    for upper_first in [true, false] {
        for (bank, pcrs) in selection.banks() {
            let mut wanted = if upper_first {
                pcrs.difference(lower)
            } else {
                pcrs.intersection(lower)
            };
            // A TPM answers with at least one value, or it does not have them.
            while !wanted.is_empty() {
                let read = read_some(connection, bank, wanted, &mut values)?;
                if read.is_empty() {
                    break;
                }
                wanted = wanted.difference(read);
            }
        }
    }
    Ok(values)
}

fn read_some(
    connection: &mut Connection,
    bank: HashAlg,
    wanted: PcrSet,
    values: &mut PcrValues,
) -> Result<PcrSet, TpmError> {
    const COMMAND: &str = "TPM2_PCR_Read";
    let failed = |source| TpmError::Command {
        command: COMMAND,
        source,
    };
    let list = list([(bank, wanted)]).map_err(failed)?;
    let (_, selected, digests) =
        connection.run(COMMAND, |context| context.pcr_read(list.clone()))?;
    let slots = selected
        .get_selections()
        .iter()
        .flat_map(|selection| selection.selected());
    let mut read = PcrSet::EMPTY;
    for (slot, value) in slots.zip(digests.value()) {
        let index = u64::from(u32::from(slot).trailing_zeros());
        let (Some(pcr), Ok(digest)) = (PcrIndex::new(index), Digest::new(bank, value.value()))
        else {
            return Err(TpmError::Unexpected(COMMAND));
        };
        read.insert(pcr);
        values.insert(pcr, digest);
    }
    Ok(read.intersection(wanted))
}

fn list(banks: impl IntoIterator<Item = (HashAlg, PcrSet)>) -> Result<PcrSelectionList, TssError> {
    let mut builder =
        PcrSelectionListBuilder::new().with_size_of_select(PcrSelectSize::ThreeOctets);
    for (bank, pcrs) in banks {
        let slots: Result<Vec<_>, _> = pcrs
            .iter()
            .map(|pcr| PcrSlot::try_from(1_u32.wrapping_shl(u32::from(pcr.get()))))
            .collect();
        builder = builder.with_selection(algorithm(bank), &slots?);
    }
    builder.build()
}

const fn algorithm(bank: HashAlg) -> HashingAlgorithm {
    match bank {
        HashAlg::Sha1 => HashingAlgorithm::Sha1,
        HashAlg::Sha256 => HashingAlgorithm::Sha256,
        HashAlg::Sha384 => HashingAlgorithm::Sha384,
        HashAlg::Sha512 => HashingAlgorithm::Sha512,
    }
}

/// The bank, if it is one that verifiers compute.
pub(super) fn bank(algorithm: HashingAlgorithm) -> Option<HashAlg> {
    match algorithm {
        HashingAlgorithm::Sha1 => Some(HashAlg::Sha1),
        HashingAlgorithm::Sha256 => Some(HashAlg::Sha256),
        HashingAlgorithm::Sha384 => Some(HashAlg::Sha384),
        HashingAlgorithm::Sha512 => Some(HashAlg::Sha512),
        _ => None,
    }
}
