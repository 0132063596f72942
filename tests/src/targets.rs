//! Fuzz targets: one function for each decoder, and for what stands on several of them.
//!
//! `fuzz/` gives these to libFuzzer; `tests/fuzz_corpora.rs` replays the committed corpora and the
//! recorded evidence through them. A target panics when something that must hold for every input
//! does not.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use rat_engine::appraisal::{Appraisal, Reference, Rules};
use rat_engine::crypto::{self, FileKey, VerifyingKey};
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::boot_aggregate::BootAggregates;
use rat_engine::ima::judge::{Judge, check_form};
use rat_engine::ima::{
    BankScheme, Decoder, DigestOf, Event, FileSignature, ImaAppraiser, ImaOptions, LogFormat,
    MeasuredDigest, Start, Template,
};
use rat_engine::limits;
use rat_engine::malformed::Malformed;
use rat_engine::pcr::{PcrIndex, PcrSet, PcrValues};
use rat_engine::pcr_policy::PcrPolicy;
use rat_engine::policy::exclude::Pattern;
use rat_engine::policy::{RuntimePolicy, lint};
use rat_engine::tpm::attributes::{check_attestation_key, check_endorsement_key};
use rat_engine::tpm::pcr_values::{parse_pcr_blob, parse_pcr_json};
use rat_engine::tpm::{Attest, PcrSelection, Public, Signature, attest as tpm_attest};
use rat_engine::uefi::decode::{device_path, event_data, signature_list, variable::UefiVariable};
use rat_engine::uefi::{EventLog, compare};
use rat_engine::verdict::Verdict;
use rat_transport::quic::wire::{Frame, FrameType, PREAMBLE_BYTES};

use crate::{sequences, vectors};

mod boot;
mod enrolment;
mod evidence;
mod lanes;
mod policy_sources;
mod polled;
mod requests;
mod zeromq;
pub use boot::{boot_content, boot_policy};
pub use enrolment::{agent_certificate, certificate_request, ek_certificate};
pub use evidence::verify_evidence;
pub use lanes::{p256_lanes, rsa_lanes};
pub use policy_sources::{allowlist, dsse, initramfs, rpm_header};
pub use polled::pull_answer;
pub use requests::{core_json, keylime_registration};
pub use zeromq::zeromq_peer;

/// A target: it takes any bytes, and panics only for a fault of the engine.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its folder in `fuzz/corpus`.
pub const ALL: [(&str, Target); 34] = [
    ("agent_certificate", agent_certificate),
    ("allowlist", allowlist),
    ("appraisal", appraisal),
    ("attest", attest),
    ("boot_content", boot_content),
    ("boot_policy", boot_policy),
    ("certificate_request", certificate_request),
    ("core_json", core_json),
    ("dsse", dsse),
    ("ek_certificate", ek_certificate),
    ("exclude_pattern", exclude_pattern),
    ("file_signature", file_signature),
    ("ima_ascii", ima_ascii),
    ("ima_binary", ima_binary),
    ("ima_splits", ima_splits),
    ("initramfs", initramfs),
    ("keylime_registration", keylime_registration),
    ("keyring_buffer", keyring_buffer),
    ("p256_lanes", p256_lanes),
    ("pcr_blob", pcr_blob),
    ("pcr_json", pcr_json),
    ("pcr_selection", pcr_selection),
    ("public", public),
    ("pull_answer", pull_answer),
    ("rpm_header", rpm_header),
    ("rsa_lanes", rsa_lanes),
    ("runtime_policy", runtime_policy),
    ("shard_sequences", shard_sequences),
    ("signature", signature),
    ("tpm_policy", tpm_policy),
    ("uefi_event_log", uefi_event_log),
    ("verify_evidence", verify_evidence),
    ("wire_frame", wire_frame),
    ("zeromq_peer", zeromq_peer),
];

/// The same bytes with one more, which no exact parser may take if it took them alone.
fn one_longer(data: &[u8]) -> Vec<u8> {
    [data, &[0]].concat()
}

