//! Figures out of the receipt that ebpfprof writes at the end of a run, and whether its sums hold.

use std::str::FromStr;

/// What a receipt says. A figure that it does not have is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Receipt {
    /// Samples due.
    pub(crate) due: Option<f64>,
    /// Samples in the profile.
    pub(crate) kept: Option<f64>,
    /// Samples whose stacks are complete.
    pub(crate) complete: Option<f64>,
    /// Frames of all stacks.
    pub(crate) frames: Option<f64>,
    /// CPU time while sampling, BPF included, in percent of one CPU.
    pub(crate) percent: Option<f64>,
    /// BPF time, in microseconds a sample.
    pub(crate) bpf_us: Option<f64>,
    /// Largest resident memory, in MiB.
    pub(crate) resident_mib: Option<f64>,
    /// Kernel memory in rings and tables, in MiB.
    pub(crate) tables_mib: Option<f64>,
    /// From the start to the first sample, in milliseconds.
    pub(crate) first_sample_ms: Option<f64>,
}

impl Receipt {
    /// Reads the stderr of a run.
    pub(crate) fn of(text: &str) -> Self {
        let line = |start: &str| text.lines().find(|line| line.starts_with(start));
        let [due, stacks, cost] =
            ["due ", "stacks: ", "cost: "].map(|start| line(start).unwrap_or_default());
        Self {
            due: number_after(due, "due "),
            kept: number_after(due, "kept "),
            complete: number_after(stacks, "stacks: "),
            frames: number_after(stacks, "frames: "),
            percent: number_after(cost, "cost: "),
            bpf_us: number_after(cost, "(BPF "),
            resident_mib: number_before(cost, " MiB, tables"),
            tables_mib: number_after(cost, "tables "),
            first_sample_ms: number_after(cost, "first sample after "),
        }
    }

    /// BPF time of the whole run, in seconds.
    pub(crate) fn bpf_seconds(&self) -> Option<f64> {
        Some(self.due? * self.bpf_us? / 1e6)
    }

    /// Frames in a stack, on average.
    pub(crate) fn frames_per_stack(&self) -> Option<f64> {
        Some(self.frames? / self.kept.filter(|kept| *kept > 0.0)?)
    }

    /// Complete stacks, in percent.
    pub(crate) fn complete_percent(&self) -> Option<f64> {
        Some(100.0 * self.complete? / self.kept.filter(|kept| *kept > 0.0)?)
    }
}

/// The account of a receipt, in whole numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Ticks there should have been.
    pub(crate) ticks: u64,
    /// Ticks that fell on targets.
    pub(crate) due: u64,
    /// Ticks that fell on others, or on an idle CPU.
    pub(crate) elsewhere: u64,
    /// Ticks that never ran.
    pub(crate) missed: u64,
    /// Samples in the profile.
    pub(crate) kept: u64,
    /// Samples that are not.
    pub(crate) lost: u64,
    /// Those by cause.
    pub(crate) causes: Vec<(String, u64)>,
    /// Samples with whole stacks.
    pub(crate) complete: u64,
    /// Samples with cut ones.
    pub(crate) cut: u64,
    /// Those by reason.
    pub(crate) reasons: Vec<(String, u64)>,
    /// Samples due, where they are told once more.
    due_again: u64,
}

impl Account {
    /// Reads the stderr of a run; `None` if it has no account.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let line = |start: &str| text.lines().find(|line| line.starts_with(start));
        let [ticks, due, stacks] = [line("ticks ")?, line("due ")?, line("stacks: ")?];
        let (stacks, _) = stacks.split_once("; frames: ")?;
        Some(Self {
            ticks: number_after(ticks, "ticks ")?,
            due: number_after(ticks, "due ")?,
            elsewhere: number_after(ticks, "elsewhere ")?,
            missed: number_after(ticks, "missed ")?,
            kept: number_after(due, "kept ")?,
            lost: number_after(due, "lost ")?,
            causes: numbers_in_brackets(due)?,
            complete: number_after(stacks, "stacks: ")?,
            cut: number_after(stacks, "complete, ")?,
            reasons: numbers_in_brackets(stacks)?,
            due_again: number_after(due, "due ")?,
        })
    }

    /// The sum that does not hold, if there is one.
    pub(crate) fn flaw(&self) -> Option<String> {
        let sum = |parts: &[(String, u64)]| parts.iter().map(|(_, count)| count).sum();
        let sums: [(&str, u64, u64); 6] = [
            (
                "ticks = due + elsewhere + missed",
                self.ticks,
                self.due + self.elsewhere + self.missed,
            ),
            ("due of ticks = due of samples", self.due, self.due_again),
            ("due = kept + lost", self.due, self.kept + self.lost),
            ("lost = its causes", self.lost, sum(&self.causes)),
            ("kept = complete + cut", self.kept, self.complete + self.cut),
            ("cut = its reasons", self.cut, sum(&self.reasons)),
        ];
        let wrong = sums.into_iter().find(|(_, left, right)| left != right);
        wrong.map(|(words, left, right)| format!("{words} does not hold: {left} and {right}"))
    }

    /// What was lost, by cause, in words.
    pub(crate) fn losses(&self) -> String {
        in_words(&self.causes)
    }

    /// What stacks were cut for, in words.
    pub(crate) fn cuts(&self) -> String {
        in_words(&self.reasons)
    }

    /// This account and another one, as if of one run.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.ticks += other.ticks;
        self.due += other.due;
        self.elsewhere += other.elsewhere;
        self.missed += other.missed;
        self.kept += other.kept;
        self.lost += other.lost;
        self.complete += other.complete;
        self.cut += other.cut;
        self.due_again += other.due_again;
        add_parts(&mut self.causes, &other.causes);
        add_parts(&mut self.reasons, &other.reasons);
        self
    }
}

