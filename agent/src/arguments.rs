//! The command line.

use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use rat_engine::agent_id::AgentId;
use thiserror::Error;

use crate::access::{self, AccessError};
use crate::device::KeyKind;
use crate::https::ServerUrl;
use crate::relay::settings::RelaySettings;
use crate::settings::{self, Settings};
use crate::token::{Token, TokenError};

/// A token has 118 characters at most; a little more is read, so that one that is too long is
/// called so.
const TOKEN_LINE_BYTES_MAX: usize = 256;

/// Proves to a ratd server what this machine booted and runs.
#[derive(Debug, Parser)]
#[command(name = "rat-agent", version, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Settings that every command takes.
    #[command(flatten)]
    pub flags: Flags,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enrol this machine with a token that an operator made
    Enroll(Enroll),
    /// Answer the server's challenges until stopped
    Run,
    /// Show what the running agent last knew
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Check TPM, logs, server and certificate, and say what to do; exit code 1 when one fails
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Carry the evidence of many agents to the server over one connection
    Relay {
        /// What to do
        #[command(subcommand)]
        command: RelayCommand,
    },
}

const RELAY_HELP: &str = "\
Settings are in /etc/rat-relay.toml, or the file that --config names.

Example:
  rat-agent relay request > site-1.csr
  rat relays add site-1 --csr site-1.csr --output json > site-1.json
  rat-agent relay install site-1.json
  rat-agent relay run";

/// What a relay is to do.
#[derive(Debug, Subcommand)]
pub enum RelayCommand {
    /// Print the request for the relay's certificate, for `rat relays add`
    #[command(after_help = RELAY_HELP)]
    Request(RelaySettings),
    /// Take over what `rat relays add --output json` wrote
    Install {
        /// The file
        file: PathBuf,
        /// Settings
        #[command(flatten)]
        settings: RelaySettings,
    },
    /// Serve agents until stopped
    Run(RelaySettings),
}

/// Arguments of `enroll`.
#[derive(Debug, Args)]
pub struct Enroll {
    /// The token, or `-` to read it from standard input: other users see arguments of programs.
    /// It says whether this machine's list becomes its group's baseline
    #[arg(required_unless_present = "token_file")]
    pub token: Option<TokenArgument>,
    /// File that holds the token, and that nobody else can read
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// The server, as https://host:port
    #[arg(long, value_name = "URL")]
    pub server: ServerUrl,
    /// While an operator has to approve the machine first, or the server is away, ask again: for so
    /// long, as 90s, 10m or 1h, at most 168h [without a TIME: 1h]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "1h", value_parser = patience)]
    pub wait: Option<Duration>,
    /// The id to enrol under; without it one that follows from the TPM
    #[arg(long, value_name = "ID", value_parser = AgentId::parse)]
    pub agent_id: Option<AgentId>,
    /// The machine's name, for people; without it the kernel's
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
}

/// `90s`, `10m` or `1h`.
fn patience(text: &str) -> Result<Duration, String> {
    const WEEK_SECONDS: u64 = 7 * 24 * 60 * 60;
    let unit = |unit: char, seconds: u64| Some((text.strip_suffix(unit)?, seconds));
    let parts = unit('s', 1).or(unit('m', 60)).or(unit('h', 60 * 60));
    let seconds = parts.and_then(|(digits, seconds)| {
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = digits.parse().ok().filter(|_| is_plain)?;
        number.checked_mul(seconds)
    });
    match seconds {
        Some(seconds @ 1..=WEEK_SECONDS) => Ok(Duration::from_secs(seconds)),
        _ => Err("give a number with s, m or h, from 1s to 168h".to_owned()),
    }
}

/// A token, or where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenArgument {
    /// This one.
    Here(Token),
    /// On standard input.
    StandardInput,
}

impl FromStr for TokenArgument {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "-" {
            return Ok(Self::StandardInput);
        }
        text.parse().map(Self::Here)
    }
}

