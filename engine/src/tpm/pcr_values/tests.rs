use super::*;
use crate::crypto::digest;

/// A blob of these banks; `lists` are digests by list.
fn blob(banks: &[(u16, u8, [u8; 3])], lists: &[&[Vec<u8>]]) -> Vec<u8> {
    let mut bytes = u32::try_from(banks.len()).unwrap().to_le_bytes().to_vec();
    for place in 0..16 {
        let (hash, size, select) = banks.get(place).copied().unwrap_or_default();
        bytes.extend(hash.to_le_bytes());
        bytes.push(size);
        bytes.extend(select);
        bytes.extend([0, 0]);
    }
    bytes.extend(u32::try_from(lists.len()).unwrap().to_le_bytes());
    for list in lists {
        bytes.extend(u32::try_from(list.len()).unwrap().to_le_bytes());
        for place in 0..8 {
            let digest = list.get(place).cloned().unwrap_or_default();
            bytes.extend(u16::try_from(digest.len()).unwrap().to_le_bytes());
            bytes.extend(&digest);
            bytes.resize(bytes.len() + 64 - digest.len(), 0);
        }
    }
    bytes
}

fn pcr(index: u64) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

#[test]
fn p08_a_list_may_hold_two_banks() {
    let sha1: Vec<_> = (0..7).map(|n| vec![n; 20]).collect();
    let first = [&sha1[..], &[vec![0xaa; 32]]].concat();
    let second = [vec![0xbb; 32]];
    let banks = [(0x04, 3, [0x7f, 0, 0]), (0x0b, 3, [0x80, 0, 0x80])];
    let bytes = blob(&banks, &[&first, &second]);
    assert_eq!(bytes.len(), 132 + 4 + 532 * 2);
    let (selection, values) = parse_pcr_blob(&bytes).unwrap();
    assert_eq!(selection.to_string(), "sha1:0,1,2,3,4,5,6+sha256:7,23");
    assert_eq!(values.len(), 9);
    let value = values.get(HashAlg::Sha1, pcr(6)).unwrap();
    assert_eq!(value.as_bytes(), [6; 20]);
    let value = values.get(HashAlg::Sha256, pcr(7)).unwrap();
    assert_eq!(value.as_bytes(), [0xaa; 32]);
    let value = values.get(HashAlg::Sha256, pcr(23)).unwrap();
    assert_eq!(value.as_bytes(), [0xbb; 32]);

    let mut message = sha1.concat();
    message.extend([[0xaa; 32], [0xbb; 32]].concat());
    let expected = digest(HashAlg::Sha384, &message);
    let found = pcr_digest(HashAlg::Sha384, &selection, &values);
    assert_eq!(found, Ok(expected));
    let swapped = PcrSelection::new(
        [HashAlg::Sha256, HashAlg::Sha1]
            .into_iter()
            .map(|bank| (bank, selection.pcrs(bank))),
    )
    .unwrap();
    assert_ne!(pcr_digest(HashAlg::Sha384, &swapped, &values), Ok(expected));
}

#[test]
fn p02_a_missing_value_is_named_and_unselected_values_do_not_matter() {
    let selection = PcrSelection::new([(HashAlg::Sha256, PcrSet::from_select([3, 0, 0]))]).unwrap();
    let mut values = PcrValues::new();
    values.insert(pcr(0), Digest::zero(HashAlg::Sha256));
    values.insert(pcr(1), Digest::zero(HashAlg::Sha1));
    let missing = MissingPcr {
        bank: HashAlg::Sha256,
        pcr: pcr(1),
    };
    let found = pcr_digest(HashAlg::Sha256, &selection, &values);
    assert_eq!(found, Err(missing));
    values.insert(pcr(1), Digest::ones(HashAlg::Sha256));
    let complete = pcr_digest(HashAlg::Sha256, &selection, &values).unwrap();
    values.insert(pcr(9), Digest::ones(HashAlg::Sha256));
    let found = pcr_digest(HashAlg::Sha256, &selection, &values);
    assert_eq!(found, Ok(complete));
}

