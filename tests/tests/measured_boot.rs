//! Measured boot policies against Keylime's own: the verdicts that its policy `example` gave of real
//! event logs and of logs and reference states altered in one place, and the reference states that
//! its tool made. `tests/vectors/measured_boot/README.md` says how both were recorded.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rat_engine::hash::HashAlg;
use rat_engine::pcr::{PcrIndex, PcrSet};
use rat_engine::uefi::policy::{
    Breach, BreachRule, CreateError, MeasuredBootPolicy, PolicyName, reference_state,
};
use rat_engine::uefi::{EventLog, compare};
use rat_tests::vectors;
use serde_json::Value;

const PASSING: &str = "keylime_mb_log_b64.bin";

/// A recorded log; one of a machine without Secure Boot, from which events were left out, lies with
/// the verdicts.
fn log(name: &str) -> Vec<u8> {
    let folder = match name.starts_with("reduced-") {
        true => "measured_boot/logs",
        false => "eventlogs",
    };
    vectors::read(&format!("{folder}/{name}"))
}

fn refstate(name: &str) -> Value {
    vectors::json(&format!("measured_boot/refstates/{name}"))
}

fn example(state: &Value) -> MeasuredBootPolicy {
    let text = state.to_string();
    let policy = MeasuredBootPolicy::parse(PolicyName::Example, text.as_bytes());
    policy.unwrap().unwrap()
}

/// PCR 0-9 and 14.
fn judged() -> PcrSet {
    PcrSet::from_bits(0x43ff).unwrap()
}

/// What the policy finds in a log that is quoted as it is, in these banks; a log that cannot be
/// replayed has its code.
fn judge(
    policy: &MeasuredBootPolicy,
    log: &[u8],
    banks: &[HashAlg],
) -> Result<Vec<Breach>, String> {
    let log = EventLog::parse(log).map_err(|error| error.code().to_owned())?;
    let mut proofs = Vec::new();
    for bank in banks {
        let replay = log.replay(*bank).map_err(|error| error.code().to_owned())?;
        proofs.push(compare(&replay, replay.values(), judged()).unwrap());
    }
    Ok(policy.judge(&log, &proofs).err().unwrap_or_default())
}

/// The same as one word: `pass`, a code, or the rule that is broken first.
fn word(state: &Value, log: &[u8]) -> String {
    let text = state.to_string();
    match MeasuredBootPolicy::parse(PolicyName::Example, text.as_bytes()) {
        Err(_) => "policy.malformed".to_owned(),
        Ok(None) => "no policy".to_owned(),
        Ok(Some(policy)) => match judge(&policy, log, &[HashAlg::Sha256]) {
            Err(code) => code,
            Ok(breaches) => breaches
                .first()
                .map_or("pass".to_owned(), |breach| format!("{:?}", breach.rule)),
        },
    }
}

fn spliced(bytes: &[u8], splice: &Value) -> Vec<u8> {
    let number = |index: usize| usize::try_from(splice[index].as_u64().unwrap()).unwrap();
    let (at, deleted) = (number(0), number(1));
    let inserted = hex::decode(splice[2].as_str().unwrap()).unwrap();
    [&bytes[..at], &inserted, &bytes[at + deleted..]].concat()
}

fn edit(state: &mut Value, edit: &Value) {
    let path = edit["path"].as_array().unwrap();
    let (last, above) = match path.split_last() {
        Some((last, above)) if edit.get("splice").is_none() => (Some(last), above),
        _ => (None, path.as_slice()),
    };
    let mut place = state;
    for step in above {
        place = match step {
            Value::String(name) => place.get_mut(name).unwrap(),
            step => place.get_mut(step.as_u64().unwrap() as usize).unwrap(),
        };
    }
    match last {
        None => {
            let splice = &edit["splice"];
            let number = |index: usize| splice[index].as_u64().unwrap() as usize;
            let list = place.as_array_mut().unwrap();
            let items = splice[2].as_array().unwrap().clone();
            list.splice(number(0)..number(0) + number(1), items);
        }
        Some(Value::String(name)) => {
            let members = place.as_object_mut().unwrap();
            match edit.get("set") {
                Some(value) => drop(members.insert(name.clone(), value.clone())),
                None => drop(members.remove(name)),
            }
        }
        Some(step) => place[step.as_u64().unwrap() as usize] = edit["set"].clone(),
    }
}

