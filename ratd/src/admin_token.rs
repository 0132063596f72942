//! The administrator's token: a file in the data directory, made at the first start.

use std::path::Path;

use anyhow::{Context, ensure};
use rat_api::auth::AdminToken;

use crate::data_dir::{admin_token_in, read_private, write_private};

const PREFIX: &str = "rat_admin_";

/// The token of this data directory, and its text when it was made just now.
///
/// # Errors
/// When its file can be read by others, holds no token, or cannot be written.
pub(crate) fn open(directory: &Path) -> anyhow::Result<(AdminToken, Option<String>)> {
    let path = admin_token_in(directory);
    if path.exists() {
        let text = read_private(&path)?;
        let text = text.trim();
        let digits = text.strip_prefix(PREFIX).unwrap_or_default();
        ensure!(
            digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{} holds no admin token; remove it, and the next start makes a new one",
            path.display()
        );
        return Ok((AdminToken::new(text), None));
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).context("the operating system gives no random numbers")?;
    let text = format!("{PREFIX}{}", hex::encode(secret));
    write_private(&path, format!("{text}\n").as_bytes())
        .with_context(|| path.display().to_string())?;
    Ok((AdminToken::new(&text), Some(text)))
}
