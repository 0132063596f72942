//! What policies are made of, hostile or not: archives, packages, older lists, and drafts of policies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;

use rat_engine::crypto::digest;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::policy::sources::allowlist::{AllowlistError, read_allowlist, read_exclude_list};
use rat_engine::policy::sources::cpio::{Archives, CpioError, Fed};
use rat_engine::policy::sources::rpm::{RpmError, package_files};
use rat_engine::policy::{DraftError, Listing, PolicyDraft, PolicyError, RuntimePolicy, compare};
use rat_tests::archives::{
    Member, newc, rpm, rpm_files, rpm_header, rpm_numbers, rpm_short_numbers, rpm_strings,
};
use rat_tests::targets::Target;
use rat_tests::vectors;
use serde_json::{Value, json};

const SHA256: &str = "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8";

type Files = BTreeMap<Vec<u8>, Digest>;

fn unpack(image: &[u8]) -> Result<Files, CpioError> {
    let mut archives = Archives::new(HashAlg::Sha256);
    assert_eq!(archives.feed(image)?, Fed::All);
    archives.finish()
}

fn digest_of(files: &Files, path: &str) -> Option<String> {
    files.get(path.as_bytes()).map(Digest::to_hex)
}

fn sha256(contents: &[u8]) -> Option<String> {
    Some(digest(HashAlg::Sha256, contents).to_hex())
}

#[test]
fn files_of_archives_are_known_by_absolute_paths() {
    let image = newc(&[
        Member::of_type(".", 0o040_755),
        Member::file("init", b"init"),
        Member::file("./usr//bin/a", b"a"),
        Member::file("/usr/bin/b", b""),
        Member::of_type("usr/bin/link", 0o120_777),
        Member::of_type("dev/console", 0o020_600),
        Member::of_type("run/pipe", 0o010_600),
    ]);
    let files = unpack(&image).unwrap();
    let paths: Vec<_> = files.keys().map(|path| path.as_slice()).collect();
    assert_eq!(paths, [&b"/init"[..], b"/usr/bin/a", b"/usr/bin/b"]);
    assert_eq!(digest_of(&files, "/usr/bin/a"), sha256(b"a"));
    assert_eq!(digest_of(&files, "/usr/bin/b"), sha256(b""));
}

#[test]
fn later_archives_replace_files_as_when_a_kernel_unpacks_them() {
    let first = newc(&[Member::file("a", b"old"), Member::file("b", b"b")]);
    let second = newc(&[Member::file("a", b"new"), Member::of_type("b", 0o120_777)]);
    let files = unpack(&[first, vec![0; 509], second, vec![0; 3]].concat()).unwrap();
    assert_eq!(digest_of(&files, "/a"), sha256(b"new"));
    assert_eq!(files.len(), 1);
}

#[test]
fn hard_links_have_the_contents_that_stand_with_one_of_them() {
    let of = |name, contents: &[u8]| Member::file(name, contents).linked(7, 3);
    for order in [
        [of("a", b""), of("b", b""), of("c", b"same")],
        [of("a", b"same"), of("b", b""), of("c", b"")],
        [of("a", b""), of("b", b"same"), of("c", b"same")],
    ] {
        let files = unpack(&newc(&order)).unwrap();
        for path in ["/a", "/b", "/c"] {
            assert_eq!(digest_of(&files, path), sha256(b"same"), "{order:?}");
        }
    }
    let differ = unpack(&newc(&[of("a", b"one"), of("b", b"two")]));
    assert!(matches!(differ, Err(CpioError::Links { .. })), "{differ:?}");
    // Another archive numbers its files anew.
    let second = newc(&[Member::file("d", b"").linked(7, 2)]);
    let both = [newc(&[of("a", b"one")]), second].concat();
    let files = unpack(&both).unwrap();
    assert_eq!(digest_of(&files, "/d"), sha256(b""));
}

