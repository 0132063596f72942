//! `EFI_SIGNATURE_LIST`: the contents of PK, KEK, db and dbx.

use crate::bytes::Reader;
use crate::limits;
use crate::malformed::{Fault, Malformed};

use super::guid::Guid;

/// Signatures of one type and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureList<'a> {
    /// What kind of signatures these are: digests, certificates.
    pub signature_type: Guid,
    /// A header that the type defines; never signatures.
    pub header: &'a [u8],
    /// The signatures.
    pub signatures: Vec<Signature<'a>>,
}

/// `EFI_SIGNATURE_DATA`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature<'a> {
    /// Who put it there.
    pub owner: Guid,
    /// The digest or certificate.
    pub data: &'a [u8],
}

/// SignatureType, SignatureListSize, SignatureHeaderSize and SignatureSize.
const FIXED_BYTES: usize = 28;
/// SignatureOwner.
const OWNER_BYTES: usize = 16;

/// Parses the value of a signature database: lists, one after the other, to the end.
///
/// # Errors
/// [`Malformed`] when sizes do not fit each other exactly (attack E04): a list shorter than its
/// own fields, signatures too short for their owner, a header longer than its list, or a rest
/// that is not a whole signature. Header bytes are never taken for signatures.
///
/// Source: UEFI 2.10, section 32.4.1 "Signature Database".
pub fn parse(data: &[u8]) -> Result<Vec<SignatureList<'_>>, Malformed> {
    let mut reader = Reader::new("EFI_SIGNATURE_LIST", data);
    let mut lists = Vec::new();
    let mut count = 0_usize;
    while !reader.rest().is_empty() {
        let list = list(&mut reader, &mut count)?;
        lists.push(list);
    }
    Ok(lists)
}

fn list<'a>(reader: &mut Reader<'a>, count: &mut usize) -> Result<SignatureList<'a>, Malformed> {
    let signature_type = Guid::read(reader, "SignatureType")?;
    let at_list_size = reader.clone();
    let list_size = size(reader, "SignatureListSize")?;
    let at_header_size = reader.clone();
    let header_size = size(reader, "SignatureHeaderSize")?;
    let at_size = reader.clone();
    let signature_size = size(reader, "SignatureSize")?;
    let Some(body_size) = list_size.checked_sub(FIXED_BYTES) else {
        let fault = length(list_size, FIXED_BYTES, limits::UEFI_EVENT_BYTES_MAX);
        return Err(at_list_size.fault("SignatureListSize", fault));
    };
    let Some(signatures_size) = body_size.checked_sub(header_size) else {
        let fault = length(header_size, 0, body_size);
        return Err(at_header_size.fault("SignatureHeaderSize", fault));
    };
    let count_here = signatures_size.checked_div(signature_size);
    let is_whole = signatures_size.checked_rem(signature_size) == Some(0);
    let (Some(count_here), true, true) = (count_here, is_whole, signature_size >= OWNER_BYTES)
    else {
        let fault = length(signature_size, OWNER_BYTES, signatures_size);
        return Err(at_size.fault("SignatureSize", fault));
    };
    *count = count.saturating_add(count_here);
    if *count > limits::UEFI_SIGNATURES_MAX {
        let fault = length(*count, 0, limits::UEFI_SIGNATURES_MAX);
        return Err(at_list_size.fault("SignatureListSize", fault));
    }
    let header = reader.take("SignatureHeader", header_size)?;
    let body = reader.take("Signatures", signatures_size)?;
    let signatures = body.chunks_exact(signature_size);
    Ok(SignatureList {
        signature_type,
        header,
        signatures: signatures
            .filter_map(|signature| {
                let (owner, data) = signature.split_first_chunk::<OWNER_BYTES>()?;
                let owner = Guid::from_bytes(*owner);
                Some(Signature { owner, data })
            })
            .collect(),
    })
}

fn size(reader: &mut Reader<'_>, field: &'static str) -> Result<usize, Malformed> {
    let value = reader.u32_le(field)?;
    Ok(usize::try_from(value).unwrap_or(usize::MAX))
}

const fn length(value: usize, min: usize, max: usize) -> Fault {
    Fault::Length { value, min, max }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(list_size: u32, header_size: u32, signature_size: u32, body: &[u8]) -> Vec<u8> {
        let mut data = vec![0x26; 16];
        data.extend(list_size.to_le_bytes());
        data.extend(header_size.to_le_bytes());
        data.extend(signature_size.to_le_bytes());
        data.extend(body);
        data
    }

    #[test]
    fn lists_follow_each_other() {
        let mut data = encoded(28 + 96, 0, 48, &[7; 96]);
        data.extend(encoded(28 + 20, 0, 20, &[9; 20]));
        let lists = parse(&data).unwrap();
        assert_eq!(lists.len(), 2);
        assert_eq!(lists[0].signatures.len(), 2);
        assert_eq!(lists[0].signatures[1].data, [7; 32]);
        assert_eq!(lists[1].signatures[0].data, [9; 4]);
        assert_eq!(parse(&[]), Ok(vec![]));
    }

    #[test]
    fn e04_list_shorter_than_its_fields() {
        for list_size in [0, 1, 27] {
            let error = parse(&encoded(list_size, 0, 48, &[0; 48])).unwrap_err();
            assert_eq!((error.field, error.offset), ("SignatureListSize", 16));
        }
    }

    #[test]
    fn e04_signature_shorter_than_its_owner() {
        for signature_size in [0, 1, 15] {
            let error = parse(&encoded(28 + 30, 0, signature_size, &[0; 30])).unwrap_err();
            assert_eq!((error.field, error.offset), ("SignatureSize", 24));
        }
    }

    #[test]
    fn e04_header_bytes_are_never_signatures() {
        // A header of exactly one signature's size, then one signature.
        let mut body = vec![0xee; 48];
        body.extend([7; 48]);
        let data = encoded(28 + 96, 48, 48, &body);
        let lists = parse(&data).unwrap();
        assert_eq!(lists[0].header, [0xee; 48]);
        assert_eq!(lists[0].signatures.len(), 1);
        assert_eq!(lists[0].signatures[0].data, [7; 32]);
    }

    #[test]
    fn e04_sizes_that_overflow_or_do_not_fit() {
        let max = u32::MAX;
        let cases = [
            (max, 0, 48, "SignatureSize"),
            (28 + 48, max, 48, "SignatureHeaderSize"),
            (28 + 48, 49, 48, "SignatureHeaderSize"),
            (28 + 48, 1, 48, "SignatureSize"),
            (28 + 48, 0, max, "SignatureSize"),
            (28 + 96, 0, 48, "Signatures"),
            (28 + 48, 0, 47, "SignatureSize"),
        ];
        for (list_size, header_size, signature_size, field) in cases {
            let data = encoded(list_size, header_size, signature_size, &[0; 48]);
            assert_eq!(parse(&data).unwrap_err().field, field);
        }
    }

    #[test]
    fn e04_signatures_are_counted_before_they_are_kept() {
        let count = u32::try_from(limits::UEFI_SIGNATURES_MAX).unwrap() + 1;
        let body = vec![0; usize::try_from(count).unwrap() * 16];
        let error = parse(&encoded(28 + count * 16, 0, 16, &body)).unwrap_err();
        assert_eq!(error.field, "SignatureListSize");
        let body = &body[16..];
        let lists = parse(&encoded(28 + (count - 1) * 16, 0, 16, body).clone())
            .map(|lists| lists[0].signatures.len());
        assert_eq!(lists, Ok(limits::UEFI_SIGNATURES_MAX));
    }
}
