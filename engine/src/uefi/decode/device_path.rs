//! `EFI_DEVICE_PATH_PROTOCOL`: where an image was loaded from.

use std::fmt;

use crate::bytes::Reader;
use crate::limits;
use crate::malformed::{Fault, Malformed};

use super::guid::Guid;

/// One node of a device path, without the final end node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicePathNode<'a> {
    /// Hardware, ACPI, messaging, media, BIOS boot, or end of instance.
    pub node_type: u8,
    /// What kind of such a node.
    pub sub_type: u8,
    /// What the kind defines.
    pub data: &'a [u8],
}

const END: u8 = 0x7f;
const END_ENTIRE: u8 = 0xff;
const END_INSTANCE: u8 = 0x01;
const HEADER_BYTES: usize = 4;

/// Parses a device path, whose nodes follow each other up to an end node.
///
/// A loop over nodes: a node never contains others, so nothing nests (attack E04).
///
/// # Errors
/// [`Malformed`] when a node is shorter than its header or longer than the path, when there are
/// too many, or when the end node is missing or not the last.
///
/// Source: UEFI 2.10, section 10.3 "Device Path Nodes".
pub fn parse(data: &[u8]) -> Result<Vec<DevicePathNode<'_>>, Malformed> {
    let mut reader = Reader::new("EFI_DEVICE_PATH_PROTOCOL", data);
    let mut nodes = Vec::new();
    // An image that was loaded from memory has no path at all.
    while !reader.rest().is_empty() {
        let start = reader.clone();
        let node_type = reader.u8("Type")?;
        let sub_type = reader.u8("SubType")?;
        let before = reader.clone();
        let length = usize::from(reader.u16_le("Length")?);
        let Some(data_bytes) = length.checked_sub(HEADER_BYTES) else {
            let fault = Fault::Length {
                value: length,
                min: HEADER_BYTES,
                max: usize::from(u16::MAX),
            };
            return Err(before.fault("Length", fault));
        };
        let data = reader.take("Data", data_bytes)?;
        match (node_type, sub_type) {
            (END, END_ENTIRE) => {
                reader.finish()?;
                return Ok(nodes);
            }
            (END, END_INSTANCE) => {}
            (END, value) => {
                let value = u64::from(value);
                return Err(start.fault("SubType", Fault::Unknown { value }));
            }
            _ => {}
        }
        if nodes.len() >= limits::UEFI_DEVICE_PATH_NODES_MAX {
            let fault = Fault::Length {
                value: nodes.len().saturating_add(1),
                min: 0,
                max: limits::UEFI_DEVICE_PATH_NODES_MAX,
            };
            return Err(start.fault("Type", fault));
        }
        nodes.push(DevicePathNode {
            node_type,
            sub_type,
            data,
        });
    }
    if nodes.is_empty() {
        return Ok(nodes);
    }
    let expected = "an end node";
    Err(reader.fault("Type", Fault::Syntax { expected }))
}

/// The text form of the nodes that boot paths are made of, `Path(type,subtype,hex)` for others.
///
/// Source: UEFI 2.10, section 10.6.1.6 "Text Device Node Reference".
impl fmt::Display for DevicePathNode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.write_known(f)? {
            return Ok(());
        }
        let hex = hex::encode(self.data);
        write!(f, "Path({},{},{hex})", self.node_type, self.sub_type)
    }
}