#[test]
fn l03_names_that_leave_their_folder_or_are_no_paths_are_refused() {
    for name in ["../etc/passwd", "usr/../../etc/passwd", "/..", "a/.."] {
        let refused = unpack(&newc(&[Member::file(name, b"x")]));
        assert!(
            matches!(refused, Err(CpioError::Traversal { .. })),
            "{name}"
        );
    }
    let nul = unpack(&newc(&[Member::file(b"a\0b", b"x")]));
    assert!(
        matches!(nul, Err(CpioError::Name { member: 0, .. })),
        "{nul:?}"
    );
    // Bytes that are no UTF-8 are a name for the archive; the policy refuses them.
    let files = unpack(&newc(&[Member::file(b"bin/\xff", b"x")])).unwrap();
    let (name, digest) = files.first_key_value().unwrap();
    let refused = PolicyDraft::new().allow(Listing::Digests, name, digest);
    assert_eq!(refused, Err(DraftError::NotUtf8));
}

#[test]
fn archives_that_are_cut_or_altered_are_refused() {
    let member = Member::file("file", b"contents");
    let image = newc(std::slice::from_ref(&member));
    for length in 1..image.len() {
        let cut = unpack(&image[..length]);
        assert!(matches!(cut, Err(CpioError::Truncated { .. })), "{length}");
    }
    let mut not_hex = image.clone();
    not_hex[20] = b'g';
    assert_eq!(unpack(&not_hex), Err(CpioError::Header { member: 0 }));
    let mut second = [member.to_bytes(), image.clone()].concat();
    second[member.to_bytes().len()] = b'1';
    assert_eq!(unpack(&second), Err(CpioError::Header { member: 1 }));
    let summed = |off_by| {
        let sum_off_by = Some(off_by);
        let member = Member {
            sum_off_by,
            ..member.clone()
        };
        unpack(&newc(&[member]))
    };
    assert!(summed(0).is_ok());
    assert!(matches!(summed(1), Err(CpioError::Sum { .. })));
    // What follows an archive and is none is the caller's to look at.
    let mut archives = Archives::new(HashAlg::Sha256);
    let stream = [image.clone(), vec![0; 8], b"\x1f\x8b".to_vec()].concat();
    assert_eq!(archives.feed(&stream), Ok(Fed::Foreign(image.len() + 8)));
}

#[test]
fn recorded_images_in_pieces_are_the_same() {
    for name in ["plain", "crc"] {
        let image = vectors::read(&format!("keylime-policy/images/initrd-{name}"));
        let whole = unpack(&image).unwrap();
        assert_eq!(whole.len(), 6);
        for piece in [1, 2, 3, 7, 110, 111] {
            let mut archives = Archives::new(HashAlg::Sha256);
            for piece in image.chunks(piece) {
                assert_eq!(archives.feed(piece), Ok(Fed::All));
            }
            assert_eq!(archives.finish().as_ref(), Ok(&whole), "{name}, {piece}");
        }
    }
}

#[test]
fn a_recorded_package_and_every_cut_of_it() {
    let package = vectors::read("keylime-policy/vector-1-1.noarch.rpm");
    let files = package_files(&package).unwrap();
    let paths: Vec<_> = files
        .iter()
        .map(|file| String::from_utf8(file.path.clone()).unwrap())
        .collect();
    let expected = [
        "/etc/vector.conf",
        "/etc/vector.empty",
        "/usr/bin/a tool",
        "/usr/bin/tool",
    ];
    assert_eq!(paths, expected);
    assert_eq!(Some(files[3].digest.to_hex()), sha256(b"tool"));
    let mut needed = 0;
    for length in 0..package.len() {
        match package_files(&package[..length]) {
            Err(RpmError::Truncated { needed: more }) => {
                assert!(more > length);
                needed = needed.max(more);
            }
            other => {
                assert!(length >= needed, "{length}");
                assert_eq!(other.as_ref(), Ok(&files));
            }
        }
    }
}

