//! What the programs share that speak to the server from elsewhere, `rat-agent` and `rat`: HTTPS to
//! a server whose CA is pinned, the form of enrolment tokens, and files that hold secrets.

#![cfg_attr(test, allow(clippy::indexing_slicing))]

pub mod access;
pub mod https;
pub mod token;

/// An error and what led to it, in one line. Errors of these programs name their cause themselves
/// where it belongs into the sentence; it is not said twice.
pub fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
