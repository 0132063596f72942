//! Which bytes of an event's data its digest covers.

use crate::crypto::digest;
use crate::hash::Digest;

use super::decode::variable::variable_data;
use super::event::EventType;

/// The part of an event's data that its digest is made of.
///
/// # Security
/// Only these bytes are bound to the PCR (attack E02); what stands beside them in the log is
/// the sender's claim. They are authentic once the PCR is ([`super::compare`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthenticatedData<'a> {
    /// The event's data. For the certificates that old versions of shim log, all but the last
    /// byte: those versions log one byte more than they measure.
    Event(&'a [u8]),
    /// The VariableData of a `UEFI_VARIABLE_DATA`: neither the variable's name nor its GUID.
    VariableData(&'a [u8]),
    /// The text that GRUB measured, without the label that GRUB logs before it.
    GrubText(&'a [u8]),
    /// Nothing in the log: the digest is of a file, an image or a table.
    Nothing,
}

impl<'a> AuthenticatedData<'a> {
    /// The covered bytes, if there are any.
    pub const fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Event(bytes) | Self::VariableData(bytes) | Self::GrubText(bytes) => Some(bytes),
            Self::Nothing => None,
        }
    }
}

/// Labels that versions of GRUB put before the text they measure.
const GRUB_LABELS: [&[u8]; 5] = [
    b"grub_cmd: ",
    b"kernel_cmdline: ",
    b"module_cmdline: ",
    b"grub_cmd ",
    b"grub_kernel_cmdline ",
];

/// Whether the PFP demands that the digest of this type is that of the event's data, and real
/// firmware keeps to it.
///
/// Source: PFP 1.06, section 10.4.1 "Event Types".
pub(super) fn must_cover(event_type: EventType) -> bool {
    matches!(
        event_type,
        EventType::SEPARATOR
            | EventType::ACTION
            | EventType::EFI_ACTION
            | EventType::EFI_VARIABLE_DRIVER_CONFIG
            | EventType::EFI_VARIABLE_AUTHORITY
            | EventType::EFI_GPT_EVENT
            | EventType::EFI_GPT_EVENT2
    )
}

/// Finds what `expected` is the digest of, among the few choices that the type allows.
pub(super) fn covered<'a>(
    event_type: EventType,
    data: &'a [u8],
    expected: &Digest,
) -> AuthenticatedData<'a> {
    let is_of = |bytes: &[u8]| digest(expected.alg(), bytes) == *expected;
    match event_type {
        // Authenticode digests of images, which differ from any digest of the log's bytes.
        EventType::EFI_BOOT_SERVICES_APPLICATION
        | EventType::EFI_BOOT_SERVICES_DRIVER
        | EventType::EFI_RUNTIME_SERVICES_DRIVER => return AuthenticatedData::Nothing,
        _ if is_of(data) => return AuthenticatedData::Event(data),
        // Firmware measures boot variables with or without their names.
        EventType::EFI_VARIABLE_BOOT => {
            if let Ok(value) = variable_data(data)
                && is_of(value)
            {
                return AuthenticatedData::VariableData(value);
            }
        }
        EventType::EFI_VARIABLE_AUTHORITY => {
            if let Some((_, measured)) = data.split_last()
                && is_of(measured)
            {
                return AuthenticatedData::Event(measured);
            }
        }
        EventType::IPL => {
            let labelled = GRUB_LABELS
                .into_iter()
                .find_map(|label| data.strip_prefix(label));
            // Versions differ in whether the terminating NUL is measured.
            if let Some(text) = labelled {
                let unterminated = text.strip_suffix(&[0]).unwrap_or(text);
                if is_of(unterminated) {
                    return AuthenticatedData::GrubText(unterminated);
                }
                if is_of(text) {
                    return AuthenticatedData::GrubText(text);
                }
            }
        }
        _ => {}
    }
    AuthenticatedData::Nothing
}