#[test]
fn packages_whose_tags_do_not_fit_each_other_are_refused() {
    let parse = |tags: &[_]| package_files(&rpm(&rpm_header(tags)));
    let good = rpm_files(&[(b"a", SHA256), (b"b", SHA256)]);
    assert_eq!(parse(&good).unwrap().len(), 2);
    assert_eq!(parse(&[]).unwrap(), []);
    // Each replaces one of the tags.
    let cases = [
        (0, rpm_short_numbers(1030, &[0o100_644]), 1030),
        (0, (1030, 4, 2, vec![0; 8]), 1030),
        (1, rpm_strings(1035, &[SHA256.as_bytes()]), 1035),
        (2, rpm_numbers(1116, &[0, 1]), 1116),
        (2, rpm_numbers(1116, &[0, u32::MAX]), 1116),
        (4, (1118, 8, 1, b"/usr/bin/".to_vec()), 1118),
        (5, rpm_numbers(5011, &[8, 8]), 5011),
        (5, rpm_numbers(1116, &[0, 0]), 1116),
    ];
    for (place, tag, named) in cases {
        let mut tags = good.clone();
        // The last, so that text without an end has nothing behind it.
        tags.remove(place);
        tags.push(tag.clone());
        assert_eq!(parse(&tags), Err(RpmError::Tag { tag: named }), "{tag:?}");
    }
    let with = |place: usize, tag| {
        let mut tags = good.clone();
        tags[place] = tag;
        parse(&tags)
    };
    let md5 = with(5, rpm_numbers(5011, &[1]));
    assert_eq!(md5, Err(RpmError::Algorithm { id: 1 }));
    let short = with(1, rpm_strings(1035, &[SHA256.as_bytes(), b"00ff"]));
    let alg = HashAlg::Sha256;
    assert_eq!(short, Err(RpmError::Digest { file: 1, alg }));
    for folder in [&b"usr/bin/"[..], b"/usr/../", b""] {
        let refused = with(4, rpm_strings(1118, &[folder]));
        assert_eq!(refused, Err(RpmError::Name { file: 0 }));
    }
    assert_eq!(package_files(&[0; 200]), Err(RpmError::NotRpm));
    let mut other_header = rpm(&rpm_header(&good));
    other_header[96] = 0;
    assert_eq!(package_files(&other_header), Err(RpmError::NotRpm));
}

fn listed(text: &[u8]) -> Result<Value, AllowlistError> {
    let mut draft = PolicyDraft::new();
    read_allowlist(text, &mut draft)?;
    Ok(serde_json::from_str(&draft.write("now").unwrap()).unwrap())
}

#[test]
fn lines_of_sha256sum_in_all_their_forms() {
    let (a, b) = ("a".repeat(64), "B".repeat(64));
    let text = format!(
        "# made by hand\n{a}  /usr/bin/a\r\n\n{a} */usr/bin/binary\n\\{a}  /odd\\nname\\\\\n\
         sha256:{b}\t/usr/bin/a\n{a}  /two  words\n{a} %keyring:.ima\n"
    );
    let policy = listed(text.as_bytes()).unwrap();
    let b = b.to_lowercase();
    let expected = json!({
        "/usr/bin/a": [a, b], "/usr/bin/binary": [a], "/odd\nname\\": [a], "/two__words": [a],
    });
    assert_eq!(policy["digests"], expected);
    assert_eq!(policy["keyrings"], json!({ ".ima": [a] }));
}

