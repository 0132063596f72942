//! `rat enroll`: hands this machine's enrolment to `rat-agent`, which knows TPMs.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use rat_client::access;
use rat_client::token::Token;

use crate::arguments::{Enroll, RemoteArguments};
use crate::client::server;
use crate::output::Format;

const PROGRAM: &str = "rat-agent";
/// A token has 118 characters at most; a little more is read, so that one that is too long is
/// called so.
const TOKEN_LINE_BYTES_MAX: usize = 256;

/// Runs `rat-agent enroll`, and ends with its exit code.
pub(crate) fn run(options: &Enroll) -> Result<ExitCode> {
    let token = token(options)?;
    if options.baseline && !token.is_baseline() {
        bail!(
            "this is no baseline token: with it the machine enrols under the policy that its \
             group has. `rat tokens create GROUP --baseline` makes one. Nothing was sent"
        );
    }
    let server = match &options.server {
        Some(server) => server.clone(),
        None => {
            server(&RemoteArguments {
                output: Format::Table,
                server: None,
                ca_sha256: None,
                token_file: None,
            })?
            .server
        }
    };
    let mut child = Command::new(program())
        .args(["enroll", "-", "--server"])
        .arg(server.to_string())
        .args(&options.more)
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("{PROGRAM} cannot be run; is it installed?"))?;
    if let Some(mut input) = child.stdin.take() {
        // A child that has ended says itself why.
        let _ = writeln!(input, "{}", token.as_str());
    }
    let status = child.wait().context("waiting for rat-agent")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

fn token(options: &Enroll) -> Result<Token> {
    let text = match (&options.token, &options.token_file) {
        (Some(token), _) if token == "-" => {
            let most = u64::try_from(TOKEN_LINE_BYTES_MAX).unwrap_or(u64::MAX);
            let mut line = Vec::new();
            BufReader::new(std::io::stdin().take(most))
                .read_until(b'\n', &mut line)
                .context("the token cannot be read from standard input")?;
            String::from_utf8_lossy(&line).into_owned()
        }
        (Some(token), _) => token.clone(),
        (None, Some(path)) => {
            let text = access::read_secret(path, TOKEN_LINE_BYTES_MAX)?;
            String::from_utf8_lossy(&text).into_owned()
        }
        (None, None) => bail!("give a token, - or --token-file"),
    };
    Ok(text.trim().parse()?)
}

/// The program beside this one, as packages install them; else the one that PATH finds.
fn program() -> OsString {
    let beside = std::env::current_exe().ok();
    let beside = beside.and_then(|path| Some(path.parent()?.join(PROGRAM)));
    let found: Option<PathBuf> = beside.filter(|path| path.is_file());
    found.map_or_else(|| PROGRAM.into(), PathBuf::into_os_string)
}
