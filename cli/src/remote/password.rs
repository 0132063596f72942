//! Passwords, from wherever they are given; never from an argument, which other users see. (A03)

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rat_client::access;
use serde_json::json;

use super::prompt;
use crate::arguments::PasswordArguments;
use crate::client::{Address, Client, ClientError};

/// The server takes 256 characters.
const PASSWORD_BYTES_MAX: usize = 2048;

/// What to give where nobody can be asked for a password.
pub(super) const OTHERWISE: &str = "give --password-stdin or --password-file";

/// The password that options name; `None` when the terminal is to be asked.
pub(super) fn given(options: &PasswordArguments) -> Result<Option<String>> {
    if options.password_stdin {
        let most = u64::try_from(PASSWORD_BYTES_MAX).unwrap_or(u64::MAX);
        let mut line = Vec::new();
        BufReader::new(std::io::stdin().take(most))
            .read_until(b'\n', &mut line)
            .context("the password cannot be read from standard input")?;
        return first_line(&line, "standard input").map(Some);
    }
    options.password_file.as_deref().map(of_file).transpose()
}

/// The password in the first line of a file that nobody else can read.
fn of_file(path: &Path) -> Result<String> {
    let text = access::read_secret(path, PASSWORD_BYTES_MAX)?;
    first_line(&text, &path.display().to_string())
}

/// A new password, typed twice. Where nobody can be asked, `otherwise` says what to give instead.
pub(super) fn chosen(what: &str, otherwise: &'static str) -> Result<String> {
    let first = prompt::secret(&format!("{what}: ")).context(otherwise)?;
    if prompt::secret("Again: ")? != first {
        bail!("the two are not the same; nothing was changed");
    }
    Ok(first)
}

/// A new password of one's own: from a file, or typed twice.
pub(super) fn new(what: &str, file: Option<&Path>) -> Result<String> {
    match file {
        Some(file) => of_file(file),
        None => chosen(what, "give --new-password-file"),
    }
}

/// Changes the password of whoever asks.
pub(super) fn replace(client: &Client, present: &str, new: &str) -> Result<(), ClientError> {
    let body = json!({ "current_password": present, "new_password": new });
    client.put(&Address::new("/api/v1/auth/me/password"), None, &body)?;
    Ok(())
}

/// Blanks belong to the password, the end of the line does not.
fn first_line(text: &[u8], place: &str) -> Result<String> {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or(text);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok("") => bail!("{place} holds no password"),
        Ok(password) => Ok(password.to_owned()),
        Err(_) => bail!("the password in {place} is not UTF-8"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_a_whole_first_line() {
        for (text, password) in [("a b \n", "a b "), ("x\r\ny", "x"), ("\tp", "\tp")] {
            assert_eq!(first_line(text.as_bytes(), "f").unwrap(), password);
        }
        for text in [&b""[..], b"\n", b"\r\nx", b"\xff\n"] {
            assert!(first_line(text, "f").is_err(), "{text:?}");
        }
    }
}
