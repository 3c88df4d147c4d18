//! What every error of the product can say: what happened, why, and what to type next.

use std::io;

/// An error that a user reads. `Display` says what happened, in lower case without a full stop.
pub trait Explain: std::error::Error + Send + Sync + 'static {
    /// The cause, in the same style, with the facts (pid, path, limit, the kernel's words).
    fn why(&self) -> String;
    /// What to type or do next.
    fn advice(&self) -> String;
    /// Whether the command line was wrong (exit code 2) rather than the run (exit code 1).
    fn is_misuse(&self) -> bool {
        false
    }
}

/// What the kernel said, in our style: no capital, no number.
pub(crate) fn kernel_words(error: &io::Error) -> String {
    let words = error.to_string();
    let words = words.split(" (os error").next().unwrap_or_default();
    let mut chars = words.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
