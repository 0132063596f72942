//! A TPM in software: an endorsement key, an attestation key, PCRs and a measurement list, which
//! make the bytes that a real TPM and kernel make.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rat_agent::device::{Device, DeviceError, Endorsement, KeyKind, Quoted, SealedSecret};
use rat_agent::logs::{LogError, Logs, Measurements, Source};
use rat_engine::crypto::{constant_time_eq, digest, hmac_sha256};
use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_engine::pcr::{PcrIndex, PcrValues};
use rat_engine::tpm::{ClockInfo, PcrSelection, Public, pcr_digest};
use tokio::time::Instant;

use crate::keys::{EkCa, Numbers, Signed, SoftwareKey, decrypt_cfb};
use crate::measured::{BANK, Entry, boot_events, boot_log, boot_values, extend_value};

/// `PolicyA` of the default EK templates. Source: TCG EK Credential Profile 2.5, B.6.2.
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt.
const EK_ATTRIBUTES: u32 = 0x0003_00b2;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
const AK_ATTRIBUTES: u32 = 0x0005_0472;
const FIRMWARE_VERSION: u64 = 0x0001_0000_0000_0000;

const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_RSASSA: u16 = 0x0014;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;

/// The keys of one machine.
#[derive(Debug, Clone)]
pub struct Keys {
    endorsement: SoftwareKey,
    attestation: SoftwareKey,
    endorsement_public: Vec<u8>,
    attestation_public: Vec<u8>,
    certificate: Vec<u8>,
}

impl Keys {
    /// Keys of a machine whose EK this CA certifies.
    ///
    /// # Errors
    /// The library's.
    pub fn new(endorsement: SoftwareKey, attestation: SoftwareKey, ca: &EkCa) -> Result<Self> {
        Ok(Self {
            endorsement_public: public_area(&endorsement.numbers()?, Role::Endorsement),
            attestation_public: attestation_public(&attestation)?,
            certificate: ca.certify(&endorsement)?,
            endorsement,
            attestation,
        })
    }

    /// The Name of the attestation key.
    ///
    /// # Errors
    /// None, for keys of ours.
    pub fn attestation_name(&self) -> Result<Vec<u8>> {
        Ok(Public::parse(&self.attestation_public)?.name().to_bytes())
    }
}

/// The public area of a key of ours that attests.
///
/// # Errors
/// The library's.
pub fn attestation_public(key: &SoftwareKey) -> Result<Vec<u8>> {
    Ok(public_area(&key.numbers()?, Role::Attestation))
}

/// What was measured on a simulated machine since its boot.
#[derive(Debug)]
pub struct Boot {
    values: PcrValues,
    boot_log: Vec<u8>,
    binary: Vec<u8>,
    ascii: Vec<u8>,
    /// Where each entry starts in `binary`.
    starts: Vec<usize>,
    reset_count: u32,
    begun: Instant,
    before: Duration,
}

impl Boot {
    /// The first boot of a machine.
    pub fn first() -> Self {
        Self::new(1, Duration::ZERO)
    }

    fn new(reset_count: u32, before: Duration) -> Self {
        let events = boot_events();
        let mut boot = Self {
            values: boot_values(&events),
            boot_log: boot_log(&events),
            binary: Vec::new(),
            ascii: Vec::new(),
            starts: Vec::new(),
            reset_count,
            begun: Instant::now(),
            before,
        };
        let aggregate = Entry::boot_aggregate(&boot.values);
        boot.measure(&aggregate);
        boot
    }

    /// Appends an entry and extends PCR 10.
    pub fn measure(&mut self, entry: &Entry) {
        self.starts.push(self.binary.len());
        self.binary.extend(&entry.binary);
        self.ascii.extend(&entry.ascii);
        extend_value(&mut self.values, PcrIndex::IMA, &entry.event);
    }

    /// The measurement list, in binary.
    pub fn list(&self) -> Vec<u8> {
        self.binary.clone()
    }

    /// Starts the machine anew.
    pub fn reboot(&mut self) {
        let before = self.uptime();
        *self = Self::new(self.reset_count.saturating_add(1), before);
    }

    fn uptime(&self) -> Duration {
        self.before.saturating_add(self.begun.elapsed())
    }

    fn clock(&self) -> ClockInfo {
        ClockInfo {
            clock_ms: u64::try_from(self.uptime().as_millis()).unwrap_or(u64::MAX),
            reset_count: self.reset_count,
            restart_count: 0,
            safe: true,
        }
    }
}

/// A boot that device, logs and simulation share.
pub type SharedBoot = Arc<Mutex<Boot>>;

fn locked(boot: &SharedBoot) -> MutexGuard<'_, Boot> {
    boot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The device of a simulated machine.
