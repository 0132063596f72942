//! A page of the documentation, as blocks.

use rat_tests::workspace_root;

/// A block of commands.
#[derive(Debug)]
pub(crate) struct Block {
    /// Where it is, for messages.
    pub(crate) place: String,
    /// The heading above it.
    pub(crate) heading: String,
    /// The commands.
    pub(crate) text: String,
    /// What they print, where the page shows it.
    pub(crate) shown: Option<String>,
    /// How it is run.
    pub(crate) kind: Kind,
}

/// How a block is run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In this terminal, to this exit code.
    Ends { terminal: String, code: i32 },
    /// In this terminal, whose program goes on.
    Stays { terminal: String },
    /// Not at all, for a reason.
    NotRun { reason: String },
}

/// The terminal of blocks that name none.
const FIRST: &str = "operator";

/// The blocks of a page, `tutorial.md` for example.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let path = workspace_root().join("docs").join(page);
    let text = std::fs::read_to_string(&path).unwrap();
    parse(page, &text)
}

fn parse(page: &str, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut heading = String::new();
    let mut lines = (1..).zip(text.lines());
    let mut between = true;
    while let Some((number, line)) = lines.next() {
        let place = format!("docs/{page}:{number}");
        if let Some(text) = line.strip_prefix('#') {
            heading = text.trim_start_matches('#').trim().to_owned();
        }
        let Some(info) = line.trim_start().strip_prefix("```") else {
            between |= !line.trim().is_empty();
            continue;
        };
        assert!(line.starts_with('`'), "{place}: a block within a list");
        let body: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .collect();
        let body = body.join("\n");
        match info.split_once(' ').unwrap_or((info, "")) {
            ("sh", words) => blocks.push(Block {
                kind: kind(&place, words),
                heading: heading.clone(),
                text: body,
                shown: None,
                place,
            }),
            ("text", "") => {
                let block = blocks.last_mut().filter(|_| !between);
                let block = block.unwrap_or_else(|| panic!("{place}: printed by what?"));
                let before = block.shown.replace(body);
                assert_eq!(before, None, "{place}: a second output");
            }
            _ => panic!("{place}: {info:?} is neither run nor compared"),
        }
        between = false;
    }
    blocks
}

fn kind(place: &str, words: &str) -> Kind {
    if let Some(reason) = words.strip_prefix("not-run:") {
        let reason = reason.trim().to_owned();
        assert!(reason.len() > 10, "{place}: why is it not run?");
        return Kind::NotRun { reason };
    }
    let (mut terminal, mut code, mut stays) = (FIRST.to_owned(), 0, false);
    for word in words.split_whitespace() {
        match word.split_once('=') {
            Some(("terminal", name)) => terminal = name.to_owned(),
            Some(("exit", number)) => code = number.parse().unwrap(),
            None if word == "stays" => stays = true,
            _ => panic!("{place}: what is {word:?}?"),
        }
    }
    match stays {
        true => Kind::Stays { terminal },
        false => Kind::Ends { terminal, code },
    }
}

#[test]
fn blocks_are_found_with_what_they_print() {
    let text = "# Page\n```sh\na\nb\n```\n\n```text\nc\n```\nword\n## Next\n```sh terminal=x exit=1\n```\n\
                ```sh not-run: it needs systemd\nd\n```\n```sh terminal=y stays\n```\n";
    let found = parse("p.md", text);
    let kinds: Vec<_> = found.iter().map(|block| &block.kind).collect();
    let terminal = |name: &str| name.to_owned();
    assert_eq!(
        kinds,
        [
            &Kind::Ends {
                terminal: terminal(FIRST),
                code: 0
            },
            &Kind::Ends {
                terminal: terminal("x"),
                code: 1
            },
            &Kind::NotRun {
                reason: "it needs systemd".to_owned()
            },
            &Kind::Stays {
                terminal: terminal("y")
            },
        ]
    );
    assert_eq!(
        (found[0].text.as_str(), found[0].shown.as_deref()),
        ("a\nb", Some("c"))
    );
    assert_eq!(
        (found[0].heading.as_str(), found[1].heading.as_str()),
        ("Page", "Next")
    );
    assert_eq!(found[1].place, "docs/p.md:12");
}
