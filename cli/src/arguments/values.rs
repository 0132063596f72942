//! What values look like on the command line.

use std::str::FromStr;

use rat_engine::hash::HashAlg;
use rat_engine::limits;
use rat_engine::pcr::{PcrIndex, PcrSet};
use rat_engine::uefi::policy::PolicyName;
use thiserror::Error;

/// The expected extraData of a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nonce(pub(crate) Vec<u8>);

/// A SHA-256 in hexadecimal. Colons between bytes, capital letters and `sha256:` before it are what
/// other programs write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) [u8; 32]);

/// Why a text is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a SHA-256 has 64 hexadecimal digits")]
pub(crate) struct FingerprintError;

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_prefix("sha256:").unwrap_or(text);
        let digits = if text.contains(':') {
            let bytes: Vec<&str> = text.split(':').collect();
            if bytes.iter().any(|byte| byte.len() != 2) {
                return Err(FingerprintError);
            }
            bytes.concat()
        } else {
            text.to_owned()
        };
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| FingerprintError)?;
        Ok(Self(bytes))
    }
}

impl Fingerprint {
    /// As the server writes it.
    pub(crate) fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

pub(super) fn nonce(text: &str) -> Result<Nonce, String> {
    let bytes = hex::decode(text).map_err(|error| error.to_string())?;
    let max = limits::QUALIFYING_DATA_BYTES_MAX;
    if bytes.len() > max {
        return Err(format!("{} bytes, a TPM takes {max} at most", bytes.len()));
    }
    Ok(Nonce(bytes))
}

/// `0-9,14`.
pub(super) fn pcr_list(text: &str) -> Result<PcrSet, String> {
    let index = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        let known = number.and_then(PcrIndex::new);
        known.ok_or_else(|| format!("`{text}` is no PCR from 0 to 23"))
    };
    let mut set = PcrSet::EMPTY;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (index(first)?, index(last)?);
        if first > last {
            return Err(format!("`{part}` runs backwards"));
        }
        for number in first.get()..=last.get() {
            if let Some(pcr) = PcrIndex::new(u64::from(number)) {
                set.insert(pcr);
            }
        }
    }
    Ok(set)
}

pub(super) fn ima_pcr_list(text: &str) -> Result<PcrSet, String> {
    let set = pcr_list(text)?;
    match set.iter().find(|pcr| pcr.is_resettable()) {
        Some(pcr) => Err(format!(
            "PCR {pcr} can be reset by software and proves no list"
        )),
        None => Ok(set),
    }
}

pub(super) fn hash_alg() -> impl clap::builder::TypedValueParser<Value = HashAlg> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    let names = HashAlg::ALL.map(HashAlg::name);
    PossibleValuesParser::new(names).try_map(|name| {
        HashAlg::from_name(name.as_bytes()).ok_or_else(|| format!("no algorithm `{name}`"))
    })
}

/// The names of the measured boot policies.
pub(super) fn boot_policy_name() -> impl clap::builder::TypedValueParser<Value = PolicyName> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    let names = PolicyName::ALL.map(PolicyName::as_str);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<PolicyName>())
}

/// `1048576`, `1024K`, `1M`.
pub(super) fn log_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (text.strip_suffix(['K', 'k']), 1_u64 << 10),
        Some(b'M' | b'm') => (text.strip_suffix(['M', 'm']), 1 << 20),
        Some(b'G' | b'g') => (text.strip_suffix(['G', 'g']), 1 << 30),
        _ => (Some(text), 1),
    };
    let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let size = digits
        .and_then(|digits| digits.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(unit))
        .ok_or("expected a number of bytes, or one with K, M or G")?;
    let max = u64::try_from(limits::IMA_LOG_BYTES_MAX).unwrap_or(u64::MAX);
    if size > max {
        return Err(format!("{max} bytes at most"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_pcrs() {
        for (text, shown) in [("10", "10"), ("0-3,14", "0,1,2,3,14"), ("5,5,4-5", "4,5")] {
            assert_eq!(pcr_list(text).unwrap().to_string(), shown);
        }
        for text in ["", "24", "3-1", "1,", "-1", "+1", "0x1", "1-2-3", " 1"] {
            assert!(pcr_list(text).is_err(), "{text}");
        }
        assert!(ima_pcr_list("10-14").is_ok() && ima_pcr_list("10,16").is_err());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("512", 512), ("4k", 4096), ("2M", 2 << 20)] {
            assert_eq!(log_size(text), Ok(bytes));
        }
        for text in [
            "",
            "K",
            "-1",
            "1T",
            "2G",
            "99999999999999999999",
            "1.5M",
            "+1",
        ] {
            assert!(log_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nonces() {
        assert_eq!(nonce(""), Ok(Nonce(Vec::new())));
        assert_eq!(nonce("00fF"), Ok(Nonce(vec![0, 0xff])));
        let longest = "ab".repeat(limits::QUALIFYING_DATA_BYTES_MAX);
        assert!(nonce(&longest).is_ok() && nonce(&format!("{longest}ab")).is_err());
        for text in ["0", "zz", "0x00", "00 11"] {
            assert!(nonce(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fingerprints() {
        let bytes = Ok(Fingerprint([0xab; 32]));
        assert_eq!("ab".repeat(32).parse(), bytes);
        assert_eq!("AB".repeat(32).parse(), bytes);
        assert_eq!(vec!["AB"; 32].join(":").parse(), bytes);
        assert_eq!(format!("sha256:{}", "ab".repeat(32)).parse(), bytes);
        for text in [
            "",
            "ab",
            &"ab".repeat(33),
            &"zz".repeat(32),
            &format!("{}:", "ab".repeat(32)),
            &format!("sha1:{}", "ab".repeat(32)),
            &format!("sha256:sha256:{}", "ab".repeat(32)),
            &format!("abab:{}", ["ab"; 30].join(":")),
        ] {
            assert_eq!(text.parse::<Fingerprint>(), Err(FingerprintError), "{text}");
        }
    }
}
