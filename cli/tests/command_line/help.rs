//! Help, version, completions and manual pages.

use crate::run::rat;

const HELP: &str = "\
Judge evidence of TPM 2.0 machines offline, and see what is in it

Usage: rat <COMMAND>

Commands:
  verify       Judge a quote, with its PCR values, logs and policies
  inspect      Show what a file of evidence or a policy holds, unverified
  policies     Check and make runtime policies
  completions  Print a completion script for a shell
  man          Print the manual page, or write those of all commands
  help         Print this message or the help of the given subcommand(s)

Options:
  -h, --help     Print help
  -V, --version  Print version

Exit codes:
  0  every check passed
  1  a check failed
  2  wrong usage, or a file that cannot be used
";

const COMMANDS: [&[&str]; 6] = [
    &["verify"],
    &["inspect"],
    &["policies", "lint"],
    &["policies", "create", "runtime"],
    &["completions"],
    &["man"],
];

#[test]
fn the_help_is_this() {
    let run = rat(&["--help"]);
    assert_eq!((run.code, run.stdout.as_str()), (0, HELP));
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in COMMANDS {
        for help in ["-h", "--help"] {
            let run = rat(&[command, &[help]].concat());
            assert_eq!(run.code, 0);
            assert!(run.stdout.contains("Example:\n  "), "{command:?}");
        }
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
    for page in ["rat.1", "rat-verify.1", "rat-policies-create-runtime.1"] {
        assert!(
            std::fs::metadata(into.join(page)).unwrap().len() > 500,
            "{page}"
        );
    }
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    rat(&["man", "--dir", file.to_str().unwrap()]).is_unusable(&["--dir"]);
}
