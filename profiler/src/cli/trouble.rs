//! How errors look: what, why, and what to type next; and the exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::Explain;

/// An error on its way to the user.
#[derive(Debug)]
pub(super) struct Trouble {
    what: String,
    why: String,
    advice: String,
    is_misuse: bool,
}

impl Trouble {
    /// A failure of the run.
    pub(super) fn failure(
        what: impl Into<String>,
        why: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
            advice: advice.into(),
            is_misuse: false,
        }
    }

    /// A wrong command line.
    pub(super) fn misuse(
        what: impl Into<String>,
        why: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            is_misuse: true,
            ..Self::failure(what, why, advice)
        }
    }

    /// The same trouble with other words for what to type next.
    pub(super) fn with_advice(self, advice: impl FnOnce(&str) -> String) -> Self {
        Self {
            advice: advice(&self.advice),
            ..self
        }
    }

    /// What clap says of a command line. `Err` gives back what is no error: help and version.
    pub(super) fn of_command_line(error: clap::Error) -> Result<Self, clap::Error> {
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            return Err(error);
        }
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            Some(ContextValue::Strings(texts)) => texts.first().cloned(),
            _ => None,
        };
        let rendered = error.render().to_string();
        let first = rendered.lines().next().unwrap_or_default();
        let what = first
            .strip_prefix("error: ")
            .unwrap_or(first)
            .trim_end_matches(':');
        let source = std::error::Error::source(&error).map(ToString::to_string);
        // clap repeats the source behind the value.
        let what = match &source {
            Some(source) => what.strip_suffix(&format!(": {source}")).unwrap_or(what),
            None => what,
        };
        let possible = match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(values)) if !values.is_empty() => {
                Some(format!("it is one of {}", values.join(", ")))
            }
            _ => None,
        };
        let similar = text(ContextKind::SuggestedArg).map(|name| format!("did you mean {name}?"));
        let why = source
            .or(possible)
            .or(similar)
            .unwrap_or_else(|| "the command line does not fit together".to_owned());
        Ok(Self::misuse(what, why, "ebpfprof --help"))
    }

    /// Prints the error and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        // When stderr is gone there is nobody left to tell.
        let _ = self.write(&mut io::stderr().lock());
        ExitCode::from(if self.is_misuse { 2 } else { 1 })
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "error: {}", self.what)?;
        writeln!(out, "  why: {}", self.why)?;
        writeln!(out, "  try: {}", self.advice)
    }
}

impl<E: Explain> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self {
            what: error.to_string(),
            why: error.why(),
            advice: error.advice(),
            is_misuse: error.is_misuse(),
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}
