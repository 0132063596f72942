//! The bodies of frames as archives: the only place that names the archive's library.
//!
//! Archives are little-endian, with 32-bit relative pointers and without alignment: features of
//! the library, fixed for the whole workspace and guarded by golden bytes. An archive is checked
//! before it is read, and then must be byte for byte what encoding its values gives: no
//! unreferenced bytes, no two pointers to one place. (X03)

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::{Serializer, allocator::ArenaHandle, sharing::Share};
use rkyv::util::AlignedVec;
use rkyv::validation::{Validator, archive::ArchiveValidator, shared::SharedValidator};
use rkyv::{Archive, Deserialize, Serialize};

use super::error::WireError;
use super::preamble::FrameType;

/// Something that a peer added to a frame; skipped when unknown, unless the id says it is critical.
#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Extension {
    pub(super) id: u16,
    pub(super) bytes: Vec<u8>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) agent: String,
    pub(super) log_formats: Vec<u8>,
    pub(super) banks: Vec<u16>,
    pub(super) reset_count: u32,
    pub(super) restart_count: u32,
    pub(super) entry_count: u64,
    pub(super) instance: [u8; 16],
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) next_after_ms: u32,
    pub(super) ca_set: Vec<Vec<u8>>,
    pub(super) boot_log_bytes_max: u64,
    pub(super) list_bytes_max: u64,
    pub(super) upload_bytes_per_second_min: u64,
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Refused {
    pub(super) reason: u32,
    pub(super) retry_after_ms: u32,
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Selection {
    pub(super) bank: u16,
    pub(super) pcrs: u32,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Challenge {
    pub(super) id: [u8; 16],
    pub(super) nonce: [u8; 32],
    pub(super) selection: Vec<Selection>,
    pub(super) ima_from_entry: Option<u64>,
    pub(super) boot_log: bool,
    pub(super) deadline_ms: u32,
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct PcrValue {
    pub(super) bank: u16,
    pub(super) pcr: u8,
    pub(super) value: Vec<u8>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct List {
    pub(super) from_entry: u64,
    pub(super) count: u64,
    pub(super) format: u8,
    pub(super) length: u64,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Evidence {
    pub(super) id: [u8; 16],
    pub(super) binding: Option<[u8; 32]>,
    pub(super) quote: Vec<u8>,
    pub(super) signature: Vec<u8>,
    pub(super) pcr_values: Vec<PcrValue>,
    pub(super) reset_count: u32,
    pub(super) restart_count: u32,
    pub(super) ima: Option<List>,
    pub(super) boot_log_length: Option<u64>,
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) id: [u8; 16],
    pub(super) status: u8,
    pub(super) code: Option<String>,
    pub(super) detail: String,
    pub(super) next_after_ms: u32,
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Renew {
    pub(super) csr: Vec<u8>,
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Renewed {
    pub(super) chain: Vec<Vec<u8>>,
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct RelayHello {
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct RelayWelcome {
    pub(super) ca_set: Vec<Vec<u8>>,
    pub(super) boot_log_bytes_max: u64,
    pub(super) list_bytes_max: u64,
    pub(super) upload_bytes_per_second_min: u64,
    pub(super) agents_max: u32,
    pub(super) hellos_per_second_max: u32,
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct AgentHello {
    pub(super) client_key_sha256: [u8; 32],
    pub(super) hello: Hello,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct AgentWelcome {
    pub(super) next_after_ms: u32,
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Arriving {
    pub(super) id: [u8; 16],
    pub(super) bytes: u64,
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct More {
    pub(super) id: [u8; 16],
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) id: [u8; 16],
    pub(super) length: u32,
    pub(super) extensions: Vec<Extension>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Left {
    pub(super) extensions: Vec<Extension>,
}

/// What the archive check needs of a body.
type Check<'a> = Strategy<Validator<ArchiveValidator<'a>, SharedValidator>, Failure>;
/// What encoding needs of a body.
type Encode<'a> = Strategy<Serializer<AlignedVec, ArenaHandle<'a>, Share>, Failure>;
/// What reading a checked body needs.
type Read = Strategy<rkyv::de::Pool, Failure>;

/// The body with these values; `None` only when memory runs out.
pub(super) fn encode<T>(body: &T) -> Option<Vec<u8>>
where
    T: for<'a> Serialize<Encode<'a>>,
{
    rkyv::to_bytes::<Failure>(body)
        .ok()
        .map(AlignedVec::into_vec)
}

/// The values of a body, after the archive check and the comparison with their own encoding.
///
/// # Cost
/// Copies what the body holds: at most a few times its length, which the caller has bounded.
pub(super) fn decode<T>(frame: FrameType, body: &[u8]) -> Result<T, WireError>
where
    T: Archive + for<'a> Serialize<Encode<'a>>,
    T::Archived: for<'a> CheckBytes<Check<'a>> + Deserialize<T, Read>,
{
    let values: T =
        rkyv::from_bytes::<T, Failure>(body).map_err(|_| WireError::Archive { frame })?;
    if encode(&values).as_deref() == Some(body) {
        Ok(values)
    } else {
        Err(WireError::NotCanonical { frame })
    }
}
