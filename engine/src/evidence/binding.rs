//! Challenges, and what ties a quote to one challenge, channel and machine.

use serde::{Deserialize, Serialize};

use crate::agent_id::AgentId;
use crate::appraisal::ExtraData;
use crate::bytes::Reader;
use crate::crypto::{self, Hasher};
use crate::hash::HashAlg;
use crate::malformed::{Fault, Malformed};
use crate::shard::AgentPath;
use crate::tpm::PcrSelection;

/// Where nonces and ids come from: the operating system in the server, a seed in simulations.
pub trait NonceSource {
    /// Fills `bytes` with random bytes.
    ///
    /// # Errors
    /// `None` when there are none to be had: then there is no challenge.
    fn fill(&mut self, bytes: &mut [u8]) -> Option<()>;
}

/// What makes a quote fresh: 32 random bytes, used once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nonce(pub [u8; 32]);

/// Names one challenge; random, so that it says nothing about others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChallengeId(pub [u8; 16]);

/// What a machine is asked to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// Its name.
    pub id: ChallengeId,
    /// The nonce.
    pub nonce: Nonce,
    /// PCRs to quote; never empty.
    pub selection: PcrSelection,
    /// The first entry of the measurement list to send; `None` when the list is not asked for.
    pub ima_from_entry: Option<u64>,
    /// Whether to send the boot log.
    pub boot_log: bool,
    /// Milliseconds from the challenge's arrival in which evidence is taken.
    pub deadline_ms: u32,
}

const MODE_KEYLIME_PUSH: u8 = 3;
const MODE_KEYLIME_PULL: u8 = 4;

/// What a quote is tied to beside the nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// 32 bytes that both ends of this TLS session export, and nobody else can.
    Channel([u8; 32]),
    /// SHA-256 of the public key of the relay that the agent's record names.
    Relay([u8; 32]),
    /// SHA-256 of the session's id, in which one of Keylime's agents pushes. Its TPM does not see
    /// the session: what ties the quote to it is a challenge that was given to it alone.
    KeylimePush([u8; 32]),
    /// SHA-256 of the TLS certificate that one of Keylime's agents was polled at; zeros for one that
    /// has none.
    KeylimePull([u8; 32]),
}

impl Binding {
    const fn mode(&self) -> u8 {
        match self {
            Self::Channel(_) => 1,
            Self::Relay(_) => 2,
            Self::KeylimePush(_) => MODE_KEYLIME_PUSH,
            Self::KeylimePull(_) => MODE_KEYLIME_PULL,
        }
    }

    /// The path of agents whose evidence comes so. (S15)
    pub const fn path(&self) -> AgentPath {
        match self {
            Self::Channel(_) | Self::Relay(_) => AgentPath::Native,
            Self::KeylimePush(_) => AgentPath::KeylimePush,
            Self::KeylimePull(_) => AgentPath::KeylimePull,
        }
    }

    /// The 32 bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        match self {
            Self::Channel(bytes)
            | Self::Relay(bytes)
            | Self::KeylimePush(bytes)
            | Self::KeylimePull(bytes) => bytes,
        }
    }
}

impl Challenge {
    /// SHA-256 over every field, each of fixed length or preceded by its count.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = Hasher::new(HashAlg::Sha256);
        hasher.update(b"ratd challenge v1\0");
        hasher.update(&self.id.0);
        hasher.update(&self.nonce.0);
        let count = u8::try_from(self.selection.banks().count()).unwrap_or(u8::MAX);
        hasher.update(&[count]);
        for (bank, pcrs) in self.selection.banks() {
            hasher.update(&bank.tpm_id().to_be_bytes());
            hasher.update(&pcrs.bits().to_be_bytes());
        }
        hasher.update(&[u8::from(self.ima_from_entry.is_some())]);
        hasher.update(&self.ima_from_entry.unwrap_or(0).to_be_bytes());
        hasher.update(&[u8::from(self.boot_log)]);
        hasher.update(&self.deadline_ms.to_be_bytes());
        array(hasher)
    }
}

/// What no other hash of ours begins with.
const QUOTE_LABEL: &[u8] = b"ratd quote v1\0";

/// The qualifying data of a quote: what the TPM signs as `extraData`.
///
/// SHA-256 over a domain label, the mode, and the length-prefixed nonce, challenge id, binding,
/// AK name, agent id and challenge digest. No two splits of these fields give the same bytes, and
/// the modes never meet. (Q15)
///
/// # Security
/// Both ends compute it from what they see themselves. Evidence relayed over another TLS session,
/// made for another agent, by another key or for another challenge has another value. (Q13)
pub fn qualifying_data(
    challenge: &Challenge,
    binding: &Binding,
    ak_name: &[u8],
    agent: &AgentId,
) -> [u8; 32] {
    let mut hasher = Hasher::new(HashAlg::Sha256);
    let tied = (challenge, binding, ak_name, agent);
    qualifying_parts(tied, |part| hasher.update(part));
    array(hasher)
}

