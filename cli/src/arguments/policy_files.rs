//! `rat policies create`, `merge`, `convert`, `sign` and `verify-signature`: nothing asks a server.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use rat_engine::hash::HashAlg;

use super::values::hash_alg;
use crate::output::Format;

const CREATE_HELP: &str = "\
Everything that a source holds becomes allowed: verify a measurement list first, and take files from
where they are known to be good. Names of keylime-policy's options are taken too.

Exit codes:
  0  the policy was written
  1  a list has violations, and --allow-violations was not given
  2  wrong usage, or a source that cannot be read

Example:
  rat policies create runtime --from-ima-log ascii_runtime_measurements \\
      --exclude '/usr/share/man/.*[.]gz$' --out policy.json
  rat policies create runtime --from-directory /mnt/golden --from-initramfs /mnt/golden/boot \\
      --base policy.json --out wider.json";

pub(super) const MERGE_HELP: &str = "\
What one of the policies allows, the result allows; what one excludes, it excludes.

Example:
  rat policies merge base.json webserver.json --out policy.json";

pub(super) const CONVERT_HELP: &str = "\
Example:
  rat policies convert allowlist.txt --exclude-list excludes.txt --out policy.json";

pub(super) const SIGN_HELP: &str = "\
The policy is signed as it is, byte for byte, in a DSSE envelope that Keylime's tools read.
Whoever verifies needs the public key or certificate from you, and not from the envelope.

Example:
  rat policies sign policy.json --new-key policy-key.pem --public-out policy-key.pub \\
      --out policy.signed.json
  rat policies sign policy.json --key policy-key.pem --backend x509 --cert-out policy.crt";

pub(super) const VERIFY_SIGNATURE_HELP: &str = "\
Exit codes:
  0  the key signed this policy
  1  it did not, or the policy is not signed
  2  wrong usage, or a file that cannot be read

Example:
  rat policies verify-signature policy.signed.json --key policy-key.pub --out policy.json";

const CREATE_BOOT_HELP: &str = "\
The log's digests become what `example` allows: make it on a machine that is known to be good.

Exit codes:
  0  the reference state was written, and the log passes by it
  1  the log lacks something, or fails by its own reference state
  2  wrong usage, a log that cannot be read, or one that says that Secure Boot is off

Example:
  rat policies create measured-boot -o mb_refstate.json \\
      --eventlog /sys/kernel/security/tpm0/binary_bios_measurements";