#[test]
fn lists_that_are_none_are_refused_by_line() {
    let digest = "a".repeat(40);
    let line = AllowlistError::Line { line: 2 };
    for second in ["nonsense", &digest, &format!("\\{digest}  /a\\x"), "x "] {
        let text = format!("{digest}  /a\n{second}\n");
        assert_eq!(listed(text.as_bytes()), Err(line.clone()), "{second}");
    }
    for (first, fault) in [
        ("zz /a", DraftError::NotDigest),
        ("aaaa /a", DraftError::NotDigest),
        (&format!("md5:{digest} /a"), DraftError::DigestAlgorithm),
        (&format!("sha256:{digest} /a"), DraftError::DigestAlgorithm),
    ] {
        let refused = listed(first.as_bytes());
        assert_eq!(refused, Err(AllowlistError::Entry { line: 1, fault }));
    }
    let fault = DraftError::NotUtf8;
    let text = [digest.as_bytes(), b" /\xff"].concat();
    assert_eq!(listed(&text), Err(AllowlistError::Entry { line: 1, fault }));
    for empty in ["", "\n# no entry\n", "{}"] {
        assert_eq!(listed(empty.as_bytes()), Err(AllowlistError::Empty));
    }
    for json in ["{", "{\"hashes\": []}", "{\"hashes\": {\"/a\": [1]}}"] {
        let refused = listed(json.as_bytes());
        assert!(
            matches!(refused, Err(AllowlistError::Json { .. })),
            "{json}"
        );
    }
    let refused = listed(br#"{"hashes": {"/a": ["00"]}}"#);
    assert!(matches!(refused, Err(AllowlistError::Member { .. })));
    assert_eq!(read_exclude_list(b"\xff"), Err(AllowlistError::NotUtf8));
}

#[test]
fn l02_a_draft_with_a_pattern_that_cannot_be_used_is_not_written() {
    let mut draft = PolicyDraft::new();
    draft.exclude("(");
    let refused = draft.write("now");
    assert!(
        matches!(
            refused,
            Err(DraftError::Policy(PolicyError::Content { .. }))
        ),
        "{refused:?}"
    );
}

#[test]
fn a_policy_read_as_a_draft_is_written_as_it_was() {
    for name in [
        "keylime_runtime_policy_test",
        "keylime_runtime_policy_with_excludes",
        "keylime_runtime_policy_with_verification_keys",
        "keylime_policy-sha512",
    ] {
        let text = vectors::read(&format!("policy/{name}.json"));
        let draft = PolicyDraft::read(&text).unwrap();
        let written = draft.write("now").unwrap();
        let difference = compare(&text, written.as_bytes(), 10).unwrap();
        assert_eq!(difference.added.count, 0, "{name}");
        assert_eq!(difference.removed.count, 0, "{name}");
        assert_eq!(difference.changed.count, 0, "{name}");
        assert!(difference.excludes_added.is_empty() && difference.excludes_removed.is_empty());
        let keys = |text: &[u8]| {
            let policy = RuntimePolicy::parse(text).unwrap();
            let mut keys = policy.compiled().verification_keys().to_vec();
            // A draft has them in the order of their ids.
            keys.sort_by_key(|key| key.keyid);
            keys
        };
        assert_eq!(keys(written.as_bytes()), keys(&text), "{name}");
        assert_eq!(PolicyDraft::read(written.as_bytes()), Ok(draft), "{name}");
    }
}

#[test]
fn merged_policies_allow_what_either_allowed() {
    let policy = |digests: Value, alg: &str, keyring: &str| {
        let text = json!({
            "meta": {"version": 1}, "release": 3, "digests": digests, "excludes": ["^/tmp/.*$"],
            "ima": {"log_hash_alg": alg, "ignored_keyrings": [keyring]},
        });
        PolicyDraft::read(text.to_string().as_bytes()).unwrap()
    };
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    let mut merged = policy(json!({"/one": [a], "/both": [a]}), "sha1", ".a");
    let other = policy(json!({"/two": [b], "/both": [b]}), "sha1", ".b");
    merged.merge(&other).unwrap();
    let text: Value = serde_json::from_str(&merged.write("now").unwrap()).unwrap();
    let expected = json!({"/one": [a], "/two": [b], "/both": [a, b]});
    assert_eq!(text["digests"], expected);
    assert_eq!(text["excludes"], json!(["^/tmp/.*$"]));
    assert_eq!(text["ima"]["ignored_keyrings"], json!([".a", ".b"]));
    assert_eq!(text["release"], 3);
    let differs = policy(json!({}), "sha256", ".a");
    let (ours, theirs) = (HashAlg::Sha1, HashAlg::Sha256);
    let refused = merged.merge(&differs);
    assert_eq!(refused, Err(DraftError::LogHashesDiffer { ours, theirs }));
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(300))]

    /// What the fuzz targets assert holds near the recorded inputs, too.
    #[test]
    fn recorded_inputs_with_other_bytes_in_them(
        changes in proptest::collection::vec((0_usize..8000, 0_u8..=255), 1..6),
        cut in 0_usize..8000,
    ) {
        let targets: [(&str, Target); 5] = [
            ("images/initrd-plain", rat_tests::targets::initramfs),
            ("images/initrd-crc", rat_tests::targets::initramfs),
            ("vector-1-1.noarch.rpm", rat_tests::targets::rpm_header),
            ("flat.txt", rat_tests::targets::allowlist),
            ("signed/p384.signed.json", rat_tests::targets::dsse),
        ];
        for (name, target) in targets {
            let mut input = vectors::read(&format!("keylime-policy/{name}"));
            if name.starts_with("images/") {
                input.insert(0, 5);
            }
            for (at, byte) in &changes {
                let at = at % input.len();
                input[at] = *byte;
            }
            target(&input);
            input.truncate(cut % input.len() + 1);
            target(&input);
        }
    }
}