/// What the `extraData` of a quote has to be whose qualifying data is `data`.
///
/// Our agents compute `data` and sign it. Keylime's sign what they are given, which is made of the
/// same `data`: 16 bytes of it in push mode, 20 letters and digits in pull mode. So a quote is tied
/// to the same things whoever made it. (Q15)
pub fn extra_data(binding: &Binding, data: [u8; 32]) -> ExtraData {
    extra_data_of(binding.mode(), data)
}

/// The challenge of one of Keylime's agents that pushes, as it is sent.
pub fn push_challenge(data: &[u8; 32]) -> [u8; 16] {
    let [
        challenge @ ..,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
    ] = *data;
    challenge
}

/// The nonce of one of Keylime's agents that is polled, as it is sent: Keylime's own is as long.
///
/// Each half of `data` gives ten digits of base 62, which is 119 bits of it in all.
pub fn pull_nonce(data: &[u8; 32]) -> [u8; PULL_NONCE_BYTES] {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut nonce = [0; PULL_NONCE_BYTES];
    let (first, second) = data.split_at(data.len() / 2);
    let halves = [first, second].map(|half| {
        half.iter()
            .fold(0_u128, |number, byte| (number << 8) | u128::from(*byte))
    });
    for (digits, mut number) in nonce.chunks_mut(PULL_NONCE_BYTES / 2).zip(halves) {
        for digit in digits {
            let value = usize::try_from(number % 62).unwrap_or(0);
            *digit = DIGITS.get(value).copied().unwrap_or(b'0');
            number /= 62;
        }
    }
    nonce
}

/// Letters and digits of a nonce of pull mode.
pub const PULL_NONCE_BYTES: usize = 20;

fn extra_data_of(mode: u8, data: [u8; 32]) -> ExtraData {
    match mode {
        MODE_KEYLIME_PUSH => push_challenge(&data)[..].into(),
        MODE_KEYLIME_PULL => pull_nonce(&data)[..].into(),
        _ => data.into(),
    }
}

/// The bytes whose SHA-256 is the qualifying data: kept with evidence, so that what a quote was
/// tied to can be shown later.
pub fn qualifying_preimage(
    challenge: &Challenge,
    binding: &Binding,
    ak_name: &[u8],
    agent: &AgentId,
) -> Vec<u8> {
    let mut preimage = Vec::new();
    let tied = (challenge, binding, ak_name, agent);
    qualifying_parts(tied, |part| preimage.extend_from_slice(part));
    preimage
}

/// Gives the bytes of the preimage one after the other.
fn qualifying_parts(
    (challenge, binding, ak_name, agent): (&Challenge, &Binding, &[u8], &AgentId),
    mut take: impl FnMut(&[u8]),
) {
    let digest = challenge.digest();
    take(QUOTE_LABEL);
    take(&[binding.mode()]);
    let fields: [&[u8]; 6] = [
        &challenge.nonce.0,
        &challenge.id.0,
        binding.bytes(),
        ak_name,
        agent.as_str().as_bytes(),
        &digest,
    ];
    for field in fields {
        take(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        take(field);
    }
}

/// The qualifying data that this preimage gives.
pub fn preimage_digest(preimage: &[u8]) -> [u8; 32] {
    let digest = crypto::digest(HashAlg::Sha256, preimage);
    // SHA-256 has 32 bytes; the zeros are never reached.
    digest.as_bytes().try_into().unwrap_or([0; 32])
}

/// Whom the quote of a kept preimage was made for and by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreimageParties<'a> {
    /// The Name of the attestation key.
    pub ak_name: &'a [u8],
    /// The agent id.
    pub agent: &'a [u8],
    mode: u8,
}

impl<'a> PreimageParties<'a> {
    /// Reads exactly one preimage as [`qualifying_preimage`] makes it.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(preimage: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("qualifying data", preimage);
        let at_label = reader.clone();
        if reader.take("label", QUOTE_LABEL.len())? != QUOTE_LABEL {
            return Err(at_label.fault("label", Fault::Unknown { value: 0 }));
        }
        let mode = reader.u8("mode")?;
        for fixed in ["nonce", "challenge id", "binding"] {
            field(&mut reader, fixed)?;
        }
        let ak_name = field(&mut reader, "AK name")?;
        let agent = field(&mut reader, "agent id")?;
        field(&mut reader, "challenge digest")?;
        reader.finish()?;
        Ok(Self {
            ak_name,
            agent,
            mode,
        })
    }

    /// What the `extraData` of the quote has to be that is kept with this preimage.
    pub fn extra_data(&self, preimage: &[u8]) -> ExtraData {
        extra_data_of(self.mode, preimage_digest(preimage))
    }
}

fn field<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<&'a [u8], Malformed> {
    let length = reader.u32_be(name)?;
    reader.take(name, usize::try_from(length).unwrap_or(usize::MAX))
}

fn array(hasher: Hasher) -> [u8; 32] {
    // SHA-256 has 32 bytes; the zeros are never reached.
    hasher.finish().as_bytes().try_into().unwrap_or([0; 32])
}
