//! The agent's view of the kernel's measurement list: only what is new, through restarts, reboots
//! and trimming.
#![allow(
    clippy::unwrap_used,
    clippy::as_conversions,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use rat_agent::logs::{KernelLogs, LogError, LogPaths, Logs, Measurements, Source};
use rat_engine::ima::LogFormat;
use rat_tests::measured::{self, Measured};
use tempfile::TempDir;

/// A machine's files: what the kernel shows, and the agent's state directory.
struct Machine {
    directory: TempDir,
    format: LogFormat,
    entries: Vec<Measured>,
    trimmed: usize,
}

impl Machine {
    fn new(format: LogFormat) -> Self {
        let machine = Self {
            directory: tempfile::tempdir().unwrap(),
            format,
            entries: vec![Measured::file("boot_aggregate", b"")],
            trimmed: 0,
        };
        fs::create_dir(machine.directory.path().join("state")).unwrap();
        machine.boot("1");
        machine.show();
        machine
    }

    fn boot(&self, id: &str) {
        fs::write(self.directory.path().join("boot_id"), id).unwrap();
    }

    fn bytes(&self, entries: &[Measured]) -> Vec<u8> {
        match self.format {
            LogFormat::Binary => measured::binary(entries),
            LogFormat::Ascii => measured::ascii(entries),
        }
    }

    /// Writes the list as the kernel would show it now.
    fn show(&self) {
        let list = self.bytes(&self.entries[self.trimmed..]);
        fs::write(self.list_path(), list).unwrap();
    }

    fn list_path(&self) -> std::path::PathBuf {
        let name = match self.format {
            LogFormat::Binary => "binary",
            LogFormat::Ascii => "ascii",
        };
        self.directory.path().join(name)
    }

    fn measure(&mut self, count: usize) {
        for _ in 0..count {
            let nth = self.entries.len();
            self.entries.push(if nth % 3 == 2 {
                // Violations are all the same.
                Measured {
                    violation: true,
                    ..Measured::file("/var/log/same", b"")
                }
            } else {
                Measured::file(&format!("/usr/bin/tool-{nth}"), &vec![7; nth % 50])
            });
        }
        self.show();
    }

    fn logs(&self) -> KernelLogs {
        self.try_logs().unwrap()
    }

    fn try_logs(&self) -> Result<KernelLogs, LogError> {
        let at = |name: &str| self.directory.path().join(name);
        let paths = LogPaths {
            ima_binary: at("binary"),
            ima_ascii: at("ascii"),
            boot_log: at("boot_log"),
            boot_id: at("boot_id"),
        };
        KernelLogs::open(paths, &at("state"))
    }

    /// What the agent would send from an entry on, compared with what was measured.
    fn check(&self, logs: &mut KernelLogs, from: usize) {
        let list = logs.measurements(from as u64).unwrap();
        let expected = if from > self.entries.len() { 0 } else { from };
        assert_eq!(list.from_entry, expected as u64);
        assert_eq!(list.count, (self.entries.len() - expected) as u64);
        assert_eq!(list.format, self.format);
        assert_eq!(content(list), self.bytes(&self.entries[expected..]));
    }
}

fn content(list: Measurements) -> Vec<u8> {
    let mut bytes = Vec::new();
    match list.source {
        Source::Bytes(all) => bytes = all,
        Source::File(file) => {
            let read = file.take(list.length).read_to_end(&mut bytes).unwrap();
            assert_eq!(read as u64, list.length);
        }
    }
    bytes
}

/// What happens between two attestations.
#[derive(Debug, Clone)]
enum Step {
    Measure(usize),
    /// The kernel drops this share of what the agent has seen.
    Trim(f64),
    RestartAgent,
    Read(f64),
    ReadAll,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_usize..40).prop_map(Step::Measure),
        1 => (0.0..1.0).prop_map(Step::Trim),
        1 => Just(Step::RestartAgent),
        4 => (0.0..1.2).prop_map(Step::Read),
        1 => Just(Step::ReadAll),
    ];
    prop::collection::vec(step, 1..30)
}

fn share(of: usize, share: f64) -> usize {
    (of as f64 * share) as usize
}