impl DevicePathNode<'_> {
    /// False when the node has no text form here and nothing was written.
    fn write_known(&self, f: &mut fmt::Formatter<'_>) -> Result<bool, fmt::Error> {
        match (self.node_type, self.sub_type, self.data) {
            (END, END_INSTANCE, []) => f.write_str(",")?,
            (1, 1, [function, device]) => write!(f, "Pci({device:#x},{function:#x})")?,
            (2, 1, [0xd0, 0x41, 0x03, 0x0a, a, b, c, d]) => {
                write!(f, "PciRoot({:#x})", u32::from_le_bytes([*a, *b, *c, *d]))?;
            }
            (3, 2, [p0, p1, l0, l1]) => {
                let pun = u16::from_le_bytes([*p0, *p1]);
                let lun = u16::from_le_bytes([*l0, *l1]);
                write!(f, "Scsi({pun:#x},{lun:#x})")?;
            }
            (3, 5, [port, interface]) => write!(f, "USB({port:#x},{interface:#x})")?,
            (3, 18, [a, b, c, d, e, g]) => {
                let port = u16::from_le_bytes([*a, *b]);
                let multiplier = u16::from_le_bytes([*c, *d]);
                let lun = u16::from_le_bytes([*e, *g]);
                write!(f, "Sata({port:#x},{multiplier:#x},{lun:#x})")?;
            }
            (4, 1, data) => return write_hard_drive(f, data),
            (4, 4, data) => match super::utf16(data) {
                Some(path) => f.write_str(&path)?,
                None => return Ok(false),
            },
            (4, sub_type @ (6 | 7), data) => match <[u8; 16]>::try_from(data) {
                Ok(bytes) => {
                    let name = if sub_type == 6 { "FvFile" } else { "Fv" };
                    write!(f, "{name}({})", Guid::from_bytes(bytes))?;
                }
                Err(_) => return Ok(false),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// `HD(partition,GPT,guid,start,size)`; other partition tables stay in hexadecimal.
fn write_hard_drive(f: &mut fmt::Formatter<'_>, data: &[u8]) -> Result<bool, fmt::Error> {
    const GPT: u8 = 2;
    const SIGNATURE_IS_GUID: u8 = 2;
    let mut reader = Reader::new("HARDDRIVE_DEVICE_PATH", data);
    let mut fields = || {
        let partition = reader.u32_le("PartitionNumber")?;
        let start = reader.u64_le("PartitionStart")?;
        let size = reader.u64_le("PartitionSize")?;
        let guid = Guid::read(&mut reader, "PartitionSignature")?;
        let format = reader.u8("PartitionFormat")?;
        let signature_type = reader.u8("SignatureType")?;
        reader.clone().finish()?;
        Ok::<_, Malformed>((partition, start, size, guid, format, signature_type))
    };
    match fields() {
        Ok((partition, start, size, guid, GPT, SIGNATURE_IS_GUID)) => {
            write!(f, "HD({partition},GPT,{guid},{start:#x},{size:#x})")?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The nodes with a slash between them.
pub fn text(nodes: &[DevicePathNode<'_>]) -> String {
    let nodes: Vec<_> = nodes.iter().map(DevicePathNode::to_string).collect();
    nodes.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_boot_path() {
        // From an event of a virtual machine's firmware.
        let path = hex::decode(concat!(
            "02010c00d041030a00000000",
            "010106000003",
            "0302080001000000",
            "04012a000f000000002000000000000000e00300000000002bfbf570345c426c90b1f8f788235",
            "37d0202",
            "040430005c004500460049005c0042004f004f0054005c0042004f004f0054005800360034002e",
            "004500460049000000",
            "7fff0400"
        ))
        .unwrap();
        assert_eq!(
            text(&parse(&path).unwrap()),
            "PciRoot(0x0)/Pci(0x3,0x0)/Scsi(0x1,0x0)/\
             HD(15,GPT,70f5fb2b-5c34-6c42-90b1-f8f78823537d,0x2000,0x3e000)/\
             \\EFI\\BOOT\\BOOTX64.EFI"
        );
        for end in 1..path.len() {
            parse(&path[..end]).unwrap_err();
        }
        let mut trailing = path;
        trailing.push(0);
        parse(&trailing).unwrap_err();
    }

    #[test]
    fn e04_a_hundred_thousand_nodes_are_refused_in_a_loop() {
        let mut path = [0x7f, 0x01, 4, 0].repeat(100_000);
        path.extend([0x7f, 0xff, 4, 0]);
        assert_eq!(parse(&path).unwrap_err().field, "Type");
        for length in 0..4 {
            let error = parse(&[4, 4, length, 0]).unwrap_err();
            assert_eq!(error.field, "Length");
        }
    }
}