/// Where our verdict is another one than Keylime's, and why. `docs/keylime.md` has these reasons.
fn difference(name: &str, ours: &str) -> Option<&'static str> {
    let case = name.split_once(": ").unwrap().1;
    let starts = |prefix: &str| case.starts_with(prefix);
    Some(match ours {
        // Stricter.
        "uefi.event_digest" => "digests must be of the content",
        "uefi.order" => "the order of events",
        "Unbound" => "digests must be of the content",
        "SecureBoot" if starts("drop 7") => "the state of Secure Boot must be measured",
        "Keys" | "Dbx" if starts("drop 7") || case.ends_with("type of an authority") => {
            "key databases must be measured"
        }
        "SecureBoot" if case == "SecureBoot is '02'" => "the state of Secure Boot is 0 or 1",
        "Mok" if case.contains("MokListTrusted") => "MokListTrusted is 0 or 1",
        "policy.malformed" => "reference states are read strictly",
        // Not stricter: the same meaning in another form.
        "pass" if case.ends_with("owners in the old order") => "both orders of GUIDs",
        "pass" if case.contains("separator") && case.ends_with("ffffffff") => "both separators",
        // The content cannot be printed by the tool that Keylime runs; any is accepted.
        "pass" if case == "boot variable Boot0001" => "boot variables may hold anything",
        "pass" if starts("reference state: db") && case.ends_with("upper case") => "upper case",
        "pass" if starts("reference state: ") && case.ends_with("in upper case") => "upper case",
        _ => return None,
    })
}