fn live(format: LogFormat, steps: Vec<Step>) {
    let mut machine = Machine::new(format);
    let mut logs = machine.logs();
    assert_eq!(logs.format(), format);
    let mut seen = usize::try_from(logs.count().unwrap()).unwrap();
    for step in steps {
        match step {
            Step::Measure(count) => machine.measure(count),
            Step::Trim(part) => {
                // At least two entries stay, so that where they belong is not in doubt.
                let most = seen.min(machine.entries.len().saturating_sub(2));
                machine.trimmed = machine.trimmed.max(share(most, part));
                machine.show();
            }
            Step::RestartAgent => logs = machine.logs(),
            Step::Read(part) => {
                machine.check(&mut logs, share(machine.entries.len(), part));
                seen = machine.entries.len();
            }
            Step::ReadAll => {
                machine.check(&mut logs, 0);
                seen = machine.entries.len();
            }
        }
    }
    machine.check(&mut logs, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn i29_whatever_happens_the_list_from_any_entry_is_what_was_measured(
        steps in steps(), ascii in any::<bool>(),
    ) {
        live(if ascii { LogFormat::Ascii } else { LogFormat::Binary }, steps);
    }
}

#[test]
fn i29_a_list_that_was_trimmed_twice_may_look_the_same_at_both_ends() {
    use Step::{Measure, Read, ReadAll, Trim};
    // Entries 14, 17 and 50, 53 are violations: the list moves on by three and begins and ends as
    // it did.
    let steps = [
        Measure(18),
        ReadAll,
        Trim(0.86),
        Measure(32),
        ReadAll,
        Measure(3),
        Trim(0.34),
        Read(0.68),
    ];
    for format in [LogFormat::Binary, LogFormat::Ascii] {
        live(format, steps.to_vec());
    }
}

#[test]
fn a_long_list_is_found_at_every_entry() {
    let mut machine = Machine::new(LogFormat::Binary);
    machine.measure(3_000);
    let mut logs = machine.logs();
    for from in [0, 1, 1_023, 1_024, 1_025, 2_047, 2_048, 3_000, 3_001, 9_999] {
        machine.check(&mut logs, from);
    }
    // After a restart the copy serves as before.
    let mut again = machine.logs();
    machine.check(&mut again, 2_500);
}

#[test]
fn a_reboot_starts_anew_and_leaves_no_copy_of_the_last_boot() {
    let mut machine = Machine::new(LogFormat::Binary);
    machine.measure(10);
    let mut logs = machine.logs();
    machine.check(&mut logs, 5);
    machine.entries.truncate(1);
    machine.boot("2");
    machine.measure(4);
    machine.check(&mut logs, 0);
    machine.check(&mut logs, 3);
    let copies = fs::read_dir(machine.directory.path().join("state")).unwrap();
    let copies: Vec<_> = copies.map(|copy| copy.unwrap()).collect();
    assert_eq!(copies.len(), 1, "{copies:?}");
    let mode = copies[0].metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn another_list_with_the_same_boot_id_is_noticed() {
    let mut machine = Machine::new(LogFormat::Binary);
    machine.measure(10);
    let mut logs = machine.logs();
    machine.check(&mut logs, 5);
    // Shorter, and different from the second entry on: what a machine without boot ids shows.
    machine.entries.truncate(1);
    machine
        .entries
        .push(Measured::file("/usr/bin/other", b"other"));
    machine.show();
    machine.check(&mut logs, 0);
    machine.check(&mut logs, 1);
}

#[test]
fn a_damaged_copy_is_made_anew_when_everything_is_asked_for() {
    let mut machine = Machine::new(LogFormat::Binary);
    machine.measure(20);
    let mut logs = machine.logs();
    machine.check(&mut logs, 0);
    drop(logs);
    let state = machine.directory.path().join("state");
    let copy = fs::read_dir(state).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&copy).unwrap();
    // One byte of a name in the middle: neither the first nor the last entry.
    let at = bytes.len() / 2;
    bytes[at] ^= 0x20;
    fs::write(&copy, &bytes).unwrap();
    let mut logs = machine.logs();
    machine.check(&mut logs, 0);
    // A copy that was cut short within an entry is completed.
    fs::write(&copy, &bytes[..bytes.len() - 7]).unwrap();
    let mut logs = machine.logs();
    machine.check(&mut logs, 0);
    fs::write(&copy, [0xff; 300]).unwrap();
    let mut logs = machine.logs();
    machine.check(&mut logs, 2);
}

#[test]
fn part_of_an_entry_at_the_end_waits_for_the_rest() {
    let mut machine = Machine::new(LogFormat::Binary);
    machine.measure(3);
    let whole = fs::read(machine.list_path()).unwrap();
    fs::write(machine.list_path(), &whole[..whole.len() - 3]).unwrap();
    let mut logs = machine.logs();
    assert_eq!(logs.count().unwrap(), 3);
    fs::write(machine.list_path(), &whole).unwrap();
    machine.check(&mut logs, 0);
}

#[test]
fn i29_a_front_that_was_trimmed_unseen_is_said() {
    let mut machine = Machine::new(LogFormat::Binary);
    machine.measure(10);
    machine.trimmed = 4;
    machine.show();
    let mut logs = machine.logs();
    assert!(matches!(logs.count(), Err(LogError::Trimmed { .. })));
    assert!(matches!(
        logs.measurements(0),
        Err(LogError::Trimmed { .. })
    ));
}

/// Each file in the state directory, with its content.
fn state(machine: &Machine) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let files = fs::read_dir(machine.directory.path().join("state")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

#[test]
fn i29_what_was_measured_and_trimmed_while_the_agent_was_away_is_said_and_not_skipped() {
    for format in [LogFormat::Binary, LogFormat::Ascii] {
        let mut machine = Machine::new(format);
        machine.measure(10);
        let mut logs = machine.logs();
        machine.check(&mut logs, 0);
        drop(logs);
        let before = state(&machine);
        machine.measure(10);
        // Of the copy nothing is left in the list, and entries 11 to 14 are in neither; nor can
        // the agent know that there are none, when the list begins right after its copy.
        for trimmed in [15, 11] {
            machine.trimmed = trimmed;
            machine.show();
            let mut logs = machine.logs();
            for _ in 0..2 {
                assert!(matches!(logs.count(), Err(LogError::Trimmed { .. })));
                for from in [0, 5, 11] {
                    let refused = logs.measurements(from);
                    assert!(matches!(refused, Err(LogError::Trimmed { .. })));
                }
            }
            assert_eq!(state(&machine), before);
        }
        // An empty list shows no more of it.
        machine.trimmed = machine.entries.len();
        machine.show();
        let refused = machine.logs().count();
        assert!(matches!(refused, Err(LogError::Trimmed { .. })));
        assert_eq!(state(&machine), before);
        // As long as the last entry of the copy is there, nothing is missing.
        machine.trimmed = 10;
        machine.show();
        let mut logs = machine.logs();
        machine.check(&mut logs, 0);
        // After a reboot there is a list from its begin again.
        machine.entries.truncate(1);
        machine.trimmed = 0;
        machine.boot("2");
        machine.measure(3);
        machine.check(&mut logs, 0);
    }
}

#[test]
fn i17_lengths_that_no_kernel_writes_are_an_error_with_its_place() {
    let mut machine = Machine::new(LogFormat::Binary);
    machine.measure(1);
    let good = fs::read(machine.list_path()).unwrap();
    let bad = [&good[..], &[10, 0, 0, 0], &[0xff; 40]].concat();
    fs::write(machine.list_path(), bad).unwrap();
    let Err(LogError::Record { offset_bytes, .. }) = machine.logs().count() else {
        panic!("taken")
    };
    assert_eq!(offset_bytes, good.len() as u64);
}

#[test]
fn the_binary_list_is_preferred_and_none_is_an_error() {
    let machine = Machine::new(LogFormat::Ascii);
    assert_eq!(machine.logs().format(), LogFormat::Ascii);
    fs::write(
        machine.directory.path().join("binary"),
        measured::binary(&machine.entries),
    )
    .unwrap();
    assert_eq!(machine.logs().format(), LogFormat::Binary);
    // An enrolment with a baseline sends the other.
    assert_eq!(
        machine.logs().ascii().unwrap(),
        measured::ascii(&machine.entries)
    );
    assert_eq!(machine.logs().boot_log().unwrap(), None);
    fs::remove_file(machine.directory.path().join("binary")).unwrap();
    fs::remove_file(machine.directory.path().join("ascii")).unwrap();
    assert!(matches!(machine.try_logs(), Err(LogError::NoList { .. })));
}
