//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use rat_engine::hash::HashAlg;
use rat_engine::limits;
use rat_engine::pcr::{PcrIndex, PcrSet};

use crate::output::Format;

/// Judge evidence of TPM 2.0 machines offline, and see what is in it
#[derive(Debug, Parser)]
#[command(name = "rat", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  every check passed
  1  a check failed
  2  wrong usage, or a file that cannot be used";

const VERIFY_HELP: &str = "\
Verdicts:
  trusted    every check passed, and the runtime policy allows all that was measured
  authentic  every check passed, and no runtime policy was given
  untrusted  a check failed; codes say which, and what to do
A log that is not given is not checked: its PCRs are known from the quote alone.

Exit codes:
  0  trusted or authentic
  1  untrusted, also when quote, signature, PCR values or logs are malformed
  2  no verdict: wrong usage; a file that is missing or over its limit; a key or policy that
     cannot be read. With --output json, standard output has an object with the member `error`

Example:
  tpm2_quote -c ak.ctx -l sha256:0,1,2,3,4,5,6,7,8,9,10 -q 0011aabb \\
      -m quote.msg -s quote.sig -o quote.pcrs
  rat verify --ak ak.pub --quote quote.msg --signature quote.sig --pcrs quote.pcrs \\
      --nonce 0011aabb --ima-log ascii_runtime_measurements \\
      --boot-log binary_bios_measurements --policy policy.json";

const INSPECT_HELP: &str = "\
Nothing that is shown was verified.

Exit codes:
  0  the file was read
  1  the file was read and has a fault that verification would refuse
  2  wrong usage, or a file that cannot be read

Example:
  rat inspect quote quote.msg
  rat inspect ima-log --entries ascii_runtime_measurements | grep /tmp/";

const LINT_HELP: &str = "\
Exit codes:
  0  nothing, or nothing but warnings
  1  errors
  2  wrong usage, or a policy that cannot be read

Example:
  rat policies lint policy.json";

const CREATE_HELP: &str = "\
Everything that the log measured becomes allowed: verify the log first.

Exit codes:
  0  the policy was written
  1  the log has violations, and --allow-violations was not given
  2  wrong usage, or a log that cannot be read

Example:
  rat policies create runtime --from-ima-log ascii_runtime_measurements \\
      --exclude '/usr/share/man/.*[.]gz$' --out policy.json";

const COMPLETIONS_HELP: &str = "\
Example:
  rat completions bash > /etc/bash_completion.d/rat";

