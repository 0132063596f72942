//! Slow, obvious second implementations, through another library than the engine's.

use std::collections::BTreeMap;

use openssl::hash::{MessageDigest, hash};
use rat_engine::hash::HashAlg;

/// OpenSSL's name for the algorithm.
pub fn message_digest(alg: HashAlg) -> MessageDigest {
    match alg {
        HashAlg::Sha1 => MessageDigest::sha1(),
        HashAlg::Sha256 => MessageDigest::sha256(),
        HashAlg::Sha384 => MessageDigest::sha384(),
        HashAlg::Sha512 => MessageDigest::sha512(),
    }
}

/// A digest.
pub fn digest(alg: HashAlg, message: &[u8]) -> Vec<u8> {
    hash(message_digest(alg), message).unwrap().to_vec()
}

/// `H(pcr ‖ event)`.
pub fn extend(alg: HashAlg, pcr: &[u8], event: &[u8]) -> Vec<u8> {
    digest(alg, &[pcr, event].concat())
}

/// The hash over PCR values, banks and indices in the order given.
pub fn pcr_digest(alg: HashAlg, values: &[Vec<u8>]) -> Vec<u8> {
    digest(alg, &values.concat())
}

/// One entry of a list, as simply as it can be said.
#[derive(Debug, Clone)]
pub struct OracleEntry {
    /// PCR.
    pub pcr: u8,
    /// Hashed bytes; `None` for a violation.
    pub data: Option<Vec<u8>>,
}

/// PCR values after each prefix of a list: `values[n]` are those after n entries.
pub fn replay(
    entries: &[OracleEntry],
    banks: &[HashAlg],
    pcrs: &[u8],
) -> Vec<BTreeMap<(HashAlg, u8), Vec<u8>>> {
    let mut now: BTreeMap<_, _> = BTreeMap::new();
    for bank in banks {
        for pcr in pcrs {
            now.insert((*bank, *pcr), vec![0; bank.size()]);
        }
    }
    let mut all = vec![now.clone()];
    for entry in entries {
        for bank in banks {
            let event = match &entry.data {
                Some(data) => digest(*bank, data),
                None => vec![0xff; bank.size()],
            };
            let value = now.get_mut(&(*bank, entry.pcr)).unwrap();
            *value = extend(*bank, value, &event);
        }
        all.push(now.clone());
    }
    all
}
