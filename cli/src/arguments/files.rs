//! `rat verify` and `rat inspect`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrSet;
use rat_engine::uefi::policy::PolicyName;

use super::values::{Nonce, boot_policy_name, hash_alg, ima_pcr_list, log_size, nonce, pcr_list};
use crate::output::Format;

pub(super) const VERIFY_HELP: &str = "\
Verdicts:
  trusted    every check passed, and the runtime policy allows all that was measured
  authentic  every check passed, and no runtime policy was given
  untrusted  a check failed; codes say which, and what to do
A log that is not given is not checked: its PCRs are known from the quote alone.

Exit codes:
  0  trusted or authentic
  1  untrusted, also when quote, signature, PCR values or logs are malformed
  2  no verdict: wrong usage; a file that is missing or over its limit; a key or policy that
     cannot be read. With --output json or yaml, standard output has an object with the member
     `error`

Example:
  tpm2_quote -c ak.ctx -l sha256:0,1,2,3,4,5,6,7,8,9,10 -q 0011aabb \\
      -m quote.msg -s quote.sig -o quote.pcrs
  rat verify --ak ak.pub --quote quote.msg --signature quote.sig --pcrs quote.pcrs \\
      --nonce 0011aabb --ima-log ascii_runtime_measurements \\
      --boot-log binary_bios_measurements --policy policy.json";

pub(super) const INSPECT_HELP: &str = "\
Nothing that is shown was verified.

Exit codes:
  0  the file was read
  1  the file was read and has a fault that verification would refuse
  2  wrong usage, or a file that cannot be read

Example:
  rat inspect quote quote.msg
  rat inspect ima-log --entries ascii_runtime_measurements | grep /tmp/";

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
    /// Public key or certificate that must have signed the runtime policy, in PEM
    #[arg(long, value_name = "FILE", requires = "policy", help_heading = "Rules")]
    pub(crate) policy_key: Option<PathBuf>,
    /// PCR policy: {"15":["hex"],"mask":"0x8000"}, or @FILE
    #[arg(long, value_name = "JSON", help_heading = "Reference values")]
    pub(crate) tpm_policy: Option<String>,
    /// PCRs that the boot log must explain, such as 0-9,14 [default: the quoted ones of 0-9, and
    /// of 11-15 those in the log]
    #[arg(long, value_name = "LIST", value_parser = pcr_list, requires = "boot_log",
          help_heading = "Reference values")]
    pub(crate) mb_pcrs: Option<PcrSet>,
    /// Measured boot reference state, in Keylime's JSON
    #[arg(long, value_name = "FILE", help_heading = "Reference values")]
    pub(crate) mb_policy: Option<PathBuf>,
    /// The policy that judges the boot log by it: accept-all, reject-all or example
    #[arg(long, value_name = "NAME", default_value = "example", value_parser = boot_policy_name(),
          requires = "mb_policy", help_heading = "Reference values")]
    pub(crate) mb_policy_name: PolicyName,

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