/// TPMS_ATTEST, bare or in a TPM2B_ATTEST.
pub fn attest(data: &[u8]) {
    let Ok(bytes) = tpm_attest::attest_bytes(data) else {
        return;
    };
    if let Ok(parsed) = Attest::parse(bytes) {
        assert!(parsed.extra_data.len() <= limits::QUALIFYING_DATA_BYTES_MAX);
        assert!(Attest::parse(&one_longer(bytes)).is_err());
        let sized = [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        assert_eq!(tpm_attest::attest_bytes(&sized), Ok(bytes));
    }
}

/// TPMT_SIGNATURE, and whether it verifies under a key that did not make it.
pub fn signature(data: &[u8]) {
    let Ok(parsed) = Signature::parse(data) else {
        return;
    };
    assert!(Signature::parse(&one_longer(data)).is_err());
    let message = b"a message that nobody signed";
    let evidence = Genuine::get();
    assert!(evidence.key.verify(&parsed, message, true).is_err());
}

/// TPMT_PUBLIC or TPM2B_PUBLIC: parsed, named, its attributes checked, made a key.
pub fn public(data: &[u8]) {
    let Ok(parsed) = Public::parse(data) else {
        return;
    };
    assert!(Public::parse(&one_longer(data)).is_err());
    assert_eq!(parsed.name().to_bytes(), parsed.name().to_bytes());
    let _ = check_endorsement_key(&parsed);
    let strict = check_attestation_key(&parsed, false);
    let lax = check_attestation_key(&parsed, true);
    assert!(strict.is_err() || lax.is_ok(), "SHA-1 allowed refuses more");
    let _ = VerifyingKey::from_tpm(&parsed);
}

/// TPML_PCR_SELECTION.
pub fn pcr_selection(data: &[u8]) {
    if let Ok(selection) = PcrSelection::parse(data) {
        assert!(PcrSelection::parse(&one_longer(data)).is_err());
        let again = PcrSelection::new(selection.banks()).expect("the same banks");
        assert!(again.same_pcrs(&selection));
    }
}

/// The PCR blob of tpm2-tools and Keylime.
pub fn pcr_blob(data: &[u8]) {
    if let Ok((selection, values)) = parse_pcr_blob(data) {
        assert!(parse_pcr_blob(&one_longer(data)).is_err());
        for (bank, pcrs) in selection.banks() {
            assert_eq!(values.pcrs(bank), pcrs);
        }
    }
}

/// PCR values in JSON, by bank and index.
pub fn pcr_json(data: &[u8]) {
    if let Ok(values) = parse_pcr_json(data) {
        assert!(values.len() <= limits::PCR_COUNT * HashAlg::ALL.len());
        for (bank, pcr, value) in values.iter() {
            assert_eq!((value.alg(), values.get(bank, pcr)), (bank, Some(value)));
        }
    }
}

/// A measurement list in ascii form.
pub fn ima_ascii(data: &[u8]) {
    let entries = decode(LogFormat::Ascii, HashAlg::Sha1, data);
    let lines = data.split(|byte| *byte == b'\n');
    assert!(entries <= lines.filter(|line| !line.is_empty()).count() as u64);
    decode(LogFormat::Ascii, HashAlg::Sha256, data);
}

/// A measurement list in binary form.
pub fn ima_binary(data: &[u8]) {
    // PCR, template hash, name of three bytes with its length, digest, name of one with its length.
    let shortest = 4 + 20 + 4 + 3 + 4 + 1;
    let entries = decode(LogFormat::Binary, HashAlg::Sha1, data);
    assert!(entries <= (data.len() / shortest) as u64);
    decode(LogFormat::Binary, HashAlg::Sha256, data);
}

/// Decodes a list and reads the fields of each entry; returns how many entries there were.
fn decode(format: LogFormat, log_hash: HashAlg, log: &[u8]) -> u64 {
    let mut decoder = Decoder::new(format, log_hash, u64::MAX);
    let mut seen = 0;
    let mut sink = |entry: rat_engine::ima::Entry<'_>| {
        seen += 1;
        if let Ok(event) = Event::parse(entry.template, entry.data) {
            assert!(!event.name.contains(&0) && !event.name.contains(&b' '));
            let _ = check_form(&event);
        }
    };
    let fed = decoder.feed(log, &mut sink);
    if fed.is_ok() {
        let _ = decoder.finish(&mut sink);
    }
    assert_eq!(decoder.entries(), seen);
    assert!(decoder.offset_bytes() <= log.len() as u64);
    seen
}

/// The front of an input of [`ima_splits`].
pub const SPLIT_HEADER_BYTES: usize = 12;

