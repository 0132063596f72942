//! Keylime's `tpm_policy`: values that PCRs may have, and the mask of PCRs that must be quoted.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use thiserror::Error;

use crate::crypto::Hasher;
use crate::fault::fault_point;
use crate::hash::{Digest, HashAlg};
use crate::limits;
use crate::pcr::{PcrIndex, PcrSet, PcrValues};

/// A PCR policy: for each PCR the values that are allowed, in any banks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrPolicy {
    allowed: BTreeMap<PcrIndex, Vec<Digest>>,
    mask: PcrSet,
    digest: Digest,
}

/// Why a text is not a PCR policy.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PcrPolicyError {
    /// It is longer than any real one.
    #[error(
        "the PCR policy has {bytes} bytes, more than {}",
        limits::TPM_POLICY_BYTES_MAX
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It is not JSON of the right shape, or a rule below is broken: line and column are named.
    #[error("the PCR policy: {0}")]
    Json(#[from] JsonError),
    /// It lists more values for a PCR than a policy may.
    #[error(
        "PCR {pcr} has {found} values, more than {}",
        limits::TPM_POLICY_VALUES_MAX
    )]
    TooManyValues {
        /// The PCR.
        pcr: PcrIndex,
        /// How many values it has.
        found: usize,
    },
    /// It lists values for a PCR that software can reset at any time.
    #[error("PCR {0} can be reset by software and proves nothing")]
    Resettable(PcrIndex),
}

/// A JSON error of the parser in use, with its line and column.
#[derive(Debug)]
pub struct JsonError(serde_json::Error);

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for JsonError {}

/// Why quoted values do not satisfy a PCR policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PcrPolicyViolation {
    /// The policy names the PCR and no quoted bank has a value that it could be compared with.
    #[error(
        "PCR {pcr} is in the policy and was not quoted in a bank that the policy has values of"
    )]
    NotAttested {
        /// The PCR.
        pcr: PcrIndex,
    },
    /// The quoted value is not among the allowed ones.
    #[error("PCR {pcr} has {found}, which the policy does not list")]
    NotAllowed {
        /// The PCR.
        pcr: PcrIndex,
        /// Its quoted value.
        found: Digest,
    },
}

/// Shows that quoted values satisfy a PCR policy. Made by [`PcrPolicy::check`] only.
#[derive(Debug, Clone, Copy)]
pub struct PcrPolicyProof(());

impl PcrPolicy {
    /// Reads a policy: `{"22": ["hex", …], "15": "hex", "mask": "0x408000"}`.
    ///
    /// A value's bank follows from its length; `0x` before it is skipped. Members of one object
    /// may not repeat.
    ///
    /// # Errors
    /// [`PcrPolicyError`].
    pub fn parse(json: &[u8]) -> Result<Self, PcrPolicyError> {
        if json.len() > limits::TPM_POLICY_BYTES_MAX {
            return Err(PcrPolicyError::TooLong { bytes: json.len() });
        }
        let policy: Self = serde_json::from_slice(json).map_err(JsonError)?;
        for (pcr, values) in &policy.allowed {
            if pcr.is_resettable() {
                return Err(PcrPolicyError::Resettable(*pcr));
            }
            // The length of the text bounded the memory for them.
            if values.len() > limits::TPM_POLICY_VALUES_MAX {
                let (pcr, found) = (*pcr, values.len());
                return Err(PcrPolicyError::TooManyValues { pcr, found });
            }
        }
        Ok(policy)
    }

    /// SHA-256 of what the policy demands: the same for texts that differ in form only.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// PCRs that must be quoted: those of the mask and those with values.
    pub fn demanded(&self) -> PcrSet {
        self.allowed
            .keys()
            .copied()
            .collect::<PcrSet>()
            .union(self.mask)
    }