const MAN_HELP: &str = "\
Example:
  rat man | man -l -
  rat man --dir /usr/local/share/man/man1";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Judge a quote, with its PCR values, logs and policies
    #[command(after_help = VERIFY_HELP)]
    Verify(Box<VerifyArguments>),
    /// Show what a file of evidence or a policy holds, unverified
    #[command(after_help = INSPECT_HELP)]
    Inspect(InspectArguments),
    /// Check and make runtime policies
    Policies(PolicyArguments),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write those of all commands
    #[command(after_help = MAN_HELP)]
    Man {
        /// Write a page for each command into this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

impl Command {
    /// The format of results, and of errors.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Verify(options) => options.output,
            Self::Inspect(options) => options.output,
            Self::Policies(PolicyArguments {
                command: PolicyCommand::Lint { output, .. },
            }) => *output,
            _ => Format::Table,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// Attestation key: TPM2B_PUBLIC, TPMT_PUBLIC or PEM (which lacks the key's attributes)
    #[arg(long, value_name = "FILE", help_heading = "Evidence")]
    pub(crate) ak: PathBuf,
    /// Quote: TPMS_ATTEST or TPM2B_ATTEST
    #[arg(long, value_name = "FILE", help_heading = "Evidence")]
    pub(crate) quote: PathBuf,
    /// Signature of the quote: TPMT_SIGNATURE
    #[arg(long, value_name = "FILE", help_heading = "Evidence")]
    pub(crate) signature: PathBuf,
    /// PCR values: JSON {"sha256":{"0":"hex"}}, or the file that tpm2_quote -o writes
    #[arg(long, value_name = "FILE", help_heading = "Evidence")]
    pub(crate) pcrs: PathBuf,
    /// The quote's extraData, exactly, in hex; may be empty (of a text: printf %s TEXT | xxd -p)
    #[arg(long, value_name = "HEX", value_parser = nonce, help_heading = "Evidence")]
    pub(crate) nonce: Nonce,
    /// IMA measurement list, ascii or binary
    #[arg(long, value_name = "FILE", help_heading = "Evidence")]
    pub(crate) ima_log: Option<PathBuf>,
    /// UEFI event log (binary_bios_measurements)
    #[arg(long, value_name = "FILE", help_heading = "Evidence")]
    pub(crate) boot_log: Option<PathBuf>,

    /// Runtime policy, in Keylime's JSON
    #[arg(long, value_name = "FILE", help_heading = "Reference values")]
    pub(crate) policy: Option<PathBuf>,
    /// PCR policy: {"15":["hex"],"mask":"0x8000"}, or @FILE
    #[arg(long, value_name = "JSON", help_heading = "Reference values")]
    pub(crate) tpm_policy: Option<String>,
    /// PCRs that the boot log must explain, such as 0-9,14 [default: the quoted ones of 0-9, and
    /// of 11-15 those in the log]
    #[arg(long, value_name = "LIST", value_parser = pcr_list, requires = "boot_log",
          help_heading = "Reference values")]
    pub(crate) mb_pcrs: Option<PcrSet>,

    /// Accept signatures over SHA-1, and the SHA-1 bank
    #[arg(long, help_heading = "Rules")]
    pub(crate) allow_sha1: bool,
    /// Fail where there is a warning
    #[arg(long, help_heading = "Rules")]
    pub(crate) strict: bool,
    /// The bank that the quote should cover
    #[arg(long, value_name = "ALG", default_value = "sha256", value_parser = hash_alg(),
          help_heading = "Rules")]
    pub(crate) bank: HashAlg,
    /// Refuse files with a signature by no approved key, even if their digest is listed
    #[arg(long, requires = "policy", help_heading = "Rules")]
    pub(crate) require_valid_ima_sig: bool,
    /// Count violations of the measurement list, without failing
    #[arg(long, help_heading = "Rules")]
    pub(crate) accept_violations: bool,

    /// PCRs that the kernel measures into, four at most
    #[arg(long, value_name = "LIST", default_value = "10", value_parser = ima_pcr_list,
          help_heading = "Measurement list")]
    pub(crate) ima_pcrs: PcrSet,
    /// What the kernel extends: a hash of each bank's own algorithm, or padded SHA-1 (before 5.8)
    #[arg(
        long,
        value_name = "SCHEME",
        default_value = "own",
        help_heading = "Measurement list"
    )]
    pub(crate) ima_template_hash: TemplateHash,
    /// Algorithm of the template hashes in the list [default: the policy's, or sha1]
    #[arg(long, value_name = "ALG", value_parser = hash_alg(), help_heading = "Measurement list")]
    pub(crate) ima_log_hash: Option<HashAlg>,
    /// The longest list that is read, in bytes, or with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = log_size,
          help_heading = "Measurement list")]
    pub(crate) max_log_size: u64,

    /// How to print the verdict
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// The expected extraData of a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nonce(pub(crate) Vec<u8>);

