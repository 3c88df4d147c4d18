//! Short names of targets, for file names.

use std::path::Path;

/// Most characters of a label: it is one part of a file name.
const MAX_CHARS: usize = 64;

/// The text with everything but letters, digits and `-_.+` replaced, neither empty nor hidden.
pub(super) fn file_safe(text: &str) -> String {
    let safe = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' | '+' => c,
        _ => '_',
    };
    let label: String = text.chars().map(safe).take(MAX_CHARS).collect();
    if label.is_empty() || label.starts_with(['.', '-']) {
        return format!("_{label}");
    }
    label
}

/// The last part of a path that has a name, else `root`.
pub(super) fn last_component(path: &Path) -> String {
    path.file_name()
        .map_or("root".into(), |name| name.to_string_lossy().into_owned())
}

/// One label for several targets: the first, and how many more there are.
pub(super) fn combined(labels: &[String]) -> String {
    match labels {
        [] => "host".to_owned(),
        [one] => file_safe(one),
        [first, rest @ ..] => file_safe(&format!("{first}+{}", rest.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(labels: &[&str], expected: &str) {
        let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
        assert_eq!(combined(&labels), expected);
    }

    #[test]
    fn labels_are_fit_for_file_names() {
        check(&[], "host");
        check(&["redis-server-1234"], "redis-server-1234");
        check(&["Web Content-7"], "Web_Content-7");
        check(&["kworker/0:1-9"], "kworker_0_1-9");
        check(&["..-3"], "_..-3");
        check(&["é"], "_");
        check(&["nginx-12", "nginx-13", "nginx-14"], "nginx-12+2");
        assert_eq!(file_safe(&"x".repeat(300)).len(), 64);
        assert_eq!(last_component(Path::new("/")), "root");
        assert_eq!(last_component(Path::new("/a/b.service/")), "b.service");
    }
}
