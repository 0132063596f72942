//! Limits on measurement lists and the keys of file signatures.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::hash::HashAlg;
use rat_engine::ima::{DecodeError, Decoder, EntryFault, Event, LogFormat, Template};
use rat_engine::limits;
use rat_engine::policy::{Fault, PolicyError, RuntimePolicy, VerificationKeysError};
use rat_tests::evidence::{Expectation, Judged, Machine, policy_json};
use rat_tests::measured::Measured;
use rat_tests::measured_keys::{SigningKey, policy_with_keyring};

use crate::refused::refused_above;

/// The entries of a list that is fed in one piece.
fn decode(format: LogFormat, limit_bytes: u64, list: &[u8]) -> Result<u64, DecodeError> {
    let mut decoder = Decoder::new(format, HashAlg::Sha1, limit_bytes);
    decoder.feed(list, &mut |_| {})?;
    decoder.finish(&mut |_| {})?;
    Ok(decoder.entries())
}

pub(crate) fn entry_bytes() {
    let max = limits::IMA_ENTRY_BYTES_MAX;
    let fixed = Measured::buffer("kexec-cmdline", b"").data().len();
    let entry = |bytes: usize| Measured::buffer("kexec-cmdline", &vec![1; bytes - fixed]);
    let (at, above) = (entry(max), entry(max + 1));
    assert_eq!(at.data().len(), max);
    for (format, at, above) in [
        (
            LogFormat::Binary,
            at.binary(HashAlg::Sha1),
            above.binary(HashAlg::Sha1),
        ),
        (
            LogFormat::Ascii,
            at.ascii(HashAlg::Sha1),
            above.ascii(HashAlg::Sha1),
        ),
    ] {
        assert_eq!(decode(format, u64::MAX, &at), Ok(1));
        refused_above(max, Ok(1), decode(format, u64::MAX, &above));
    }
    // One field of an event that did not come through a decoder.
    let field = |bytes: usize| {
        let length = u32::try_from(bytes).unwrap().to_le_bytes();
        [&length[..], &vec![1; bytes]].concat()
    };
    refused_above(
        max,
        Event::parse(Template::ImaNg, &field(max)),
        Event::parse(Template::ImaNg, &field(max + 1)),
    );
}

pub(crate) fn line_bytes() {
    let max = limits::IMA_LINE_BYTES_MAX;
    for end in [&b""[..], b"\n"] {
        let line = |bytes: usize| [&vec![b'1'; bytes], end].concat();
        let decode = |bytes| decode(LogFormat::Ascii, u64::MAX, &line(bytes));
        refused_above(max, decode(max), decode(max + 1));
    }
}

pub(crate) fn log_bytes() {
    let max = limits::IMA_LOG_BYTES_MAX;
    let too_long = |result: Result<u64, DecodeError>| match result {
        Err(DecodeError {
            fault: EntryFault::LogTooLong { limit_bytes },
            ..
        }) => Some(limit_bytes),
        _ => None,
    };
    // One large entry, fed again and again: the decoder copies nothing of it.
    let entry = Measured::buffer("b", &vec![0; 1 << 18]).binary(HashAlg::Sha1);
    let mut decoder = Decoder::new(LogFormat::Binary, HashAlg::Sha1, u64::MAX);
    for _ in 0..max / entry.len() {
        decoder.feed(&entry, &mut |_| {}).unwrap();
    }
    let above = decoder.feed(&entry, &mut |_| {});
    assert_eq!(too_long(above.map(|()| 0)), Some(max as u64));

    let list = Measured::file("/usr/bin/ls", b"ls").binary(HashAlg::Sha1);
    let length = list.len() as u64;
    assert_eq!(decode(LogFormat::Binary, length, &list), Ok(1));
    let above = decode(LogFormat::Binary, length - 1, &list);
    assert_eq!(too_long(above), Some(length - 1));
}

pub(crate) fn name_bytes() {
    let max = limits::IMA_NAME_BYTES_MAX;
    let data = |bytes: usize| Measured::file(&"n".repeat(bytes), b"").data();
    let (at, above) = (data(max), data(max + 1));
    let at = Event::parse(Template::ImaNg, &at);
    assert_eq!(at.unwrap().name.len(), max);
    refused_above(max, at, Event::parse(Template::ImaNg, &above));
}

/// The fault of a policy that has this member beside empty ones.
fn fault_with(member: &str, value: serde_json::Value) -> Option<Fault> {
    let empty = policy_json(serde_json::json!({}), &[]);
    let mut policy: serde_json::Value = serde_json::from_str(&empty).unwrap();
    policy[member] = value;
    match RuntimePolicy::parse(policy.to_string().as_bytes()) {
        Ok(_) => None,
        Err(PolicyError::Content { fault, .. }) => Some(fault),
        Err(other) => panic!("{other:?}"),
    }
}

fn fault_with_keys(keys: &[Vec<u8>]) -> Option<Fault> {
    let pubkeys: Vec<_> = keys.iter().map(|key| BASE64.encode(key)).collect();
    let keyring = serde_json::json!({ "pubkeys": pubkeys }).to_string();
    fault_with("verification-keys", keyring.into())
}

/// What is said of a machine whose kernel added this many approved keys to a keyring.
fn judge_added_keys(count: usize) -> Judged {
    let nonce = b"nonce of 16 byte";
    let machine = Machine::valid();
    let key = Measured::buffer(".ima", &SigningKey::p256().spki_der());
    let policy = policy_with_keyring(&machine.policy(), ".ima", &key.digest);
    let machine = machine.with(|machine| machine.list.extend(vec![key; count]));
    let expectation = Expectation::of(&machine, nonce).with(|e| e.policy = Some(policy));
    expectation.judge(&machine.attest(nonce))
}

pub(crate) fn keys() {
    let max = limits::IMA_KEYS_MAX;
    let limit = Fault::Limit {
        limit: "IMA_KEYS_MAX",
        max,
    };
    let ignoring = |keyrings: usize| {
        let names: Vec<_> = (0..keyrings).map(|n| format!("keyring{n}")).collect();
        fault_with("ima", serde_json::json!({ "ignored_keyrings": names }))
    };
    assert_eq!(ignoring(max), None);
    assert_eq!(ignoring(max + 1), Some(limit));

    let listing = |keys: usize| fault_with_keys(&vec![vec![1]; keys]);
    let too_many = VerificationKeysError::TooMany { found: max + 1 };
    assert_eq!(listing(max), None);
    assert_eq!(listing(max + 1), Some(Fault::VerificationKeys(too_many)));

    judge_added_keys(max).is_trusted();
    judge_added_keys(max + 1).is_refused_with("ima.keys_too_many");
}

pub(crate) fn key_bytes() {
    let max = limits::IMA_KEY_BYTES_MAX;
    let with = |bytes: usize| fault_with_keys(&[vec![1; bytes]]);
    let size = VerificationKeysError::KeySize {
        index: 0,
        bytes: max + 1,
    };
    assert_eq!(with(max), None);
    assert_eq!(with(max + 1), Some(Fault::VerificationKeys(size)));
}
