//! One process under `--pid`: its tree, its shares, its names, in C, Rust and Go.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    fixture::Fixture,
    folded::{Stack, percent},
    recording::{Recorded, record},
    turn,
};

const HERTZ: u32 = 997;
const SECONDS: f64 = 3.0;
/// How far a share may be off, in points.
const POINTS: f64 = 3.0;

/// The user part of a stack is exactly this, whatever the C library puts before it.
fn is_exactly(stack: &Stack, chain: &[&str]) -> bool {
    stack.user_from(chain[0]) == chain
}

#[track_caller]
fn record_pid(fixture: &Fixture, more: &[&str]) -> Recorded {
    let pid = fixture.pid_text();
    let mut arguments = vec!["--pid", pid.as_str()];
    arguments.extend(more);
    record(HERTZ, SECONDS, &arguments)
}

#[test]
fn a_c_program_has_its_tree_and_its_shares() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    let recorded = record_pid(&fixture, &[]);
    let folded = &recorded.folded;
    let chains: [(&[&str], f64); 3] = [
        (&["main", "run", "alpha"], 50.0),
        (&["main", "run", "beta", "gamma"], 30.0),
        (&["main", "run", "delta"], 20.0),
    ];
    for (chain, expected) in chains {
        let what = chain.join(" > ");
        folded.check_percent(&what, expected, POINTS, |stack| is_exactly(stack, chain));
    }
    let known = |stack: &Stack| chains.iter().any(|(chain, _)| is_exactly(stack, chain));
    folded.check_percent("all of it", 99.0, 1.0, known);
    folded.check_percent("its name", 100.0, 0.0, |stack| stack.comm == "shares");
    assert_eq!(recorded.receipt.unnamed, 0);
    assert!(recorded.pprof.main_path().ends_with("/shares"));
    // One process needs no label to tell it from others.
    assert!(
        recorded
            .pprof
            .samples()
            .iter()
            .all(|sample| sample.numbers.is_empty())
    );
}

#[test]
fn kernel_or_user_frames_can_be_left_out() {
    let _turn = turn();
    let fixture = Fixture::start("syscalls");
    let pid = fixture.pid_text();
    let user = record(499, 1.0, &["--pid", &pid, "--no-kernel"]).folded;
    user.check_percent("user code alone", 100.0, 0.0, |stack| !stack.in_kernel());
    user.check_percent("serve", 99.0, 1.0, |stack| stack.has("serve"));
    let kernel = record(499, 1.0, &["--pid", &pid, "--no-user"]).folded;
    let has_user_code = |stack: &Stack| stack.has("serve") || stack.has("main");
    kernel.check_percent("user code", 0.0, 0.0, has_user_code);
    let inside = kernel.percent(Stack::in_kernel);
    assert!(inside > 50.0, "{inside:.1} %:\n{}", kernel.text());
}

#[test]
fn a_rust_program_has_readable_names() {
    let _turn = turn();
    let fixture = Fixture::start("tree");
    let recorded = record_pid(&fixture, &[]);
    let folded = &recorded.folded;
    let left = |stack: &Stack| {
        stack.has("tree::main")
            && stack.frames.windows(2).any(|pair| {
                pair[0] == "tree::run"
                    && (pair[1] == "tree::left" || pair[1] == "tree::left::<u32>")
            })
    };
    let right = |stack: &Stack| {
        stack.has("tree::main") && stack.calls(&["tree::run", "<tree::Right as tree::Work>::work"])
    };
    folded.check_percent("the generic function", 60.0, POINTS, left);
    folded.check_percent("the trait's method", 40.0, POINTS, right);
    folded.check_percent("both", 99.0, 1.0, |stack| left(stack) || right(stack));
    let is_mangled = |frame: &String| frame.starts_with("_R") || frame.starts_with("_ZN");
    let mangled = |stack: &Stack| stack.frames.iter().any(is_mangled);
    folded.check_percent("mangled names", 0.0, 0.0, mangled);
    // What the compiler inlined into the function is shown below it, and marked.
    let inlined = folded.percent(|stack| stack.has("<u32 as tree::Integer>::burn_[i]"));
    assert!(inlined > 50.0, "{inlined:.1} %:\n{}", folded.text());
    let no_inlines = record_pid(&fixture, &["--no-inlines"]).folded;
    let any_inlined = |stack: &Stack| stack.frames.iter().any(|frame| frame.ends_with("_[i]"));
    no_inlines.check_percent("inlined calls", 0.0, 0.0, any_inlined);
}

