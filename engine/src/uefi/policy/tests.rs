use crate::policy::{Fault, PolicyError, Severity, Warning};

use super::*;
use crate::limits::{
    EXCLUDE_PATTERN_BYTES_MAX, MB_POLICY_BYTES_MAX, MB_POLICY_ENTRIES_MAX, MB_POLICY_KERNELS_MAX,
};

/// A reference state with one element in each list.
fn text() -> String {
    let digest = format!("0x{}", "1a".repeat(32));
    let key =
        r#"{"SignatureOwner": "77fa9abd-0359-4d32-bd60-28f4e78f784b", "SignatureData": "0x3082"}"#;
    format!(
        r#"{{"has_secureboot": true,
        "scrtm_and_bios": [{{"scrtm": {{"sha256": "{digest}"}}, "platform_firmware": [{{"sha256": "{digest}"}}]}}],
        "pk": [{key}], "kek": [{key}], "db": [{key}], "dbx": [{key}], "vendor_db": [],
        "mokdig": [{{"sha256": "{digest}"}}], "mokxdig": [],
        "kernels": [{{"shim_authcode_sha256": "{digest}", "grub_authcode_sha256": "{digest}",
            "kernel_authcode_sha256": "{digest}", "initrd_plain_sha256": "{digest}",
            "kernel_cmdline": "/vmlinuz ro"}}]}}"#
    )
}

fn parse(text: &str) -> Result<Option<MeasuredBootPolicy>, PolicyError> {
    MeasuredBootPolicy::parse(PolicyName::Example, text.as_bytes())
}

fn state(text: &str) -> RefState {
    match parse(text).unwrap().unwrap().rules {
        Rules::Example(state) => *state,
        _ => panic!("another policy"),
    }
}

#[test]
fn a_reference_state_is_read_whole() {
    let read = state(&text());
    assert!(read.has_secureboot);
    assert_eq!((read.firmware.len(), read.kernels.len()), (1, 1));
    assert_eq!(
        (read.pk.0.len(), read.dbx.0.len(), read.vendor_db.0.len()),
        (1, 1, 0)
    );
    assert_eq!((read.mok.len(), read.mokx.len()), (1, 0));
    assert!(parse(&text()).unwrap().unwrap().warnings().is_empty());
}

#[test]
fn l01_empty_states_are_no_policy_and_null_is_refused() {
    for name in PolicyName::ALL {
        assert_eq!(name.as_str().parse(), Ok(name));
        for empty in ["", "{}", " { } ", "[]", "\"\"", "0", "false"] {
            let read = MeasuredBootPolicy::parse(name, empty.as_bytes());
            assert!(read.unwrap().is_none(), "{name} {empty}");
        }
        for bad in [
            "null",
            "x",
            "{} {}",
            "{\"a\": 1, \"a\": 2}",
            "[1]",
            "\"x\"",
            "7",
            "true",
            "-1",
            "1.5",
            "{",
        ] {
            let read = MeasuredBootPolicy::parse(name, bad.as_bytes());
            assert!(read.is_err(), "{name} {bad}");
        }
    }
    assert!("Example".parse::<PolicyName>().is_err());
}

#[test]
fn only_example_looks_at_members() {
    for name in [PolicyName::AcceptAll, PolicyName::RejectAll] {
        let policy = MeasuredBootPolicy::parse(name, b"{\"a\": [1]}")
            .unwrap()
            .unwrap();
        assert_eq!(
            (policy.name(), policy.relevant_pcrs()),
            (name, PcrSet::EMPTY)
        );
    }
    assert_eq!(
        parse("{\"a\": [1]}").unwrap_err(),
        PolicyError::Missing { member: "kernels" }
    );
}

#[test]
fn each_member_but_two_is_needed() {
    for member in [
        "scrtm_and_bios",
        "pk",
        "kek",
        "db",
        "dbx",
        "mokdig",
        "mokxdig",
        "kernels",
    ] {
        let without = text().replace(&format!("\"{member}\""), &format!("\"no_{member}\""));
        assert_eq!(
            parse(&without).unwrap_err(),
            PolicyError::Missing { member }
        );
    }
    let without = text().replace("\"vendor_db\"", "\"comment\"");
    let policy = parse(&without).unwrap().unwrap();
    assert!(matches!(policy.warnings(), [Warning::UnknownMember { at }] if at == "comment"));
    let without = text().replace("\"has_secureboot\": true,", "");
    assert!(state(&without).has_secureboot);
}

