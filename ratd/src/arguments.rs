//! The command line.

use std::num::ParseIntError;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::load::Flags;

/// A remote-attestation server for fleets of machines with a TPM 2.0.
///
/// Without a command it serves until SIGTERM or SIGINT. Without a configuration it serves on
/// loopback addresses only, with its records and its own CA in ./ratd-data.
#[derive(Debug, Parser)]
#[command(name = "ratd", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) configuration: Configuration,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXIT_CODES: &str = "Exit codes: 0 done, or stopped as asked; 1 failed; 2 the command line is \
wrong; 3 the configuration is wrong; 4 the data directory, the CA or a listener cannot be used; \
5 stopped before everything under way had ended.";

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub(crate) struct Configuration {
    /// The configuration file; `RATD_CONFIG` names one too
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key, over file and variables; can be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// The data directory, as `--set data_dir=DIR`
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl Configuration {
    pub(crate) fn flags(&self) -> Flags {
        let mut set = self.set.clone();
        let directory = self.data_dir.clone();
        // Quoted, so that a path of digits is a path.
        set.extend(directory.map(|path| ("data_dir".to_owned(), format!("{path:?}"))));
        Flags {
            file: self.config.clone(),
            set,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows or checks the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Makes and revokes enrolment tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Makes, disables and lists people's accounts
    #[command(subcommand)]
    User(UserCommand),
    /// Makes, revokes and lists tokens of programs that call the API
    #[command(subcommand)]
    ApiToken(ApiTokenCommand),
    /// Makes, changes and shows policy groups
    #[command(subcommand)]
    Group(GroupCommand),
    /// Imports a CA, rotates it, or shows its fingerprint
    #[command(subcommand)]
    Ca(CaCommand),
    /// Lets machines into groups with `approval = manual`
    #[command(subcommand)]
    Ek(EkCommand),
    /// Takes over a Keylime: its configuration, records and CA; settles what its registered agents
    /// ask to be changed
    #[command(subcommand)]
    Keylime(KeylimeCommand),
    /// Copies records and CA into a new folder, while the server runs or not
    Backup {
        /// The folder, which must not exist
        path: PathBuf,
    },
    /// Fills an empty data directory from a backup
    Restore {
        /// The folder that `backup` made
        path: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Says what is wrong with the configuration and the EK files that it names; exit code 0 when
    /// nothing is
    Check,
    /// Prints every key with its default, its variable and its meaning, as a table in Markdown
    Reference,
    /// Prints every key with its value
    Show {
        /// Also where each value came from
        #[arg(long)]
        origin: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a token and prints it, this once
    Create(TokenOptions),
    /// Ends a token
    Revoke {
        /// Its id: the 16 digits after the prefix
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TokenOptions {
    /// The group that it enrols into
    #[arg(long)]
    pub(crate) group: String,
    /// Enrols one machine, whose measurement list becomes the group's candidate policy; makes the
    /// group if there is none
    #[arg(long)]
    pub(crate) baseline: bool,
    /// Hours until it ends by itself [default: 1, with --baseline 24]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=8760))]
    pub(crate) ttl_hours: Option<u64>,
    /// How many machines can use it [default: any number]
    #[arg(long, conflicts_with = "baseline", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_uses: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Makes an account
    Create {
        /// Its name: 1-64 of letters, digits and `_.@-`; the case does not matter
        username: String,
        #[command(flatten)]
        options: UserOptions,
    },
    /// Gives an account another password, and ends its sessions
    Password {
        /// Its name
        username: String,
        #[command(flatten)]
        password: PasswordOptions,
    },
    /// Refuses logins and tokens of an account from now on
    Disable {
        /// Its name
        username: String,
    },
    /// Prints all accounts
    List,
}

#[derive(Debug, Args)]
pub(crate) struct UserOptions {
    /// What it may do: admin, operator or viewer; can be repeated
    #[arg(long, required = true)]
    pub(crate) role: Vec<String>,
    /// Its email address
    #[arg(long, default_value = "")]
    pub(crate) email: String,
    #[command(flatten)]
    pub(crate) password: PasswordOptions,
}

#[derive(Debug, Args)]
pub(crate) struct PasswordOptions {
    /// A file that only its owner can read, with the password in one line; `-` for standard input
    /// [default: a random one, which is printed and must be changed at the first login]
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApiTokenCommand {
    /// Makes a token and prints it, this once
    Create(ApiTokenOptions),
    /// Ends a token
    Revoke {
        /// Its id: the 16 digits after the prefix
        id: String,
    },
    /// Prints all tokens, without their secrets
    List,
}

#[derive(Debug, Args)]
pub(crate) struct ApiTokenOptions {
    /// What it is for
    #[arg(long)]
    pub(crate) name: String,
    /// What it may do: admin, operator or viewer
    #[arg(long, default_value = "viewer")]
    pub(crate) role: String,
    /// Hours until it ends by itself
    #[arg(long, default_value_t = 8760, value_parser = clap::value_parser!(u64).range(1..=8760))]
    pub(crate) ttl_hours: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Makes a group
    Create {
        /// Its slug: 1-63 of a-z, 0-9, `-` and `_`
        slug: String,
        #[command(flatten)]
        settings: GroupOptions,
    },
    /// Changes the settings that are given
    Set {
        /// Its slug
        slug: String,
        #[command(flatten)]
        settings: GroupOptions,
    },
    /// Prints one group, or all
    Show {
        /// Its slug
        slug: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct GroupOptions {
    /// The PCR bank that quotes must cover: sha256, sha384 or sha512, or sha1 with --allow-sha1;
    /// machines whose kernel measured boot_aggregate in another bank fail
    #[arg(long)]
    pub(crate) bank: Option<String>,
    /// Whether a boot must be explained by a boot log; false is for machines whose firmware writes
    /// none [default of a new group: true]
    #[arg(long, value_name = "BOOL")]
    pub(crate) require_boot_log: Option<bool>,
    /// Whether policy failures count; false is detection mode
    #[arg(long, value_name = "BOOL")]
    pub(crate) protected: Option<bool>,
    /// Who may enrol with a token of the group
    #[arg(long)]
    pub(crate) approval: Option<ApprovalOption>,
    /// Milliseconds from one challenge of its agents to the next; `server` for the server's interval
    #[arg(long, value_name = "MS")]
    pub(crate) interval_ms: Option<IntervalOption>,
    /// Whether SHA-1 is accepted: as the hash of attestation keys and quotes, and as the bank
    #[arg(long, value_name = "BOOL")]
    pub(crate) allow_sha1: Option<bool>,
    /// Whether a file whose signature does not verify fails, also when its digest is listed
    #[arg(long, value_name = "BOOL")]
    pub(crate) require_valid_ima_sig: Option<bool>,
}

/// How often agents are challenged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IntervalOption(pub(crate) Option<u64>);

impl FromStr for IntervalOption {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "server" => Ok(Self(None)),
            number => number.parse().map(|number| Self(Some(number))),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ApprovalOption {
    /// Whoever has a TPM that is known by a chain or by a list
    Auto,
    /// TPMs on a list of `identity.ek_list`, or that `ratd ek approve` names; nobody while there are
    /// none
    List,
    /// Machines that `ratd ek approve` names
    Manual,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Prints the SHA-256 of the CA's certificate
    Fingerprint,
    /// Takes a CA: the first, or the one that the next rotation makes current
    Import {
        /// Its certificate, in PEM
        certificate: PathBuf,
        /// Its private key, in PEM
        key: PathBuf,
    },
    /// Lets the next key issue from the next start of the server on
    Rotate,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeylimeCommand {
    /// The CA of Keylime's clients and servers: `cv_ca` in the data directory
    #[command(subcommand)]
    Ca(KeylimeCaCommand),
    /// Prints the configuration of ratd that a Keylime's configuration comes to, and what became of
    /// each of its options on standard error. Nothing is changed
    ImportConfig(ImportConfigOptions),
    /// Takes over policies, registrations and agents from Keylime's databases, while no server runs.
    /// Nobody is trusted before an attestation from the beginning; who had failed stays failed
    Migrate(MigrateOptions),
    /// Prints changes that agents' TPMs have proven and that wait for an operator
    Proposals,
    /// Puts a change in place
    Approve {
        /// The agent's id
        agent: String,
    },
    /// Drops a change
    Reject {
        /// The agent's id
        agent: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ImportConfigOptions {
    /// A folder with Keylime's files, in order of preference; can be repeated [default: /etc/keylime,
    /// then /usr/etc/keylime]
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Vec<PathBuf>,
    /// Where Keylime keeps its state; `KEYLIME_DIR` names it too
    #[arg(long, value_name = "DIR")]
    pub(crate) keylime_dir: Option<PathBuf>,
    /// Prints one JSON document in place of both
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateOptions {
    /// The verifier's database, as `database_url` says it: `sqlite`, sqlite:///PATH,
    /// postgresql://USER@HOST/NAME
    #[arg(long, value_name = "URL", required_unless_present = "registrar_db")]
    pub(crate) verifier_db: Option<String>,
    /// The registrar's database, in the same way
    #[arg(long, value_name = "URL")]
    pub(crate) registrar_db: Option<String>,
    /// Where Keylime keeps its state: what `sqlite` alone stands for is there
    #[arg(long, value_name = "DIR", default_value = "/var/lib/keylime")]
    pub(crate) keylime_dir: PathBuf,
    /// Says what would be imported, and changes nothing; also while the server runs
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Prints the report as one JSON document, with every row
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeylimeCaCommand {
    /// Prints where it is, and when its certificates end
    Show,
    /// Copies what a tenant needs into a folder: cacert.crt, client-cert.crt, client-private.pem
    Export {
        /// The folder, which is made if it is not there
        path: PathBuf,
    },
    /// Takes over a cv_ca folder of Keylime, while there is none here
    Import {
        /// The folder: /var/lib/keylime/cv_ca, say
        path: PathBuf,
        /// The CA's private key in PEM; without it, certificates are not renewed
        #[arg(long, value_name = "FILE")]
        ca_key: Option<PathBuf>,
    },
}

/// A machine and the group that it may enrol into.
#[derive(Debug, Args)]
pub(crate) struct EkInGroup {
    /// 64 hexadecimal digits
    pub(crate) ek_sha256: String,
    /// The group's slug
    #[arg(long)]
    pub(crate) group: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EkCommand {
    /// Lets a machine into a group, by the SHA-256 that the refusal of its enrolment names
    Approve(EkInGroup),
    /// Takes an approval back; a machine that enrolled stays enrolled
    Withdraw(EkInGroup),
}