/// What a kernel extends into its banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TemplateHash {
    /// Into each bank the hash of its own algorithm
    Own,
    /// Into each bank the SHA-1 hash, padded with zeros
    PaddedSha1,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// What the file is
    pub(crate) kind: Kind,
    /// The file
    pub(crate) file: PathBuf,
    /// ima-log: show every entry (with json: a line for each, then one for the summary)
    #[arg(long)]
    pub(crate) entries: bool,
    /// ima-log: algorithm of the template hashes in the list
    #[arg(long, value_name = "ALG", default_value = "sha1", value_parser = hash_alg())]
    pub(crate) ima_log_hash: HashAlg,
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// What a file may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// TPMS_ATTEST or TPM2B_ATTEST
    Quote,
    /// Attestation key: TPM2B_PUBLIC, TPMT_PUBLIC or PEM
    Ak,
    /// PCR values: JSON, or the file that tpm2_quote -o writes
    Pcrs,
    /// IMA measurement list
    ImaLog,
    /// UEFI event log
    EventLog,
    /// Runtime policy
    Policy,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyArguments {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Look for mistakes in a runtime policy
    #[command(after_help = LINT_HELP)]
    Lint {
        /// The policy, in Keylime's JSON
        file: PathBuf,
        /// How to print what was found
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
    /// Make a policy
    Create {
        #[command(subcommand)]
        policy: CreateCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CreateCommand {
    /// Make a runtime policy that allows what a measurement list holds
    #[command(after_help = CREATE_HELP)]
    Runtime(CreateArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// IMA measurement list, ascii or binary
    #[arg(long, value_name = "FILE")]
    pub(crate) from_ima_log: PathBuf,
    /// Python pattern of paths that the policy leaves alone; may be repeated
    #[arg(long, value_name = "REGEX")]
    pub(crate) exclude: Vec<String>,
    /// Where to write the policy [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Leave violations out, rather than refuse the list
    #[arg(long)]
    pub(crate) allow_violations: bool,
    /// Algorithm of the template hashes in the list
    #[arg(long, value_name = "ALG", default_value = "sha1", value_parser = hash_alg())]
    pub(crate) ima_log_hash: HashAlg,
}

fn nonce(text: &str) -> Result<Nonce, String> {
    let bytes = hex::decode(text).map_err(|error| error.to_string())?;
    let max = limits::QUALIFYING_DATA_BYTES_MAX;
    if bytes.len() > max {
        return Err(format!("{} bytes, a TPM takes {max} at most", bytes.len()));
    }
    Ok(Nonce(bytes))
}

/// `0-9,14`.
fn pcr_list(text: &str) -> Result<PcrSet, String> {
    let index = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        let known = number.and_then(PcrIndex::new);
        known.ok_or_else(|| format!("`{text}` is no PCR from 0 to 23"))
    };
    let mut set = PcrSet::EMPTY;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (index(first)?, index(last)?);
        if first > last {
            return Err(format!("`{part}` runs backwards"));
        }
        for number in first.get()..=last.get() {
            if let Some(pcr) = PcrIndex::new(u64::from(number)) {
                set.insert(pcr);
            }
        }
    }
    Ok(set)
}

fn ima_pcr_list(text: &str) -> Result<PcrSet, String> {
    let set = pcr_list(text)?;
    match set.iter().find(|pcr| pcr.is_resettable()) {
        Some(pcr) => Err(format!(
            "PCR {pcr} can be reset by software and proves no list"
        )),
        None => Ok(set),
    }
}

fn hash_alg() -> impl clap::builder::TypedValueParser<Value = HashAlg> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    let names = HashAlg::ALL.map(HashAlg::name);
    PossibleValuesParser::new(names).try_map(|name| {
        HashAlg::from_name(name.as_bytes()).ok_or_else(|| format!("no algorithm `{name}`"))
    })
}

/// `1048576`, `1024K`, `1M`.
fn log_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (text.strip_suffix(['K', 'k']), 1_u64 << 10),
        Some(b'M' | b'm') => (text.strip_suffix(['M', 'm']), 1 << 20),
        Some(b'G' | b'g') => (text.strip_suffix(['G', 'g']), 1 << 30),
        _ => (Some(text), 1),
    };
    let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let size = digits
        .and_then(|digits| digits.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(unit))
        .ok_or("expected a number of bytes, or one with K, M or G")?;
    let max = u64::try_from(limits::IMA_LOG_BYTES_MAX).unwrap_or(u64::MAX);
    if size > max {
        return Err(format!("{max} bytes at most"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn lists_of_pcrs() {
        for (text, shown) in [("10", "10"), ("0-3,14", "0,1,2,3,14"), ("5,5,4-5", "4,5")] {
            assert_eq!(pcr_list(text).unwrap().to_string(), shown);
        }
        for text in ["", "24", "3-1", "1,", "-1", "+1", "0x1", "1-2-3", " 1"] {
            assert!(pcr_list(text).is_err(), "{text}");
        }
        assert!(ima_pcr_list("10-14").is_ok() && ima_pcr_list("10,16").is_err());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("512", 512), ("4k", 4096), ("2M", 2 << 20)] {
            assert_eq!(log_size(text), Ok(bytes));
        }
        for text in [
            "",
            "K",
            "-1",
            "1T",
            "2G",
            "99999999999999999999",
            "1.5M",
            "+1",
        ] {
            assert!(log_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nonces() {
        assert_eq!(nonce(""), Ok(Nonce(Vec::new())));
        assert_eq!(nonce("00fF"), Ok(Nonce(vec![0, 0xff])));
        let longest = "ab".repeat(limits::QUALIFYING_DATA_BYTES_MAX);
        assert!(nonce(&longest).is_ok() && nonce(&format!("{longest}ab")).is_err());
        for text in ["0", "zz", "0x00", "00 11"] {
            assert!(nonce(text).is_err(), "{text}");
        }
    }
}
