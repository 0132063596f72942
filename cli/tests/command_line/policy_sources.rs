//! `rat policies create runtime`, `merge`, `convert` and `diff --files`: held against what
//! keylime-policy made of the same inputs, and against hostile ones.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use rat_tests::archives::{Member, newc, rpm, rpm_files, rpm_header, rpm_numbers};
use rat_tests::vectors;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{Run, rat};

fn recorded(name: &str) -> PathBuf {
    vectors::path(&format!("keylime-policy/{name}"))
}

/// What keylime-policy made, without the time at which it did.
fn keylime(name: &str) -> Value {
    without_meta(vectors::json(&format!(
        "keylime-policy/expected/{name}.json"
    )))
}

fn without_meta(mut policy: Value) -> Value {
    policy.as_object_mut().unwrap().remove("meta").unwrap();
    policy
}

/// Runs `rat policies` with these arguments, of which some are paths.
fn policies(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Run {
    let arguments = arguments.iter().map(|argument| argument.as_ref());
    let all: Vec<_> = [std::ffi::OsStr::new("policies")]
        .into_iter()
        .chain(arguments)
        .collect();
    rat(&all)
}

#[track_caller]
fn made(run: &Run) -> Value {
    assert_eq!(run.code, 0, "{run:?}");
    without_meta(run.json())
}

/// The option for trees whose files the test's user owns.
fn owners() -> &'static str {
    let root = tempfile::tempdir()
        .unwrap()
        .path()
        .metadata()
        .unwrap()
        .uid()
        == 0;
    // An option that changes nothing where root runs the tests, as the recordings were made.
    if root {
        "--no-keyrings"
    } else {
        "--all-owners"
    }
}

/// The tree that keylime-policy was given.
fn tree() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (name, contents) in [
        ("usr/bin/alpha", "alpha"),
        ("usr/bin/with a space", "with a space"),
        ("etc/empty", ""),
        ("usr/lib/caf\u{e9}", "caf\u{e9}"),
        ("usr/lib/tmp", "nested tmp"),
        ("tmp/x", "tmp"),
        ("var/lib/y", "var"),
        ("home/ann/z", "ann"),
        ("skip/me/s", "skipped"),
    ] {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }
    symlink("alpha", root.join("usr/bin/link")).unwrap();
    symlink(".", root.join("usr/lib/loop")).unwrap();
    // A pipe that nobody writes into: whoever opened it would wait.
    let pipe = std::process::Command::new("mkfifo")
        .arg(root.join("usr/lib/pipe"))
        .status();
    assert!(pipe.unwrap().success());
    folder
}

#[test]
fn lists_give_what_keylime_policy_gives() {
    for (list, expected, options) in [
        (
            "../ima/keylime_ima-log-sha256",
            "list-ima-log-sha256",
            vec![],
        ),
        (
            "../ima/keylime_test_measurements.txt",
            "list-test_measurements",
            vec![],
        ),
        ("list-keyrings.txt", "list-keyrings", vec![]),
        (
            "list-keyrings.txt",
            "list-keyrings-ignored",
            vec!["--ignored-keyrings", ".ima"],
        ),
    ] {
        let list = recorded(list);
        // The names of keylime-policy's options.
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![
            &"create",
            &"runtime",
            &"-m",
            &list,
            &"--with-boot-aggregate",
        ];
        for option in options.iter() {
            arguments.push(option);
        }
        assert_eq!(made(&policies(&arguments)), keylime(expected), "{expected}");
    }
    let list = recorded("list-keyrings.txt");
    let run = policies(&[&"create", &"runtime", &"-m", &list, &"--no-keyrings"]);
    assert_eq!(made(&run)["keyrings"], json!({}));
}

#[test]
fn a_tree_gives_what_keylime_policy_gives() {
    let tree = tree();
    let skip = tree.path().join("skip");
    for (options, expected) in [
        (["--hash", "sha256"], "tree-sha256"),
        (["--algo", "sha1"], "tree-sha1"),
    ] {
        let run = policies(&[
            &"create",
            &"runtime",
            &"--rootfs",
            &tree.path(),
            &"-s",
            &skip,
            &options[0],
            &options[1],
            &owners(),
        ]);
        assert_eq!(made(&run), keylime(expected));
    }
    // Without a word about the algorithm, files are hashed as the policy's digests were made.
    let base = recorded("expected/tree-sha1.json");
    let run = policies(&[
        &"create",
        &"runtime",
        &"--from-directory",
        &tree.path(),
        &"-s",
        &skip,
        &"--base",
        &base,
        &owners(),
    ]);
    assert_eq!(made(&run), keylime("tree-sha1"));
    let elsewhere = tempfile::tempdir().unwrap();
    policies(&[
        &"create",
        &"runtime",
        &"--from-directory",
        &tree.path(),
        &"-s",
        &elsewhere.path(),
    ])
    .is_unusable(&["--skip-path", "not below"]);
}

