use super::{Fault, NeverMatches, PolicyError, RuntimePolicy, Warning};
use crate::hash::HashAlg;
use crate::policy::{Exclusion, PathRule, PatternError};

const DD: &str = "d33d5d13792292e202dbf69a6f1b07bc8a02f01424db8489ba7bb7d43c0290ef";

fn parse(text: &str) -> Result<RuntimePolicy, PolicyError> {
    RuntimePolicy::parse(text.as_bytes())
}

/// A policy with these further members.
fn with(members: &str) -> Result<RuntimePolicy, PolicyError> {
    parse(&format!(
        r#"{{"meta":{{"version":1}},"digests":{{}}{members}}}"#
    ))
}

fn fault(result: Result<RuntimePolicy, PolicyError>) -> (String, Fault) {
    match result {
        Err(PolicyError::Content { at, fault, .. }) => (at, fault),
        other => panic!("{other:?}"),
    }
}

fn sha256(hexadecimal: &str) -> Vec<u8> {
    hex::decode(hexadecimal).unwrap()
}

macro_rules! fixture {
    ($name:literal) => {
        RuntimePolicy::parse(include_bytes!(concat!(
            "../../../../tests/vectors/policy/keylime_",
            $name,
            ".json"
        )))
    };
}

#[test]
fn fixtures_with_every_algorithm() {
    let policies = [
        (
            fixture!("policy-sha1"),
            HashAlg::Sha1,
            "b261df1756a43b2d35c8ca13389c026840961d36",
        ),
        (
            fixture!("policy-sha256"),
            HashAlg::Sha256,
            "35f6036dcbb4d819a90cc3282659754ab1a225e60f593a209c27b80174ba3180",
        ),
        (
            fixture!("policy-sha384"),
            HashAlg::Sha384,
            "407272428a6bda6a8a0e450b4ccfe3ba52a2faf5f45853692b05212aa3103d43524e03050b4ee119a0ec0a069cb5794b",
        ),
        (
            fixture!("policy-sha512"),
            HashAlg::Sha512,
            "5afaedd4458b68515747262bc32e84a3b8c70aaf299f4eeeae027b594d4e9d35850ff2838a9d075ad1d15ee3663c36a9349486b421a3b630401c817c179c6404",
        ),
    ];
    for (policy, alg, digest) in policies {
        let policy = policy.unwrap();
        assert!(policy.warnings().is_empty() && !policy.is_empty());
        assert_eq!(policy.meta().generator, Some(3));
        let compiled = policy.compiled();
        let digest = hex::decode(digest).unwrap();
        let name = alg.name().as_bytes();
        let path = b"/base_policy_data";
        assert_eq!(compiled.lookup(path, name, &digest), PathRule::Allowed);
        assert_eq!(
            compiled.lookup(b"/other", name, &digest),
            PathRule::PathNotListed
        );
    }
}

#[test]
fn i14_an_entry_of_an_unknown_algorithm_never_matches() {
    let policy = fixture!("policy-sm3_256").unwrap();
    let digest = sha256("dca3d0b348447a494da13278a2451683e43314a2d2add09f9ee8e028676018dd");
    let lookup = |alg: &[u8]| policy.compiled().lookup(b"/rootfs_data", alg, &digest);
    for alg in [
        &b"sm3-256"[..],
        b"sm3",
        b"sha3-256",
        b"SHA256",
        b"",
        b"sha512",
    ] {
        assert_eq!(lookup(alg), PathRule::DigestNotListed);
    }
    assert_eq!(lookup(b"sha256"), PathRule::Allowed);
}

#[test]
fn a_digest_of_no_algorithm_is_kept_with_a_warning() {
    let policy = fixture!("policy-unknown").unwrap();
    assert_eq!(
        policy.warnings(),
        [Warning::DigestNeverMatches {
            at: r#"digests["/rootfs_data"][0]"#.into(),
            reason: NeverMatches::Length { characters: 62 },
        }]
    );
    let rule = policy
        .compiled()
        .lookup(b"/rootfs_data", b"sha256", &[0; 30]);
    assert_eq!(rule, PathRule::DigestNotListed);
}

#[test]
fn i24_the_boot_aggregate_is_no_path() {
    let policy = fixture!("runtime_policy_with_excludes").unwrap();
    let compiled = policy.compiled();
    let [reference] = compiled.reference_boot_aggregates() else {
        panic!("one boot aggregate");
    };
    let digest = reference.as_bytes();
    let rule = compiled.lookup(b"boot_aggregate", b"sha256", digest);
    assert_eq!(rule, PathRule::PathNotListed);
    assert_eq!(compiled.excluded(b"boot_aggregate"), Exclusion::NotExcluded);
    assert_eq!(
        compiled.excluded(b"/usr/bin/dd"),
        Exclusion::Excluded { index: 3 }
    );
    assert_eq!(
        compiled.excluded(b"/usr/bin/ddx"),
        Exclusion::Excluded { index: 3 }
    );
    assert_eq!(compiled.excluded(b"/bin/dd"), Exclusion::NotExcluded);
}