#[test]
fn p02_blobs_with_missing_extra_or_odd_digests_are_malformed() {
    let bank = (0x0b, 3, [3, 0, 0]);
    let value = vec![7; 32];
    let two = [value.clone(), value.clone()];
    let three = [value.clone(), value.clone(), value.clone()];
    let short = [value.clone(), vec![7; 20]];
    assert!(parse_pcr_blob(&blob(&[bank], &[&two])).is_ok());
    for (banks, list, field) in [
        (&[bank][..], &two[..1], "digests"),
        (&[bank], &three, "digests.count"),
        (&[bank], &short, "digest.size"),
        (&[bank, bank], &two, "selection.hash"),
        (&[(0x12, 3, [3, 0, 0])], &two, "selection.hash"),
        (&[(0x0b, 2, [3, 0, 0])], &two, "selection.sizeofSelect"),
        (&[(0x0b, 4, [3, 0, 0])], &two, "selection.sizeofSelect"),
    ] {
        let error = parse_pcr_blob(&blob(banks, &[list])).unwrap_err();
        assert_eq!(error.field, field, "{error}");
    }
}

#[test]
fn q07_blobs_have_one_exact_length_and_counts_in_range() {
    let bytes = blob(&[(0x0b, 3, [1, 0, 0])], &[&[vec![7; 32]]]);
    for length in 0..bytes.len() {
        assert!(parse_pcr_blob(&bytes[..length]).is_err());
    }
    assert!(parse_pcr_blob(&[&bytes[..], &[0]].concat()).is_err());
    // Counts of selections, lists and digests; the size of a digest that the count leaves out.
    for (offset, value) in [
        (0, 17),
        (0, 0xff),
        (132, 2),
        (135, 0xff),
        (136, 9),
        (206, 32),
    ] {
        let mut changed = bytes.clone();
        changed[offset] = value;
        assert!(parse_pcr_blob(&changed).is_err(), "byte {offset}");
    }
}

#[test]
fn json_of_either_case_is_read() {
    let json = format!(
        r#"{{"sha1": {{"23": "{}"}}, "sha256": {{"0": "{}", "10": "{}"}}, "sha512": {{}}}}"#,
        "aB".repeat(20),
        "00".repeat(32),
        "FF".repeat(32)
    );
    let values = parse_pcr_json(json.as_bytes()).unwrap();
    assert_eq!(values.len(), 3);
    let value = values.get(HashAlg::Sha1, pcr(23)).unwrap();
    assert_eq!(value.as_bytes(), [0xab; 20]);
}

#[test]
fn json_refusals_name_the_place() {
    let zero = "00".repeat(32);
    let bank = HashAlg::Sha256;
    let cases = [
        (
            format!(r#"{{"sha256":{{"0":"{zero}","0":"{zero}"}}}}"#),
            PcrJsonError::Index { bank, nth: 2 },
        ),
        (
            r#"{"sha256":{},"sha256":{}}"#.into(),
            PcrJsonError::Bank { nth: 2 },
        ),
        (r#"{"SHA256":{}}"#.into(), PcrJsonError::Bank { nth: 1 }),
        (r#"{"sm3_256":{}}"#.into(), PcrJsonError::Bank { nth: 1 }),
        (
            r#"{"sha256":{"0":"0x00"}}"#.into(),
            PcrJsonError::Value { bank, pcr: pcr(0) },
        ),
        (
            format!(r#"{{"sha256":{{"0":"{zero}0"}}}}"#),
            PcrJsonError::Value { bank, pcr: pcr(0) },
        ),
    ];
    for (json, expected) in cases {
        assert_eq!(parse_pcr_json(json.as_bytes()), Err(expected), "{json}");
    }
    for index in [
        "24",
        "-1",
        "+1",
        "01",
        "1 ",
        "",
        "0x1",
        "99999999999999999999",
    ] {
        let json = format!(r#"{{"sha256":{{"{index}":"{zero}"}}}}"#);
        let expected = PcrJsonError::Index { bank, nth: 1 };
        assert_eq!(parse_pcr_json(json.as_bytes()), Err(expected), "{index}");
    }
}

#[test]
fn x01_json_of_other_shapes_is_a_syntax_error() {
    let deep = "[".repeat(60_000);
    let deep_member = format!(r#"{{"sha256":{{"0":{deep}"#);
    for json in [
        "",
        "null",
        "[]",
        "{} {}",
        r#"{"sha256":1}"#,
        "{\"sha256\":{\"0\":1}}",
    ] {
        let error = parse_pcr_json(json.as_bytes());
        assert!(matches!(error, Err(PcrJsonError::Syntax { .. })), "{json}");
    }
    for json in [&deep, &deep_member] {
        let error = parse_pcr_json(json.as_bytes());
        assert!(matches!(error, Err(PcrJsonError::Syntax { .. })));
    }
    let long = " ".repeat(limits::PCR_JSON_BYTES_MAX + 1);
    let error = parse_pcr_json(long.as_bytes());
    assert!(matches!(error, Err(PcrJsonError::TooLong { .. })));
}