/// The outcome of a list is the same however it is cut into pieces.
///
/// Input: format and template hash, limit, entries before the quote, piece sizes, then the list.
pub fn ima_splits(data: &[u8]) {
    let Some((header, log)) = data.split_first_chunk::<SPLIT_HEADER_BYTES>() else {
        return;
    };
    let [kind, limit, quoted_low, quoted_high, sizes @ ..] = *header;
    let format = if kind & 1 == 0 {
        LogFormat::Ascii
    } else {
        LogFormat::Binary
    };
    let options = ImaOptions {
        format,
        log_hash: HashAlg::ALL[usize::from(kind >> 1) % 4],
        scheme: if kind & 8 == 0 {
            BankScheme::OwnHash
        } else {
            BankScheme::PaddedSha1
        },
        limit_bytes: match limit {
            0 => u64::MAX,
            n => u64::from(n) * 16,
        },
        ..ImaOptions::default()
    };
    let cut = u16::from_le_bytes([quoted_low, quoted_high]);
    let quoted = quoted_after(u64::from(cut), &options, log);
    let outcome = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let boot = BootAggregates::default();
        let mut appraiser =
            ImaAppraiser::new(&quoted, options.clone(), Start::First, boot, None).unwrap();
        for piece in pieces {
            appraiser.feed(piece);
        }
        format!("{:?}", appraiser.finish())
    };
    let whole = outcome(&mut std::iter::once(log));
    let mut rest = log;
    let mut sizes = sizes.iter().cycle();
    let mut pieces = std::iter::from_fn(|| {
        let size = usize::from(*sizes.next()?) + 1;
        let (piece, tail) = rest.split_at(size.min(rest.len()));
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(whole, outcome(&mut pieces));
}

/// The values that PCR 10 would have after this many entries of a list.
fn quoted_after(entries: u64, options: &ImaOptions, log: &[u8]) -> PcrValues {
    let mut banks = [HashAlg::Sha1, HashAlg::Sha256].map(Digest::zero);
    let mut decoder = Decoder::new(options.format, options.log_hash, u64::MAX);
    let mut seen = 0;
    let mut sink = |entry: rat_engine::ima::Entry<'_>| {
        if seen < entries {
            for value in &mut banks {
                let bank = value.alg();
                let hash = match options.scheme {
                    BankScheme::OwnHash => bank,
                    BankScheme::PaddedSha1 => HashAlg::Sha1,
                };
                let event = if entry.is_violation() {
                    Digest::ones(hash)
                } else {
                    crypto::digest(hash, entry.data)
                };
                let mut padded = event.as_bytes().to_vec();
                padded.resize(bank.size(), 0);
                *value = crypto::extend(value, &Digest::new(bank, &padded).unwrap());
            }
        }
        seen += 1;
    };
    if decoder.feed(log, &mut sink).is_ok() {
        let _ = decoder.finish(&mut sink);
    }
    let mut values = PcrValues::new();
    for value in banks {
        values.insert(PcrIndex::IMA, value);
    }
    values
}

/// A firmware event log: parsed, replayed in every bank, every event decoded.
pub fn uefi_event_log(data: &[u8]) {
    let show = |parsed: Result<String, Malformed>| parsed.map_or(0, |text| text.len());
    show(UefiVariable::parse(data).map(|parsed| format!("{:?}", parsed.secure_boot_enabled())));
    show(signature_list::parse(data).map(|lists| lists.len().to_string()));
    show(device_path::parse(data).map(|nodes| device_path::text(&nodes)));
    let Ok(log) = EventLog::parse(data) else {
        return;
    };
    for event in log.events() {
        let _ = event_data(event.event_type(), event.unverified_data());
    }
    for bank in log.banks() {
        let Ok(replay) = log.replay(bank) else {
            continue;
        };
        let compared = replay.measured().intersection(PcrSet::BOOT);
        if compared.is_empty() {
            continue;
        }
        let proof = compare(&replay, replay.values(), compared);
        assert!(proof.is_ok(), "a log does not equal its own replay");
        let mut others = PcrValues::new();
        for (_, pcr, _) in replay.values().iter() {
            others.insert(pcr, Digest::ones(bank));
        }
        assert!(compare(&replay, &others, compared).is_err());
    }
}

/// A runtime policy: parsed, compiled and asked.
pub fn runtime_policy(data: &[u8]) {
    let Ok(parsed) = RuntimePolicy::parse(data) else {
        return;
    };
    let policy = parsed.compiled();
    for path in [&b""[..], b"/usr/bin/bash", b"boot_aggregate", b"\xff/\xfe"] {
        let _ = policy.excluded(path);
        let _ = policy.lookup(path, b"sha256", &[0; 32]);
        let _ = policy.lookup_buffer(path, b"sha256", &[0; 32]);
        let _ = policy.lookup_keyring(path, b"sha256", &[0; 32]);
        let _ = policy.ignores_keyring(path);
    }
    let _ = Judge::new(parsed.clone().into());
    let _ = lint(&parsed);
    let again = RuntimePolicy::parse(data);
    assert!(again.is_ok_and(|again| again.compiled().digest() == policy.digest()));
}