#[test]
fn which_image_of_a_kernel_counts_is_secure_boots_matter() {
    let off = text().replace("\"has_secureboot\": true,", "");
    let off = format!(
        "{}, \"has_secureboot\": false}}",
        off.strip_suffix('}').unwrap()
    );
    let member = "kernels[].vmlinuz_plain_sha256";
    assert_eq!(parse(&off).unwrap_err(), PolicyError::Missing { member });
    let off = off.replace("kernel_authcode_sha256", "vmlinuz_plain_sha256");
    assert!(!state(&off).has_secureboot);
}

fn fault(text: &str) -> Fault {
    match parse(text).unwrap_err() {
        PolicyError::Content { fault, .. } => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn values_of_another_form_are_typed_errors() {
    let digest = format!("0x{}", "1a".repeat(32));
    for (from, to, expected) in [
        (digest.as_str(), "0x1a", Fault::DigestLength),
        (&digest, "0x1A", Fault::UpperCaseDigest),
        (&digest, "1a", Fault::NotHex),
        (&digest, "0x", Fault::NotHex),
        (&digest, "0xzz", Fault::NotHex),
        ("0x3082", "0x308", Fault::NotHex),
        ("0x3082", "3082", Fault::NotHex),
        ("77fa9abd-0359", "77fa9abd0359", Fault::NotGuid),
        (
            "\"has_secureboot\": true",
            "\"has_secureboot\": null",
            Fault::Type,
        ),
        (
            "\"has_secureboot\": true",
            "\"has_secureboot\": 1",
            Fault::Type,
        ),
        ("\"mokxdig\": []", "\"mokxdig\": {}", Fault::Type),
        ("\"mokxdig\": []", "\"mokxdig\": [[]]", Fault::Type),
        (
            "\"mokxdig\": []",
            "\"mokxdig\": [], \"mokxdig\": []",
            Fault::DuplicateMember,
        ),
        ("\"/vmlinuz ro\"", "7", Fault::Type),
    ] {
        let bad = text().replacen(from, to, 1);
        assert_ne!(bad, text());
        assert_eq!(fault(&bad), expected, "{to}");
    }
    let bad = text().replacen("\"SignatureOwner\"", "\"Owner\"", 1);
    assert!(matches!(fault(&bad), Fault::Incomplete { .. }));
}

#[test]
fn l02_patterns_are_compiled_alone_and_match_in_full() {
    let of = |pattern: &str| {
        let pattern = serde_json::to_string(pattern).unwrap();
        text().replace("\"/vmlinuz ro\"", &pattern)
    };
    for bad in ["(", ")", "x)|(?:.*", "(?i)x", "[", "\\", "(?P<a>x)(?P<a>y)"] {
        assert!(matches!(fault(&of(bad)), Fault::Pattern(_)), "{bad}");
    }
    let long = "x".repeat(EXCLUDE_PATTERN_BYTES_MAX + 1);
    assert!(matches!(fault(&of(&long)), Fault::Pattern(_)));
    let matches = |pattern: &str, line: &str| {
        let state = state(&of(pattern));
        let line = format!("kernel_cmdline: {line}");
        state.kernels[0].command_line.excludes(&line) == crate::policy::exclude::Match::Excluded
    };
    assert!(matches("/vmlinuz ro", "/vmlinuz ro"));
    assert!(!matches("/vmlinuz ro", "/vmlinuz ro init=/bin/sh"));
    assert!(!matches("/vmlinuz ro$", "/vmlinuz ro\n"));
    assert!(!matches(".*", "/vmlinuz\nro"));
    // The label belongs to the first alternative alone, as in Keylime.
    assert!(!matches("x|/vmlinuz", "/vmlinuz") && matches("x|kernel_cmdline: y", "y"));
    // Two engines: look-ahead and back-references backtrack.
    assert!(matches("(?!init).*", "/vmlinuz") && !matches("(?!.*init=).*", "/vmlinuz init=x"));
    assert!(matches(r"(a|ab)(c|bcd)", "abcd") && matches(r"(.)\1", "aa"));
    // Beyond the cap of steps there is no match.
    assert!(!matches(r"(a*)*\1b", &"a".repeat(200)));
}

#[test]
fn x01_documents_of_any_size_and_depth_are_typed_errors() {
    let large = " ".repeat(MB_POLICY_BYTES_MAX + 1);
    assert!(matches!(parse(&large), Err(PolicyError::TooLarge { .. })));
    let deep = format!("{{\"a\": {}", "[".repeat(100_000));
    assert!(matches!(parse(&deep), Err(PolicyError::Json { .. })));
    let digest = "{\"sha1\": \"0x1111111111111111111111111111111111111111\"}";
    let many = |count| {
        let list = vec![digest; count].join(",");
        text().replace("\"mokxdig\": []", &format!("\"mokxdig\": [{list}]"))
    };
    assert_eq!(
        state(&many(MB_POLICY_ENTRIES_MAX)).mokx.len(),
        MB_POLICY_ENTRIES_MAX
    );
    assert!(matches!(
        fault(&many(MB_POLICY_ENTRIES_MAX + 1)),
        Fault::Limit {
            limit: "MB_POLICY_ENTRIES_MAX",
            ..
        }
    ));
    let whole = text();
    let at = whole.find("{\"shim").unwrap();
    let kernel = &whole[at..whole.rfind(']').unwrap()];
    let many = |count| whole.replace(kernel, &vec![kernel; count].join(","));
    assert_eq!(
        state(&many(MB_POLICY_KERNELS_MAX)).kernels.len(),
        MB_POLICY_KERNELS_MAX
    );
    assert!(matches!(
        fault(&many(MB_POLICY_KERNELS_MAX + 1)),
        Fault::Limit {
            limit: "MB_POLICY_KERNELS_MAX",
            ..
        }
    ));
}

#[test]
fn digests_of_unknown_algorithms_are_kept_with_a_warning() {
    let with = text().replace("\"mokxdig\": []", "\"mokxdig\": [{\"sm3_256\": \"0x11\"}]");
    let policy = parse(&with).unwrap().unwrap();
    assert!(matches!(
        policy.warnings(),
        [Warning::DigestNeverMatches { .. }]
    ));
}

#[test]
fn lint_names_what_lets_everything_or_nothing_through() {
    let lint = |text: &str| parse(text).unwrap().unwrap().lint();
    assert!(lint(&text()).is_empty());
    let open = lint(&text().replace("/vmlinuz ro", ".*"));
    assert!(matches!(
        open[..],
        [MbLint::CommandLineOpen { index: 0, .. }]
    ));
    assert_eq!(open[0].severity(), Severity::Danger);
    let whole = text();
    let kernels = &whole[whole.find("[{\"shim").unwrap()..=whole.rfind(']').unwrap()];
    let none = lint(&whole.replace(kernels, "[]"));
    assert!(matches!(
        none[..],
        [MbLint::NothingPasses { member: "kernels" }]
    ));
    let backtracks = lint(&text().replace("/vmlinuz ro", "(?!x)y"));
    assert!(matches!(
        backtracks[..],
        [MbLint::CommandLineBacktracks { index: 0 }]
    ));
    for finding in open.iter().chain(&none).chain(&backtracks) {
        assert!(finding.id().starts_with("boot.") && !finding.to_string().is_empty());
    }
}

#[test]
fn x07_what_a_log_says_is_shortened_and_escaped_in_findings() {
    let found = format!("\u{1b}[31m\n{}", "x".repeat(10_000));
    let breach = Breach::of_log(BreachRule::Event, &found, "other");
    assert!(!breach.found.contains('\u{1b}') && !breach.found.contains('\n'));
    assert!(breach.found.chars().count() < 200 && breach.found.ends_with('…'));
}
