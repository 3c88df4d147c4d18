//! `-- CMD`: a command from its start to its end, with its children and its programs.

use std::process::Command;

use crate::{
    fixture,
    folded::{Folded, Stack, percent},
    host::own_percent,
    program::{Running, binary},
    recording::{Recorded, Recording},
    turn,
};

#[track_caller]
fn record_command(hertz: u32, name: &str, seconds: &str) -> Recorded {
    let program = fixture::path(name);
    let recording = Recording::new(hertz, None);
    recording
        .args(&["--", program.to_str().unwrap(), seconds])
        .record()
}

#[test]
fn children_are_followed() {
    let _turn = turn();
    let recorded = record_command(997, "forker", "2");
    let text = String::from_utf8(recorded.stdout.clone()).unwrap();
    let children = text.lines().find_map(|line| line.strip_prefix("children "));
    let children: u64 = children.unwrap().parse().unwrap();
    assert!(children > 5, "{children} children");
    let folded = &recorded.folded;
    let works = |stack: &Stack| stack.calls(&["child_work", "burn"]);
    let share = folded.percent(works);
    assert!(
        share >= own_percent(90.0),
        "{share:.1} % are the children's work:\n{}",
        folded.text()
    );
    let below_parent = |stack: &Stack| stack.calls(&["main", "parent_loop", "child_work", "burn"]);
    let share = folded.percent(below_parent);
    assert!(
        share >= own_percent(90.0),
        "{share:.1} % show the whole chain:\n{}",
        folded.text()
    );
    // Children touch little of the code that they were forked from; it is known all the same.
    let reasons = &recorded.receipt.cut_by_reason;
    let unread = reasons
        .iter()
        .find(|(reason, _)| reason == "code unreadable");
    let unread = percent(unread.map_or(0, |(_, count)| *count), recorded.receipt.kept);
    assert!(
        unread <= 2.0,
        "{unread:.1} % are cut for want of code: {reasons:?}"
    );
    let unknown = percent(recorded.receipt.unnamed, recorded.receipt.frames);
    assert!(unknown <= 1.0, "{unknown:.1} % of the frames have no name");
    folded.check_percent("[unknown]", 0.0, 1.0, |stack| stack.has("[unknown]"));
    assert!(
        !recorded.stderr.contains("could not be followed"),
        "{}",
        recorded.stderr
    );
}

#[test]
fn children_of_a_process_are_followed_on_request() {
    let _turn = turn();
    let parent = fixture::Fixture::start("forker");
    let pid = parent.pid_text();
    let alone = Recording::new(499, Some(1.0))
        .args(&["--pid", &pid, "--labels", "pid"])
        .record();
    let pids = alone.pprof.label_numbers("pid");
    assert!(
        pids.iter().all(|number| *number == i64::from(parent.pid())),
        "{pids:?}"
    );
    let all = Recording::new(499, Some(1.0)).args(&["--pid", &pid, "--follow", "--labels", "pid"]);
    let all = all.record();
    assert!(all.pprof.label_numbers("pid").len() > 3);
    let share = all
        .folded
        .percent(|stack| stack.calls(&["child_work", "burn"]));
    assert!(share >= 90.0, "{share:.1} %:\n{}", all.folded.text());
}

#[test]
fn each_image_of_a_process_has_its_own_addresses() {
    let _turn = turn();
    let recorded = record_command(997, "exec_chain", "2.5");
    let folded = &recorded.folded;
    let [even, odd] = [["main", "even_image"], ["main", "odd_image"]];
    // Every image lies elsewhere: read with another image's mappings, the names would be wrong.
    folded.check_percent("even images", 48.0, 6.0, |stack| stack.calls(&even));
    folded.check_percent("odd images", 48.0, 6.0, |stack| stack.calls(&odd));
    let one = |stack: &Stack| stack.calls(&even) != stack.calls(&odd);
    let share = folded.percent(one);
    assert!(
        share >= 92.0,
        "{share:.1} % are one image's:\n{}",
        folded.text()
    );
    for sample in recorded.pprof.samples() {
        let of_image = sample.paths.iter().zip(&sample.functions);
        for (path, function) in of_image.filter(|(_, function)| function.ends_with("_image")) {
            // A location with several functions would shift the pairs; these have one each.
            assert!(
                path.ends_with("/exec_chain") || path.is_empty(),
                "{function} in {path}"
            );
        }
    }
    let unknown = percent(recorded.receipt.unnamed, recorded.receipt.frames);
    assert!(unknown <= 1.0, "{unknown:.1} % of the frames have no name");
}

#[test]
fn a_profile_on_stdout_is_alone_there() {
    let _turn = turn();
    let program = fixture::path("shares");
    let script = format!(
        "echo words of the command; exec '{}' 0.7",
        program.display()
    );
    let mut command = Command::new(binary());
    command.args([
        "-F", "499", "-o", "-", "--format", "folded", "--", "sh", "-c", &script,
    ]);
    let finished = Running::start(&mut command).finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let folded = Folded::parse(&String::from_utf8(finished.stdout).unwrap());
    let share = folded.percent(|stack| stack.has("run"));
    assert!(folded.total() > 50 && share > 80.0, "{}", folded.text());
    assert!(
        finished.stderr.contains("words of the command\n"),
        "{}",
        finished.stderr
    );
    // With the profile in a file, the command keeps its standard output.
    let recording = Recording::new(99, None).args(&["--", "sh", "-c", &script]);
    let recorded = recording.record();
    let stdout = String::from_utf8(recorded.stdout).unwrap();
    assert!(stdout.starts_with("words of the command\n"), "{stdout}");
    assert!(
        !recorded.stderr.contains("words of the command"),
        "{}",
        recorded.stderr
    );
}
