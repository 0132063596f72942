//! One event of a log.

use std::fmt;

use crate::hash::{Digest, HashAlg};
use crate::pcr::PcrIndex;

use super::error::EventPlace;

/// An event type: a number with a name, if the PFP gives it one.
///
/// # Security
/// Never hashed (attack E01): whoever writes the log chooses it freely.
///
/// Source: PFP 1.06, section 10.4.1 "Event Types".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(u32);

macro_rules! event_types {
    ($($name:ident = $value:literal,)*) => {
        impl EventType {
            $(
                #[doc = concat!("`EV_", stringify!($name), "`.")]
                pub const $name: Self = Self($value);
            )*

            /// The name that the PFP and tpm2-tools use, if the type has one.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(concat!("EV_", stringify!($name))),)*
                    _ => None,
                }
            }
        }
    };
}

event_types! {
    PREBOOT_CERT = 0x0000_0000,
    POST_CODE = 0x0000_0001,
    UNUSED = 0x0000_0002,
    NO_ACTION = 0x0000_0003,
    SEPARATOR = 0x0000_0004,
    ACTION = 0x0000_0005,
    EVENT_TAG = 0x0000_0006,
    S_CRTM_CONTENTS = 0x0000_0007,
    S_CRTM_VERSION = 0x0000_0008,
    CPU_MICROCODE = 0x0000_0009,
    PLATFORM_CONFIG_FLAGS = 0x0000_000a,
    TABLE_OF_DEVICES = 0x0000_000b,
    COMPACT_HASH = 0x0000_000c,
    IPL = 0x0000_000d,
    IPL_PARTITION_DATA = 0x0000_000e,
    NONHOST_CODE = 0x0000_000f,
    NONHOST_CONFIG = 0x0000_0010,
    NONHOST_INFO = 0x0000_0011,
    OMIT_BOOT_DEVICE_EVENTS = 0x0000_0012,
    POST_CODE2 = 0x0000_0013,
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001,
    EFI_VARIABLE_BOOT = 0x8000_0002,
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003,
    EFI_BOOT_SERVICES_DRIVER = 0x8000_0004,
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005,
    EFI_GPT_EVENT = 0x8000_0006,
    EFI_ACTION = 0x8000_0007,
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008,
    EFI_HANDOFF_TABLES = 0x8000_0009,
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000a,
    EFI_HANDOFF_TABLES2 = 0x8000_000b,
    EFI_VARIABLE_BOOT2 = 0x8000_000c,
    EFI_GPT_EVENT2 = 0x8000_000d,
    EFI_HCRTM_EVENT = 0x8000_0010,
    EFI_VARIABLE_AUTHORITY = 0x8000_00e0,
    EFI_SPDM_FIRMWARE_BLOB = 0x8000_00e1,
    EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00e2,
    EFI_SPDM_DEVICE_POLICY = 0x8000_00e3,
    EFI_SPDM_DEVICE_AUTHORITY = 0x8000_00e4,
}

impl EventType {
    /// The type with this number.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The name, or the number in hexadecimal.
impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

/// The digests of one event that belong to banks we compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct EventDigests<'a> {
    sha1: Option<&'a [u8]>,
    sha256: Option<&'a [u8]>,
    sha384: Option<&'a [u8]>,
    sha512: Option<&'a [u8]>,
}

impl<'a> EventDigests<'a> {
    pub(super) fn set(&mut self, alg: HashAlg, bytes: &'a [u8]) {
        let slot = match alg {
            HashAlg::Sha1 => &mut self.sha1,
            HashAlg::Sha256 => &mut self.sha256,
            HashAlg::Sha384 => &mut self.sha384,
            HashAlg::Sha512 => &mut self.sha512,
        };
        *slot = Some(bytes);
    }

    fn get(&self, alg: HashAlg) -> Option<&'a [u8]> {
        match alg {
            HashAlg::Sha1 => self.sha1,
            HashAlg::Sha256 => self.sha256,
            HashAlg::Sha384 => self.sha384,
            HashAlg::Sha512 => self.sha512,
        }
    }
}

/// One event, borrowed from its log.
///
/// # Security
/// Nothing here is authenticated; see [`super::BootProof::measurements`] for what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    pub(super) place: EventPlace,
    pub(super) event_type: EventType,
    pub(super) digests: EventDigests<'a>,
    pub(super) data: &'a [u8],
}

impl<'a> Event<'a> {
    /// Where it stands: number, PCR, offset.
    pub const fn place(&self) -> EventPlace {
        self.place
    }

    /// The PCR it names. `None` only for `EV_NO_ACTION` with index 0xffffffff, which says
    /// "no PCR" (Windows' trust points, SP 800-155 events of PFP 1.06).
    pub const fn pcr(&self) -> Option<PcrIndex> {
        self.place.pcr
    }

    /// The type that the log claims.
    pub const fn event_type(&self) -> EventType {
        self.event_type
    }

    /// The digest for a bank, if the log has that bank.
    pub fn digest(&self, bank: HashAlg) -> Option<Digest> {
        Digest::new(bank, self.digests.get(bank)?).ok()
    }

    /// The event's data, for display only.
    ///
    /// # Security
    /// May be anything: the digest need not be made of it (attack E02).
    pub const fn unverified_data(&self) -> &'a [u8] {
        self.data
    }

    /// Whether the event changes its PCR. Decided by the type alone, and only `EV_NO_ACTION` is
    /// left out: an event hidden by that type makes the replay differ from the quote.
    pub fn is_extended(&self) -> bool {
        self.event_type != EventType::NO_ACTION
    }
}