/// An exclude pattern, then a newline, then a path.
pub fn exclude_pattern(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (source, path) = text.split_once('\n').unwrap_or((text, "/usr/bin/bash"));
    if let Ok(pattern) = Pattern::compile(source) {
        assert_eq!(pattern.excludes(path), pattern.excludes(path));
        assert_eq!(pattern.source(), source);
    }
}

/// Keylime's `tpm_policy`: parsed, and held against values.
pub fn tpm_policy(data: &[u8]) {
    let Ok(policy) = PcrPolicy::parse(data) else {
        return;
    };
    let mut values = PcrValues::new();
    for pcr in 0..limits::PCR_COUNT as u64 {
        for bank in HashAlg::ALL {
            values.insert(PcrIndex::new(pcr).unwrap(), Digest::zero(bank));
        }
    }
    let _ = policy.check(&values);
    let checked = policy.check(&PcrValues::new());
    assert_eq!(checked.is_ok(), policy.demanded().is_empty());
}

/// The signature field of `ima-sig`, in each of the templates that have one.
pub fn file_signature(data: &[u8]) {
    let parsed = FileSignature::parse(data);
    if parsed.is_ok() {
        assert!(FileSignature::parse(&one_longer(data)).is_err());
    }
    for template in [Template::ImaSig, Template::ImaSigV2, Template::ImaModSig] {
        let event = Event {
            template,
            digest: MeasuredDigest {
                of: DigestOf::Content,
                alg: b"sha256",
                bytes: &[0; 32],
            },
            name: b"/file",
            tail: data,
        };
        assert_eq!(
            check_form(&event).is_ok(),
            data.is_empty() || parsed.is_ok()
        );
    }
}

/// A key as a keyring's measured buffer or a policy holds it.
pub fn keyring_buffer(data: &[u8]) {
    for key in [FileKey::from_der(data), FileKey::from_pem(data)]
        .into_iter()
        .flatten()
    {
        assert!(key.verify_prehash("sha256", &[7; 32], &[1; 256]).is_err());
    }
    let _ = VerifyingKey::from_spki_der(data);
    let _ = VerifyingKey::from_pem(data);
}

/// Complete evidence of a real machine, and a policy that it satisfies.
struct Genuine {
    key: Arc<VerifyingKey>,
    parts: [Vec<u8>; 5],
    judge: Arc<Judge>,
}

impl Genuine {
    const FOLDER: &str = "sets/hpe-rsa-sha256-ima780-uefi";

    fn get() -> &'static Self {
        static GENUINE: OnceLock<Genuine> = OnceLock::new();
        GENUINE.get_or_init(Self::read)
    }

    fn read() -> Self {
        let file = |name: &str| vectors::read(&format!("{}/{name}", Self::FOLDER));
        let quote = vectors::json(&format!("{}/quote.json", Self::FOLDER));
        let nonce = hex::decode(quote["nonce_hex"].as_str().unwrap()).unwrap();
        let log = file("ima_log.ascii");
        let mut digests = BTreeMap::new();
        let mut decoder = Decoder::new(LogFormat::Ascii, HashAlg::Sha1, u64::MAX);
        let mut list = |entry: rat_engine::ima::Entry<'_>| {
            let event = Event::parse(entry.template, entry.data).unwrap();
            let name = String::from_utf8(event.name.to_vec()).unwrap();
            let of_path: &mut Vec<String> = digests.entry(name).or_default();
            of_path.push(hex::encode(event.digest.bytes));
        };
        decoder.feed(&log, &mut list).unwrap();
        decoder.finish(&mut list).unwrap();
        digests.remove("boot_aggregate");
        let json = crate::evidence::policy_json(serde_json::to_value(digests).unwrap(), &[]);
        let policy = RuntimePolicy::parse(json.as_bytes()).unwrap();
        Self {
            key: VerifyingKey::from_pem(&file("ak.pem")).unwrap().into(),
            parts: [
                file("quote.msg"),
                file("quote.sig"),
                quote["pcrs"].to_string().into_bytes(),
                log,
                nonce,
            ],
            judge: Judge::new(policy.into()).unwrap().into(),
        }
    }

    /// The hashed data of the entries that a list holds, as far as it can be decoded.
    fn entries(log: &[u8]) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        let mut decoder = Decoder::new(LogFormat::Ascii, HashAlg::Sha1, u64::MAX);
        let mut keep = |entry: rat_engine::ima::Entry<'_>| entries.push(entry.data.to_vec());
        if decoder.feed(log, &mut keep).is_ok() {
            let _ = decoder.finish(&mut keep);
        }
        entries
    }
}

