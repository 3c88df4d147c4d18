//! `ebpfprof symbols`: the functions of addresses, for those who ask why a frame has no name.

use std::{
    fs::File,
    io::{self, BufRead, BufWriter, Write},
    ops::ControlFlow,
    path::Path,
    process::ExitCode,
};

use super::{
    args::{Address, SymbolsArgs},
    debuginfod, start_log, stop_on_signals, tell,
    trouble::Trouble,
};
use crate::{
    object::{ElfAddr, Object},
    symbolize::{Inlines, Named, Settings, functions_at},
};

/// Shows functions. What it shows is its result and goes to stdout.
pub(super) fn run(args: &SymbolsArgs) -> Result<ExitCode, Trouble> {
    start_log(args.verbose);
    let mut object = open(&args.file)?;
    let addresses = if args.addresses.is_empty() {
        read_addresses(io::stdin().lock())?
    } else {
        args.addresses.iter().map(|a| ElfAddr(a.0)).collect()
    };
    let inlines = if args.no_inlines {
        Inlines::Skip
    } else {
        Inlines::Resolve
    };
    let settings = Settings {
        inlines,
        ..Settings::default()
    };
    if let Some(debuginfod) = debuginfod::open(args.debuginfod.as_ref(), inlines)? {
        let stop = stop_on_signals()?;
        debuginfod.supply(
            std::iter::once(&mut object),
            &mut |_| match stop.is_asked() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            },
        );
        let notes = debuginfod.report().notes();
        notes.iter().for_each(|note| tell(note));
    }
    let functions = functions_at(&object, &addresses, settings);
    let mut out = BufWriter::new(io::stdout().lock());
    let mut write = || {
        for (address, functions) in addresses.iter().zip(&functions) {
            write_functions(*address, functions, &mut out)?;
        }
        out.flush()
    };
    match write() {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Trouble::failure(
            "cannot write to stdout",
            error.to_string(),
            "ebpfprof symbols FILE ADDR > names.txt, where there is room",
        )),
    }
}

fn open(path: &Path) -> Result<Object, Trouble> {
    let trouble = |why: String| {
        Trouble::failure(
            format!("cannot show the symbols of {}", path.display()),
            why,
            "ebpfprof symbols FILE ADDR, with a program or library that you can read",
        )
    };
    let is_file = std::fs::metadata(path).map(|meta| meta.is_file());
    match is_file {
        Ok(true) => {}
        Ok(false) => return Err(trouble("it is no regular file".to_owned())),
        Err(error) => return Err(trouble(error.to_string())),
    }
    let file = File::open(path).map_err(|error| trouble(error.to_string()))?;
    // Debug files are found by where the file really is.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let object = Object::of_file(&path.to_string_lossy(), file);
    if object.segments.is_empty() {
        return Err(trouble("it is no 64-bit ELF file".to_owned()));
    }
    Ok(object)
}

fn read_addresses(input: impl BufRead) -> Result<Vec<ElfAddr>, Trouble> {
    let mut addresses = Vec::new();
    for line in input.lines() {
        let trouble = |why: String| {
            Trouble::misuse(
                "cannot read the addresses",
                why,
                "echo 0x1f2c0 | ebpfprof symbols FILE",
            )
        };
        let line = line.map_err(|error| trouble(error.to_string()))?;
        let address = line.trim().parse::<Address>().map_err(trouble)?;
        addresses.push(ElfAddr(address.0));
    }
    Ok(addresses)
}

/// One address: a line for each function, the innermost inlined call first.
fn write_functions(address: ElfAddr, functions: &[Named], out: &mut dyn Write) -> io::Result<()> {
    if functions.is_empty() {
        return writeln!(out, "{:#x} ?", address.0);
    }
    for (depth, function) in functions.iter().enumerate() {
        if depth == 0 {
            write!(out, "{:#x} {}", address.0, function.name)?;
        } else {
            write!(out, "  inlined into {}", function.name)?;
        }
        if function.line != 0 {
            write!(out, " at {}:{}", function.file, function.line)?;
        }
        if function.line != 0 && function.column != 0 {
            write!(out, ":{}", function.column)?;
        }
        if function.start_line != 0 {
            write!(out, " (starts at line {})", function.start_line)?;
        }
        writeln!(out)?;
    }
    Ok(())
}