#[test]
fn a_go_program_has_whole_stacks() {
    let _turn = turn();
    let fixture = Fixture::start("go-burn");
    let recorded = record_pid(&fixture, &[]);
    let folded = &recorded.folded;
    let below_main = |function: &'static str| {
        move |stack: &Stack| {
            let user = stack.user_from("runtime.main");
            user.get(1..4)
                .is_some_and(|part| part == ["main.main", "main.outer", function])
        }
    };
    folded.check_percent("main.inner", 75.0, POINTS, below_main("main.inner"));
    folded.check_percent("main.other", 25.0, POINTS, below_main("main.other"));
    let from_root = |stack: &Stack| {
        ["runtime.goexit", "runtime.main", "runtime.mstart"]
            .iter()
            .any(|root| stack.frames[0].starts_with(root))
    };
    let whole = folded.percent(from_root);
    assert!(
        whole >= 98.0,
        "{whole:.1} % begin at the root:\n{}",
        folded.text()
    );
    let complete = percent(recorded.receipt.complete, recorded.receipt.kept);
    assert!(
        complete >= 98.0,
        "{complete:.1} % are complete: {:?}",
        recorded.receipt
    );
}

#[test]
fn a_process_in_system_calls_has_its_user_stack_below_the_kernels() {
    let _turn = turn();
    let fixture = Fixture::start("syscalls");
    let folded = record_pid(&fixture, &[]).folded;
    let inside = folded.count(Stack::in_kernel);
    let share = percent(inside, folded.total());
    assert!(
        share > 50.0,
        "{share:.1} % are in the kernel:\n{}",
        folded.text()
    );
    let serves = |stack: &Stack| {
        stack.calls(&["main", "serve", "read_loop"])
            || stack.calls(&["main", "serve", "write_loop"])
    };
    let known = percent(
        folded.count(|stack| stack.in_kernel() && serves(stack)),
        inside,
    );
    assert!(
        known >= 90.0,
        "{known:.1} % of them have their caller:\n{}",
        folded.text()
    );
    let reads = |stack: &Stack| stack.calls(&["serve", "read_loop"]);
    folded.check_percent("reading", 70.0, POINTS, reads);
    // The kernel's side of the call is there, from its entry on.
    let enters = |stack: &Stack| stack.frames.iter().any(|frame| frame == "vfs_read_[k]");
    let read = percent(
        folded.count(|stack| reads(stack) && enters(stack)),
        folded.count(reads),
    );
    assert!(
        read >= 70.0,
        "{read:.1} % of the reads show vfs_read:\n{}",
        folded.text()
    );
}

#[test]
fn threads_are_told_apart_by_tid_and_name() {
    let _turn = turn();
    let fixture = Fixture::start("threads");
    let names = ["worker-0", "worker-1", "worker-2", "worker-3"];
    for name in names {
        fixture.thread_named(name);
    }
    let recorded = record_pid(&fixture, &["--labels", "tid,comm"]);
    for (number, name) in names.into_iter().enumerate() {
        let chain = [format!("thread_body_{number}"), format!("spin_{number}")];
        let chain: Vec<&str> = chain.iter().map(String::as_str).collect();
        let of_thread = recorded.folded.count(|stack| stack.comm == name);
        let spins = recorded
            .folded
            .count(|stack| stack.comm == name && is_exactly(stack, &chain));
        let share = percent(spins, of_thread);
        assert!(
            share >= 97.0,
            "{name} {share:.1} %:\n{}",
            recorded.folded.text()
        );
        // Four threads on few CPUs get equal parts, more or less.
        let part = percent(of_thread, recorded.folded.total());
        assert!((15.0..=35.0).contains(&part), "{name} has {part:.1} %");
    }
    let mut tids: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for sample in recorded.pprof.samples() {
        let tid = sample.numbers["tid"];
        tids.entry(sample.texts["comm"].clone())
            .or_default()
            .insert(tid);
    }
    for name in names {
        let expected = BTreeSet::from([i64::from(fixture.thread_named(name))]);
        assert_eq!(tids[name], expected, "{name}");
    }
}

#[test]
fn code_without_a_file_is_kept_and_marked() {
    let _turn = turn();
    let fixture = Fixture::start("jit_like");
    // The recording begins before the code is there, as one of a virtual machine may.
    let folded = record_pid(&fixture, &[]).folded;
    let made = |stack: &Stack| is_exactly(stack, &["main", "run", "call_code", "[jit]_[j]"]);
    let before = |stack: &Stack| is_exactly(stack, &["main", "run", "before_code"]);
    let share = folded.percent(made);
    assert!(share >= 60.0, "{share:.1} %:\n{}", folded.text());
    folded.check_percent("all of it", 98.5, 1.5, |stack| {
        made(stack) || before(stack) || { is_exactly(stack, &["main", "run", "call_code"]) }
    });
    fixture.wait_for_line("code ");
    let settled = record_pid(&fixture, &[]).folded;
    settled.check_percent("made code", 98.5, 1.5, made);
}
