//! L09: exclude patterns mean here what they mean to CPython 3.11, asked pattern by pattern.
//!
//! `RAT_EXCLUDE_SEED`, `RAT_EXCLUDE_FIRST` and `RAT_EXCLUDE_PATTERNS` choose the random patterns;
//! `RAT_EXCLUDE_KEEP_GOING=1` reports every difference instead of the first;
//! `RAT_PYTHON` names another interpreter.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

#[path = "exclude_patterns/generate.rs"]
mod generate;
#[path = "exclude_patterns/table.rs"]
mod table;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use generate::Generator;
use rat_engine::policy::exclude::{Match, Pattern, PatternError};
use serde_json::{Value, json};

/// A running CPython that answers for `re.match`.
struct Oracle {
    process: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// What CPython says of one pattern: per path, or why it refuses the pattern.
type Answer = Result<Vec<Option<bool>>, String>;

impl Oracle {
    fn start() -> Result<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/re_oracle.py");
        let python = env::var("RAT_PYTHON").unwrap_or_else(|_| "python3".into());
        let mut process = Command::new(&python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("this test compares with CPython 3.11: {python} must run"))?;
        let questions = process.stdin.take();
        let answers = process.stdout.take().context("no standard output")?;
        Ok(Self {
            process,
            questions,
            answers: BufReader::new(answers),
        })
    }

    fn ask(&mut self, pattern: &str, paths: &[String]) -> Result<Answer> {
        let questions = self.questions.as_mut().context("no standard input")?;
        let line = json!({ "pattern": pattern, "paths": paths }).to_string();
        questions.write_all(line.as_bytes())?;
        questions.write_all(b"\n")?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("CPython ended, asked about {pattern:?}");
        }
        let answer: Value = serde_json::from_str(&line)?;
        if let Some(error) = answer.get("error") {
            return Ok(Err(error.to_string()));
        }
        let matches = answer["matches"].as_array().context("no matches")?;
        Ok(Ok(matches.iter().map(Value::as_bool).collect()))
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.questions.take());
        let _ = self.process.wait();
    }
}

#[derive(Debug, Default)]
struct Tally {
    patterns: usize,
    both_refuse: usize,
    only_we_refuse: usize,
    compared: usize,
    matched: usize,
    step_caps: usize,
}

impl Tally {
    /// Compares one pattern; an error says how we differ from CPython.
    fn compare(&mut self, oracle: &mut Oracle, pattern: &str, paths: &[String]) -> Result<()> {
        self.patterns += 1;
        let answer = oracle.ask(pattern, paths)?;
        let ours = Pattern::compile(pattern);
        let (expected, ours) = match (answer, ours) {
            (Err(_), Err(_)) => {
                self.both_refuse += 1;
                return Ok(());
            }
            (Err(error), Ok(_)) => bail!("{pattern:?} compiles here, CPython: {error}"),
            (Ok(_), Err(error @ PatternError::Syntax { .. })) => {
                bail!("CPython compiles {pattern:?}, here: {error}")
            }
            (Ok(_), Err(_)) => {
                self.only_we_refuse += 1;
                return Ok(());
            }
            (Ok(expected), Ok(ours)) => (expected, ours),
        };
        for (path, expected) in paths.iter().zip(expected) {
            let found = ours.excludes(path);
            if let (Match::StepCap, _) | (_, None) = (found, expected) {
                self.step_caps += 1;
                continue;
            }
            self.compared += 1;
            self.matched += usize::from(expected == Some(true));
            if (found == Match::Excluded) != (expected == Some(true)) {
                let engine = ours.engine();
                bail!("{pattern:?} on {path:?}: {found:?} ({engine:?}), CPython {expected:?}");
            }
        }
        Ok(())
    }
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    }
}