#[test]
fn trees_with_names_and_files_that_no_policy_can_hold() {
    let folder = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"not-utf8-\xff");
    std::fs::write(folder.path().join(name), "x").unwrap();
    let create = |options: &[&str]| {
        let path = folder.path();
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![
            &"create",
            &"runtime",
            &"--all-owners",
            &"--from-directory",
            &path,
        ];
        for option in options.iter() {
            arguments.push(option);
        }
        policies(&arguments)
    };
    // A pattern is about text, so that none leaves this name alone.
    for options in [&[][..], &["--exclude", "/not-utf8.*"]] {
        create(options).is_unusable(&["not-utf8-", "not UTF-8"]);
    }
    policies(&[&"create", &"runtime", &"--from-directory", &"missing"])
        .is_unusable(&["--from-directory", "missing"]);
    policies(&[&"create", &"runtime", &"--from-directory", &"/etc/hostname"])
        .is_unusable(&["/etc/hostname", "no folder"]);
    policies(&[&"create", &"runtime"]).is_unusable(&["--from-ima-log", "--base"]);
}

/// Root can read everything, so that only other users meet this.
#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "x").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o0)).unwrap();
    let run = policies(&[
        &"create",
        &"runtime",
        &"--all-owners",
        &"--from-directory",
        &folder.path(),
    ]);
    if std::fs::read(&path).is_ok() {
        assert!(made(&run)["digests"]["/secret"].is_array());
    } else {
        run.is_unusable(&["secret", "denied"]);
    }
}

fn image(path: &Path) -> Run {
    policies(&[&"create", &"runtime", &"--from-initramfs", &path])
}

