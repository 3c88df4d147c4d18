//! Sections of documents that a verb owns: each stands between a comment that names the command and
//! `<!-- end -->`, and is written anew by that command. The rest of the document is a person's.

use std::fs;

use anyhow::{Context, Result};

use crate::workspace::Workspace;

const END: &str = "<!-- end -->\n";

/// What becomes of a report besides being printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Printed,
    /// If nothing is wrong, it takes the place of the one in the documentation.
    Written,
}

/// A section of a document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    /// The document, below the top folder.
    pub(crate) document: &'static str,
    /// The command that writes it, as a user types it.
    pub(crate) command: &'static str,
}

impl Section {
    /// Puts a text in the place of the one before.
    pub(crate) fn write(&self, workspace: &Workspace, text: &str) -> Result<()> {
        let Self { document, command } = self;
        let path = workspace.root().join(document);
        let old = fs::read_to_string(&path).with_context(|| format!("cannot read {document}"))?;
        let new = self.replaced(&old, text).with_context(|| {
            format!("{document} has no section between <!-- {command} --> and {END:?}")
        })?;
        fs::write(&path, new).with_context(|| format!("cannot write {document}"))?;
        println!("written: {document}");
        Ok(())
    }

    /// The document with the section's new text, if it has the section.
    fn replaced(&self, document: &str, text: &str) -> Option<String> {
        let begin = format!("<!-- {} -->\n", self.command);
        let (before, rest) = document.split_once(&begin)?;
        let (_, after) = rest.split_once(END)?;
        Some(format!("{before}{begin}\n{text}\n{END}{after}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: Section = Section {
        document: "docs/x.md",
        command: "cargo xtask x --write",
    };

    #[test]
    fn the_text_takes_the_old_ones_place() {
        let begin = "<!-- cargo xtask x --write -->\n";
        let document = format!("a\n{begin}old\n{END}b\n{END}");
        let new = SECTION.replaced(&document, "| x |\n").unwrap();
        assert_eq!(new, format!("a\n{begin}\n| x |\n\n{END}b\n{END}"));
        assert_eq!(SECTION.replaced(&new, "| x |\n").unwrap(), new);
    }

    #[test]
    fn a_document_without_the_section_is_left_alone() {
        assert_eq!(SECTION.replaced("none", ""), None);
        let other = "<!-- cargo xtask y --write -->\n<!-- end -->\n";
        assert_eq!(SECTION.replaced(other, ""), None);
    }
}