#[derive(Debug)]
pub struct SoftwareTpm {
    keys: Arc<Keys>,
    boot: SharedBoot,
}

impl SoftwareTpm {
    /// A TPM with these keys, on a machine with this boot.
    pub const fn new(keys: Arc<Keys>, boot: SharedBoot) -> Self {
        Self { keys, boot }
    }
}

impl Device for SoftwareTpm {
    fn endorsement(&mut self) -> Result<Endorsement, DeviceError> {
        Ok(Endorsement {
            certificate: Some(self.keys.certificate.clone()),
            public: self.keys.endorsement_public.clone(),
        })
    }

    fn attestation_key(&mut self) -> Result<Vec<u8>, DeviceError> {
        Ok(self.keys.attestation_public.clone())
    }

    fn activate(&mut self, sealed: &SealedSecret) -> Result<Vec<u8>, DeviceError> {
        let name = Public::parse(&self.keys.attestation_public)?.name();
        let opened = open(&self.keys.endorsement, &name.to_bytes(), sealed);
        opened.ok_or(DeviceError::SealedForOthers)
    }

    fn quote(
        &mut self,
        qualifying_data: &[u8; 32],
        selection: &PcrSelection,
    ) -> Result<Quoted, DeviceError> {
        let (clock, values) = {
            let boot = locked(&self.boot);
            (boot.clock(), boot.values.clone())
        };
        let mut pcr_values = PcrValues::new();
        for (bank, pcrs) in selection.banks() {
            for pcr in pcrs.iter() {
                if let Some(value) = values.get(bank, pcr) {
                    pcr_values.insert(pcr, value);
                }
            }
        }
        let quoted = pcr_digest(HashAlg::Sha256, selection, &pcr_values)
            .map_err(|_| DeviceError::Software("a bank was asked for that it does not have"))?;
        let name = Public::parse(&self.keys.attestation_public)?.name();
        let attest = attest(
            &name.to_bytes(),
            qualifying_data,
            clock,
            selection,
            quoted.as_bytes(),
        );
        let signed = self
            .keys
            .attestation
            .sign(&attest)
            .map_err(|_| DeviceError::Software("signing failed"))?;
        Ok(Quoted {
            signature: signature(&signed),
            attest,
            pcr_values,
            clock,
        })
    }

    fn clock(&mut self) -> Result<ClockInfo, DeviceError> {
        Ok(locked(&self.boot).clock())
    }

    fn banks(&mut self) -> Result<Vec<HashAlg>, DeviceError> {
        Ok(vec![BANK])
    }
}

/// The logs of a simulated machine.
#[derive(Debug)]
pub struct SoftwareLogs {
    boot: SharedBoot,
}

impl SoftwareLogs {
    /// The logs of this boot.
    pub const fn new(boot: SharedBoot) -> Self {
        Self { boot }
    }
}

impl Logs for SoftwareLogs {
    fn format(&self) -> LogFormat {
        LogFormat::Binary
    }

    fn count(&mut self) -> Result<u64, LogError> {
        Ok(count(locked(&self.boot).starts.len()))
    }

    fn measurements(&mut self, from_entry: u64) -> Result<Measurements, LogError> {
        let boot = locked(&self.boot);
        let entries = count(boot.starts.len());
        let from_entry = if from_entry > entries { 0 } else { from_entry };
        let start = usize::try_from(from_entry)
            .ok()
            .and_then(|from| boot.starts.get(from).copied())
            .unwrap_or(boot.binary.len());
        let bytes = boot.binary.get(start..).unwrap_or(&[]).to_vec();
        Ok(Measurements {
            from_entry,
            count: entries.saturating_sub(from_entry),
            format: LogFormat::Binary,
            length: count(bytes.len()),
            source: Source::Bytes(bytes),
        })
    }

    fn ascii(&mut self) -> Result<Vec<u8>, LogError> {
        Ok(locked(&self.boot).ascii.clone())
    }

