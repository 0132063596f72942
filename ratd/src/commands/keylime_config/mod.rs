//! `ratd keylime import-config`: what a Keylime's configuration comes to here.
//!
//! Nothing is dropped without a word: each option that stands in a file or variable is taken, or has
//! a remark that says why not. Secrets are named and never shown. What is printed was checked as
//! `ratd config check` does.

mod ini;
mod options;
mod revocation;
mod sources;
mod translate;
mod values;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use serde::Serialize;

use crate::arguments::ImportConfigOptions;
use crate::config::{Config, check};
use crate::failure::{Exit, Failure, Means};
use sources::Sources;
use translate::{Draft, Fate, Remark, Translation};

/// Where Keylime's files are, the first before the second.
const FOLDERS: [&str; 2] = ["/etc/keylime", "/usr/etc/keylime"];
const KEYLIME_DIR: &str = "/var/lib/keylime";

#[derive(Serialize)]
struct Printed<'a> {
    configuration: &'a str,
    options: &'a [Remark],
}

/// Prints the configuration, and what became of each option.
pub(crate) fn run(options: &ImportConfigOptions) -> Result<(), Failure> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("KEYLIME_") {
            let value = value.into_string();
            let value = value.map_err(|_| anyhow!("variable {name} holds no text"))?;
            variables.push((name, value));
        }
    }
    variables.sort();
    let folders = match options.from.as_slice() {
        [] => FOLDERS.map(PathBuf::from).into(),
        given => given.to_vec(),
    };
    let of_variable = variables.iter().find(|(name, _)| name == "KEYLIME_DIR");
    let of_variable = of_variable.map(|(_, path)| PathBuf::from(path));
    let keylime_dir = options.keylime_dir.clone().or(of_variable);
    let keylime_dir = keylime_dir.unwrap_or_else(|| PathBuf::from(KEYLIME_DIR));
    let sources = Sources::read(&folders, &variables).means(Exit::Configuration)?;
    let is_there = |name| sources.component(name).is_some_and(|it| it.is_there);
    if !is_there("verifier") && !is_there("registrar") {
        let shown: Vec<_> = folders.iter().map(|it| it.display().to_string()).collect();
        let text = format!(
            "no verifier.conf and no registrar.conf in {}",
            shown.join(", ")
        );
        return Err(anyhow!(text)).means(Exit::Configuration);
    }
    let draft = Translation::new(&sources, &keylime_dir).run();
    let text = render(&draft);
    require_sound(&text).context("what this would print is refused by ratd")?;
    let mut out = io::stdout().lock();
    if options.json {
        let printed = Printed {
            configuration: &text,
            options: &draft.remarks,
        };
        serde_json::to_writer_pretty(&mut out, &printed)?;
        writeln!(out)?;
        return Ok(());
    }
    out.write_all(text.as_bytes())?;
    report(&draft)?;
    Ok(())
}

/// The configuration, each key with where it comes from, and remarks on what is not in it.
fn render(draft: &Draft) -> String {
    let mut text = String::from(
        "# Made of Keylime's configuration by `ratd keylime import-config`.\n\
         # Keys that are not here have ratd's own defaults: docs/reference/configuration.md\n\n",
    );
    // Writing to a String cannot fail.
    for (key, (value, origin)) in &draft.lines {
        let _ = writeln!(text, "# {}", comment(origin));
        let _ = writeln!(text, "{key} = {value}");
    }
    let open = |remark: &&Remark| !matches!(remark.fate, Fate::Taken | Fate::Default);
    let mut remarks = draft.remarks.iter().filter(open).peekable();
    if remarks.peek().is_some() {
        text.push_str("\n# Not in this file:\n");
    }
    for remark in remarks {
        let (option, fate) = (&remark.option, remark.fate.as_str());
        let _ = writeln!(text, "# {option}: {fate}. {}", comment(&remark.text));
    }
    text
}

/// A text within one line.
fn comment(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).collect()
}

fn require_sound(text: &str) -> anyhow::Result<()> {
    let defaults = Serialized::defaults(Config::default());
    let figment = Figment::from(defaults).merge(Toml::string(text));
    let config: Config = figment.extract()?;
    let faults = check::check(&config);
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    check::ek_trust(&config).map_err(|failure| failure.error)?;
    Ok(())
}

/// What became of each option, on standard error, so that the configuration can go to a file.
fn report(draft: &Draft) -> io::Result<()> {
    let mut out = io::stderr().lock();
    for remark in &draft.remarks {
        let (fate, option) = (remark.fate.as_str(), &remark.option);
        writeln!(out, "{fate:<14} {option}  {}", comment(&remark.text))?;
    }
    Ok(())
}