#[test]
fn l09_random_patterns_mean_what_they_mean_to_cpython() -> Result<()> {
    let seed = setting("RAT_EXCLUDE_SEED", 1)?;
    let first = setting("RAT_EXCLUDE_FIRST", 0)?;
    let count = setting("RAT_EXCLUDE_PATTERNS", 8_000)?;
    let keep_going = setting("RAT_EXCLUDE_KEEP_GOING", 0)? != 0;
    let mut oracle = Oracle::start()?;
    let mut tally = Tally::default();
    let mut differences = 0;
    for index in first..first + count {
        let mut generator = Generator::new(seed.wrapping_mul(1_000_003).wrapping_add(index));
        let (pattern, paths) = generator.case();
        let result = tally.compare(&mut oracle, &pattern, &paths);
        if let Err(error) = result {
            eprintln!("RAT_EXCLUDE_SEED={seed}, pattern {index}: {error}");
            differences += 1;
            if !keep_going {
                break;
            }
        }
    }
    eprintln!("seed {seed}: {tally:?}");
    assert_eq!(differences, 0, "RAT_EXCLUDE_SEED={seed}");
    // The comparison must be about something: most patterns compile, some paths match.
    let compiled = tally.patterns - tally.both_refuse - tally.only_we_refuse;
    assert!(compiled * 2 > tally.patterns, "{tally:?}");
    assert!(tally.matched * 20 > tally.compared, "{tally:?}");
    assert!(tally.only_we_refuse * 20 < tally.patterns, "{tally:?}");
    assert!(tally.step_caps * 100 < tally.compared, "{tally:?}");
    Ok(())
}

#[test]
fn l09_chosen_patterns_mean_what_they_mean_to_cpython() -> Result<()> {
    let mut oracle = Oracle::start()?;
    let mut tally = Tally::default();
    let paths: Vec<String> = table::PATHS.iter().map(|path| path.to_string()).collect();
    let mut differences = Vec::new();
    for pattern in table::PATTERNS {
        if let Err(error) = tally.compare(&mut oracle, pattern, &paths) {
            differences.push(error.to_string());
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
    // \N{...}, (?t), two conditions that are not plain numbers, a name outside ASCII, a
    // possessive group, and two counts that the linear engine has no room for.
    assert_eq!(tally.only_we_refuse, 7, "{tally:?}");
    Ok(())
}

#[test]
fn l09_categories_hold_cpythons_characters() -> Result<()> {
    let mut oracle = Oracle::start()?;
    let mut tally = Tally::default();
    let characters: Vec<String> = (char::MIN..=char::MAX).map(String::from).collect();
    for pattern in [r"\w", r"\d", r"\s", "."] {
        tally.compare(&mut oracle, pattern, &characters)?;
    }
    assert_eq!(tally.compared, 4 * characters.len());
    Ok(())
}

#[test]
fn l09_ignoring_case_follows_cpython_for_every_cased_character() -> Result<()> {
    let mut oracle = Oracle::start()?;
    let mut tally = Tally::default();
    let is_cased = |c: &char| !c.to_lowercase().eq([*c]) || !c.to_uppercase().eq([*c]);
    let cased: Vec<char> = (char::MIN..=char::MAX).filter(is_cased).collect();
    let all: Vec<String> = cased.iter().copied().map(String::from).collect();
    let forms = |c: char| c.to_lowercase().chain(c.to_uppercase()).chain([c]);
    for c in cased.iter().copied() {
        let kin = cased
            .iter()
            .filter(|other| forms(**other).any(|form| forms(c).any(|f| f == form)));
        let kin: Vec<String> = kin.copied().map(String::from).collect();
        for pattern in [
            format!("(?i){c}"),
            format!("(?i)[{c}x]"),
            format!("(?ia)[^{c}]"),
            format!(r"(?i)({c})\1"),
        ] {
            let doubled: Vec<String> = kin.iter().map(|other| format!("{c}{other}")).collect();
            let paths = [kin.clone(), doubled].concat();
            tally.compare(&mut oracle, &pattern, &paths)?;
        }
    }
    let ranges = [
        "a-z",
        "K-ſ",
        "Α-ω",
        "\u{0}-\u{ffff}",
        "\u{0}-\u{10ffff}",
        "\u{10400}-\u{10410}",
        "\u{ff00}-\u{10500}",
        "\u{118a0}-\u{118ff}x",
    ];
    for range in ranges {
        for pattern in [
            format!("(?i)[{range}]"),
            format!("(?i)[^{range}]"),
            format!("(?ia)[{range}]"),
        ] {
            tally.compare(&mut oracle, &pattern, &all)?;
        }
    }
    assert!(tally.matched > 10_000, "{tally:?}");
    Ok(())
}
