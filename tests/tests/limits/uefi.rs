//! Limits on event logs and the structures in their events.

use rat_engine::limits;
use rat_engine::uefi::decode::variable::UefiVariable;
use rat_engine::uefi::decode::{device_path, signature_list};
use rat_engine::uefi::{EventLog, UefiError};

use crate::refused::refused_above;

const NO_ACTION: u32 = 3;
const POST_CODE: u32 = 1;

/// One event in the form of TPM 1.2, of PCR 0.
fn event(event_type: u32, digest: [u8; 20], data: &[u8]) -> Vec<u8> {
    let size = u32::try_from(data.len()).unwrap();
    let head = [0, event_type].map(u32::to_le_bytes).concat();
    [&head[..], &digest, &size.to_le_bytes(), data].concat()
}

/// Panics unless the first log is not refused for this limit, and the second is.
#[track_caller]
fn limited(name: &str, max: usize, at: &[u8], above: &[u8]) {
    let at = EventLog::parse(at);
    assert!(!matches!(at, Err(UefiError::Limit { .. })), "{at:?}");
    match EventLog::parse(above) {
        Err(UefiError::Limit {
            limit,
            value,
            max: found,
            ..
        }) => assert_eq!((limit, value, found), (name, max + 1, max)),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn log_bytes() {
    let max = limits::UEFI_LOG_BYTES_MAX;
    let log = vec![1; max + 1];
    limited("UEFI_LOG_BYTES_MAX", max, &log[..max], &log);
}

pub(crate) fn events() {
    let max = limits::UEFI_EVENTS_MAX;
    let log = |events: usize| event(POST_CODE, [9; 20], b"x").repeat(events);
    assert_eq!(EventLog::parse(&log(max)).unwrap().events().len(), max);
    limited("UEFI_EVENTS_MAX", max, &log(max), &log(max + 1));
}

pub(crate) fn event_bytes() {
    let max = limits::UEFI_EVENT_BYTES_MAX;
    let log = |bytes: usize| event(POST_CODE, [9; 20], &vec![1; bytes]);
    assert!(EventLog::parse(&log(max)).is_ok());
    limited("UEFI_EVENT_BYTES_MAX", max, &log(max), &log(max + 1));
}

/// What is said of the header of a crypto-agile log with these algorithms and digest sizes.
fn header(algorithms: &[(u16, usize)]) -> Result<(), UefiError> {
    let mut data = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    data.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    for (id, size) in algorithms {
        data.extend(id.to_le_bytes());
        data.extend(u16::try_from(*size).unwrap().to_le_bytes());
    }
    data.push(0);
    EventLog::parse(&event(NO_ACTION, [0; 20], &data)).map(drop)
}

pub(crate) fn algorithms() {
    let max = limits::UEFI_ALGORITHMS_MAX;
    let with = |count: usize| {
        let algorithms: Vec<_> = (0x100..).take(count).map(|id| (id, 1)).collect();
        header(&algorithms)
    };
    assert_eq!(with(max), Ok(()));
    refused_above(max, Ok(()), with(max + 1));
}

pub(crate) fn digest_bytes() {
    let max = limits::UEFI_DIGEST_BYTES_MAX;
    let unregistered = 0x0099;
    assert_eq!(header(&[(unregistered, max)]), Ok(()));
    refused_above(max, Ok(()), header(&[(unregistered, max + 1)]));
}

pub(crate) fn variable_name_bytes() {
    let max = limits::UEFI_VARIABLE_NAME_BYTES_MAX;
    let variable = |characters: usize| {
        let mut data = vec![0; 16];
        data.extend((characters as u64).to_le_bytes());
        data.extend(0_u64.to_le_bytes());
        data.extend(b"n\0".repeat(characters));
        data
    };
    // A character has two bytes.
    let (at, above) = (variable(max / 2), variable(max / 2 + 1));
    assert_eq!(UefiVariable::parse(&at).unwrap().name.len(), max / 2);
    refused_above(max, UefiVariable::parse(&at), UefiVariable::parse(&above));
}

pub(crate) fn signatures() {
    let max = limits::UEFI_SIGNATURES_MAX;
    // One list, and two whose sum it is.
    for lists in [&[0][..], &[1, 0]] {
        let database = |count: usize| {
            let first: usize = lists.iter().sum();
            let counts = [first, count - first];
            let counts = &counts[2 - lists.len()..];
            let list = |count: &usize| {
                let sizes = [28 + count * 16, 0, 16].map(|n| u32::try_from(n).unwrap());
                let sizes = sizes.map(u32::to_le_bytes).concat();
                [&[0; 16][..], &sizes, &vec![0; count * 16]].concat()
            };
            counts.iter().flat_map(list).collect::<Vec<_>>()
        };
        let (at, above) = (database(max), database(max + 1));
        let at = signature_list::parse(&at);
        assert_eq!(at.as_ref().unwrap().len(), lists.len());
        refused_above(max, at, signature_list::parse(&above));
    }
}

pub(crate) fn device_path_nodes() {
    let max = limits::UEFI_DEVICE_PATH_NODES_MAX;
    let path = |nodes: usize| [[1, 1, 6, 0, 0, 0].repeat(nodes), vec![0x7f, 0xff, 4, 0]].concat();
    let (at, above) = (path(max), path(max + 1));
    let at = device_path::parse(&at);
    assert_eq!(at.as_ref().unwrap().len(), max);
    refused_above(max, at, device_path::parse(&above));
}