#[test]
fn fixtures_of_keylimes_own_tests() {
    let compatible = fixture!("runtime-policy-test").unwrap();
    assert_eq!(compatible.meta().generator, Some(2));
    let [reference] = compatible.compiled().reference_boot_aggregates() else {
        panic!("one boot aggregate");
    };
    assert_eq!(reference.alg(), HashAlg::Sha256);

    let plain = fixture!("runtime_policy_test").unwrap();
    assert_eq!(plain.meta().generator, None);
    assert!(!plain.is_empty());
    let key = sha256("a7d52aaa18c23d2d9bb2abb4308c0eeee67387a42259f4a6b1a42257065f3d5a");
    let compiled = plain.compiled();
    assert_eq!(
        compiled.lookup_keyring(b".ima", b"sha256", &key),
        PathRule::Allowed
    );
    assert_eq!(
        compiled.lookup_keyring(b".evm", b"sha256", &key),
        PathRule::PathNotListed
    );
    assert_eq!(
        compiled.lookup_buffer(b".ima", b"sha256", &key),
        PathRule::PathNotListed
    );

    let dd = sha256(DD);
    for wrong in [
        fixture!("runtime_policy_wrong").unwrap(),
        fixture!("runtime_policy_wrong_with_excludes").unwrap(),
    ] {
        let rule = wrong.compiled().lookup(b"/usr/bin/dd", b"sha256", &dd);
        assert_eq!(rule, PathRule::DigestNotListed);
    }
    let keyed = fixture!("runtime_policy_with_verification_keys").unwrap();
    let keys = keyed.compiled().verification_keys();
    let keyids: Vec<_> = keys.iter().map(|key| key.keyid).collect();
    assert_eq!(keyids, [Some(4_081_397_027), Some(1_394_556_965)]);
    assert_eq!(keys[0].spki_der.len(), 294);
}

#[test]
fn l06_a_signed_policy_is_no_plain_policy() {
    for signed in [
        fixture!("runtime-policy-test-signed"),
        fixture!("runtime-policy-test-signed-bad"),
    ] {
        assert_eq!(signed.unwrap_err(), PolicyError::SignedEnvelope);
    }
}

