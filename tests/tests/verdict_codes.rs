//! Codes are an interface: scripts and alerts match on them. Their page is made from the table.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::fs;

use rat_engine::verdict::{Attribution, Code};
use rat_tests::workspace_root;

const PREAMBLE: &str = "\
# Verdict codes

A verdict is one of three words, and a list of codes that say why.

| verdict | meaning |
|---|---|
| `trusted` | every check passed, and a runtime policy allows everything that was measured |
| `authentic` | every cryptographic check passed; there was no runtime policy to hold against it |
| `untrusted` | something failed or is missing; the codes say what |

Codes are stable: they are matched by scripts and alerts, and change only with a note in the
changelog. Each has an *attribution*, which says whose doing it may be taken for:

| attribution | meaning |
|---|---|
| `sender` | whoever sent the bytes; changes nothing about the agent |
| `operator` | configuration or policy cannot be used |
| `channel` | the agent, where the channel authenticated it; otherwise the sender |
| `agent` | the agent: its attestation key signed for what is wrong |

Codes that only a machine's group can decide are warnings of `rat verify`, and fail with
`--strict`: `ak.attributes` when the key came as PEM, `pcr.bank_not_pinned`,
`pcr.bank_unextended`, `pcr.boot_not_quoted` and `ima.boot_aggregate_unverifiable`.

Where these rules differ from Keylime's on purpose:

- A violation fails, whatever its path: the path of a violation is not authenticated.
- `boot_aggregate` is checked against the quoted boot PCRs, never by path rules or excludes. The
  policy's own digests of it count only where its PCRs were neither quoted nor replayed.
- Digests are compared with their algorithm; a digest of another algorithm never matches.
- A malformed signature field fails always; a measured buffer must hash to its digest.
- A key that an exclude pattern lets pass is not learned.
- Entries after the cut (added since the quote) are not judged, and teach no key.
- Measured boot policies judge what digests prove: [docs/keylime.md](keylime.md) has the list.
- Values of PCR 16 and 23 are refused in a PCR policy: software can reset them.

";

fn page() -> String {
    let mut page = PREAMBLE.to_owned();
    let mut stage = "";
    for code in Code::ALL {
        let (now, _) = code.as_str().split_once('.').unwrap();
        if now != stage {
            stage = now;
            let title = match stage {
                "ak" => "The attestation key",
                "quote" => "The quote",
                "time" => "The TPM's clock",
                "identity" => "The machine",
                "path" => "The way that evidence came",
                "pcr" => "PCR values",
                "uefi" => "The boot log",
                "ima" => "The measurement list",
                "policy" => "The policy",
                other => panic!("stage {other} has no title"),
            };
            writeln!(
                page,
                "## {title}\n\n| code | attribution | cause | what to do |\n|---|---|---|---|"
            )
            .unwrap();
        }
        let (attribution, cause, remedy) =
            (code.attribution().as_str(), code.cause(), code.remedy());
        writeln!(page, "| `{code}` | {attribution} | {cause} | {remedy} |").unwrap();
        let next = Code::ALL.iter().skip_while(|other| *other != code).nth(1);
        if next.is_none_or(|next| !next.as_str().starts_with(&format!("{stage}."))) {
            page.push('\n');
        }
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

#[test]
fn the_page_of_codes_is_the_table_in_the_code() {
    let path = workspace_root().join("docs/verdicts.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, page()).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert!(
        found == page(),
        "docs/verdicts.md is stale: run this test with UPDATE_DOCS=1"
    );
}

#[test]
fn codes_do_not_change() {
    let found: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let snapshot: Vec<_> = include_str!("verdict_codes.txt").lines().collect();
    assert_eq!(
        found, snapshot,
        "a code changed: that breaks scripts and alerts"
    );
}

#[test]
fn s13_only_signed_or_authenticated_faults_are_the_agents() {
    for code in Code::ALL {
        let text = code.as_str();
        match code.attribution() {
            // Nothing that an unauthenticated sender can cause alone.
            Attribution::Agent => {
                let signed = ["time.", "identity.", "pcr.", "ima."];
                assert!(signed.iter().any(|stage| text.starts_with(stage)), "{text}");
            }
            Attribution::Sender => assert!(!text.starts_with("policy."), "{text}"),
            Attribution::Channel => {
                let from_logs = ["pcr.", "ima.", "uefi."];
                assert!(
                    from_logs.iter().any(|stage| text.starts_with(stage)),
                    "{text}"
                );
            }
            Attribution::Operator => assert!(text.starts_with("policy."), "{text}"),
        }
    }
}

/// Anybody can cause these for any agent, so none may ever count against it.
#[test]
fn s13_faults_of_the_conversation_are_the_senders() {
    let conversation = ["ak.", "quote.", "path."];
    let unfinished = [Code::ImaOffsetMismatch, Code::ImaIncomplete];
    for code in Code::ALL {
        let text = code.as_str();
        if conversation.iter().any(|stage| text.starts_with(stage)) || unfinished.contains(code) {
            assert_eq!(code.attribution(), Attribution::Sender, "{text}");
        }
    }
}
