//! What is wrong with a configuration.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::error::{Explain, kernel_words};

/// What is wrong with a configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// It is not what a configuration looks like.
    #[error("the configuration is wrong: {}:{line}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there. It names the key.
        what: String,
    },
    /// A value that is impossible, by itself or with others.
    #[error("the configuration is wrong: {}: {key}", .path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Why.
        why: &'static str,
    },
}

impl ConfigError {
    pub(super) fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let before = &text.as_bytes()[..start];
        let line_start = before.iter().rposition(|byte| *byte == b'\n');
        let row = text
            .get(line_start.map_or(0, |at| at + 1)..)
            .and_then(|rest| rest.lines().next())
            .unwrap_or_default();
        let said = error.message().lines().collect::<Vec<_>>().join(", ");
        // Messages about values do not name the key.
        let key = row.split_once('=').map(|(key, _)| key.trim());
        let what = match key {
            Some(key) if !said.starts_with("unknown field") => format!("{key}: {said}"),
            _ => said,
        };
        Self::Syntax {
            path: path.to_owned(),
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            what,
        }
    }
}

impl Explain for ConfigError {
    fn why(&self) -> String {
        match self {
            Self::Read { source, .. } => kernel_words(source),
            Self::Syntax { what, .. } => what.clone(),
            Self::Value { why, .. } => (*why).to_owned(),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Read { path, .. } => format!("ls -l {}", path.display()),
            Self::Syntax { path, line, .. } => format!(
                "mend line {line} of {}; contrib/ebpfprof.toml describes every key",
                path.display()
            ),
            Self::Value { path, key, .. } => format!(
                "mend {key} in {}; contrib/ebpfprof.toml describes every key",
                path.display()
            ),
        }
    }

    fn is_misuse(&self) -> bool {
        true
    }
}
