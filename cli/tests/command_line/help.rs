//! Help, version, completions and manual pages. What each command's help says stands in
//! docs/reference/cli.md, which a test of the program keeps.

use crate::run::rat;

#[test]
fn the_help_begins_with_what_it_is_and_ends_with_an_example() {
    let run = rat(&["--help"]);
    assert_eq!(run.code, 0);
    let begin =
        "Run a fleet of attested machines, and judge evidence in files\n\nUsage: rat <COMMAND>\n";
    assert!(run.stdout.starts_with(begin), "{}", run.stdout);
    for text in [
        "\nExit codes:\n",
        "\n  3  no answer",
        "RAT_TOKEN",
        "\nExample:\n  rat connect",
    ] {
        assert!(run.stdout.contains(text), "{text}: {}", run.stdout);
    }
}

#[test]
fn verify_documents_its_exit_codes_and_verdicts() {
    let help = rat(&["verify", "--help"]).stdout;
    for text in [
        "0  trusted or authentic",
        "1  untrusted",
        "2  no verdict",
        "trusted    every check passed, and the runtime policy",
    ] {
        assert!(help.contains(text), "{text}");
    }
}

#[test]
fn the_version_is_the_packages() {
    let run = rat(&["--version"]);
    let expected = format!("rat {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((run.code, run.stdout), (0, expected));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = rat(&["completions", shell]);
        assert_eq!(run.code, 0);
        assert!(run.stdout.contains("ima-log"), "{shell}");
    }
    rat(&["completions", "cmd"]).is_unusable(&["cmd"]);
}

#[test]
fn manual_pages() {
    let run = rat(&["man"]);
    assert_eq!(run.code, 0);
    assert!(run.stdout.contains(".TH rat 1"), "{}", run.stdout);
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("man1");
    let run = rat(&["man", "--dir", into.to_str().unwrap()]);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""));
    for page in [
        "rat.1",
        "rat-verify.1",
        "rat-policies-create-runtime.1",
        "rat-agents-list.1",
    ] {
        assert!(
            std::fs::metadata(into.join(page)).unwrap().len() > 500,
            "{page}"
        );
    }
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    rat(&["man", "--dir", file.to_str().unwrap()]).is_unusable(&["--dir"]);
}