#[test]
fn images_give_what_keylime_policy_gives() {
    assert_eq!(
        made(&image(&recorded("images/initrd-plain"))),
        keylime("image-plain")
    );
    assert_eq!(
        made(&image(&recorded("images/initrd-crc"))),
        keylime("image-plain")
    );
    for stream in ["gz", "zst", "xz"] {
        let mut policy = made(&image(&recorded(&format!("images/initrd-early-{stream}"))));
        // The kernel unpacks early microcode, too; keylime-policy passes over it.
        let digests = policy["digests"].as_object_mut().unwrap();
        let microcode = digests.remove("/kernel/x86/microcode/GenuineIntel.bin");
        assert!(microcode.is_some(), "{stream}");
        assert_eq!(policy, keylime("image-early-zst"), "{stream}");
    }
    image(&recorded("images/initrd-bz2")).is_unusable(&["initrd-bz2", "byte 0", "bzip2"]);
    // A folder of images, among them one that is refused; then without it.
    let folder = tempfile::tempdir().unwrap();
    for name in ["initrd-plain", "initrd-bz2"] {
        std::fs::copy(recorded("images").join(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("vmlinuz"), "no image").unwrap();
    image(folder.path()).is_unusable(&["initrd-bz2"]);
    std::fs::remove_file(folder.path().join("initrd-bz2")).unwrap();
    assert_eq!(made(&image(folder.path())), keylime("image-plain"));
    std::fs::remove_file(folder.path().join("initrd-plain")).unwrap();
    image(folder.path()).is_unusable(&["initr"]);
}

/// An image in a file of its own.
fn image_of(bytes: &[u8]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("initrd");
    std::fs::write(&path, bytes).unwrap();
    image(&path)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn hostile_images_are_refused() {
    let good = newc(&[Member::file("init", b"init")]);
    let of = |contents: Vec<Vec<u8>>| image_of(&contents.concat());
    // Streams one behind the other, with zeros between them.
    let second = newc(&[Member::file("second", b"2")]);
    let zstd = zstd::encode_all(second.as_slice(), 3).unwrap();
    let run = of(vec![
        gzip(&good),
        vec![0; 100],
        zstd.clone(),
        zstd.clone(),
        vec![0; 7],
    ]);
    assert_eq!(made(&run)["digests"].as_object().unwrap().len(), 2);
    of(vec![]).is_unusable(&["no archive"]);
    of(vec![vec![0; 1000]]).is_unusable(&["no archive"]);
    of(vec![b"something".to_vec()]).is_unusable(&["byte 0", "neither"]);
    of(vec![good.clone(), b"junk".to_vec()]).is_unusable(&["neither"]);
    of(vec![gzip(b"junk")]).is_unusable(&["gzip", "something else"]);
    of(vec![gzip(&gzip(&good))]).is_unusable(&["gzip", "something else"]);
    of(vec![gzip(&good[..150])]).is_unusable(&["ends within"]);
    let cut = gzip(&good);
    of(vec![cut[..cut.len() - 9].to_vec()]).is_unusable(&["gzip", "decompress"]);
    of(vec![zstd[..zstd.len() - 3].to_vec()]).is_unusable(&["zstd", "decompress"]);
    let mut altered = cut.clone();
    let end = altered.len() - 6;
    altered[end] ^= 1;
    of(vec![altered]).is_unusable(&["gzip", "decompress"]);
    of(vec![gzip(&good); 65]).is_unusable(&["more than 64"]);
    assert_eq!(
        made(&of(vec![gzip(&good); 64]))["digests"]
            .as_object()
            .unwrap()
            .len(),
        1
    );
    let up = newc(&[Member::file("../../etc/shadow", b"x")]);
    of(vec![gzip(&up)]).is_unusable(&["../../etc/shadow", "leaves its folder"]);
    let bytes = newc(&[Member::file(b"bin/\xff", b"x")]);
    of(vec![bytes]).is_unusable(&["not UTF-8"]);
}

#[test]
fn an_image_that_decompresses_without_end_is_given_up() {
    // 2 GiB of zeros are 64 KiB of zstd: more of them than any image has.
    let piece = vec![0; 1 << 20];
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    for _ in 0..2049 {
        encoder.write_all(&piece).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    image_of(&bomb).is_unusable(&["more than 2147483648 bytes when unpacked"]);
}

#[test]
fn images_that_are_too_large_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("initrd");
    // A file of holes: it takes no room.
    let file = std::fs::File::create(&path).unwrap();
    file.set_len((1 << 30) + 1).unwrap();
    image(&path).is_unusable(&["1073741825 bytes", "INITRAMFS_BYTES_MAX"]);
}

#[test]
fn packages_give_what_keylime_policy_gives() {
    let package = recorded("vector-1-1.noarch.rpm");
    let mut expected = keylime("rpm");
    // The kernel writes _ for a space: as keylime-policy lists it, it never matches.
    let digests = expected["digests"].as_object_mut().unwrap();
    let spaced = digests.remove("/usr/bin/a tool").unwrap();
    digests.insert("/usr/bin/a_tool".to_owned(), spaced);
    let run = policies(&[&"create", &"runtime", &"--from-rpms", &package]);
    assert_eq!(made(&run), expected);
    // A repository: packages at any depth, and a loop that is not entered.
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("Packages/v");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::copy(&package, below.join("vector.rpm")).unwrap();
    symlink("..", below.join("loop")).unwrap();
    let run = policies(&[&"create", &"runtime", &"--local-rpm-repo", &folder.path()]);
    assert_eq!(made(&run), expected);
    // A header that is longer than what is read first.
    let name = "n".repeat(200);
    let digest = "a".repeat(64);
    let files: Vec<(Vec<u8>, &str)> = (0..1000)
        .map(|number| (format!("{name}{number}").into_bytes(), digest.as_str()))
        .collect();
    let files: Vec<(&[u8], &str)> = files.iter().map(|(n, d)| (n.as_slice(), *d)).collect();
    std::fs::write(below.join("long.rpm"), rpm(&rpm_header(&rpm_files(&files)))).unwrap();
    let run = policies(&[&"create", &"runtime", &"--from-rpms", &folder.path()]);
    assert_eq!(made(&run)["digests"].as_object().unwrap().len(), 1004);
    // One package that is refused, and nothing is made.
    let mut old = rpm_files(&[(b"a", &digest)]);
    old[5] = rpm_numbers(5011, &[1]);
    std::fs::write(below.join("old.rpm"), rpm(&rpm_header(&old))).unwrap();
    policies(&[&"create", &"runtime", &"--from-rpms", &folder.path()])
        .is_unusable(&["old.rpm", "algorithm 1"]);
    std::fs::write(below.join("old.rpm"), b"").unwrap();
    policies(&[&"create", &"runtime", &"--from-rpms", &folder.path()])
        .is_unusable(&["old.rpm", "ends within"]);
}

#[test]
fn allowlists_keys_and_a_base_give_what_keylime_policy_gives() {
    let run = policies(&[
        &"create",
        &"runtime",
        &"-a",
        &recorded("sums.txt"),
        &"-e",
        &recorded("excludes.txt"),
        &"-p",
        &recorded("expected/tree-sha1.json"),
        &"--add-ima-signature-verification-key",
        &recorded("ima-key.pem"),
        &"--add-ima-signature-verification-key",
        &recorded("ima-cert.pem"),
    ]);
    let (mut ours, mut theirs) = (made(&run), keylime("create-allowlist"));
    // keylime-policy takes the comment for a pattern. Patterns keep their order here.
    let patterns = |policy: &mut Value| {
        let mut patterns: Vec<String> = serde_json::from_value(policy["excludes"].take()).unwrap();
        patterns.retain(|pattern| !pattern.starts_with('#'));
        patterns.sort();
        patterns
    };
    assert_eq!(patterns(&mut ours), patterns(&mut theirs));
    let keys = |policy: &mut Value| {
        let text: String = serde_json::from_value(policy["verification-keys"].take()).unwrap();
        let keyring: Value = serde_json::from_str(&text).unwrap();
        let list = |name: &str| keyring[name].as_array().unwrap().clone();
        let mut keys: Vec<_> = list("keyids").into_iter().zip(list("pubkeys")).collect();
        keys.sort_by_key(|(id, _)| id.as_u64());
        keys
    };
    assert_eq!(keys(&mut ours), keys(&mut theirs));
    assert_eq!(ours, theirs);
    policies(&[
        &"create",
        &"runtime",
        &"-a",
        &recorded("sums.txt"),
        &"--verification-key",
        &recorded("sums.txt"),
    ])
    .is_unusable(&["--verification-key", "sums.txt"]);
    let run = policies(&[
        &"create",
        &"runtime",
        &"-a",
        &recorded("sums.txt"),
        &"--as-allowlist",
    ]);
    let sums = std::fs::read_to_string(recorded("sums.txt")).unwrap();
    let mut lines: Vec<_> = run.stdout.lines().map(str::to_owned).collect();
    let mut expected: Vec<_> = sums
        .lines()
        .map(|line| line.replace("two words", "two_words"))
        .collect();
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);
}

#[test]
fn older_lists_convert_as_keylime_converts_them() {
    let excludes = recorded("excludes.txt");
    let convert = |name: &str| policies(&[&"convert", &recorded(name), &"-e", &excludes]);
    assert_eq!(made(&convert("legacy.json")), keylime("convert-json"));
    let mut expected = keylime("convert-flat");
    let digests = expected["digests"].as_object_mut().unwrap();
    let spaced = digests.remove("/usr/bin/two words").unwrap();
    digests.insert("/usr/bin/two_words".to_owned(), spaced);
    assert_eq!(made(&convert("flat.txt")), expected);
    // A name of an algorithm before a digest: Keylime leaves it there, and its schema refuses it.
    let list = recorded("../ima/keylime_ima-allowlist-short.txt");
    let mut expected = keylime("convert-short");
    let aggregate = &mut expected["digests"]["boot_aggregate"][0];
    let bare = aggregate
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap()
        .to_owned();
    *aggregate = json!(bare);
    assert_eq!(made(&policies(&[&"convert", &list])), expected);
    // A policy of before the present version of the schema.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.json");
    let digest = "a".repeat(64);
    let old = json!({"meta": {"version": 0, "generator": 0}, "digests": {"/a": [digest]}});
    std::fs::write(&path, old.to_string()).unwrap();
    let run = policies(&[&"convert", &path]);
    assert_eq!(run.json()["meta"]["version"], 1);
    assert_eq!(run.json()["digests"], json!({"/a": [digest]}));
    policies(&[&"convert", &excludes]).is_unusable(&["excludes.txt", "line 2"]);
}

#[test]
fn policies_merge_and_differ_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged.json");
    let (tree, image) = (
        recorded("expected/tree-sha256.json"),
        recorded("expected/image-plain.json"),
    );
    let run = policies(&[&"merge", &tree, &image, &"--out", &out]);
    assert_eq!(run.code, 0, "{run:?}");
    let run = policies(&[&"diff", &"--files", &tree, &out, &"--output", &"json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let diff = run.json();
    assert_eq!(diff["removed_paths_count"], 0);
    assert_eq!(diff["added_paths_count"], 5);
    assert_eq!(diff["added_paths"][0]["path"], "/etc/a_b");
    assert_eq!(diff["changed_count"], 0);
    assert_eq!(diff["other_members"], json!(["meta"]));
    let run = policies(&[&"diff", &"--files", &out, &tree]);
    assert!(run.stdout.contains("- /usr/bin/busybox"), "{run:?}");
    policies(&[&"merge", &tree, &recorded("sums.txt")]).is_unusable(&["sums.txt"]);
    policies(&[&"diff", &"--files", &tree, &"missing"]).is_unusable(&["missing"]);
}