    fn boot_log(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        Ok(Some(locked(&self.boot).boot_log.clone()))
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Endorsement,
    Attestation,
}

// TPM 2.0 Part 2, 12.2.4 TPMT_PUBLIC
fn public_area(numbers: &Numbers, role: Role) -> Vec<u8> {
    let (kind, scheme) = match numbers {
        Numbers::Rsa(_) => (ALG_RSA, ALG_RSASSA),
        Numbers::Ecc(..) => (ALG_ECC, ALG_ECDSA),
    };
    let mut area = words(&[kind, ALG_SHA256]);
    match role {
        Role::Endorsement => {
            area.extend(EK_ATTRIBUTES.to_be_bytes());
            area.extend(sized(&EK_POLICY));
            area.extend(words(&[ALG_AES, 128, ALG_CFB, ALG_NULL]));
        }
        Role::Attestation => {
            area.extend(AK_ATTRIBUTES.to_be_bytes());
            area.extend(sized(&[]));
            area.extend(words(&[ALG_NULL, scheme, ALG_SHA256]));
        }
    }
    match numbers {
        Numbers::Rsa(modulus) => {
            area.extend(words(&[2048, 0, 0]));
            area.extend(sized(modulus));
        }
        Numbers::Ecc(x, y) => {
            area.extend(words(&[CURVE_P256, ALG_NULL]));
            area.extend([sized(x), sized(y)].concat());
        }
    }
    area
}

// TPM 2.0 Part 2, 10.12.12 TPMS_ATTEST
fn attest(
    name: &[u8],
    extra_data: &[u8],
    clock: ClockInfo,
    selection: &PcrSelection,
    pcr_digest: &[u8],
) -> Vec<u8> {
    let mut bytes = 0xff54_4347_u32.to_be_bytes().to_vec();
    bytes.extend(0x8018_u16.to_be_bytes());
    bytes.extend(sized(name));
    bytes.extend(sized(extra_data));
    bytes.extend(clock.clock_ms.to_be_bytes());
    bytes.extend(clock.reset_count.to_be_bytes());
    bytes.extend(clock.restart_count.to_be_bytes());
    bytes.push(u8::from(clock.safe));
    bytes.extend(FIRMWARE_VERSION.to_be_bytes());
    let banks = u32::try_from(selection.banks().count()).unwrap_or(u32::MAX);
    bytes.extend(banks.to_be_bytes());
    for (bank, pcrs) in selection.banks() {
        bytes.extend(bank.tpm_id().to_be_bytes());
        bytes.push(3);
        bytes.extend(pcrs.bits().to_le_bytes().iter().take(3));
    }
    bytes.extend(sized(pcr_digest));
    bytes
}

// TPM 2.0 Part 2, 11.3.4 TPMT_SIGNATURE
fn signature(signed: &Signed) -> Vec<u8> {
    match signed {
        Signed::Rsa(value) => [words(&[ALG_RSASSA, ALG_SHA256]), sized(value)].concat(),
        Signed::Ecc(r, s) => [words(&[ALG_ECDSA, ALG_SHA256]), sized(r), sized(s)].concat(),
    }
}

/// What `TPM2_ActivateCredential` does; `None` when the secret was sealed for other keys.
// TPM 2.0 Part 1, 24 "Credential Protection", B.10.4 and C.6.4
fn open(endorsement: &SoftwareKey, ak_name: &[u8], sealed: &SealedSecret) -> Option<Vec<u8>> {
    const IDENTITY: &[u8] = b"IDENTITY\0";
    let (secret, rest) = unsized_front(&sealed.secret)?;
    if !rest.is_empty() {
        return None;
    }
    let seed = match endorsement.kind() {
        KeyKind::Rsa => endorsement.decrypt_oaep(IDENTITY, secret).ok()?,
        KeyKind::Ecc => {
            let (x, rest) = unsized_front(secret)?;
            let (y, _) = unsized_front(rest)?;
            let shared = endorsement.agree(x, y).ok()?;
            let Ok(Numbers::Ecc(ours, _)) = endorsement.numbers() else {
                return None;
            };
            // Part 1, 11.4.10.3 KDFe: one round gives all 256 bits.
            let message = [&1_u32.to_be_bytes()[..], &shared, IDENTITY, x, &ours].concat();
            digest(HashAlg::Sha256, &message).as_bytes().to_vec()
        }
    };
    let (blob, _) = unsized_front(&sealed.blob)?;
    let (integrity, encrypted) = unsized_front(blob)?;
    let hmac_key = kdfa(&seed, b"INTEGRITY\0", &[], 256);
    let expected = hmac_sha256(&hmac_key, &[encrypted, ak_name].concat());
    if !constant_time_eq(&expected, integrity) {
        return None;
    }
    let aes = kdfa(&seed, b"STORAGE\0", ak_name, 128);
    let plain = decrypt_cfb(aes.get(..16)?, encrypted).ok()?;
    let (released, _) = unsized_front(&plain)?;
    Some(released.to_vec())
}

/// KDFa with SHA-256, of at most one round.
// TPM 2.0 Part 1, 11.4.10.2
fn kdfa(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> [u8; 32] {
    let message = [
        &1_u32.to_be_bytes()[..],
        label,
        context,
        &bits.to_be_bytes(),
    ]
    .concat();
    hmac_sha256(key, &message)
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// The contents of a `TPM2B` at the front, and what follows it.
fn unsized_front(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*size)))
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests;
