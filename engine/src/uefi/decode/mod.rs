//! Event data in readable form.
//!
//! Decoders of the structures that the PFP defines for each event type. They are bounded and
//! never recurse. A decoder says what bytes mean, not that they are true: rules of a policy
//! decode [`super::AuthenticatedData`] only.

pub mod device_path;
pub mod guid;
pub mod signature_list;
pub mod variable;

use crate::bytes::Reader;
use crate::malformed::{Fault, Malformed};

use self::device_path::DevicePathNode;
use self::variable::UefiVariable;
use super::event::EventType;
use super::order::{is_startup_locality, parse_startup_locality};
use super::spec_id::SpecId;

/// Event data by meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventData<'a> {
    /// The header of a crypto-agile log.
    SpecId(SpecId),
    /// The locality in which the TPM was started.
    StartupLocality(u8),
    /// A separator's value, as it stands in the log.
    Separator(&'a [u8]),
    /// Text: an action, a boot loader's command, a version.
    Text(String),
    /// A UEFI variable.
    Variable(UefiVariable<'a>),
    /// An image that was loaded.
    ImageLoad(ImageLoad<'a>),
    /// Where a blob of firmware lies in memory.
    FirmwareBlob {
        /// Its physical address.
        base: u64,
        /// Its size in bytes.
        length: u64,
    },
    /// An event of a software that tags its events.
    Tagged {
        /// The tag.
        id: u32,
        /// What it tags.
        data: &'a [u8],
    },
    /// Data of a type that has no decoder.
    Bytes(&'a [u8]),
}

/// `UEFI_IMAGE_LOAD_EVENT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLoad<'a> {
    /// Physical address of the image.
    pub location: u64,
    /// Its size in bytes in memory.
    pub length: u64,
    /// The address it was linked for.
    pub link_time_address: u64,
    /// Where it was loaded from.
    pub device_path: Vec<DevicePathNode<'a>>,
}

/// Decodes the data of an event that claims this type.
///
/// # Errors
/// [`Malformed`] when the data is not what the type demands. Firmware often logs such data for
/// types whose digest is not made of it; show it as bytes then.
///
/// # Security
/// Neither type nor data is authenticated by being decoded.
///
/// Source: PFP 1.06, sections 10.2 and 10.4.
pub fn event_data(event_type: EventType, data: &[u8]) -> Result<EventData<'_>, Malformed> {
    Ok(match event_type {
        EventType::NO_ACTION if SpecId::is_header(data) => EventData::SpecId(SpecId::parse(data)?),
        EventType::NO_ACTION if is_startup_locality(data) => {
            EventData::StartupLocality(parse_startup_locality(data)?)
        }
        EventType::SEPARATOR => EventData::Separator(data),
        EventType::ACTION | EventType::EFI_ACTION | EventType::IPL => match text(data) {
            Some(text) => EventData::Text(text),
            None => EventData::Bytes(data),
        },
        EventType::S_CRTM_VERSION => match utf16(data) {
            Some(text) => EventData::Text(text),
            None => EventData::Bytes(data),
        },
        EventType::EFI_VARIABLE_DRIVER_CONFIG
        | EventType::EFI_VARIABLE_BOOT
        | EventType::EFI_VARIABLE_BOOT2
        | EventType::EFI_VARIABLE_AUTHORITY => EventData::Variable(UefiVariable::parse(data)?),
        EventType::EFI_BOOT_SERVICES_APPLICATION
        | EventType::EFI_BOOT_SERVICES_DRIVER
        | EventType::EFI_RUNTIME_SERVICES_DRIVER => EventData::ImageLoad(image_load(data)?),
        EventType::EFI_PLATFORM_FIRMWARE_BLOB => firmware_blob(data)?,
        EventType::EVENT_TAG => tagged(data)?,
        _ => EventData::Bytes(data),
    })
}

/// Text without its terminating NUL, if it has no control character.
fn text(data: &[u8]) -> Option<String> {
    let data = data.strip_suffix(&[0]).unwrap_or(data);
    let text = std::str::from_utf8(data).ok()?;
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// Little-endian UTF-16 without its terminating NUL, if it has no control character.
fn utf16(data: &[u8]) -> Option<String> {
    let units = data.chunks_exact(2);
    if data.is_empty() || !units.remainder().is_empty() {
        return None;
    }
    let units = units.filter_map(|unit| unit.try_into().ok().map(u16::from_le_bytes));
    let text: Result<String, _> = char::decode_utf16(units).collect();
    let text = text.ok()?;
    let text = text.strip_suffix('\0').unwrap_or(&text);
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// Source: PFP 1.06, section 10.2.3 "UEFI_IMAGE_LOAD_EVENT Structure".
fn image_load(data: &[u8]) -> Result<ImageLoad<'_>, Malformed> {
    let mut reader = Reader::new("UEFI_IMAGE_LOAD_EVENT", data);
    let location = reader.u64_le("ImageLocationInMemory")?;
    let length = reader.u64_le("ImageLengthInMemory")?;
    let link_time_address = reader.u64_le("ImageLinkTimeAddress")?;
    let before = reader.clone();
    let path_bytes = usize::try_from(reader.u64_le("LengthOfDevicePath")?).unwrap_or(usize::MAX);
    if path_bytes > data.len() {
        let fault = Fault::Truncated {
            wanted: path_bytes,
            have: reader.rest().len(),
        };
        return Err(before.fault("LengthOfDevicePath", fault));
    }
    let path = reader.take("DevicePath", path_bytes)?;
    reader.finish()?;
    Ok(ImageLoad {
        location,
        length,
        link_time_address,
        device_path: device_path::parse(path)?,
    })
}

/// Source: PFP 1.06, section 10.2.5 "UEFI_PLATFORM_FIRMWARE_BLOB Structure".
fn firmware_blob(data: &[u8]) -> Result<EventData<'_>, Malformed> {
    let mut reader = Reader::new("UEFI_PLATFORM_FIRMWARE_BLOB", data);
    let base = reader.u64_le("BlobBase")?;
    let length = reader.u64_le("BlobLength")?;
    reader.finish()?;
    Ok(EventData::FirmwareBlob { base, length })
}

/// `TCG_PCClientTaggedEvent`. Windows logs several of them in one event, which stay bytes.
fn tagged(data: &[u8]) -> Result<EventData<'_>, Malformed> {
    let mut reader = Reader::new("TCG_PCClientTaggedEvent", data);
    let id = reader.u32_le("taggedEventID")?;
    let size = usize::try_from(reader.u32_le("taggedEventDataSize")?).unwrap_or(usize::MAX);
    let tagged = reader.take("taggedEventData", size)?;
    Ok(match reader.finish() {
        Ok(()) => EventData::Tagged { id, data: tagged },
        Err(_) => EventData::Bytes(data),
    })
}
