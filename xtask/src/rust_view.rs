//! Rust source as the rules of [`crate::tidy`] look at it: code without comments and without what
//! string literals say, and where the tests begin.

/// One source file.
pub(crate) struct RustView {
    /// The file with comments and the insides of literals blanked, line by line.
    pub(crate) code: Vec<String>,
    /// How many lines come before the test module at the end.
    pub(crate) lines_before_tests: usize,
}

impl RustView {
    /// Reads a file's text.
    pub(crate) fn of(text: &str) -> Self {
        let code: Vec<String> = blank(text).lines().map(str::to_owned).collect();
        let lines_before_tests = code
            .windows(2)
            .position(|pair| pair[0].trim() == "#[cfg(test)]" && pair[1].starts_with("mod tests"))
            .unwrap_or(code.len());
        Self {
            code,
            lines_before_tests,
        }
    }

    /// The modules that paths from `crate` or `super` lead into, each with its line (from 1),
    /// whether written `crate::a::B` or `crate::{a::B, c}`.
    pub(crate) fn own_modules(&self) -> Vec<(usize, String)> {
        let text = self.code.join("\n");
        let mut found = Vec::new();
        for root in ["crate::", "super::"] {
            for (at, _) in text.match_indices(root) {
                let rest = &text[at + root.len()..];
                let names = match rest.strip_prefix('{') {
                    Some(group) => group_heads(group),
                    None => vec![(0, name_at(rest))],
                };
                let start = at + root.len();
                found.extend(names.into_iter().map(|(offset, name)| {
                    let line = 1 + text[..start + offset].matches('\n').count();
                    (line, name.to_owned())
                }));
            }
        }
        found
    }
}

/// The first name of each item in a group of imports, whose brace is already open, with its place.
fn group_heads(group: &str) -> Vec<(usize, &str)> {
    let mut heads = Vec::new();
    let (mut depth, mut at_start) = (1, true);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' => at_start = true,
            _ if letter.is_whitespace() => {}
            _ => {
                if at_start && depth == 1 {
                    heads.push((at, name_at(&group[at..])));
                }
                at_start = false;
            }
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

/// The name that a text begins with; empty when it begins with something else.
fn name_at(text: &str) -> &str {
    let end = text
        .find(|letter: char| !is_name(letter))
        .unwrap_or(text.len());
    &text[..end]
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Whether a line of code names `word` as a whole word.
pub(crate) fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

/// The text with comments and the insides of literals turned into spaces; line ends stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    while out.len() < bytes.len() {
        let at = out.len();
        let length = blank_length(&bytes[at..], at.checked_sub(1).map(|before| bytes[before]));
        if length == 0 {
            out.push(bytes[at]);
            continue;
        }
        let end = (at + length).min(bytes.len());
        let spaces = bytes[at..end].iter();
        out.extend(spaces.map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }));
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Bytes of the comment or literal that begins here, 0 for code.
fn blank_length(rest: &[u8], before: Option<u8>) -> usize {
    let in_name = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match rest {
        [b'/', b'/', ..] => length_until(rest, b"\n"),
        [b'/', b'*', ..] => block_comment_length(rest),
        [b'"', ..] => quoted_length(rest, b'"'),
        [b'\'', b'\\', ..] => quoted_length(rest, b'\''),
        [b'\'', _, b'\'', ..] => 3,
        [b'r', b'"' | b'#', ..] if !in_name || before == Some(b'b') => raw_length(rest),
        _ => 0,
    }
}

/// Bytes before `end`, or all.
fn length_until(rest: &[u8], end: &[u8]) -> usize {
    rest.windows(end.len())
        .position(|window| window == end)
        .unwrap_or(rest.len())
}

/// Bytes of a comment `/* … */`, which may hold others.
fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Bytes of a literal that ends with its opening quote, where a backslash guards one byte.
fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Bytes of a literal `r#"…"#`; 0 when this is a raw name such as `r#type`.
fn raw_length(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end: Vec<u8> = std::iter::once(b'"')
        .chain(std::iter::repeat_n(b'#', hashes))
        .collect();
    let head = 2 + hashes;
    head + length_until(&rest[head..], &end) + end.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks what is left of the code; runs of white space count as one.
    #[track_caller]
    fn check_blank(text: &str, expected: &str) {
        let blanked = blank(text);
        let words: Vec<&str> = blanked.split_whitespace().collect();
        assert_eq!(words.join(" "), expected);
        assert_eq!(blanked.len(), text.len());
        assert_eq!(blanked.lines().count(), text.lines().count());
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        check_blank("a // aya\nb", "a b");
        check_blank("a /* x /* y\n */ z */ b", "a b");
        check_blank("f(\"a\\\"b\") + 1", "f( ) + 1");
        check_blank("f('\"', '\\'', 'x') c", "f( , , ) c");
        check_blank("f(r#\"a \" b\"#, br\"\\\") c", "f( , b ) c");
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        check_blank(
            "fn f<'a>(x: &'a str, r#type: u8)",
            "fn f<'a>(x: &'a str, r#type: u8)",
        );
    }

    #[test]
    fn the_tests_at_the_end_are_told_apart() {
        let view = RustView::of("//! Doc.\nfn f() {}\n#[cfg(test)]\nmod tests {}\n");
        assert_eq!(view.lines_before_tests, 2);
        assert_eq!(RustView::of("//! Doc.\nfn f() {}\n").lines_before_tests, 2);
    }

    #[test]
    fn imports_lead_into_modules_alone_or_in_groups() {
        let view = RustView::of(
            "use crate::{\n    bpf::{Loader, export},\n    error,\n};\nsuper::symbolize::f();",
        );
        assert_eq!(
            view.own_modules(),
            [
                (2, "bpf".to_owned()),
                (3, "error".to_owned()),
                (5, "symbolize".to_owned())
            ]
        );
    }

    #[test]
    fn a_word_is_named_whole() {
        assert!(names("use aya::Ebpf;", "aya"));
        assert!(!names("use aya_log::EbpfLogger;", "aya"));
        assert!(!names("let himalaya = 1;", "aya"));
    }
}