/// Why there is no token.
#[derive(Debug, Error)]
pub enum NoToken {
    /// The file, or who else can read it. (A07)
    #[error("the token's file: {0}")]
    File(#[from] AccessError),
    /// Standard input cannot be read.
    #[error("the token cannot be read from standard input: {0}")]
    StandardInput(#[from] io::Error),
    /// What is there is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Neither a token nor a file was given.
    #[error("give a token, - or --token-file")]
    Missing,
}

impl Enroll {
    /// The token: as given, or the one line in its file or on `input`.
    ///
    /// # Errors
    /// [`NoToken`].
    pub fn token(&self, input: impl Read) -> Result<Token, NoToken> {
        let text = match (&self.token, &self.token_file) {
            (Some(TokenArgument::Here(token)), _) => return Ok(token.clone()),
            (Some(TokenArgument::StandardInput), _) => {
                let most = u64::try_from(TOKEN_LINE_BYTES_MAX).unwrap_or(u64::MAX);
                let mut line = Vec::new();
                BufReader::new(input.take(most)).read_until(b'\n', &mut line)?;
                line
            }
            (None, Some(path)) => access::read_secret(path, TOKEN_LINE_BYTES_MAX)?,
            (None, None) => return Err(NoToken::Missing),
        };
        Ok(String::from_utf8_lossy(&text).trim_ascii_end().parse()?)
    }
}

/// Settings that every command takes.
#[derive(Debug, Args)]
pub struct Flags {
    /// Settings file (default: /etc/rat-agent.toml, if it is there)
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the agent keeps its key (default: $STATE_DIRECTORY, or /var/lib/rat-agent)
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The way to the TPM (default: $TCTI, or device:/dev/tpmrm0)
    #[arg(long, global = true, value_name = "TCTI")]
    tcti: Option<String>,
    /// The type of the TPM's keys (default: rsa)
    #[arg(long, global = true, value_enum)]
    key: Option<KeyKind>,
    /// Persistent handle of the endorsement key
    #[arg(long, global = true, value_name = "HANDLE", value_parser = settings::handle)]
    ek_handle: Option<u32>,
    /// Persistent handle of the attestation key
    #[arg(long, global = true, value_name = "HANDLE", value_parser = settings::handle)]
    ak_handle: Option<u32>,
    /// The relay to speak through, as host:port (default: none, the server itself)
    #[arg(long = "through", global = true, value_name = "ADDRESS")]
    relay: Option<String>,
}

impl Flags {
    /// The flags as settings.
    pub fn settings(&self) -> Settings {
        Settings {
            state_dir: self.state_dir.clone(),
            tcti: self.tcti.clone(),
            key: self.key,
            ek_handle: self.ek_handle,
            ak_handle: self.ak_handle,
            relay: self.relay.clone(),
            ..Settings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn token() -> String {
        format!("esp_{}", "a".repeat(112))
    }

    fn enroll(arguments: &[&str]) -> Result<Enroll, clap::Error> {
        let server = ["--server", "https://localhost"];
        let words = [&["rat-agent", "enroll"], arguments, &server].concat();
        match Arguments::try_parse_from(words)?.command {
            Command::Enroll(enroll) => Ok(enroll),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a03_a_token_need_not_be_an_argument() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let file = ["--token-file", path.to_str().unwrap()];
        let unread = || io::empty();
        let given = enroll(&[&token()]).unwrap().token(unread()).unwrap();
        assert_eq!(given.as_str(), token());
        for end in ["", "\n", "\r\n"] {
            let line = format!("{}{end}", token());
            let read = enroll(&["-"]).unwrap().token(line.as_bytes()).unwrap();
            assert_eq!(read, given);
            fs::write(&path, &line).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(enroll(&file).unwrap().token(unread()).unwrap(), given);
        }
        // One line is read, and what follows is left alone.
        let lines = format!("{}\nmore", token());
        let read = enroll(&["-"]).unwrap().token(lines.as_bytes()).unwrap();
        assert_eq!(read, given);
    }

    #[test]
    fn how_long_to_wait_is_said_with_a_unit() {
        let wait = |arguments: &[&str]| enroll(arguments).map(|enroll| enroll.wait);
        assert_eq!(wait(&["-"]).unwrap(), None);
        for (argument, seconds) in [
            ("--wait", 3600),
            ("--wait=90s", 90),
            ("--wait=10m", 600),
            ("--wait=168h", 604_800),
        ] {
            let expected = Some(Duration::from_secs(seconds));
            assert_eq!(wait(&[argument, "-"]).unwrap(), expected, "{argument}");
        }
        for other in [
            "",
            "0s",
            "1",
            "h",
            "1d",
            "-1s",
            "+1s",
            "1.5h",
            "169h",
            "99999999999999999999s",
            "9999999999999999h",
        ] {
            assert!(wait(&[&format!("--wait={other}"), "-"]).is_err(), "{other}");
        }
    }

    #[test]
    fn a03_a_token_is_given_once_and_whole() {
        for both in [&["-", "--token-file", "x"][..], &[]] {
            assert!(enroll(both).is_err(), "{both:?}");
        }
        let long = format!("{}{}", token(), "a".repeat(1 << 20));
        for text in ["", "\n", "esp_1", &long] {
            let read = enroll(&["-"]).unwrap().token(text.as_bytes());
            assert!(matches!(read, Err(NoToken::Token(_))), "{text:.20}");
        }
    }

    #[test]
    fn a07_a_token_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, token()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let enroll = enroll(&["--token-file", path.to_str().unwrap()]).unwrap();
        let refused = enroll.token(io::empty());
        let Err(NoToken::File(AccessError::Readable(named))) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(named, path);
    }
}
