//! Core files of programs whose stacks are hard, walked by our step, by framehop and by gdb.
//!
//! gdb stops a program at some instructions and writes a core file at each stop. Its answer is
//! what the others are compared with, address by address; where it errs, the case says so.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod case;
#[path = "../common/fixture_path.rs"]
mod fixture_path;
mod framehop;
mod gdb;
mod kept;
mod programs;

use std::path::{Path, PathBuf};

use case::{Case, Framehop, Gdb};
use profiler_common::stop::StopReason;
use programs::{Program, find, fixture};

/// Fails unless gdb is there: what it says is compared with.
#[track_caller]
fn require_gdb() {
    assert!(
        gdb::is_there(),
        "no gdb with Python in it; install it, or run: cargo xtask test"
    );
}

/// A program that a test is about.
#[track_caller]
fn require(name: &str, folders: &[&str]) -> PathBuf {
    require_gdb();
    find(name, folders).unwrap_or_else(|| panic!("{name} is not installed"))
}

/// Starts a fixture under gdb, with these commands.
#[track_caller]
fn started(case: Case, name: &str, mode: &str, commands: &[&str]) {
    require_gdb();
    case.check(&gdb::start(&fixture(name), &["inf", mode], commands));
}

/// Stops a fixture that runs.
#[track_caller]
fn running(case: Case, name: &str, mode: &str) {
    require_gdb();
    let program = Program::fixture(name, &["inf", mode]);
    case.check(&gdb::attach(program.pid(), &["python record()"]));
}

const SHARES: Case = Case::with(&["alpha", "run", "main"]);
const INTO_ALPHA: &[&str] = &["break *alpha", "run", "python step(12, 5)"];

#[test]
fn functions_are_walked_from_their_first_instruction_on() {
    started(SHARES, "shares", "", INTO_ALPHA);
}

#[test]
fn a_static_program_at_its_own_address_and_at_any() {
    started(SHARES, "shares-static", "", INTO_ALPHA);
    let case = Case {
        keep: Some((7, "static_pie")),
        ..SHARES
    };
    started(case, "shares-static-pie", "", INTO_ALPHA);
}

#[test]
fn a_program_that_debug_sections_describe() {
    let case = Case {
        framehop: Framehop::Errs("it takes .eh_frame alone, and then the frame pointer"),
        ..SHARES
    };
    started(case, "shares-debug-frame", "", INTO_ALPHA);
}

#[test]
fn a_program_without_section_headers() {
    let case = Case {
        gdb: Gdb::Errs("it finds descriptions by section headers, and guesses"),
        framehop: Framehop::Errs("it is given sections, of which there are none"),
        ..Case::SAME
    };
    running(case, "shares-headerless", "");
}

#[test]
fn programs_of_musl() {
    let case = Case {
        keep: Some((7, "musl_main")),
        ..SHARES
    };
    started(case, "shares-musl", "", INTO_ALPHA);
    started(SHARES, "shares-musl-static", "", INTO_ALPHA);
}

#[test]
fn all_threads_of_a_program() {
    let case = Case::with(&["spin_2", "thread_body_2"]);
    running(case, "threads", "");
    running(case, "threads-static", "");
}

#[test]
fn a_stack_that_is_nearly_too_deep() {
    let bottom = Case::with(&["bottom", "descend", "descend", "main"]);
    let commands = ["break *bottom", "run", "python step(3)"];
    require_gdb();
    bottom.check(&gdb::start(&fixture("deep"), &["inf", "480"], &commands));
}

#[test]
fn frames_whose_size_the_running_program_decides() {
    let array = Case::with(&["fill_array", "array_user", "run", "main"]);
    let commands = &["break *array_user", "run", "python step(40)"];
    started(array, "alloca", "", commands);
    let alloca = Case::with(&["fill_alloca", "alloca_user", "run", "main"]);
    let commands = &["break *alloca_user", "run", "python step(60, 7)"];
    started(alloca, "alloca", "", commands);
}

