//! Names of kernel addresses, printed by the kernel itself: the program `print_symbols` is run on
//! some addresses at a time. It is loaded when names are wanted.

use std::{collections::HashMap, io};

use aya::{
    Ebpf, RawTracePointRunOptions, TestRun,
    maps::{Array, MapData},
    programs::{ProgramError, RawTracePoint},
    sys::SyscallError,
};
use profiler_common::symbols::{ADDRESSES_AT_ONCE, PrintedSymbols};

use super::BpfError;

/// The program, and the map that it prints to.
const PROGRAM: &str = "print_symbols";
const MAP: &str = "SYMBOLS";

/// The names of kernel addresses. An address without a symbol is not in it.
pub type KernelSymbols = HashMap<u64, String>;

/// Has the kernel name addresses.
///
/// # Errors
/// When the kernel refuses the program, or to run it: before 5.13 it has no `bpf_snprintf`.
pub(super) fn of_kernel(bpf: &mut Ebpf, addresses: &[u64]) -> Result<KernelSymbols, BpfError> {
    let mut symbols = KernelSymbols::new();
    if addresses.is_empty() {
        return Ok(symbols);
    }
    load(bpf)?;
    let program: &RawTracePoint = bpf
        .program(PROGRAM)
        .ok_or(BpfError::Missing(PROGRAM))?
        .try_into()
        .map_err(|error| BpfError::program(PROGRAM, error))?;
    let map = bpf.map(MAP).ok_or(BpfError::Missing(MAP))?;
    let map: Array<&MapData, PrintedSymbols> =
        Array::try_from(map).map_err(|error| BpfError::map(MAP, error))?;
    for addresses in addresses.chunks(ADDRESSES_AT_ONCE) {
        let mut options = RawTracePointRunOptions::new();
        options.args[..addresses.len()].copy_from_slice(addresses);
        program
            .test_run(options)
            .map_err(|error| BpfError::program(PROGRAM, error))?;
        let printed = map.get(&0, 0).map_err(|error| BpfError::map(MAP, error))?;
        let names = names(&printed).map_err(|error| BpfError::program(PROGRAM, error))?;
        let named = addresses.iter().zip(names);
        symbols.extend(named.filter_map(|(address, name)| Some((*address, name?))));
    }
    Ok(symbols)
}

fn load(bpf: &mut Ebpf) -> Result<(), BpfError> {
    let program: &mut RawTracePoint = bpf
        .program_mut(PROGRAM)
        .ok_or(BpfError::Missing(PROGRAM))?
        .try_into()
        .map_err(|error| BpfError::program(PROGRAM, error))?;
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(error) => Err(BpfError::program(PROGRAM, error)),
    }
}

/// The name on each whole line, if it has one.
fn names(printed: &PrintedSymbols) -> Result<Vec<Option<String>>, ProgramError> {
    let length = usize::try_from(printed.length).map_err(|_| SyscallError {
        call: "bpf_snprintf",
        io_error: io::Error::from_raw_os_error(
            i32::try_from(-printed.length).unwrap_or(libc::EINVAL),
        ),
    })?;
    let text = &printed.text[..length.min(printed.text.len())];
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    Ok(lines
        .filter_map(|line| line.strip_suffix(b"\n"))
        .map(name)
        .collect())
}

/// The name on a line: `name`, or `name [module]`. A line without one is the address.
/// Source: `__sprint_symbol` in `kernel/kallsyms.c`.
fn name(line: &[u8]) -> Option<String> {
    let name = line.split(|byte| *byte == b' ').next()?;
    (!name.is_empty() && !name.starts_with(b"0x"))
        .then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use profiler_common::symbols::TEXT_BYTES;

    use super::*;

    fn printed(lines: &str) -> PrintedSymbols {
        let mut text = [0; TEXT_BYTES];
        let kept = lines.len().min(TEXT_BYTES - 1);
        text[..kept].copy_from_slice(&lines.as_bytes()[..kept]);
        PrintedSymbols {
            length: i64::try_from(lines.len() + 1).unwrap(),
            text,
        }
    }

    #[track_caller]
    fn check(lines: &str, expected: &[Option<&str>]) {
        let names = names(&printed(lines)).unwrap();
        let names: Vec<Option<&str>> = names.iter().map(Option::as_deref).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_line_has_a_name_or_an_address() {
        check(
            "do_syscall_64\n0xffffffffc0201010\nnf_hook [nf_tables]\n0x0\nfoo.isra.0\n",
            &[
                Some("do_syscall_64"),
                None,
                Some("nf_hook"),
                None,
                Some("foo.isra.0"),
            ],
        );
        check(
            "bpf_prog_6deef7357e7b4530_cpu_loop [bpf]\n\n",
            &[Some("bpf_prog_6deef7357e7b4530_cpu_loop"), None],
        );
        check("", &[]);
    }

    #[test]
    fn a_line_that_was_cut_names_nothing() {
        let long = "x".repeat(TEXT_BYTES);
        check(&format!("first\n{long}\n"), &[Some("first")]);
        check("first\nsec", &[Some("first")]);
    }

    #[test]
    fn an_error_number_is_an_error() {
        let mut busy = printed("left from before\n");
        busy.length = -i64::from(libc::EBUSY);
        let error = names(&busy).unwrap_err();
        assert!(
            matches!(&error, ProgramError::SyscallError(SyscallError { call: "bpf_snprintf", io_error }) if io_error.raw_os_error() == Some(libc::EBUSY)),
            "{error:?}"
        );
    }
}
