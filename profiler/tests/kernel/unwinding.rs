//! Programs without frame pointers: their stacks are complete and right, by both walkers.

use crate::{
    fixture::Fixture,
    folded::Stack,
    host::walkers,
    known::{Known, check_together, without_cut},
    recording::{Recorded, record},
    turn,
};

/// The frame through which the kernel lets a signal handler return.
const SIGNAL_RETURN: &str = "~__restore_rt|[libc.so.6]";
/// `main`'s caller, and that one's.
const CALL_MAIN: &str = "~__libc_start_call_main|[libc.so.6]";
const START_MAIN: &str = "~__libc_start_main_impl|__libc_start_main|[libc.so.6]";
/// Where threads begin.
const THREAD_ROOTS: &str = "clone3|__GI___clone3|__clone3|clone|__clone|[libc.so.6]";

/// musl's libc, whose inner functions have no names.
const MUSL: &str = "[libc.so]|[ld-musl-x86_64.so.1]";

const SHARES: [&[&str]; 3] = [
    &["main", "run", "alpha"],
    &["main", "run", "beta", "gamma"],
    &["main", "run", "delta"],
];

const THREADS: [&[&str]; 4] = [
    &["thread_body_0", "spin_0"],
    &["thread_body_1", "spin_1"],
    &["thread_body_2", "spin_2"],
    &["thread_body_3", "spin_3"],
];