#[test]
fn l01_missing_members() {
    let missing = |member| Err(PolicyError::Missing { member });
    let error = |text| parse(text).map(drop);
    assert_eq!(error("{}"), missing("meta"));
    assert_eq!(
        error(r#"{"meta":{},"digests":{}}"#),
        missing("meta.version")
    );
    assert_eq!(error(r#"{"meta":{"version":1}}"#), missing("digests"));
    let policy = with("").unwrap();
    assert!(policy.is_empty());
    assert_eq!(policy.compiled().log_hash_alg(), HashAlg::Sha1);
    assert!(policy.warnings().is_empty());
}

#[test]
fn l01_an_exclude_does_not_fill_an_empty_policy() {
    assert!(with(r#","excludes":[".*"]"#).unwrap().is_empty());
    let keyed = r#","verification-keys":"{\"pubkeys\":[\"AAAA\"]}""#;
    assert!(!with(keyed).unwrap().is_empty());
    let said_empty = r#"{"meta":{"version":1,"generator":1},"digests":{},"keyrings":{"a":["0000000000000000000000000000000000000000"]}}"#;
    assert!(parse(said_empty).unwrap().is_empty());
}

#[test]
fn l01_versions_numbers_and_duplicates() {
    let version = |text: &str| {
        parse(&format!(
            r#"{{"meta":{{"version":{text}}},"digests":{{}}}}"#
        ))
    };
    assert_eq!(
        fault(version("2")),
        ("meta.version".into(), Fault::Version { found: 2 })
    );
    assert_eq!(fault(version("0")).1, Fault::Version { found: 0 });
    for other in [
        "1.0",
        "-1",
        "\"1\"",
        "null",
        "true",
        "18446744073709551616",
        "1e400",
    ] {
        match version(other) {
            Err(
                PolicyError::Content {
                    fault: Fault::Type, ..
                }
                | PolicyError::Json { .. },
            ) => {}
            result => panic!("{other}: {result:?}"),
        }
    }
    for not_json in ["NaN", "Infinity", "-Infinity", "01", ""] {
        assert!(
            matches!(version(not_json), Err(PolicyError::Json { .. })),
            "{not_json}"
        );
    }
    let zeros = "0".repeat(64);
    for (members, place) in [
        (r#","release":0,"release":0"#.to_owned(), "release"),
        (r#","digests":{}"#.to_owned(), "digests"),
        (
            r#","unknown":{"a":[{"b":1,"b":2}]}"#.to_owned(),
            "unknown.a[0].b",
        ),
        (
            format!(r#","keyrings":{{"k":["{zeros}"],"k":["{zeros}"]}}"#),
            "keyrings.k",
        ),
        (
            r#","ima":{"log_hash_alg":"sha1","log_hash_alg":"sha1"}"#.to_owned(),
            "ima.log_hash_alg",
        ),
    ] {
        assert_eq!(
            fault(with(&members)),
            (place.into(), Fault::DuplicateMember)
        );
    }
    for path in ["/a", "boot_aggregate", "\\u002fa"] {
        let twice = format!(
            r#"{{"meta":{{"version":1}},"digests":{{"/a":["{zeros}"],"boot_aggregate":["{zeros}"],"{path}":["{zeros}"]}}}}"#
        );
        assert_eq!(fault(parse(&twice)).1, Fault::DuplicateMember);
    }
}

#[test]
fn x01_text_that_is_not_one_json_object() {
    let deep = format!(r#","deep":{}{}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(with(&deep), Err(PolicyError::Json { .. })));
    let trailing = r#"{"meta":{"version":1},"digests":{}} {}"#;
    assert!(matches!(
        parse(trailing),
        Err(PolicyError::Json {
            line: 1,
            column: 37
        })
    ));
    for text in [
        &b""[..],
        b"\xef\xbb\xbf{}",
        b"[]",
        b"null",
        b"{\"a\":\"\xff\"}",
        b"{",
    ] {
        assert!(RuntimePolicy::parse(text).is_err());
    }
    let lone = r#","excludes":["\ud800"]"#;
    assert!(with(lone).is_err());
}

#[test]
fn digests_as_keylimes_schema_and_no_other() {
    let digest = |text: &str| {
        parse(&format!(
            r#"{{"meta":{{"version":1}},"digests":{{"/a":["{text}"]}}}}"#
        ))
    };
    let zeros = |count: usize| "0".repeat(count);
    for (text, expected) in [
        (zeros(39), Fault::NotDigest),
        (zeros(129), Fault::NotDigest),
        (format!("{}g", zeros(63)), Fault::NotDigest),
        (format!("{}A", zeros(63)), Fault::UpperCaseDigest),
        (format!("sha256:{}", zeros(40)), Fault::DigestLength),
        (format!("sha1:{}", zeros(64)), Fault::DigestLength),
    ] {
        assert_eq!(
            fault(digest(&text)),
            (r#"digests["/a"][0]"#.into(), expected),
            "{text}"
        );
    }
    let prefixed = digest(&format!("sha512:{}", zeros(128))).unwrap();
    let rule = prefixed.compiled().lookup(b"/a", b"sha512", &[0; 64]);
    assert_eq!(rule, PathRule::Allowed);
    let other = digest(&format!("sm3-256:{}", zeros(64))).unwrap();
    assert!(matches!(
        other.warnings(),
        [Warning::DigestNeverMatches {
            reason: NeverMatches::Algorithm,
            ..
        }]
    ));
    let empty = r#"{"meta":{"version":1},"digests":{"/a":[]}}"#;
    assert_eq!(fault(parse(empty)).1, Fault::NoDigests);
    let repeated = format!(
        r#"{{"meta":{{"version":1}},"digests":{{"/a":["{0}","{1}","{0}","{1}"]}}}}"#,
        zeros(40),
        zeros(64)
    );
    let repeated = parse(&repeated).unwrap();
    assert_eq!(repeated.warnings().len(), 2);
    assert_eq!(repeated.compiled().paths().next().unwrap().1.count(), 2);
}

#[test]
fn ima_options() {
    let sha256 = with(r#","ima":{"log_hash_alg":"sha256"}"#).unwrap();
    assert_eq!(sha256.compiled().log_hash_alg(), HashAlg::Sha256);
    let bad = with(r#","ima":{"log_hash_alg":"md5"}"#);
    assert_eq!(fault(bad), ("ima.log_hash_alg".into(), Fault::LogHashAlg));
    let mapper = with(r#","ima":{"dm_policy":{"version":1}}"#);
    assert_eq!(fault(mapper).1, Fault::DeviceMapperPolicy);
    let named = with(r#","ima":{"ignored_keyrings":[".ima"]}"#).unwrap();
    assert!(named.compiled().ignores_keyring(b".ima"));
    assert!(!named.compiled().ignores_keyring(b".evm"));
    let all = with(r#","ima":{"ignored_keyrings":["*"]}"#).unwrap();
    assert!(all.compiled().ignores_keyring(b".evm"));
}

#[test]
fn l02_a_pattern_that_cannot_be_used_refuses_the_policy() {
    let (at, fault) = fault(with(r#","excludes":["/tmp/.*","(/a"]"#));
    assert_eq!(at, "excludes[1]");
    assert!(matches!(
        fault,
        Fault::Pattern(PatternError::Syntax { offset: 0, .. })
    ));
}

#[test]
fn l02_warnings_about_one_long_name_do_not_each_hold_it() {
    let name = "x".repeat(1 << 17);
    let digests = vec![format!("\"{}\"", "0".repeat(42)); 200].join(",");
    let policy = parse(&format!(
        r#"{{"meta":{{"version":1}},"digests":{{"{name}":[{digests}]}}}}"#
    ))
    .unwrap();
    let held = |warning: &Warning| match warning {
        Warning::DigestNeverMatches { at, .. } => at.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(policy.warnings().len(), 200);
    assert!(policy.warnings().iter().map(held).max() < Some(2048));
}

#[test]
fn l03_paths_are_compared_as_bytes() {
    let text = format!(r#"{{"meta":{{"version":1}},"digests":{{"/usr/bin/dd":["{DD}"]}}}}"#);
    let policy = parse(&text).unwrap();
    let digest = sha256(DD);
    let lookup = |path: &[u8]| policy.compiled().lookup(path, b"sha256", &digest);
    assert_eq!(lookup(b"/usr/bin/dd"), PathRule::Allowed);
    for other in [
        &b"/usr//bin/dd"[..],
        b"/usr/./bin/dd",
        b"/usr/sbin/../bin/dd",
        b"/usr/bin/dd/",
        b"/usr/bin/DD",
        b"/usr/bin/dd\0",
        b"usr/bin/dd",
        b"/usr/bin/d",
        b"",
        b" /usr/bin/dd",
    ] {
        assert_eq!(lookup(other), PathRule::PathNotListed);
    }
    assert_eq!(
        policy.compiled().excluded(b"/tmp/\xff"),
        Exclusion::NotExcluded
    );
}

#[test]
fn l05_the_identity_is_the_digest_of_the_text() {
    let one = with("").unwrap().compiled().digest();
    let other = with(" ").unwrap().compiled().digest();
    assert_ne!(one, other);
}

#[test]
fn unknown_members_are_warned_of_by_place() {
    let policy = with(r#","later":[1,{"x":null}],"ima":{"also later":true}"#).unwrap();
    let at: Vec<String> = policy.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        at,
        [
            "later: unknown member, not used",
            "ima[\"also later\"]: unknown member, not used"
        ]
    );
}

#[test]
fn verification_keys_that_cannot_be_used() {
    for text in [
        "x",
        "[]",
        r#"{\"pubkeys\":[\"*\"]}"#,
        r#"{\"pubkeys\":[\"\"]}"#,
        r#"{\"pubkeys\":[],\"keyids\":[1]}"#,
        r#"{\"pubkeys\":[],\"meta\":{\"version\":2}}"#,
        r#"{\"pubkeys\":[],\"pubkeys\":[]}"#,
        r#"{\"pubkeys\":[\"AAAA\"],\"keyids\":[4294967296]}"#,
    ] {
        let (at, fault) = fault(with(&format!(r#","verification-keys":"{text}""#)));
        assert_eq!(at, "verification-keys");
        assert!(matches!(fault, Fault::VerificationKeys(_)), "{text}");
    }
}

#[test]
fn a_hundred_thousand_paths_take_less_than_150_bytes_each() {
    let mut text = String::from(r#"{"meta":{"version":1},"digests":{"#);
    for index in 0..100_000 {
        let comma = if index == 0 { "" } else { "," };
        text.push_str(&format!(
            r#"{comma}"/usr/lib/modules/6.1.0-18-amd64/kernel/drivers/{index:06}.ko":["{index:064x}"]"#
        ));
    }
    text.push_str("}}");
    let policy = parse(&text).unwrap().into_compiled();
    assert_eq!(policy.path_count(), 100_000);
    let per_path = policy.table_bytes() / policy.path_count();
    assert!(per_path < 150, "{per_path}");
}
