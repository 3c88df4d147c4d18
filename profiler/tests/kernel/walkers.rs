//! The two walkers: what the verifier thinks of them, and that they see the same.

use std::{collections::BTreeSet, process::Command};

use ebpfprof::{
    bpf::{Flavour, Sampler},
    record::{self, Unwatched},
    symbolize::Inlines,
};

use crate::{
    fixture::Fixture,
    folded::Folded,
    host::{Pace, walkers},
    library::{request, settings},
    program::{Running, binary},
    recording::record,
    turn,
};

/// Instructions that the verifier may read for one program.
const LOOP_LIMIT: u32 = 50_000;
const TAIL_LIMIT: u32 = 500_000;

#[test]
fn the_verifier_reads_few_instructions() {
    let _turn = turn();
    println!("best walker: {}", walkers()[0]);
    for walker in walkers() {
        let (flavour, limit) = match *walker {
            "loop" => (Flavour::Loop, LOOP_LIMIT),
            _ => (Flavour::TailCalls, TAIL_LIMIT),
        };
        let sampler = Sampler::load(&settings(Some(flavour))).unwrap();
        assert_eq!(sampler.flavour(), flavour);
        let programs = sampler.verified_instructions();
        // From 5.16 on the kernel tells; from 5.17 on it has the other walker.
        if programs.is_empty() && walkers()[0] == "tail-calls" {
            println!("walker {walker}: unknown instructions");
            continue;
        }
        let most = programs.iter().map(|(_, instructions)| instructions).max();
        println!("walker {walker}: {} instructions", most.unwrap());
        println!("{programs:?}");
        assert!(programs.len() >= 2, "{programs:?}");
        for (name, instructions) in &programs {
            assert!(
                (1..=limit).contains(instructions),
                "{flavour:?}: {name} has {instructions}"
            );
        }
    }
}

/// The user stacks that are no accident, and their shares in whole percents.
fn common(folded: &Folded) -> BTreeSet<Vec<String>> {
    let total = folded.total();
    let often = folded
        .0
        .iter()
        .filter(|stack| stack.count * 100 >= total * 3);
    often
        .map(|stack| stack.user_from("main").to_vec())
        .collect()
}

#[test]
fn both_walkers_see_the_same() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    let pid = fixture.pid_text();
    let recordings = walkers()
        .iter()
        .map(|walker| record(997, 2.0, &["--pid", &pid, "--walker", walker]));
    let recordings: Vec<_> = recordings.collect();
    let stacks = common(&recordings[0].folded);
    assert_eq!(stacks.len(), 3, "{stacks:?}");
    for recorded in recordings {
        assert_eq!(stacks, common(&recorded.folded));
        let has = |name: &'static str| recorded.folded.percent(|stack| stack.has(name));
        assert!(
            (has("alpha") - 50.0).abs() <= 3.0,
            "{}",
            recorded.folded.text()
        );
        assert!(
            (has("gamma") - 30.0).abs() <= 3.0,
            "{}",
            recorded.folded.text()
        );
    }
}

#[test]
fn the_kernel_stack_of_a_system_call_is_seen_by_both() {
    let _turn = turn();
    let fixture = Fixture::start("syscalls");
    let pid = fixture.pid_text();
    for walker in walkers() {
        let folded = record(499, 1.0, &["--pid", &pid, "--walker", walker]).folded;
        let share = folded.percent(|stack| stack.in_kernel() && stack.has("serve"));
        assert!(share > 50.0, "{walker}: {share:.1} %\n{}", folded.text());
    }
}

#[test]
fn the_library_records_as_the_binary_does() {
    let _turn = turn();
    let fixture = Fixture::start("shares");
    let request = request(&fixture, Inlines::Resolve);
    let ready = record::prepare(request).unwrap();
    assert_eq!(ready.label(), format!("shares-{}", fixture.pid()));
    let outcome = ready
        .record(&record::Stop::default(), &mut Unwatched)
        .unwrap();
    assert_eq!(outcome.account.flaw(), None);
    assert_eq!(outcome.end, record::End::TimeIsOver);
    assert_eq!(outcome.profile.total(), outcome.account.kept);
    assert!(outcome.account.kept > 100, "{:?}", outcome.account);
    assert!(outcome.cost.first_sample.is_some() && outcome.running.is_none());
}

#[test]
fn the_selftest_passes_by_every_walker() {
    let _turn = turn();
    for walker in walkers() {
        let mut command = Command::new(binary());
        let pace = Pace::of(997, Some(5.0));
        command.args(["selftest", "--walker", walker]);
        command.args(["-F", &pace.hertz.to_string()]);
        command.args(["--seconds", &pace.seconds.unwrap().to_string()]);
        let finished = Running::start(&mut command).finish();
        assert_eq!(finished.code, Some(0), "{walker}:\n{}", finished.stderr);
    }
}
