//! A person who follows a page: terminals, a folder, and what stands for what the page names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::page::{Block, Kind, blocks};
use crate::shown::{has_begun, is_shown};
use crate::terminal::Terminal;

/// The programs that pages call, each with its package.
const PROGRAMS: [(&str, &str); 4] = [
    ("rat", "rat-cli"),
    ("ratd", "ratd"),
    ("rat-agent", "rat-agent"),
    ("rat-load", "rat-load"),
];
/// The ports that pages name.
const CORE: &str = ":8001";
const EVIDENCE: &str = ":8882";

/// Somebody who follows pages.
pub(crate) struct Session {
    folder: TempDir,
    terminals: BTreeMap<String, Terminal>,
    /// The ports of the server, once it has said them.
    ports: Option<(String, String)>,
    machine: Vec<(String, String)>,
    scripts: usize,
}

impl Session {
    /// An empty folder, and no terminal yet.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["home", "work", "scripts"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self {
            folder,
            terminals: BTreeMap::new(),
            ports: None,
            machine: Vec::new(),
            scripts: 0,
        }
    }

    /// Somebody who has followed the tutorial until two machines are trusted.
    pub(crate) fn with_two_machines() -> Self {
        let mut session = Self::new();
        session.follow_until("tutorial.md", "7. Run something unknown");
        session
    }

    /// A path in the folder that commands run in.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("work").join(name)
    }

    /// Puts a file there.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Sets variables of the terminal `machine`: where its TPM and its kernel's files are.
    pub(crate) fn sit_down_at_machine(&mut self, variables: Vec<(String, String)>) {
        self.machine = variables;
    }

    /// Follows a page to its end.
    pub(crate) fn follow(&mut self, page: &str) {
        for block in blocks(page) {
            self.run(&block);
        }
    }

    /// Follows a page until this heading.
    pub(crate) fn follow_until(&mut self, page: &str, heading: &str) {
        let blocks = blocks(page);
        let until = blocks.iter().position(|block| block.heading == heading);
        let until = until.unwrap_or_else(|| panic!("{page} has no block under {heading:?}"));
        for block in &blocks[..until] {
            self.run(block);
        }
    }

    /// Follows a page from this heading on.
    pub(crate) fn follow_from(&mut self, page: &str, heading: &str) {
        let blocks = blocks(page);
        let from = blocks.iter().position(|block| block.heading == heading);
        let from = from.unwrap_or_else(|| panic!("{page} has no block under {heading:?}"));
        for block in &blocks[from..] {
            self.run(block);
        }
    }

    /// Runs commands that stand on no page; what they printed.
    pub(crate) fn ok(&mut self, terminal: &str, commands: &str) -> String {
        let block = Block {
            place: commands.to_owned(),
            heading: String::new(),
            text: commands.to_owned(),
            shown: None,
            kind: Kind::Ends {
                terminal: terminal.to_owned(),
                code: 0,
            },
        };
        self.run(&block)
    }

    /// Types a line to the program that stays in a terminal, and waits for what it prints.
    pub(crate) fn type_to(&mut self, terminal: &str, line: &str, shown: &str) {
        assert!(self.is_occupied(terminal), "nothing stays in {terminal}");
        let block = Block {
            place: line.to_owned(),
            heading: String::new(),
            text: line.to_owned(),
            shown: Some(shown.to_owned()),
            kind: Kind::Ends {
                terminal: terminal.to_owned(),
                code: 0,
            },
        };
        self.run(&block);
    }

    /// Starts commands that go on, and waits for what they print.
    pub(crate) fn start(&mut self, terminal: &str, commands: &str, shown: &str) {
        let block = Block {
            place: commands.to_owned(),
            heading: String::new(),
            text: commands.to_owned(),
            shown: Some(shown.to_owned()),
            kind: Kind::Stays {
                terminal: terminal.to_owned(),
            },
        };
        self.run(&block);
    }

    fn run(&mut self, block: &Block) -> String {
        let printed = match &block.kind {
            Kind::NotRun { .. } => return String::new(),
            Kind::Stays { terminal } => self.start_in(terminal, block),
            Kind::Ends { terminal, code } if self.is_occupied(terminal) => {
                assert_eq!(*code, 0, "{}: a program stays there", block.place);
                let text = self.here(&block.text);
                let terminal = self.terminal(terminal);
                let from = terminal.type_in(&text);
                self.wait_for(&block.kind, block, from)
            }
            Kind::Ends { terminal, code } => self.run_in(terminal, block, *code),
        };
        self.learn_ports(&printed);
        printed
    }

    fn run_in(&mut self, terminal: &str, block: &Block, code: i32) -> String {
        let script = self.script(&block.text);
        let ended = self.terminal(terminal).run(&script, code);
        let (printed, ended) = match ended {
            Ok(ended) => ended,
            Err(printed) => self.fail(block, "failed, or never ended", &printed),
        };
        let printed = self.there(&printed);
        if ended != code {
            self.fail(block, &format!("ended with code {ended}"), &printed);
        }
        if let Some(shown) = &block.shown
            && !is_shown(shown, &printed)
        {
            self.fail(block, "did not print what the page shows", &printed);
        }
        printed
    }

    fn start_in(&mut self, name: &str, block: &Block) -> String {
        let script = std::fs::read_to_string(self.script(&block.text)).unwrap();
        let terminal = self.terminal(name);
        assert!(
            !terminal.is_occupied,
            "{}: a program stays there",
            block.place
        );
        terminal.is_occupied = true;
        let from = terminal.type_in(&script);
        self.wait_for(&block.kind, block, from)
    }

    /// Waits until a program that stays has printed what the page shows.
    fn wait_for(&self, kind: &Kind, block: &Block, from: usize) -> String {
        let (Kind::Stays { terminal } | Kind::Ends { terminal, .. }) = kind else {
            return String::new();
        };
        let shown = block.shown.as_deref();
        let shown = shown.unwrap_or_else(|| panic!("{}: when is it done?", block.place));
        let begun = self.terminals[terminal].wait(from, |text| {
            // Half a line is none yet.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            has_begun(shown, &self.there(whole))
        });
        begun.unwrap_or_else(|printed| {
            self.fail(block, "never printed what the page shows", &printed)
        })
    }

    fn is_occupied(&self, terminal: &str) -> bool {
        let terminal = self.terminals.get(terminal);
        terminal.is_some_and(|terminal| terminal.is_occupied)
    }

    fn terminal(&mut self, name: &str) -> &mut Terminal {
        let (folder, variables) = (self.path(""), self.variables(name));
        self.terminals
            .entry(name.to_owned())
            .or_insert_with(|| Terminal::open(&folder, &variables))
    }

    fn variables(&self, terminal: &str) -> Vec<(String, String)> {
        let programs = programs();
        let path = std::env::var("PATH").unwrap_or_default();
        let home = self.folder.path().join("home");
        let any = "127.0.0.1:0".to_owned();
        let mut variables = vec![
            ("PATH".to_owned(), format!("{}:{path}", programs.display())),
            ("HOME".to_owned(), home.display().to_string()),
            ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
            ("RATD_CORE_LISTEN".to_owned(), any.clone()),
            ("RATD_EVIDENCE_LISTEN".to_owned(), any),
        ];
        if terminal.starts_with("machine-") || terminal == "machine" {
            variables.extend(self.machine.clone());
        }
        variables
    }

    /// Writes commands into a file, as they are run here.
    fn script(&mut self, commands: &str) -> PathBuf {
        self.scripts += 1;
        let path = self.folder.path().join(format!("scripts/{}", self.scripts));
        let ports = self.ports.as_ref().map(|(core, evidence)| {
            format!(
                "export RATD_CORE_LISTEN=127.0.0.1{core} RATD_EVIDENCE_LISTEN=127.0.0.1{evidence}\n"
            )
        });
        let text = format!("{}{}\n", ports.unwrap_or_default(), self.here(commands));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// What a page names, as it is here.
    pub(crate) fn here(&self, text: &str) -> String {
        let mut text = text.replace("ratd.example:", "127.0.0.1:");
        for (page, here) in self.folders() {
            text = text.replace(page, &here.display().to_string());
        }
        match &self.ports {
            Some((core, evidence)) => text.replace(CORE, core).replace(EVIDENCE, evidence),
            None => text,
        }
    }

    /// What is here, as a page names it.
    fn there(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (page, here) in self.folders() {
            text = text.replace(&here.display().to_string(), page);
        }
        match &self.ports {
            Some((core, evidence)) => text.replace(core, CORE).replace(evidence, EVIDENCE),
            // Just now it says them.
            None => match ports_in(&text) {
                Some((core, evidence)) => text.replace(&core, CORE).replace(&evidence, EVIDENCE),
                None => text,
            },
        }
    }

    fn folders(&self) -> [(&'static str, PathBuf); 2] {
        [
            ("/var/lib/ratd", self.path("ratd-data")),
            ("/etc/ratd", self.path("etc-ratd")),
        ]
    }

    fn learn_ports(&mut self, printed: &str) {
        if self.ports.is_none() {
            self.ports = ports_in(printed);
        }
    }

    fn fail(&self, block: &Block, what: &str, printed: &str) -> ! {
        for (name, terminal) in &self.terminals {
            let screen = terminal.screen();
            let lines: Vec<&str> = screen.lines().collect();
            let last = &lines[lines.len().saturating_sub(30)..];
            eprintln!("--- the end of terminal {name}\n{}", last.join("\n"));
        }
        panic!(
            "{}: {what}\n--- commands\n{}\n--- shown\n{}\n--- printed\n{}",
            block.place,
            block.text,
            block.shown.as_deref().unwrap_or("(nothing is compared)"),
            printed
        );
    }
}

/// The ports that a starting server says, with their colons.
fn ports_in(printed: &str) -> Option<(String, String)> {
    let port = |name: &str| {
        let mut lines = printed.lines();
        let port = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(" 127.0.0.1:"));
        port.map(|port| format!(":{}", port.trim()))
    };
    port("core").zip(port("evidence"))
}

/// Where cargo puts the programs of the workspace.
pub(crate) fn programs() -> PathBuf {
    let rat = Path::new(env!("CARGO_BIN_EXE_rat"));
    for (program, package) in PROGRAMS {
        let path = rat.with_file_name(program);
        assert!(
            path.exists(),
            "no {}: cargo build -p {package}",
            path.display()
        );
    }
    rat.parent().unwrap().to_owned()
}
