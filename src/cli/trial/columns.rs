//! Two texts on a terminal: beside each other, or one after the other.
//!
//! In: names and texts, and the columns of the terminal. Out: lines of text. Control characters,
//! which could do anything to a terminal, become U+FFFD.

use unicode_width::UnicodeWidthChar;

/// Between the two columns.
const GAP: &str = " │ ";
/// Columns of the gap.
const GAP_COLUMNS: usize = 3;

/// Two texts under their names, wrapped into two columns; `columns` is the width of both.
pub(super) fn side_by_side(columns: usize, texts: [(&str, &str); 2]) -> String {
    let width = (columns.saturating_sub(GAP_COLUMNS) / 2).max(1);
    let [left, right] = texts.map(|(name, text)| {
        let mut lines = vec![name.to_owned(), "─".repeat(width)];
        lines.extend(wrapped(&printable(text), width));
        lines
    });
    let mut page = String::new();
    for index in 0..left.len().max(right.len()) {
        let of = |lines: &[String]| lines.get(index).cloned().unwrap_or_default();
        let (left, right) = (of(&left), of(&right));
        let padding = " ".repeat(width.saturating_sub(width_of(&left)));
        page.push_str(format!("{left}{padding}{GAP}{right}").trim_end());
        page.push('\n');
    }
    page
}

/// Each text below its name, an empty line between them.
pub(super) fn one_after_the_other(texts: [(&str, &str); 2]) -> String {
    let blocks = texts.map(|(name, text)| format!("{name}:\n{}\n", printable(text).trim_end()));
    blocks.join("\n")
}

/// Line ends stay, tabs become spaces.
fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => safe.push('\n'),
            '\t' => safe.push_str("    "),
            c if c.is_control() => safe.push('\u{FFFD}'),
            c => safe.push(c),
        }
    }
    safe
}

/// Lines of at most `width` columns, cut at spaces where that is possible.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let (mut line, mut used) = (String::new(), 0);
        for (index, word) in paragraph.split(' ').enumerate() {
            let mut space = usize::from(index > 0);
            if used > 0 && used + space + width_of(word) > width {
                lines.push(std::mem::take(&mut line));
                (used, space) = (0, 0);
            }
            if space > 0 {
                line.push(' ');
                used += 1;
            }
            for c in word.chars() {
                let own = c.width().unwrap_or(0);
                if used > 0 && used + own > width {
                    lines.push(std::mem::take(&mut line));
                    used = 0;
                }
                line.push(c);
                used += own;
            }
        }
        lines.push(line);
    }
    lines
}

fn width_of(text: &str) -> usize {
    text.chars().filter_map(UnicodeWidthChar::width).sum()
}

#[cfg(test)]
mod tests {
    use super::{one_after_the_other, side_by_side, width_of, wrapped};

    #[test]
    fn lines_end_at_spaces_where_they_can() {
        assert_eq!(wrapped("one two three\n\nfour", 7), ["one two", "three", "", "four"]);
        assert_eq!(wrapped("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrapped("  ab", 4), ["  ab"]);
        assert!(wrapped("", 4).is_empty());
        // Two columns each.
        assert_eq!(wrapped("東京都", 5), ["東京", "都"]);
        for width in 1..9 {
            let lines = wrapped("a bb ccc dddd eeeee  ffffff", width);
            assert!(lines.iter().all(|line| width_of(line) <= width), "{width}: {lines:?}");
        }
    }

    #[test]
    fn answers_stand_side_by_side() {
        let page = side_by_side(17, [("base", "The city is Rome."), ("adapted", "Rome")]);
        let expected = "\
base    │ adapted
─────── │ ───────
The     │ Rome
city is │
Rome.   │
";
        assert_eq!(page, expected);
    }

    #[test]
    fn answers_cannot_steer_the_terminal() {
        let page = one_after_the_other([("base", "a\u{1b}[2Jb\tc\n"), ("adapted", "")]);
        assert_eq!(page, "base:\na\u{FFFD}[2Jb    c\n\nadapted:\n\n");
        assert!(
            !side_by_side(40, [("a", "\u{7}"), ("b", "\u{9b}1m")]).contains(['\u{7}', '\u{9b}'])
        );
    }
}