    /// Compares quoted values with the policy.
    ///
    /// A value is compared with the allowed ones of its bank; banks that the policy has no values
    /// of are passed over, but at least one must be compared for each PCR with values.
    ///
    /// # Errors
    /// Every violation, in ascending order of PCRs.
    ///
    /// # Security
    /// `quoted` must have been compared with the quote's digest.
    pub fn check(&self, quoted: &PcrValues) -> Result<PcrPolicyProof, Vec<PcrPolicyViolation>> {
        fault_point!(vec![PcrPolicyViolation::NotAttested { pcr: PcrIndex::IMA }]);
        let mut violations = Vec::new();
        for pcr in self.demanded().iter() {
            let values = || {
                HashAlg::ALL
                    .into_iter()
                    .filter_map(|bank| quoted.get(bank, pcr))
            };
            let Some(allowed) = self.allowed.get(&pcr) else {
                if values().next().is_none() {
                    violations.push(PcrPolicyViolation::NotAttested { pcr });
                }
                continue;
            };
            let mut compared = false;
            for found in values() {
                if allowed.iter().any(|value| value.alg() == found.alg()) {
                    compared = true;
                    if !allowed.contains(&found) {
                        violations.push(PcrPolicyViolation::NotAllowed { pcr, found });
                    }
                }
            }
            if !compared {
                violations.push(PcrPolicyViolation::NotAttested { pcr });
            }
        }
        if violations.is_empty() {
            Ok(PcrPolicyProof(()))
        } else {
            Err(violations)
        }
    }
}

/// See [`PcrPolicy::digest`].
fn digest(allowed: &BTreeMap<PcrIndex, Vec<Digest>>, mask: PcrSet) -> Digest {
    let mut hasher = Hasher::new(HashAlg::Sha256);
    hasher.update(b"ratd pcr policy v1\0");
    for pcr in mask.iter() {
        hasher.update(&[pcr.get()]);
    }
    for (pcr, values) in allowed {
        // No PCR has this index, and no bank this id: the parts cannot run into each other.
        hasher.update(&[u8::MAX, pcr.get()]);
        let mut values: Vec<_> = values
            .iter()
            .map(|value| (value.alg().tpm_id(), value.as_bytes()))
            .collect();
        values.sort_unstable();
        values.dedup();
        for (bank, value) in values {
            hasher.update(&bank.to_be_bytes());
            hasher.update(value);
        }
    }
    hasher.finish()
}

impl<'de> Deserialize<'de> for PcrPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PolicyVisitor)
    }
}

struct PolicyVisitor;

impl<'de> Visitor<'de> for PolicyVisitor {
    type Value = PcrPolicy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of PCR indices with values, and `mask`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PcrPolicy, A::Error> {
        let mut allowed = BTreeMap::new();
        let mut mask = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "mask" {
                let text: String = map.next_value()?;
                let bits = text.strip_prefix("0x").unwrap_or(&text);
                let set = u32::from_str_radix(bits, 16)
                    .ok()
                    .and_then(PcrSet::from_bits);
                let set = set.ok_or_else(|| A::Error::custom("mask: expected hex of PCR 0-23"))?;
                if mask.replace(set).is_some() {
                    return Err(A::Error::custom("mask is given twice"));
                }
                continue;
            }
            let canonical = !key.starts_with('+') && (key == "0" || !key.starts_with('0'));
            let index = key
                .parse()
                .ok()
                .filter(|_| canonical)
                .and_then(PcrIndex::new);
            let pcr = index.ok_or_else(|| {
                A::Error::custom(format_args!("{key:?} is no PCR index from 0 to 23"))
            })?;
            let Values(values) = map.next_value()?;
            if allowed.insert(pcr, values).is_some() {
                return Err(A::Error::custom(format_args!("PCR {pcr} is given twice")));
            }
        }
        let mask = mask.unwrap_or_default();
        Ok(PcrPolicy {
            digest: digest(&allowed, mask),
            allowed,
            mask,
        })
    }
}