#[derive(Debug, Subcommand)]
pub(crate) enum CreateCommand {
    /// Make a runtime policy of what is there: lists, folders, images, packages, older policies
    #[command(after_help = CREATE_HELP)]
    Runtime(Box<CreateArguments>),
    /// Make a measured boot reference state of the event log of a machine that is as it should be
    #[command(after_help = CREATE_BOOT_HELP)]
    MeasuredBoot(CreateBootArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CreateBootArguments {
    /// UEFI event log (/sys/kernel/security/tpm0/binary_bios_measurements)
    #[arg(short = 'e', long, value_name = "FILE", alias = "eventlog-file")]
    pub(crate) eventlog: PathBuf,
    /// Accept a log that says that Secure Boot is off
    #[arg(short = 'i', long)]
    pub(crate) without_secureboot: bool,
    /// Write the reference state though the log lacks something that the policy `example` needs
    #[arg(long)]
    pub(crate) allow_incomplete: bool,
    /// Where to write the reference state [default: standard output]
    #[arg(short = 'o', long, value_name = "FILE", alias = "output")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("sources").required(true).multiple(true)
    .args(["from_ima_log", "from_directory", "from_initramfs", "from_rpms", "from_allowlist", "base"]))]
pub(crate) struct CreateArguments {
    /// IMA measurement list, ascii or binary; may be repeated
    #[arg(
        long,
        short = 'm',
        value_name = "FILE",
        alias = "ima-measurement-list",
        help_heading = "Sources"
    )]
    pub(crate) from_ima_log: Vec<PathBuf>,
    /// Folder whose files are hashed, as the root of a machine; may be repeated
    #[arg(long, value_name = "DIR", alias = "rootfs", help_heading = "Sources")]
    pub(crate) from_directory: Vec<PathBuf>,
    /// Initramfs, or a folder of files that begin with initr; may be repeated
    #[arg(
        long,
        value_name = "PATH",
        alias = "ramdisk-dir",
        help_heading = "Sources"
    )]
    pub(crate) from_initramfs: Vec<PathBuf>,
    /// RPM package, or a folder of them such as a repository; may be repeated
    #[arg(
        long,
        value_name = "PATH",
        alias = "local-rpm-repo",
        help_heading = "Sources"
    )]
    pub(crate) from_rpms: Vec<PathBuf>,
    /// Allowlist: output of sha256sum, or one of older Keylime; may be repeated
    #[arg(
        long,
        short = 'a',
        value_name = "FILE",
        alias = "allowlist",
        help_heading = "Sources"
    )]
    pub(crate) from_allowlist: Vec<PathBuf>,
    /// Runtime policy that is extended
    #[arg(
        long,
        short = 'p',
        value_name = "FILE",
        alias = "base-policy",
        help_heading = "Sources"
    )]
    pub(crate) base: Option<PathBuf>,

    /// Algorithm of the digests of files [default: that of the lists given, or sha256]
    #[arg(long, value_name = "ALG", alias = "algo", value_parser = hash_alg(),
          help_heading = "Files")]
    pub(crate) hash: Option<HashAlg>,
    /// Folders that are not entered, beside those of a running system such as /proc and /tmp
    #[arg(
        long,
        short = 's',
        value_name = "DIR",
        value_delimiter = ',',
        help_heading = "Files"
    )]
    pub(crate) skip_path: Vec<PathBuf>,
    /// Hash files of every owner, and not of root alone
    #[arg(long, help_heading = "Files")]
    pub(crate) all_owners: bool,
    /// Enter other file systems that are mounted in the folder
    #[arg(long, help_heading = "Files")]
    pub(crate) cross_file_systems: bool,

    /// Leave violations out, rather than refuse the list
    #[arg(long, help_heading = "Measurement lists")]
    pub(crate) allow_violations: bool,
    /// Algorithm of the template hashes in the lists
    #[arg(long, value_name = "ALG", default_value = "sha1", value_parser = hash_alg(),
          help_heading = "Measurement lists")]
    pub(crate) ima_log_hash: HashAlg,
    /// Leave out keys that were measured into keyrings
    #[arg(long, help_heading = "Measurement lists")]
    pub(crate) no_keyrings: bool,
    /// Leave out other measured buffers
    #[arg(long, help_heading = "Measurement lists")]
    pub(crate) no_ima_buf: bool,
    /// List boot_aggregate too, for verifiers that cannot compute it
    #[arg(long, help_heading = "Measurement lists")]
    pub(crate) with_boot_aggregate: bool,

    /// Python pattern of paths that the policy leaves alone; may be repeated
    #[arg(long, value_name = "REGEX", help_heading = "Policy")]
    pub(crate) exclude: Vec<String>,
    /// File with such a pattern in each line; may be repeated
    #[arg(
        long,
        short = 'e',
        value_name = "FILE",
        alias = "excludelist",
        help_heading = "Policy"
    )]
    pub(crate) exclude_list: Vec<PathBuf>,
    /// Keyring whose keys are not looked at; may be repeated
    #[arg(
        long,
        value_name = "NAME",
        alias = "ignored-keyrings",
        help_heading = "Policy"
    )]
    pub(crate) ignore_keyring: Vec<String>,
    /// Certificate or public key that signs files; may be repeated
    #[arg(
        long,
        value_name = "FILE",
        alias = "add-ima-signature-verification-key",
        help_heading = "Policy"
    )]
    pub(crate) verification_key: Vec<PathBuf>,

    /// Where to write the policy [default: standard output]
    #[arg(long, short = 'o', value_name = "FILE", alias = "output")]
    pub(crate) out: Option<PathBuf>,
    /// Write digests and paths as sha256sum does, instead of a policy
    #[arg(long, alias = "show-legacy-allowlist")]
    pub(crate) as_allowlist: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArguments {
    /// The policies, in Keylime's JSON
    #[arg(value_name = "FILE", required = true, num_args = 2..)]
    pub(crate) files: Vec<PathBuf>,
    /// Where to write the policy [default: standard output]
    #[arg(long, short = 'o', value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ConvertArguments {
    /// Allowlist, flat or JSON, or a policy of an older schema
    pub(crate) file: PathBuf,
    /// File with an exclude pattern in each line; may be repeated
    #[arg(long, short = 'e', value_name = "FILE", alias = "excludelist")]
    pub(crate) exclude_list: Vec<PathBuf>,
    /// Certificate or public key that signs files; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) verification_key: Vec<PathBuf>,
    /// Where to write the policy [default: standard output]
    #[arg(long, short = 'o', value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// What an envelope says of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// The fingerprint of the public key
    Ecdsa,
    /// A certificate for the key
    X509,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("signing_key").required(true).args(["key", "new_key"]))]
pub(crate) struct SignArguments {
    /// The policy, in Keylime's JSON
    pub(crate) file: PathBuf,
    /// Private key in PEM, on P-256, P-384 or P-521
    #[arg(long, short = 'k', value_name = "FILE", alias = "keyfile")]
    pub(crate) key: Option<PathBuf>,
    /// Make a private key on P-256, and write it into this new file
    #[arg(long, short = 'p', value_name = "FILE", alias = "keypath")]
    pub(crate) new_key: Option<PathBuf>,
    /// What the envelope says of the key
    #[arg(long, short = 'b', value_enum, default_value = "ecdsa")]
    pub(crate) backend: Backend,
    /// x509: the certificate of the key, in PEM
    #[arg(long, value_name = "FILE", conflicts_with = "cert_out")]
    pub(crate) cert: Option<PathBuf>,
    /// x509: make a self-signed certificate of the key, and write it into this file
    #[arg(long, short = 'c', value_name = "FILE", alias = "cert-outfile")]
    pub(crate) cert_out: Option<PathBuf>,
    /// Write the public key into this file, for those who verify
    #[arg(long, value_name = "FILE")]
    pub(crate) public_out: Option<PathBuf>,
    /// Where to write the signed policy [default: standard output]
    #[arg(long, short = 'o', value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifySignatureArguments {
    /// The signed policy
    pub(crate) file: PathBuf,
    /// Public key or certificate that you trust, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// Write the policy that was signed into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// How to print what was found
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}