#[test]
fn e01_e02_verdicts_are_keylimes_or_differ_on_purpose() {
    let cases = vectors::json("measured_boot/verdicts.json");
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 900, "{} cases", cases.len());
    let (mut wrong, mut passes) = (Vec::new(), 0);
    let mut differences: BTreeMap<&str, usize> = BTreeMap::new();
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let bytes = spliced(&log(case["log"].as_str().unwrap()), &case["splice"]);
        let mut state = refstate(case["refstate"].as_str().unwrap());
        for it in case["edits"].as_array().into_iter().flatten() {
            edit(&mut state, it);
        }
        let keylime = case["keylime"].as_str().unwrap();
        let ours = word(&state, &bytes);
        passes += usize::from(ours == "pass");
        if (ours == "pass") == keylime.is_empty() {
            continue;
        }
        match difference(name, &ours) {
            Some(why) => *differences.entry(why).or_default() += 1,
            None => wrong.push(format!("{name}: {ours}, Keylime: {keylime:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(passes > 100, "{passes} pass");
    eprintln!("{differences:#?}");
}

/// Reference states are compared as JSON.
#[test]
fn reference_states_are_those_of_keylimes_tool() {
    let created = vectors::json("measured_boot/created.json");
    let mut equal = 0;
    for (name, made) in created.as_object().unwrap() {
        let bytes = log(name);
        for (option, without_secureboot) in [("s", false), ("i", true)] {
            let of_keylime = made[option] == true;
            let parsed = EventLog::parse(&bytes);
            let Ok(ours) = parsed
                .map_err(CreateError::from)
                .and_then(|log| reference_state(&log, without_secureboot))
            else {
                assert!(!of_keylime, "{name}, -{option}: Keylime made one");
                continue;
            };
            if !of_keylime {
                continue;
            }
            let text: Value = serde_json::from_str(&ours.text).unwrap();
            assert_eq!(text, refstate(&format!("{name}.json")), "{name}");
            equal += 1;
        }
    }
    assert!(equal >= 30, "{equal}");
}

#[test]
fn a_log_passes_by_its_own_reference_state_and_by_no_others() {
    let names = [PASSING, "keylime_binary_bios_measurements-secureboot"];
    for name in names {
        for other in names {
            let policy = example(&refstate(&format!("{other}.json")));
            let breaches = judge(&policy, &log(name), &[HashAlg::Sha256]).unwrap();
            assert_eq!(breaches.is_empty(), name == other, "{name} by {other}");
            if name != other {
                let rules: BTreeSet<_> = breaches.iter().map(|it| it.rule).collect();
                for rule in [BreachRule::Firmware, BreachRule::Mok, BreachRule::Kernel] {
                    assert!(rules.contains(&rule), "{name} by {other}: {rules:?}");
                }
            }
        }
    }
}

#[test]
fn e02_digests_of_a_bank_that_is_not_quoted_are_not_believed() {
    // A log with SHA-256 and SHA-384 and a reference state of SHA-256 alone.
    let name = "hpe-perf_uefi_log.bin";
    let policy = example(&refstate(&format!("{name}.json")));
    let rules = |banks: &[HashAlg]| -> BTreeSet<String> {
        let breaches = judge(&policy, &log(name), banks).unwrap();
        breaches.iter().map(|it| format!("{:?}", it.rule)).collect()
    };
    let with = rules(&[HashAlg::Sha256]);
    assert!(
        !with.contains("Firmware") && !with.contains("Kernel"),
        "{with:?}"
    );
    let without = rules(&[HashAlg::Sha384]);
    assert!(
        without.contains("Firmware") && without.contains("Kernel"),
        "{without:?}"
    );
    assert_eq!(rules(&[HashAlg::Sha384, HashAlg::Sha256]), with);
}

#[test]
fn p03_every_pcr_of_the_policy_must_be_proven() {
    let bytes = log(PASSING);
    let log = EventLog::parse(&bytes).unwrap();
    let policy = example(&refstate(&format!("{PASSING}.json")));
    let replay = log.replay(HashAlg::Sha256).unwrap();
    for missing in judged().iter() {
        let mut pcrs = PcrSet::EMPTY;
        judged()
            .iter()
            .filter(|pcr| *pcr != missing)
            .for_each(|pcr| {
                pcrs.insert(pcr);
            });
        let proof = compare(&replay, replay.values(), pcrs).unwrap();
        let breaches = policy.judge(&log, &[proof]).unwrap_err();
        assert_eq!(breaches.len(), 1);
        assert_eq!(breaches[0].rule, BreachRule::NotProven);
        assert_eq!(breaches[0].pcrs.iter().collect::<Vec<_>>(), [missing]);
    }
    let breaches = policy.judge(&log, &[]).unwrap_err();
    assert_eq!(breaches[0].pcrs, judged());
    // Proofs of another log prove nothing of this one.
    let other = self::log("keylime_binary_bios_measurements-secureboot");
    let other = EventLog::parse(&other).unwrap();
    let of_other = other.replay(HashAlg::Sha256).unwrap();
    let proof = compare(&of_other, of_other.values(), judged()).unwrap();
    let breaches = policy.judge(&log, &[proof]).unwrap_err();
    assert_eq!(breaches[0].rule, BreachRule::NotProven);
}

#[test]
fn each_rule_is_broken_by_what_it_forbids() {
    let cases = vectors::json("measured_boot/verdicts.json");
    let wanted = [
        ("centos: SecureBoot is '00'", "SecureBoot"),
        ("centos: PK with another certificate", "Keys"),
        ("centos: KEK with another certificate", "Keys"),
        ("centos: db with another certificate", "Keys"),
        ("centos: PK with another digest", "Keys"),
        ("rhel: dbx lacks the last", "Dbx"),
        ("rhel: vendor_db of another key", "Keys"),
        ("centos: another command line", "Kernel"),
        ("centos: GRUB before shim", "Kernel"),
        ("centos: another MokList", "Mok"),
        ("centos: MokList called MokListTrusted", "Mok"),
        ("centos: AuditMode", "Event"),
        ("centos: action 5 Exit", "Event"),
        ("centos: StartupLocality", "Event"),
        ("centos: a command altered under its digest", "Unbound"),
        ("centos: reference state: scrtm empty", "Firmware"),
        ("centos: reference state: firmware lacks one", "Firmware"),
        ("centos: reference state: kernels empty", "Kernel"),
        (
            "centos: reference state: two kernels that fit in part",
            "Kernel",
        ),
        (
            "centos: reference state: Secure Boot off",
            "policy.malformed",
        ),
        ("centos: db altered under its digest", "uefi.event_digest"),
    ];
    for (name, expected) in wanted {
        let case = cases
            .as_array()
            .unwrap()
            .iter()
            .find(|case| case["name"] == name);
        let case = case.unwrap_or_else(|| panic!("no case {name}"));
        let bytes = spliced(&log(case["log"].as_str().unwrap()), &case["splice"]);
        let mut state = refstate(case["refstate"].as_str().unwrap());
        for it in case["edits"].as_array().into_iter().flatten() {
            edit(&mut state, it);
        }
        assert_eq!(word(&state, &bytes), expected, "{name}");
    }
}

/// What was extended, in the log's order, by the type that the log gives to it.
fn extended(log: &EventLog<'_>) -> Vec<(Option<PcrIndex>, String)> {
    let events = log.events().iter().filter(|event| event.is_extended());
    events
        .map(|event| {
            let digest = event.digest(HashAlg::Sha256).unwrap();
            (event.pcr(), digest.to_hex())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is altered in a log, the quote being what it was: it fails, or every digest is the
    /// machine's own and what was altered is a label or padding.
    #[test]
    fn e02_an_altered_log_passes_with_the_genuine_digests_only(
        changes in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let bytes = log(PASSING);
        let genuine = EventLog::parse(&bytes).unwrap();
        let quoted = genuine.replay(HashAlg::Sha256).unwrap();
        let policy = example(&refstate(&format!("{PASSING}.json")));
        let mut altered = bytes.clone();
        for (place, value) in &changes {
            *place.get_mut(&mut altered) = *value;
        }
        let Ok(parsed) = EventLog::parse(&altered) else { return Ok(()) };
        let Ok(replay) = parsed.replay(HashAlg::Sha256) else { return Ok(()) };
        let Ok(proof) = compare(&replay, quoted.values(), judged()) else { return Ok(()) };
        if policy.judge(&parsed, &[proof]).is_ok() {
            prop_assert_eq!(extended(&parsed), extended(&genuine));
        }
    }

    /// One digit of one digest of the boot chain decides, whichever it is.
    #[test]
    fn e05_one_digit_of_a_digest_decides(digit in any::<Index>(), nth in any::<Index>()) {
        let bytes = log(PASSING);
        let state = refstate(&format!("{PASSING}.json"));
        let members = ["shim", "grub", "kernel"].map(|it| format!("{it}_authcode_sha256"));
        let members = [&members[..], &["initrd_plain_sha256".to_owned()]].concat();
        let member = nth.get(&members);
        let text = state["kernels"][0][member].as_str().unwrap();
        let mut digits: Vec<char> = text.chars().collect();
        let at = 2 + digit.index(digits.len() - 2);
        digits[at] = if digits[at] == '0' { '1' } else { '0' };
        let mut other = state.clone();
        other["kernels"][0][member] = digits.into_iter().collect::<String>().into();
        let breaches = judge(&example(&other), &bytes, &[HashAlg::Sha256]).unwrap();
        prop_assert!(breaches.iter().all(|it| it.rule == BreachRule::Kernel));
        prop_assert!(!breaches.is_empty());
    }
}