/// Those that are there, the most frequent first.
fn in_words(parts: &[(String, u64)]) -> String {
    let mut parts: Vec<&(String, u64)> = parts.iter().filter(|(_, count)| *count > 0).collect();
    parts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    if parts.is_empty() {
        return "none".to_owned();
    }
    let words = parts
        .iter()
        .map(|(words, count)| format!("{words} {count}"));
    words.collect::<Vec<_>>().join(", ")
}

fn add_parts(parts: &mut Vec<(String, u64)>, others: &[(String, u64)]) {
    for (words, count) in others {
        match parts.iter_mut().find(|(known, _)| known == words) {
            Some((_, sum)) => *sum += count,
            None => parts.push((words.clone(), *count)),
        }
    }
}

/// What stands in a line's brackets, as in `(ring full 2, undecodable 0)`; nothing without brackets.
fn numbers_in_brackets(line: &str) -> Option<Vec<(String, u64)>> {
    let Some((_, rest)) = line.split_once('(') else {
        return Some(Vec::new());
    };
    let (inner, _) = rest.split_once(')')?;
    let parts = inner.split(", ").map(|part| {
        let (words, count) = part.rsplit_once(' ')?;
        Some((words.to_owned(), count.parse().ok()?))
    });
    parts.collect()
}

fn is_of_number(letter: char) -> bool {
    letter.is_ascii_digit() || letter == '.'
}

fn number_after<N: FromStr>(text: &str, words: &str) -> Option<N> {
    let (_, rest) = text.split_once(words)?;
    let end = rest.find(|letter| !is_of_number(letter));
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

fn number_before(text: &str, words: &str) -> Option<f64> {
    let (before, _) = text.split_once(words)?;
    let start = before.rfind(|letter| !is_of_number(letter));
    before[start.map_or(0, |at| at + 1)..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_read_by_its_words() {
        let text = "\
note: something
ticks 5940 = due 2970 + elsewhere 2964 + missed 6
due 2970 = kept 2968 + lost 2 (ring full 2, no scratch 0, undecodable 0)
stacks: 2951 complete, 17 cut (no frame pointer 9, stack unreadable 8); frames: 41210, unnamed 12
cost: 0.31% of one CPU (BPF 3.1 µs a sample), 38 MiB, tables 6.4 MiB, first sample after 110 ms, symbols and files 0.25 s CPU
";
        let receipt = Receipt::of(text);
        let expected = Receipt {
            due: Some(2970.0),
            kept: Some(2968.0),
            complete: Some(2951.0),
            frames: Some(41210.0),
            percent: Some(0.31),
            bpf_us: Some(3.1),
            resident_mib: Some(38.0),
            tables_mib: Some(6.4),
            first_sample_ms: Some(110.0),
        };
        assert_eq!(receipt, expected);
        let bpf_ms = receipt.bpf_seconds().map(|seconds| (seconds * 1e3).round());
        assert_eq!(bpf_ms, Some(9.0));
    }

    const ACCOUNT: &str = "\
ticks 5940 = due 2970 + elsewhere 2964 + missed 6
due 2970 = kept 2968 + lost 2 (ring full 2, no scratch 0, undecodable 0)
stacks: 2951 complete, 17 cut (no frame pointer 9, stack unreadable 8); frames: 41210, unnamed 12
";

    #[track_caller]
    fn check_flaw(from: &str, to: &str, expected: Option<&str>) {
        let text = ACCOUNT.replacen(from, to, 1);
        let flaw = Account::of(&text).unwrap().flaw();
        match expected {
            None => assert_eq!(flaw, None),
            Some(words) => assert!(
                flaw.as_ref().is_some_and(|flaw| flaw.contains(words)),
                "{flaw:?}"
            ),
        }
    }

    #[test]
    fn each_sum_of_an_account_is_checked() {
        check_flaw("", "", None);
        check_flaw("missed 6", "missed 7", Some("ticks = due + elsewhere"));
        check_flaw("\ndue 2970", "\ndue 2971", Some("due of ticks"));
        check_flaw("kept 2968", "kept 2967", Some("due = kept + lost"));
        check_flaw("ring full 2", "ring full 1", Some("lost = its causes"));
        check_flaw("2951 complete", "2950 complete", Some("kept = complete"));
        check_flaw("unreadable 8", "unreadable 9", Some("cut = its reasons"));
    }

    #[test]
    fn accounts_of_two_runs_add_up() {
        let one = Account::of(ACCOUNT).unwrap();
        assert_eq!(one.losses(), "ring full 2");
        assert_eq!(one.cuts(), "no frame pointer 9, stack unreadable 8");
        let two = one.clone().and(&one);
        assert_eq!((two.ticks, two.flaw()), (2 * 5940, None));
        assert_eq!(two.losses(), "ring full 4");
        let none = "\
ticks 0 = due 0 + elsewhere 0 + missed 0
due 0 = kept 0 + lost 0 (ring full 0, no scratch 0, undecodable 0)
stacks: 0 complete, 0 cut; frames: 0, unnamed 0
";
        let none = Account::of(none).unwrap();
        assert_eq!((none.flaw(), none.losses()), (None, "none".to_owned()));
        assert_eq!(Account::of("error: no such process\n"), None);
    }

    #[test]
    fn what_is_absent_is_none() {
        assert_eq!(Receipt::of("error: no such process\n"), Receipt::default());
        let text = "cost: 0.31% of one CPU (no samples), 38 MiB, tables 6.4 MiB, no first sample";
        let receipt = Receipt::of(text);
        assert_eq!(
            (receipt.bpf_us, receipt.first_sample_ms, receipt.tables_mib),
            (None, None, Some(6.4))
        );
    }
}
