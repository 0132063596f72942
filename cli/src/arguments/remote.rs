//! What commands that ask a server share, and those about the server itself.

use std::path::PathBuf;

use clap::Args;
use rat_client::https::ServerUrl;

use super::people::PasswordArguments;
use super::values::Fingerprint;
use crate::output::Format;

pub(super) const CONNECT_HELP: &str = "\
Nothing is sent to a server whose certificate does not lead to that CA. `ratd ca fingerprint` on the
server prints the fingerprint; so does the server when it starts.

Example:
  rat connect https://ratd.example:8001 --ca-sha256 3f2a...c901";

pub(super) const LOGIN_HELP: &str = "\
Whoever must change the password is asked for a new one. The session lasts 24 hours.

Example:
  rat login --username admin
  rat login --username admin --password-file first --new-password-file second";

pub(super) const LOGOUT_HELP: &str = "\
Example:
  rat logout";

pub(super) const WHOAMI_HELP: &str = "\
Example:
  rat whoami
  RAT_TOKEN_FILE=/run/secrets/rat rat whoami";

pub(super) const STATUS_HELP: &str = "\
Example:
  rat status
  rat status --output json";

pub(super) const DOCTOR_HELP: &str = "\
Exit codes:
  0  nothing, or nothing but warnings
  1  a check failed; its remedy stands beside it

Example:
  rat doctor";

pub(super) const ENROLL_HELP: &str = "\
The token is handed to rat-agent over a pipe. Give `-` to have it read from standard input: other
users of a machine see the arguments of programs.

Exit codes: those of rat-agent; 2 when it was not run.

Example:
  rat enroll - --server https://ratd.example:8001 < token
  rat enroll --baseline esp_b_... --server https://ratd.example:8001 -- --tcti device:/dev/tpmrm0";

/// Which server, as whom, and how to print what it says.
#[derive(Debug, Clone, Args)]
pub(crate) struct RemoteArguments {
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    /// The server, as https://host:port [default: $RAT_SERVER, or the connected one]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    pub(crate) server: Option<ServerUrl>,
    /// SHA-256 of the certificate of its CA [default: $RAT_CA_SHA256, or the connected one's]
    #[arg(long, value_name = "HEX", help_heading = "Server")]
    pub(crate) ca_sha256: Option<Fingerprint>,
    /// File with an API token that nobody else can read [default: $RAT_TOKEN, $RAT_TOKEN_FILE, or
    /// the session]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The server, as https://host:port
    #[arg(value_name = "URL")]
    pub(crate) server: ServerUrl,
    /// SHA-256 of the certificate of its CA
    #[arg(long, value_name = "HEX")]
    pub(crate) ca_sha256: Fingerprint,
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// Who [default: the terminal is asked]
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    #[command(flatten)]
    pub(crate) password: PasswordArguments,
    /// File with the new password, for whoever must change it
    #[arg(long, value_name = "FILE")]
    pub(crate) new_password_file: Option<PathBuf>,
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    /// The server, as https://host:port [default: $RAT_SERVER, or the connected one]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    pub(crate) server: Option<ServerUrl>,
    /// SHA-256 of the certificate of its CA [default: $RAT_CA_SHA256, or the connected one's]
    #[arg(long, value_name = "HEX", help_heading = "Server")]
    pub(crate) ca_sha256: Option<Fingerprint>,
}

impl Login {
    /// The same, for whoever has no token yet.
    pub(crate) fn remote(&self) -> RemoteArguments {
        RemoteArguments {
            output: self.output,
            server: self.server.clone(),
            ca_sha256: self.ca_sha256,
            token_file: None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Enroll {
    /// The enrolment token, or `-` to read it from standard input
    #[arg(value_name = "TOKEN", required_unless_present = "token_file")]
    pub(crate) token: Option<String>,
    /// File that holds the token, and that nobody else can read
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// Refuse a token by which this machine's list would not become its group's baseline
    #[arg(long)]
    pub(crate) baseline: bool,
    /// The server, as https://host:port [default: $RAT_SERVER, or the connected one]
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<ServerUrl>,
    /// More arguments for `rat-agent enroll`
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(crate) more: Vec<std::ffi::OsString>,
}
