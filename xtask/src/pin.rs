//! The record of the toolchain that made the checked-in BPF object (`profiler-ebpf/toolchain.toml`).
//! To move to another bpf-linker, write its version there and run `cargo xtask ebpf`.

use std::{fmt, fs, path::Path};

use anyhow::{Context, Result, bail};

const HEADER: &str =
    "# The toolchain that made prebuilt/ebpfprof.bpf.o. Written by `cargo xtask ebpf`.\n";

/// Everything about a toolchain that decides the bytes of the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pin {
    /// First line of `rustc -vV`.
    pub(crate) rustc: String,
    /// `commit-hash` of `rustc -vV`.
    pub(crate) rustc_commit: String,
    /// `LLVM version` of `rustc -vV`.
    pub(crate) rustc_llvm: String,
    /// Version of bpf-linker.
    pub(crate) bpf_linker: String,
    /// Version of the LLVM that bpf-linker uses.
    pub(crate) bpf_linker_llvm: String,
}

impl Pin {
    /// Reads the record.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Writes the record, when it says something else.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = self.to_text();
        if fs::read_to_string(path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The record as TOML: comments and `key = "value"` lines, which is all of TOML it uses.
    fn to_text(&self) -> String {
        let mut copy = self.clone();
        let lines = copy
            .fields()
            .map(|(key, value)| format!("{key} = \"{value}\"\n"));
        format!("{HEADER}{}", lines.concat())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut pin = Self::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = line
                .split_once(" = ")
                .and_then(|(key, value)| Some((key, value.strip_prefix('"')?.strip_suffix('"')?)))
                .with_context(|| format!("not of the form key = \"value\": {line}"))?;
            let mut fields = pin.fields();
            let Some((_, field)) = fields.iter_mut().find(|(name, _)| *name == key) else {
                bail!("unknown key: {key}");
            };
            value.clone_into(field);
        }
        for (key, value) in pin.fields() {
            if value.is_empty() {
                bail!("missing key: {key}");
            }
        }
        Ok(pin)
    }

    fn fields(&mut self) -> [(&'static str, &mut String); 5] {
        [
            ("rustc", &mut self.rustc),
            ("rustc_commit", &mut self.rustc_commit),
            ("rustc_llvm", &mut self.rustc_llvm),
            ("bpf_linker", &mut self.bpf_linker),
            ("bpf_linker_llvm", &mut self.bpf_linker_llvm),
        ]
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (LLVM {}), bpf-linker {} (LLVM {})",
            self.rustc, self.rustc_llvm, self.bpf_linker, self.bpf_linker_llvm
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Pin {
        Pin {
            rustc: "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)".into(),
            rustc_commit: "ac68faa20c58".into(),
            rustc_llvm: "22.1.8".into(),
            bpf_linker: "0.13.0".into(),
            bpf_linker_llvm: "22.1.8".into(),
        }
    }

    #[test]
    fn a_written_record_reads_back() {
        assert_eq!(Pin::parse(&sample().to_text()).unwrap(), sample());
    }

    #[track_caller]
    fn check_refused(text: &str, reason: &str) {
        let error = Pin::parse(text).unwrap_err();
        assert!(format!("{error:#}").contains(reason), "{error:#}");
    }

    #[test]
    fn a_broken_record_is_refused_with_the_reason() {
        check_refused("rustc = \"x\"\n", "missing key: rustc_commit");
        check_refused("linker = \"x\"\n", "unknown key: linker");
        check_refused("rustc: x\n", "not of the form");
    }
}
