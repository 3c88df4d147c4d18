//! The BPF object as an ELF file: cut down to what the loader needs, and compared.

use anyhow::{Context, Result, bail};
use object::{
    Object, ObjectSection,
    build::elf::{Builder, Section, SectionData},
    elf,
};

/// The object without debug info. `.BTF` and `.BTF.ext` stay: types, line numbers and relocations
/// for the loader and the kernel.
pub(crate) fn strip(data: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(data).context("the linker's output is no ELF file")?;
    let mut has_debug_info = false;
    for section in &mut builder.sections {
        if section.name.starts_with(b".debug_") || section.name.starts_with(b".rel.debug_") {
            section.delete = true;
            has_debug_info = true;
        }
    }
    if !has_debug_info {
        bail!("the linker's output has no debug info, so its BTF must be empty");
    }
    let has_names = |section: &Section<'_>| matches!(section.data, SectionData::SectionString);
    if !builder.sections.iter().any(has_names) {
        // LLVM keeps section names among the symbol names; the writer wants a table of their own.
        let names = builder.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder
        .write(&mut stripped)
        .context("cannot write the object without debug info")?;
    Ok(stripped)
}

/// Where two objects first differ, in words; `None` when their bytes are equal.
pub(crate) fn difference(old: &[u8], new: &[u8]) -> Option<String> {
    let at = old
        .iter()
        .zip(new)
        .position(|(old, new)| old != new)
        .or_else(|| (old.len() != new.len()).then(|| old.len().min(new.len())))?;
    let size = if old.len() == new.len() {
        format!("both have {} bytes", old.len())
    } else {
        format!("{} bytes against {}", old.len(), new.len())
    };
    let place = differing_section(old, new)
        .unwrap_or_else(|| "outside the sections: the file or section headers".to_owned());
    Some(format!("{size}; first differing byte at {at:#x}; {place}"))
}

/// The first section, in the old file's order, that is not the same in the new one.
fn differing_section(old: &[u8], new: &[u8]) -> Option<String> {
    let (Ok(old), Ok(new)) = (object::File::parse(old), object::File::parse(new)) else {
        return Some("one of the two is no ELF file".to_owned());
    };
    for section in old.sections() {
        let name = section.name().unwrap_or("?");
        let Some(other) = new.section_by_name(name) else {
            return Some(format!("section {name} is gone"));
        };
        let (data, other_data) = (section.data().ok()?, other.data().ok()?);
        if data != other_data {
            let at = data.iter().zip(other_data).position(|(a, b)| a != b);
            let at = at.unwrap_or_else(|| data.len().min(other_data.len()));
            return Some(format!(
                "first differing section {name}, at {at:#x} of {:#x} bytes",
                data.len()
            ));
        }
    }
    let added = new
        .sections()
        .find(|section| old.section_by_name(section.name().unwrap_or("?")).is_none())?;
    Some(format!("section {} is new", added.name().unwrap_or("?")))
}

#[cfg(test)]
mod tests {
    use object::{
        Architecture, BinaryFormat, Endianness, SectionKind,
        write::{Object as Writer, Symbol, SymbolSection},
    };

    use super::*;

    fn sample(code: &[u8], sections: &[&str]) -> Vec<u8> {
        let mut writer = Writer::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let text = writer.add_section(vec![], b".text".to_vec(), SectionKind::Text);
        writer.append_section_data(text, code, 8);
        for name in sections {
            let id = writer.add_section(vec![], name.as_bytes().to_vec(), SectionKind::Other);
            writer.append_section_data(id, b"data", 1);
        }
        writer.add_symbol(Symbol {
            name: b"program".to_vec(),
            value: 0,
            size: 8,
            kind: object::SymbolKind::Text,
            scope: object::SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(text),
            flags: object::SymbolFlags::None,
        });
        writer.write().unwrap()
    }

    #[test]
    fn debug_info_goes_and_btf_stays() {
        let stripped = strip(&sample(&[7; 8], &[".debug_info", ".BTF", ".BTF.ext"])).unwrap();
        let file = object::File::parse(stripped.as_slice()).unwrap();
        assert!(file.section_by_name(".debug_info").is_none());
        assert_eq!(
            file.section_by_name(".BTF").unwrap().data().unwrap(),
            b"data"
        );
        assert!(file.section_by_name(".BTF.ext").is_some());
        assert_eq!(
            file.section_by_name(".text").unwrap().data().unwrap(),
            [7; 8]
        );
    }

    #[test]
    fn an_object_without_debug_info_is_refused() {
        assert!(strip(&sample(&[7; 8], &[".BTF"])).is_err());
    }

    #[track_caller]
    fn check_difference(old: &[u8], new: &[u8], expected: &str) {
        let difference = difference(old, new).unwrap();
        assert!(difference.contains(expected), "{difference}");
    }

    #[test]
    fn a_difference_names_its_section() {
        let old = sample(&[7, 7, 7, 7, 7, 7, 7, 7], &[".BTF"]);
        assert_eq!(difference(&old, &old), None);
        let other_code = sample(&[7, 7, 8, 7, 7, 7, 7, 7], &[".BTF"]);
        check_difference(
            &old,
            &other_code,
            "first differing section .text, at 0x2 of 0x8 bytes",
        );
        check_difference(&old, &sample(&[7; 8], &[]), "section .BTF is gone");
        check_difference(&old, &old[..9], "one of the two is no ELF file");
    }
}
