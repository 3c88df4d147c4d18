//! `ebpfprof convert`: a profile that was written before, in another format.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    process::ExitCode,
};

use super::{
    args::{ConvertArgs, flame},
    outputs::{check_terminal, format_of},
    summary::{self, Written},
    trouble::Trouble,
};
use crate::{
    error::kernel_words,
    export::{
        self, Settings,
        output::{Destination, Output, Overwrite},
    },
    import::{self, ImportError},
    profile::Profile,
};

/// Reads a profile and writes it.
pub(super) fn run(args: &ConvertArgs) -> Result<ExitCode, Trouble> {
    let destination = Destination::from(args.output.clone().into_os_string());
    let is_stdout = destination == Destination::Stdout;
    let format = format_of(&args.output, is_stdout, args.format).map_err(by_place)?;
    if is_stdout {
        check_terminal(format).map_err(by_place)?;
    }
    let overwrite = match args.force {
        true => Overwrite::Replace,
        false => Overwrite::Refuse,
    };
    let settings = Settings {
        flame: flame(&args.flame),
    };
    // What cannot be written is known before anything is read, and what cannot be read leaves no
    // file.
    let output = Output::open(destination, overwrite).map_err(|error| by_place(error.into()))?;
    let profile = read(args)?;
    let bytes = output
        .finish(|out| export::write_with(format, &settings, &profile, out))
        .map_err(|error| by_place(error.into()))?;
    let written = Written {
        path: (!is_stdout).then(|| args.output.clone()),
        format,
        bytes,
    };
    // When stderr is gone there is nobody left to tell.
    let _ = summary::write_files(&[written], &mut io::stderr().lock());
    Ok(ExitCode::SUCCESS)
}

fn read(args: &ConvertArgs) -> Result<Profile, Trouble> {
    if args.input == Path::new("-") {
        return read_from(args, None, &mut io::stdin().lock());
    }
    let file = File::open(&args.input).map_err(|error| {
        Trouble::failure(
            format!("cannot open {}", args.input.display()),
            kernel_words(&error),
            format!("ls -l {}", args.input.display()),
        )
    })?;
    read_from(args, Some(&args.input), &mut BufReader::new(file))
}

fn read_from(
    args: &ConvertArgs,
    name: Option<&Path>,
    input: &mut dyn BufRead,
) -> Result<Profile, Trouble> {
    let settings = import::Settings {
        sample_index: args.sample_index.clone(),
        ..import::Settings::default()
    };
    let format = args.from.map_or_else(|| import::format_of(name, input), Ok);
    let profile = format.and_then(|format| import::read(format, &settings, input));
    profile.map_err(|error| of_input(error, &args.input))
}

/// Here the input has a name.
fn of_input(error: ImportError, input: &Path) -> Trouble {
    let input = input.display().to_string();
    Trouble::from(error).with_advice(|advice| advice.replace("FILE", &input))
}

/// Here the output is told by its place, not by an option.
fn by_place(trouble: Trouble) -> Trouble {
    trouble.with_advice(|advice| {
        let advice = advice.replace("ebpfprof … -o ", "-o ");
        advice.replace("-o ", "ebpfprof convert IN ")
    })
}
