//! `ratd keylime migrate`: a fleet is taken over from Keylime's databases.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rat_api::keylime::migration::{
    Counts, Migration, MigrationError, Outcome, Progress, Report, RowReport, Sources,
};
use rat_identity::keylime::Policy;
use rat_store::{
    ImportMode, KeylimeService, KeylimeSource, KeylimeTable, SourceUrl, Store, StoreError,
};
use serde::Serialize;

use super::ACTOR;
use crate::arguments::MigrateOptions;
use crate::config::{Config, check};
use crate::data_dir;
use crate::failure::{Exit, Failure, Means};
use crate::serve::make_keylime_group;

pub(super) async fn run(config: &Config, options: &MigrateOptions) -> Result<(), Failure> {
    let trust = check::ek_trust(config)?;
    // What cannot be read is said before a data directory is made.
    let mut sources = open_sources(options).await?;
    let store = open_store(config, options.dry_run).await?;
    let registrar = &config.keylime.registrar;
    let mode = match options.dry_run {
        true => ImportMode::Rehearse,
        false => ImportMode::Write,
    };
    let migration = Migration {
        store: store.as_ref(),
        mode,
        trust: &trust,
        policy: Policy {
            ek_check: registrar.ek_check,
            tpm_identity: registrar.tpm_identity,
        },
        shares_ek: registrar.shared_ek,
        require_policy_signatures: config.keylime.verifier.require_allow_list_signatures,
        boot_policy: config.keylime.measured_boot().policy_name,
        path: config.keylime.verifier.mode,
        actor: ACTOR,
    };
    let mut report = Report::default();
    let ended = {
        let bar = Bar::new();
        let mut show = |progress| bar.show(progress);
        let ended = migration.run(&mut sources, &mut report, &mut show).await;
        bar.0.finish_and_clear();
        ended
    };
    close(sources).await;
    if let Some(store) = store {
        store.close().await;
    }
    match options.json {
        true => print_json(&report, options.dry_run, ended.as_ref().err())?,
        false => print_table(&report, options.dry_run)?,
    }
    ended.context("not all rows were looked at; run this again")?;
    match report.left() {
        0 => Ok(()),
        left => Err(anyhow!("{left} rows were left, as the report says")).means(Exit::Failed),
    }
}

async fn open_sources(options: &MigrateOptions) -> Result<Sources, Failure> {
    let folder = &options.keylime_dir;
    let (verifier, registrar) = (&options.verifier_db, &options.registrar_db);
    Ok(Sources {
        verifier: open_source(verifier.as_deref(), KeylimeService::Verifier, folder)
            .await
            .context("--verifier-db")?,
        registrar: open_source(registrar.as_deref(), KeylimeService::Registrar, folder)
            .await
            .context("--registrar-db")?,
    })
}

async fn open_source(
    url: Option<&str>,
    service: KeylimeService,
    folder: &Path,
) -> anyhow::Result<Option<KeylimeSource>> {
    let Some(url) = url else {
        return Ok(None);
    };
    let url: SourceUrl = url.parse()?;
    let opened = KeylimeSource::open(&url, service, folder).await;
    Ok(Some(opened.with_context(|| url.to_string())?))
}

async fn close(sources: Sources) {
    for source in [sources.verifier, sources.registrar].into_iter().flatten() {
        // Everything was read; how the other side takes the end is its own.
        let _ = source.close().await;
    }
}

/// The records: as their only server, because one that runs would not learn of new agents; only to
/// look at, also beside a server.
async fn open_store(config: &Config, dry_run: bool) -> Result<Option<Store>, Failure> {
    let directory = &config.data_dir;
    data_dir::require_whole(directory)?;
    if dry_run {
        let is_there = Store::is_in(directory);
        let is_there = is_there.with_context(|| directory.display().to_string());
        return match is_there.means(Exit::Unusable)? {
            true => Ok(Some(data_dir::open(directory).await?)),
            false => Ok(None),
        };
    }
    if !Store::is_in(directory).unwrap_or(false) {
        eprintln!("ratd: {} is new", directory.display());
    }
    let store = Store::open(directory).await.means(Exit::Unusable)?;
    let made: Result<(), StoreError> = make_keylime_group(&store).await;
    made.means(Exit::Unusable)?;
    Ok(Some(store))
}

/// A bar on standard error, where a person looks.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        if !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        match ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}") {
            Ok(style) => Self(bar.with_style(style)),
            Err(_) => Self(bar),
        }
    }

    fn show(&self, progress: Progress) {
        self.0.set_prefix(progress.table.name());
        self.0.set_length(progress.rows);
        self.0.set_position(progress.done);
    }
}

const TABLES: [KeylimeTable; 4] = [
    KeylimeTable::Registrations,
    KeylimeTable::RuntimePolicies,
    KeylimeTable::BootPolicies,
    KeylimeTable::Agents,
];

#[derive(Serialize)]
struct Printed<'a> {
    dry_run: bool,
    /// Why it ended early.
    error: Option<String>,
    tables: Vec<PrintedTable>,
    rows: &'a [RowReport],
}

#[derive(Serialize)]
struct PrintedTable {
    table: &'static str,
    #[serde(flatten)]
    counts: Counts,
}

fn print_json(report: &Report, dry_run: bool, error: Option<&MigrationError>) -> io::Result<()> {
    let printed = Printed {
        dry_run,
        error: error.map(ToString::to_string),
        tables: TABLES
            .map(|table| PrintedTable {
                table: table.name(),
                counts: report.counts(table),
            })
            .into(),
        rows: &report.rows,
    };
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &printed)?;
    writeln!(out)
}

/// Counts of every table, and the rows of which there is something to say.
fn print_table(report: &Report, dry_run: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let imported = if dry_run { "would import" } else { "imported" };
    writeln!(
        out,
        "{:<16} {imported:>12} {:>14} {:>8}",
        "table", "already there", "left"
    )?;
    for table in TABLES {
        let counts = report.counts(table);
        writeln!(
            out,
            "{:<16} {:>12} {:>14} {:>8}",
            table.name(),
            counts.imported,
            counts.already_there,
            counts.left
        )?;
    }
    let mut notes: BTreeMap<(&str, &str), (u64, &str)> = BTreeMap::new();
    for row in &report.rows {
        for note in &row.notes {
            let told = notes.entry((row.table, note)).or_insert((0, &row.id));
            told.0 = told.0.saturating_add(1);
        }
        if row.outcome == Outcome::Left {
            let name = row.name.as_deref();
            let id = name.map_or_else(|| row.id.clone(), |name| format!("{} {name}", row.id));
            let column = row.column.map(|column| format!(".{column}"));
            let (column, code) = (column.unwrap_or_default(), row.code.unwrap_or_default());
            let detail = row.detail.as_deref().unwrap_or_default();
            writeln!(out, "left  {}{column}  {id}  {code}: {detail}", row.table)?;
        }
    }
    // What many rows have in common is said once.
    for ((table, note), (rows, first)) in notes {
        writeln!(out, "note  {table}  {rows} rows, {first} first: {note}")?;
    }
    Ok(())
}
