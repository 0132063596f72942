//! Text from evidence, made harmless for a terminal (X07).
//!
//! A file name may hold any byte. Shown as it is, it could move the cursor, forge lines of a
//! table, or turn the reading direction around.

use std::fmt::Write;

/// A name from evidence: what is not printable UTF-8 as `\xNN` or `\u{…}`, a backslash doubled.
pub(crate) fn name_text(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                _ => push_printable(&mut text, character),
            }
        }
        for byte in chunk.invalid() {
            push(&mut text, format_args!("\\x{byte:02x}"));
        }
    }
    text
}

/// A message: characters that are not printable are escaped, and nothing else is changed.
pub(crate) fn printable(message: &str) -> String {
    let mut text = String::new();
    for character in message.chars() {
        push_printable(&mut text, character);
    }
    text
}

/// Whether a character shows itself, and nothing but itself, on a terminal.
pub(crate) fn is_printable(character: char) -> bool {
    // Controls; marks that reorder or hide text; line ends that are not ASCII; a byte order mark.
    let hides = matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}');
    !character.is_control() && !hides
}

fn push_printable(text: &mut String, character: char) {
    if is_printable(character) {
        text.push(character);
    } else if character.is_ascii() {
        push(text, format_args!("\\x{:02x}", u32::from(character)));
    } else {
        push(text, format_args!("\\u{{{:x}}}", u32::from(character)));
    }
}

fn push(text: &mut String, escaped: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(escaped);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x07_names_cannot_drive_a_terminal() {
        let cases: [(&[u8], &str); 8] = [
            (b"/usr/bin/bash", "/usr/bin/bash"),
            ("/srv/über/文".as_bytes(), "/srv/über/文"),
            (b"a\x1b[2Jb", "a\\x1b[2Jb"),
            (b"a\nb\tc\x7f", "a\\x0ab\\x09c\\x7f"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"a\\x1b", "a\\\\x1b"),
            ("\u{9b}31m\u{202e}".as_bytes(), "\\u{9b}31m\\u{202e}"),
            (b"\xe6\x96", "\\xe6\\x96"),
        ];
        for (name, expected) in cases {
            assert_eq!(name_text(name), expected);
        }
        assert_eq!(printable("line 1\nüber \\x"), "line 1\\x0aüber \\x");
    }
}