#[test]
fn frames_that_align_the_stack() {
    let vector = Case {
        functions: &["vector_user", "run", "main"],
        framehop: Framehop::Errs("it knows no CFA by r10"),
        keep: Some((3, "realign")),
        ..Case::SAME
    };
    let commands = &["break *vector_user", "run", "python step(50)"];
    started(vector, "realign", "", commands);
    let aligned = Case::with(&["aligned_user", "run", "main"]);
    let commands = &["break *aligned_user", "run", "python step(30)"];
    started(aligned, "realign", "", commands);
}

#[test]
fn entries_of_the_procedure_linkage_table() {
    let case = Case {
        framehop: Framehop::Errs("it knows no CFA by rbx"),
        functions: &["plt_loop", "main"],
        reaches: "ld-linux",
        keep: Some((58, "lazy_binding")),
        ..Case::SAME
    };
    // Through an entry, the table's head and the resolver, and into what that calls.
    let commands = &[
        "unset environment LD_BIND_NOW",
        "break *plt_loop",
        "run",
        "python step(58)",
    ];
    started(case, "plt", "", commands);
    let bound = Case {
        functions: &["plt_loop", "main"],
        reaches: "libtiny",
        keep: Some((4, "plt_entry")),
        ..Case::SAME
    };
    let commands = &[
        "break *plt_loop",
        "run",
        "break tiny_one",
        "continue",
        "continue",
        "delete",
        "python step(30)",
    ];
    started(bound, "plt", "", commands);
}

#[test]
fn code_of_the_kernel_in_user_memory() {
    let case = Case {
        functions: &["clock_loop", "run", "main"],
        reaches: "[vdso]",
        keep: Some((30, "vdso")),
        ..Case::SAME
    };
    let commands = &["break *clock_loop", "run", "python step(60)"];
    started(case, "vdso", "", commands);
}

#[test]
fn a_process_that_makes_another_by_vfork() {
    let case = Case {
        functions: &["vfork_loop", "main"],
        framehop: Framehop::Errs("it knows no return address in a register"),
        reaches: "libc",
        keep: Some((3, "vfork")),
        ..Case::SAME
    };
    let commands = &[
        "break *vfork_loop",
        "run",
        "break *vfork",
        "continue",
        "python step(14)",
    ];
    started(case, "spawn", "vfork", commands);
}

#[test]
fn the_child_of_vfork_on_the_stack_of_its_parent() {
    let case = Case {
        keep: Some((2, "vfork_child")),
        ..Case::with(&["before_exec", "vfork_loop", "main"])
    };
    let commands = &[
        "set follow-fork-mode child",
        "break *before_exec",
        "run",
        "python step(3)",
    ];
    started(case, "spawn", "vfork", commands);
}

#[test]
fn code_that_was_made_while_the_program_ran() {
    let case = Case {
        gdb: Gdb::Errs("it takes the word on top of the stack for the return address"),
        ..Case::with(&["call_code"])
    };
    require_gdb();
    let program = Program::with_generated_code();
    case.check(&gdb::attach(program.pid(), &["python step(8, 25)"]));
}

#[test]
fn a_function_of_go_in_assembly_hides_its_caller() {
    require_gdb();
    let program = Program::fixture("../go-burn", &["inf"]);
    let stops = gdb::attach(program.pid(), &["python record()"]);
    let waits = |gdb: &[gdb::Frame]| gdb.len() > 2 && gdb[0].name == "runtime.futex";
    let walks = case::walks(&stops);
    let mut waiting = walks.iter().filter(|(_, gdb)| waits(gdb)).peekable();
    assert!(waiting.peek().is_some(), "no thread waits: {walks:x?}");
    for (ours, gdb) in waiting {
        // It keeps no frame: the frame pointer is its caller's.
        assert_eq!(ours.frames[1].pc, gdb[1].pc, "{ours:x?} {gdb:x?}");
    }
}

/// framehop takes what a signal interrupted for a return address.
const SIGNAL: Case = Case {
    functions: &["handle", "on_alarm", "interrupted", "main"],
    framehop: Framehop::Errs("it follows a signal's frame as it does a call's"),
    ..Case::SAME
};