struct Values(Vec<Digest>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            One(String),
            Many(Vec<String>),
        }
        let texts = match OneOrMany::deserialize(deserializer)? {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        };
        if texts.is_empty() {
            return Err(D::Error::custom("expected at least one value of a PCR"));
        }
        let value = |text: &String| {
            let hex = text.strip_prefix("0x").unwrap_or(text);
            let alg = HashAlg::from_size(hex.len() / 2)?;
            Digest::from_hex(alg, hex.as_bytes())
        };
        let digests: Option<Vec<_>> = texts.iter().map(value).collect();
        digests.map(Self).ok_or_else(|| {
            D::Error::custom("expected a digest of 40, 64, 96 or 128 hexadecimal digits")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pcr(index: u64) -> PcrIndex {
        PcrIndex::new(index).unwrap()
    }

    fn hex(byte: &str, alg: HashAlg) -> String {
        byte.repeat(alg.size())
    }

    fn quoted(index: u64, byte: &str, alg: HashAlg) -> PcrValues {
        let mut values = PcrValues::new();
        let digest = Digest::from_hex(alg, hex(byte, alg).as_bytes()).unwrap();
        values.insert(pcr(index), digest);
        values
    }

    fn policy(text: &str) -> PcrPolicy {
        PcrPolicy::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_listed_value_passes_in_its_own_bank() {
        let listed = format!(
            r#"{{"22": ["{}", "0x{}"], "mask": "0x400000"}}"#,
            hex("ab", HashAlg::Sha1),
            hex("CD", HashAlg::Sha256)
        );
        let policy = policy(&listed);
        assert!(policy.check(&quoted(22, "cd", HashAlg::Sha256)).is_ok());
        assert!(policy.check(&quoted(22, "ab", HashAlg::Sha1)).is_ok());
        let found = quoted(22, "ab", HashAlg::Sha256)
            .get(HashAlg::Sha256, pcr(22))
            .unwrap();
        assert_eq!(
            policy
                .check(&quoted(22, "ab", HashAlg::Sha256))
                .unwrap_err(),
            [PcrPolicyViolation::NotAllowed {
                pcr: pcr(22),
                found
            }]
        );
    }

    #[test]
    fn p03_a_policy_pcr_outside_the_quote_is_not_attested() {
        let listed = format!(r#"{{"7": "{}"}}"#, hex("ab", HashAlg::Sha256));
        let expected = [PcrPolicyViolation::NotAttested { pcr: pcr(7) }];
        let policy = policy(&listed);
        assert_eq!(
            policy.check(&quoted(8, "ab", HashAlg::Sha256)).unwrap_err(),
            expected
        );
        // Quoted, but in a bank that the policy has no value of.
        assert_eq!(
            policy.check(&quoted(7, "ab", HashAlg::Sha384)).unwrap_err(),
            expected
        );
    }

    #[test]
    fn p03_a_mask_pcr_outside_the_quote_is_not_attested() {
        let policy = policy(r#"{"mask": "0x000401"}"#);
        assert_eq!(
            policy
                .check(&quoted(10, "ab", HashAlg::Sha256))
                .unwrap_err(),
            [PcrPolicyViolation::NotAttested { pcr: pcr(0) }]
        );
    }

    #[test]
    fn p05_values_of_resettable_pcrs_are_refused_at_load() {
        for index in [16, 23] {
            let text = format!(r#"{{"{index}": "{}"}}"#, hex("00", HashAlg::Sha256));
            let error = PcrPolicy::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(error, PcrPolicyError::Resettable(p) if p == pcr(index)));
        }
        // The mask of every Keylime agent selects PCR 16; that alone uses no value of it.
        assert!(PcrPolicy::parse(br#"{"mask": "0x010400"}"#).is_ok());
    }

    #[test]
    fn l01_malformed_policies_are_refused() {
        let value = hex("00", HashAlg::Sha256);
        let refused = [
            String::new(),
            "[]".into(),
            "NaN".into(),
            r#"{"mask": "0x1000000"}"#.into(),
            r#"{"mask": 7}"#.into(),
            r#"{"mask": "0x1", "mask": "0x2"}"#.into(),
            format!(r#"{{"24": "{value}"}}"#),
            format!(r#"{{"-1": "{value}"}}"#),
            format!(r#"{{"+1": "{value}"}}"#),
            format!(r#"{{"07": "{value}"}}"#),
            format!(r#"{{"7": "{value}", "7": "{value}"}}"#),
            r#"{"7": []}"#.into(),
            r#"{"7": ["00"]}"#.into(),
            format!(r#"{{"7": "{value}0"}}"#),
            format!(r#"{{"7": "{value}"}} x"#),
        ];
        for text in refused {
            assert!(PcrPolicy::parse(text.as_bytes()).is_err(), "{text}");
        }
        let long = vec![b' '; limits::TPM_POLICY_BYTES_MAX + 1];
        assert!(matches!(
            PcrPolicy::parse(&long),
            Err(PcrPolicyError::TooLong { .. })
        ));
    }
}
