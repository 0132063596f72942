//! Completion scripts and manual pages, made from the command line's own description.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::Outcome;
use crate::arguments::Arguments;
use crate::input::InputError;
use crate::output::Terminal;

/// Prints the completion script for a shell.
pub(crate) fn completions(shell: Shell, terminal: &mut Terminal) -> Result<Outcome> {
    // The generator panics when it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "rat", &mut script);
    terminal.write_all(&script)?;
    Ok(Outcome::Passed)
}

/// Prints the manual page of `rat`, or writes a page for it and for each of its commands.
pub(crate) fn man(dir: Option<&Path>, terminal: &mut Terminal) -> Result<Outcome> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
        terminal.write_all(&page)?;
        return Ok(Outcome::Passed);
    };
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), dir))
        .map_err(|error| InputError::new("--dir", dir, &error))?;
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::path::Path;

    use super::*;
    use clap::Command;

    const BEGIN: &str = "<!-- commands -->\n";

    /// Every command that does something, with its words.
    fn leaves(command: &Command, words: &str, found: &mut Vec<(String, Command)>) {
        let children: Vec<&Command> = command.get_subcommands().collect();
        if children.is_empty() {
            found.push((words.to_owned(), command.clone()));
        }
        for child in children.iter().filter(|child| child.get_name() != "help") {
            leaves(child, &format!("{words} {}", child.get_name()), found);
        }
    }

    fn commands() -> Vec<(String, Command)> {
        let mut all = Arguments::command().term_width(100);
        all.build();
        let mut found = Vec::new();
        leaves(&all, "rat", &mut found);
        found
    }

    #[test]
    fn every_command_has_a_short_help_with_an_example() {
        let commands = commands();
        assert!(commands.len() > 40, "{}", commands.len());
        for (words, command) in commands {
            let help = command.clone().render_help().to_string();
            assert!(help.contains("\nExample:\n  "), "{words}");
            assert!(help.lines().count() < 90, "{words}");
            // Usage lines are not folded.
            let mut lines = help.lines().filter(|line| !line.starts_with("Usage:"));
            assert!(lines.all(|line| line.chars().count() <= 100), "{help}");
        }
    }

    /// What the page says of a command. Options that many have stand in its text once.
    fn reference(command: &Command) -> String {
        let command = command.clone().mut_args(|arg| {
            let is_shared = matches!(arg.get_id().as_str(), "help" | "output")
                || arg.get_help_heading() == Some("Server");
            arg.hide(is_shared)
        });
        let help = command.clone().render_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        lines.join("\n")
    }

    #[test]
    fn the_reference_page_lists_every_command() {
        let page = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../docs/reference/cli.md"
        ));
        let text = std::fs::read_to_string(page).unwrap();
        let (head, _) = text.split_once(BEGIN).unwrap();
        let mut fresh = format!("{head}{BEGIN}");
        for (words, command) in commands() {
            let help = reference(&command);
            writeln!(fresh, "\n### {words}\n\n```text\n{}\n```", help.trim_end()).unwrap();
        }
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(page, fresh).unwrap();
        } else {
            assert!(
                text == fresh,
                "{} is stale: run this test with UPDATE_DOCS=1",
                page.display()
            );
        }
    }
}