/// A frame of the evidence protocol, and the same bytes as the body of every type of frame.
///
/// What decodes is the encoding of what it decodes to, and nothing longer decodes.
pub fn wire_frame(data: &[u8]) {
    check_frame(data);
    for frame_type in FrameType::ALL {
        let length = (data.len() as u32).to_le_bytes();
        let preamble = [
            b"RATD\x01\x01",
            &frame_type.number().to_le_bytes()[..],
            &length,
        ]
        .concat();
        assert_eq!(preamble.len(), PREAMBLE_BYTES);
        check_frame(&[&preamble, data].concat());
    }
}

fn check_frame(bytes: &[u8]) {
    let Ok(frame) = Frame::decode(bytes) else {
        return;
    };
    assert!(Frame::decode(&one_longer(bytes)).is_err());
    let encoded = frame.encode();
    // A verdict's code may be from another version, and extensions are not kept.
    match Frame::decode(&encoded.expect("what was read can be written")) {
        Ok(again) => assert!(again == frame || frame.frame_type() == FrameType::Verdict),
        Err(error) => panic!("{error}"),
    }
}

/// Size of one edit in an input of [`appraisal`].
const EDIT_BYTES: usize = 6;
const EDITS_MAX: usize = 64;

/// Genuine evidence after edits: never trusted unless what was signed and hashed is unchanged.
///
/// Input: edits of six bytes (part, offset in three bytes, what to do, argument). An empty input
/// leaves the evidence as it was, and it is trusted.
pub fn appraisal(data: &[u8]) {
    let genuine = Genuine::get();
    let mut parts = genuine.parts.clone();
    let mut rest = data;
    for _ in 0..EDITS_MAX {
        let Some((edit, tail)) = rest.split_first_chunk::<EDIT_BYTES>() else {
            break;
        };
        rest = tail;
        let [part, low, middle, high, action, argument] = *edit;
        let part = &mut parts[usize::from(part) % genuine.parts.len()];
        let offset = u32::from_le_bytes([low, middle, high, 0]) as usize % part.len().max(1);
        match action % 6 {
            0 => part
                .iter_mut()
                .skip(offset)
                .take(1)
                .for_each(|byte| *byte ^= argument),
            1 => part.truncate(offset),
            2 => part.insert(offset.min(part.len()), argument),
            3 => {
                let end = part.len().min(offset + usize::from(argument) + 1);
                part.drain(offset.min(end)..end);
            }
            4 => {
                let end = part.len().min(offset + usize::from(argument));
                part.extend_from_within(offset.min(end)..end);
            }
            _ => *part = std::mem::take(&mut rest).to_vec(),
        }
    }
    if !is_trusted(genuine, &parts) {
        assert!(parts != genuine.parts, "genuine evidence is not trusted");
        return;
    }
    let [quote, signature, values, log, nonce] = &parts;
    let [
        genuine_quote,
        genuine_signature,
        genuine_values,
        genuine_log,
        genuine_nonce,
    ] = &genuine.parts;
    assert_eq!(quote, genuine_quote);
    assert_eq!(signature, genuine_signature);
    assert_eq!(nonce, genuine_nonce);
    assert_eq!(
        parse_pcr_json(values).ok(),
        parse_pcr_json(genuine_values).ok()
    );
    // The PCR, the labels and what follows the quote are not hashed, and may differ.
    assert!(Genuine::entries(log).starts_with(&Genuine::entries(genuine_log)));
}

/// What happens to one shard and two agents, a byte for each step.
pub fn shard_sequences(data: &[u8]) {
    sequences::shard_messages(data);
}

fn is_trusted(genuine: &Genuine, [quote, signature, values, log, nonce]: &[Vec<u8>; 5]) -> bool {
    let Ok(values) = parse_pcr_json(values) else {
        return false;
    };
    let reference = Reference {
        key: Arc::clone(&genuine.key),
        key_attributes: None,
        nonce: nonce.as_slice().into(),
        challenged: None,
        pcr_policy: None,
        boot_pcrs: None,
        measured_boot: None,
        judge: Some(Arc::clone(&genuine.judge)),
    };
    let mut appraisal = Appraisal::of_quote(reference, Rules::default(), quote, signature, values);
    if let Some(mut appraiser) = appraisal.ima(ImaOptions::default(), Start::First) {
        appraiser.feed(log);
        appraisal.ima_finished(appraiser.finish());
    }
    matches!(appraisal.conclude().verdict, Verdict::Trusted(_))
}
