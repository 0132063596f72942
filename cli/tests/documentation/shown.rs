//! What a page shows, and what a program printed.

/// Stands for any text within a line, and alone on a line for any lines, or none.
const ANYTHING: char = '…';

/// Whether a text is what a page shows. Blanks at the ends of lines, and how many there are between
/// words, do not matter: columns are as wide as what stands in them.
pub(crate) fn is_shown(page: &str, text: &str) -> bool {
    let text: Vec<String> = text.lines().map(words).collect();
    // Which beginnings of the text the lines of the page fit so far.
    let mut fits = vec![false; text.len() + 1];
    fits[0] = true;
    for line in page.lines().map(words) {
        let mut next = vec![false; text.len() + 1];
        if line == ANYTHING.to_string() {
            let first = fits.iter().position(|fits| *fits).unwrap_or(fits.len());
            next[first..].fill(true);
        } else {
            for (nth, printed) in text.iter().enumerate() {
                next[nth + 1] = fits[nth] && is_line(&line, printed);
            }
        }
        fits = next;
    }
    fits[text.len()]
}

/// The same for a program that may print more.
pub(crate) fn has_begun(page: &str, text: &str) -> bool {
    is_shown(&format!("{page}\n{ANYTHING}"), text)
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_line(page: &str, printed: &str) -> bool {
    let mut parts = page.split(ANYTHING);
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = page.rsplit_once(ANYTHING).map(|(_, last)| last) else {
        return rest.is_empty();
    };
    let between = parts.clone().count() - 1;
    for part in parts.take(between) {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn a_page_shows_what_was_printed_and_nothing_else() {
    for (page, text) in [
        ("", ""),
        ("a", "a\n"),
        ("a  b", "a b  "),
        ("a…", "a"),
        ("a…c…e", "abcde"),
        ("id …", "id x"),
        ("…", ""),
        ("…", "a\nb"),
        ("…\nb", "a\nb"),
        ("a\n…\nd", "a\nb\nc\nd"),
        ("a\n…\nd", "a\nd"),
        ("…\nb\n…", "a\nb\nb\nc"),
    ] {
        assert!(is_shown(page, text), "{page:?} {text:?}");
    }
    for (page, text) in [
        ("", "a"),
        ("a", ""),
        ("a", "b"),
        ("a", "a\nb"),
        ("a…", "b"),
        ("…c", "cb"),
        ("a…a", "a"),
        ("a…b…c", "acb"),
        ("a\n…\nd", "a\nb"),
        ("…\nb", "b\na"),
    ] {
        assert!(!is_shown(page, text), "{page:?} {text:?}");
    }
    assert!(has_begun("a\n…\nb", "a\nx\nb\nand so on") && !has_begun("a\nb", "a\n"));
}