#[test]
fn signal_handlers() {
    let commands = &["break *handle", "run", "python step(6)"];
    for (mode, name) in [
        ("code", "signal"),
        ("altstack", "signal_altstack"),
        ("syscall", "signal_in_syscall"),
    ] {
        let case = Case {
            keep: Some((3, name)),
            ..SIGNAL
        };
        started(case, "signals", mode, commands);
    }
}

#[test]
fn a_signal_handler_that_a_signal_interrupted() {
    let case = Case {
        functions: &[
            "handle_nested",
            "on_nested",
            "handle",
            "on_alarm",
            "interrupted",
        ],
        keep: Some((3, "signal_nested")),
        ..SIGNAL
    };
    let commands = &["break *handle_nested", "run", "python step(6)"];
    started(case, "signals", "nested", commands);
}

#[test]
fn the_return_from_a_signal_handler() {
    let case = Case {
        functions: &["interrupted", "main"],
        reaches: "libc",
        keep: Some((1, "signal_return")),
        ..SIGNAL
    };
    let commands = &["break on_alarm", "run", "finish", "python step(1)"];
    started(case, "signals", "code", commands);
}

#[test]
fn coroutines_on_stacks_of_their_own() {
    let case = Case {
        gdb: Gdb::Errs("it takes where the context would go on for a caller"),
        framehop: Framehop::Errs("it goes on where the stack begins"),
        functions: &["one_leaf", "coroutine_one"],
        keep: Some((2, "coroutine")),
        ..Case::SAME
    };
    let commands = &["break *one_leaf", "run", "python step(4)"];
    started(case, "jumps", "coroutines", commands);
}

#[test]
fn assembly_without_a_description() {
    let leaf = Case {
        functions: &["asm_leaf", "call_leaf", "run", "main"],
        keep: Some((2, "assembly_leaf")),
        ..Case::SAME
    };
    started(
        leaf,
        "assembly",
        "leaf",
        &["break *asm_leaf", "run", "python step(3)"],
    );
    let pushes = Case {
        gdb: Gdb::Cut(
            StopReason::NoUnwindRow,
            "nothing tells where the return address is; gdb takes every word for one",
        ),
        functions: &["back_leaf", "called_back", "asm_pushes"],
        ..Case::SAME
    };
    for mode in ["pushes", "zero"] {
        let commands = &["break *back_leaf", "run", "python step(3)"];
        started(pushes, "assembly", mode, commands);
    }
}

#[test]
fn exceptions_and_panics_on_their_way() {
    let commands = &["break __cxa_throw", "run", "python step(30, 97)"];
    started(Case::with(&["main"]), "throws", "", commands);
    let commands = &["break rust_panic", "run", "python step(30, 97)"];
    started(Case::SAME, "panics", "", commands);
}

#[test]
fn a_python_interpreter() {
    require("python3", &[]);
    let python = Program::python();
    let stops = gdb::attach(python.pid(), &["python step(15, 3001)"]);
    Case::SAME.check(&stops);
}

#[test]
#[ignore = "needs nginx; run it with --ignored where there is one"]
fn an_nginx_server() {
    let nginx = Program::nginx(&require("nginx", &["/usr/sbin"]));
    // It waits; then it answers.
    let commands = [
        "python record()",
        "break writev",
        "continue",
        "python step(20, 151)",
    ];
    let stops = nginx.with_requests(|| gdb::attach(nginx.pid(), &commands));
    Case::SAME.check(&stops);
}

#[test]
#[ignore = "needs PostgreSQL; run it with --ignored where there is one"]
fn a_postgresql_backend() {
    let folders = ["13", "14", "15", "16", "17", "18"]
        .map(|version| format!("/usr/lib/postgresql/{version}/bin"));
    let program = require("postgres", &folders.each_ref().map(String::as_str));
    let postgres = Program::postgres(program.parent().unwrap_or(Path::new("/")));
    let commands = [
        "break hashint4",
        "continue",
        "delete",
        "python step(15, 211)",
    ];
    Case::SAME.check(&gdb::attach(postgres.pid(), &commands));
}