/// Records each fixture by each walker, and tells of all that failed.
#[track_caller]
fn check(fixtures: &[Known]) {
    let _turn = turn();
    let mut failed = Vec::new();
    for walker in walkers() {
        let results = fixtures.iter().map(|known| known.check(walker));
        failed.extend(results.filter_map(Result::err));
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

#[test]
fn one_source_has_whole_stacks_however_it_is_linked() {
    check(
        &[
            "bare/shares",
            "bare/shares-no-pie",
            "bare/shares-static",
            "bare/shares-static-pie",
        ]
        .map(|program| Known::new(program, &SHARES)),
    );
}

#[test]
fn ten_thousand_samples_have_shares_within_two_points() {
    let _turn = turn();
    for walker in walkers() {
        let fixture = Fixture::start("bare/shares");
        let pid = fixture.pid_text();
        // Twice as many, as the fixture may have to share its CPU.
        let arguments = ["--pid", &pid, "--walker", walker, "--no-inlines"];
        let Recorded {
            receipt, folded, ..
        } = record(3999, 5.0, &arguments);
        assert!(receipt.kept >= 10_000, "{receipt:?}");
        for (chain, share) in SHARES.into_iter().zip([50.0, 30.0, 20.0]) {
            let what = format!("{} by {walker}", chain.join(" > "));
            folded.check_percent(&what, share, 2.0, |stack| stack.calls(chain));
        }
    }
}

#[test]
fn programs_that_were_stripped_have_whole_stacks() {
    let stripped = |program, object: &'static str| {
        let bottom = [object, START_MAIN, CALL_MAIN];
        let shorter = [&bottom[..], &[object; 3]].concat();
        let longer = [&bottom[..], &[object; 4]].concat();
        Known::new(program, &[&shorter, &longer]).rooted_in(object)
    };
    check(&[
        stripped("bare/shares-stripped", "[shares-stripped]"),
        stripped("bare/shares-headerless", "[shares-headerless]"),
    ]);
}

#[test]
fn a_description_that_is_for_debuggers_alone_will_do() {
    check(&[Known::new("bare/shares-debug-frame", &SHARES)]);
}

#[test]
fn a_c_library_without_description_is_known_by_what_calls_main_and_threads() {
    check(&[
        Known::new("bare/shares-musl", &SHARES).rooted_in(MUSL),
        Known::new("bare/shares-musl-static", &SHARES).rooted_in("libc_start_main_stage2"),
        Known::new("bare/threads-musl", &THREADS).rooted_in(MUSL),
    ]);
}

#[test]
fn a_static_program_whose_c_library_has_neither_description_nor_symbols_is_cut_before_main() {
    // Nothing tells the C library's code from the program's own, which may do as that does.
    let _turn = turn();
    for walker in walkers() {
        let Recorded {
            receipt, folded, ..
        } = record_with("bare/shares-musl-stripped", "", walker);
        assert!(receipt.kept >= 200, "{receipt:?}");
        // The frames are main's caller, main, run, and what that calls.
        let is_cut = |stack: &Stack| {
            let frames = without_cut(stack);
            stack.user()[0] == "[cut: no unwind row]"
                && (4..=6).contains(&frames.len())
                && frames.iter().all(|frame| frame == "[shares-musl-stripped]")
        };
        folded.check_percent(walker, 99.0, 1.0, is_cut);
    }
}

#[test]
fn frames_of_any_size_and_form_are_passed() {
    check(&[
        Known::new(
            "bare/alloca",
            &[
                &["main", "run", "array_user", "fill_array", "array_leaf"],
                &["main", "run", "alloca_user", "fill_alloca", "alloca_leaf"],
            ],
        ),
        Known::new(
            "bare/realign",
            &[
                &["main", "run", "vector_user", "vector_leaf"],
                &["main", "run", "aligned_user", "aligned_leaf"],
            ],
        ),
        Known::new(
            "bare/jumps",
            &[&["main", "run_jumps", "jump_loop", "jump_down", "jump_leaf"]],
        )
        .argument("longjmp"),
        Known::new(
            "bare/jumps",
            &[
                &["coroutine_one", "one_leaf"],
                &["coroutine_two", "two_leaf"],
            ],
        )
        .argument("coroutines")
        // The bottom of its stack is where makecontext had it begin.
        .rooted_in("coroutine_one|coroutine_two")
        // The loop that switches between them has a little of the time.
        .reaching(99.0),
    ]);
}

#[test]
fn four_hundred_frames_are_all_there() {
    let mut chain = vec!["descend"; 402];
    (chain[0], chain[401]) = ("main", "bottom");
    check(&[Known::new("bare/deep", &[&chain]).argument("400").deep()]);
}

#[test]
fn a_deeper_stack_is_cut_and_says_so() {
    let _turn = turn();
    for walker in walkers() {
        let Recorded {
            receipt, folded, ..
        } = record_with("bare/deep", "700", walker);
        let kept = receipt.kept;
        assert!(kept >= 200, "{receipt:?}");
        assert_eq!(
            receipt.cut_by_reason,
            [("too deep".to_owned(), kept)],
            "{walker}"
        );
        let innermost = |stack: &Stack| {
            let user = without_cut(stack);
            user.len() == 512
                && user[..500].iter().all(|frame| frame == "descend")
                && user[500..].iter().any(|frame| frame == "bottom")
        };
        folded.check_percent("the innermost 512", 100.0, 0.1, innermost);
    }
}

#[test]
fn threads_have_whole_stacks() {
    check(&[
        Known::new("bare/threads", &THREADS).rooted_in(THREAD_ROOTS),
        Known::new("bare/threads-static", &THREADS).rooted_in(THREAD_ROOTS),
    ]);
}

#[test]
fn the_kernels_code_and_the_c_librarys_are_passed() {
    let clock = "~clock_gettime|__GI___clock_gettime|__clock_gettime";
    let serve = |program| {
        Known::new(
            program,
            &[
                &["main", "serve", "read_loop"],
                &["main", "serve", "write_loop"],
            ],
        )
    };
    check(&[
        serve("bare/syscalls"),
        serve("bare/syscalls-static"),
        Known::new(
            "bare/vdso",
            &[
                &[
                    "main",
                    "run",
                    "clock_loop",
                    clock,
                    "~clock_gettime|__vdso_clock_gettime|[vdso]",
                ],
                &["main", "run", "parent_loop", "~getppid|__GI_getppid"],
            ],
        )
        .whole(80.0),
    ]);
}

#[test]
fn libraries_are_passed_however_they_are_called_and_loaded() {
    check(&[
        Known::new(
            "bare/plt",
            &[
                &["main", "plt_loop", "tiny_one"],
                &["main", "plt_loop", "tiny_two"],
                &["main", "plt_loop", "tiny_three"],
                &["main", "plt_loop", "tiny_one@plt"],
                &["main", "plt_loop", "tiny_two@plt"],
                &["main", "plt_loop", "tiny_three@plt"],
            ],
        )
        // The rest is in the loop.
        .whole(30.0),
        Known::new(
            "bare/plugins",
            &[
                &["main", "load_loop", "one_enter", "one_burn"],
                &["main", "load_loop", "two_enter", "two_middle", "two_burn"],
            ],
        ),
    ]);
}

#[test]
fn signal_handlers_have_the_code_that_they_interrupted() {
    let handled = ["main", "interrupted", SIGNAL_RETURN, "on_alarm", "handle"];
    let nested = [&handled[..], &[SIGNAL_RETURN, "on_nested", "handle_nested"]].concat();
    let read = "~read|__GI___libc_read|__libc_read|[libc.so.6]";
    let in_read = [
        "main",
        "interrupted",
        read,
        SIGNAL_RETURN,
        "on_alarm",
        "handle",
    ];
    let code: &[&str] = &["main", "interrupted"];
    let signals = |chains: &[&[&'static str]]| Known::new("bare/signals", chains);
    check(&[
        signals(&[code, &handled]).argument("code"),
        signals(&[code, &handled]).argument("altstack"),
        signals(&[code, &handled, &nested]).argument("nested"),
        signals(&[&in_read])
            .rarely(&handled)
            .argument("syscall")
            .whole(90.0),
    ]);
}

#[test]
fn exceptions_and_panics_are_passed_on_their_way() {
    check(&[
        Known::new(
            "bare/throws",
            &[&[
                "main",
                "catch_loop|catch_loop.cold",
                "outer|outer.cold",
                "middle|middle.cold",
                "thrower|thrower.cold",
            ]],
        )
        .whole(80.0),
        Known::new(
            "bare/panics",
            &[&[
                "panics::main",
                "panics::catch_loop",
                "panics::outer",
                "panics::panicker",
            ]],
        )
        .whole(80.0),
    ]);
}

#[test]
fn rust_and_go_have_whole_stacks() {
    check(&[
        Known::new(
            "bare/tree",
            &[
                &["tree::main", "tree::run", "tree::left|tree::left::<u32>"],
                &[
                    "tree::main",
                    "tree::run",
                    "<tree::Right as tree::Work>::work",
                ],
            ],
        ),
        Known::new(
            "go-burn",
            &[
                &["main.main", "main.outer", "main.inner"],
                &["main.main", "main.outer", "main.other"],
            ],
        )
        .reaching(97.0)
        .rooted_in("runtime.goexit|runtime.goexit.abi0|runtime.main"),
    ]);
}

/// The runtime's own threads have in their frame pointer what whoever made them had in it.
#[test]
fn threads_of_the_go_runtime_begin_where_they_were_made() {
    const BEGINS: [&str; 2] = ["runtime.mstart", "runtime.mstart.abi0"];
    const MAKES: [&str; 4] = [
        "runtime.clone",
        "runtime.clone.abi0",
        "runtime.rt0_go",
        "runtime.rt0_go.abi0",
    ];
    let _turn = turn();
    for walker in walkers() {
        let fixture = Fixture::start_with("go-http", &["-load", "2"]);
        let pid = fixture.pid_text();
        let arguments = ["--pid", &pid, "--walker", walker, "--no-inlines"];
        let Recorded {
            receipt, folded, ..
        } = record(3999, 2.0, &arguments);
        assert!(receipt.cut * 200 <= receipt.kept, "{walker}: {receipt:?}");
        let begins = |stack: &&Stack| {
            let mut frames = stack.user().iter();
            frames.any(|frame| BEGINS.contains(&frame.as_str()))
        };
        let threads: Vec<&Stack> = folded.0.iter().filter(begins).collect();
        assert!(!threads.is_empty(), "{walker}: {}", folded.text());
        for stack in threads {
            let [makes, begins, ..] = stack.user() else {
                panic!("{walker}: {stack:?}");
            };
            let is_root = MAKES.contains(&makes.as_str()) && BEGINS.contains(&begins.as_str());
            assert!(is_root, "{walker}: {stack:?}");
        }
    }
}

#[test]
fn processes_that_come_and_go_have_whole_stacks() {
    check(&[
        Known::new(
            "bare/forker",
            &[&["main", "parent_loop", "child_work", "burn"]],
        )
        .of_processes(),
        Known::new("bare/storm", &[&["main", "work_child", "inner"]]).of_processes(),
        Known::new(
            "bare/ping",
            &[
                &["main", "ping_outer", "ping_inner"],
                &["main", "pong_outer", "pong_middle", "pong_inner"],
            ],
        )
        .of_processes(),
        Known::new(
            "bare/spawn",
            &[&["main", "vfork_loop", "before_exec"], &["main", "spawned"]],
        )
        .argument("vfork")
        .of_processes(),
        Known::new("bare/spawn", &[&["main", "spawned"]])
            .argument("spawn")
            .of_processes(),
    ]);
}

#[track_caller]
fn record_with(program: &str, argument: &str, walker: &str) -> Recorded {
    let fixture = Fixture::start_with(program, &["inf", argument]);
    record(
        997,
        1.0,
        &[
            "--pid",
            &fixture.pid_text(),
            "--walker",
            walker,
            "--no-inlines",
        ],
    )
}

#[test]
fn assembly_without_description_that_pushes_nothing_is_passed() {
    let leaf = &["main", "run", "call_leaf", "asm_leaf"];
    check(&[Known::new("bare/assembly", &[leaf]).argument("leaf")]);
}

#[test]
fn assembly_without_description_that_pushes_cuts_the_stack_and_says_so() {
    let _turn = turn();
    for (walker, argument) in walkers()
        .iter()
        .flat_map(|walker| [(*walker, "pushes"), (*walker, "zero")])
    {
        let Recorded {
            receipt, folded, ..
        } = record_with("bare/assembly", argument, walker);
        assert!(receipt.kept >= 200, "{receipt:?}");
        let cut = [
            "[cut: no unwind row]",
            "asm_pushes",
            "called_back",
            "back_leaf",
        ];
        let is_cut = |stack: &Stack| stack.user() == cut;
        let what = format!("{argument} by {walker}");
        folded.check_percent(&what, 100.0, 0.5, is_cut);
        // What a walker would find that took the words on the stack for return addresses.
        let guessed = |stack: &Stack| stack.has("asm_pushes") && stack.user()[1] != "asm_pushes";
        folded.check_percent(&what, 0.0, 0.0, guessed);
    }
}

/// Programs of all kinds at once: it is what runs under every kernel (`cargo xtask kernel-test`). None of
/// Go is among them: where several want a CPU its scheduler switches stacks too often.
#[test]
fn programs_that_are_recorded_together_have_whole_stacks() {
    let _turn = turn();
    let mut deep = vec!["descend"; 402];
    (deep[0], deep[401]) = ("main", "bottom");
    let calls: [&[&str]; 2] = [
        &["main", "serve", "read_loop"],
        &["main", "serve", "write_loop"],
    ];
    let handled = ["main", "interrupted", SIGNAL_RETURN, "on_alarm", "handle"];
    let tree: [&[&str]; 2] = [
        &["tree::main", "tree::run", "tree::left|tree::left::<u32>"],
        &[
            "tree::main",
            "tree::run",
            "<tree::Right as tree::Work>::work",
        ],
    ];
    let all = [
        Known::new("bare/shares", &SHARES),
        Known::new("bare/shares-static", &SHARES),
        Known::new("bare/syscalls", &calls),
        Known::new("bare/syscalls-static", &calls),
        Known::new("bare/signals", &[&["main", "interrupted"], &handled]).argument("code"),
        Known::new("bare/deep", &[&deep]).argument("400"),
        Known::new("bare/tree", &tree),
    ];
    let results = walkers().iter().map(|walker| check_together(&all, walker));
    let failed: Vec<String> = results.filter_map(Result::err).collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}
