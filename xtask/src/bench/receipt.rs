//! Figures out of the receipt that ebpfprof writes at the end of a run.

/// What a receipt says. A figure that it does not have is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Receipt {
    /// Samples due.
    pub(super) due: Option<f64>,
    /// Samples in the profile.
    pub(super) kept: Option<f64>,
    /// Samples whose stacks are complete.
    pub(super) complete: Option<f64>,
    /// Frames of all stacks.
    pub(super) frames: Option<f64>,
    /// CPU time while sampling, BPF included, in percent of one CPU.
    pub(super) percent: Option<f64>,
    /// BPF time, in microseconds a sample.
    pub(super) bpf_us: Option<f64>,
    /// Largest resident memory, in MiB.
    pub(super) resident_mib: Option<f64>,
    /// Kernel memory in rings and tables, in MiB.
    pub(super) tables_mib: Option<f64>,
    /// From the start to the first sample, in milliseconds.
    pub(super) first_sample_ms: Option<f64>,
}

impl Receipt {
    /// Reads the stderr of a run.
    pub(super) fn of(text: &str) -> Self {
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
    pub(super) fn bpf_seconds(&self) -> Option<f64> {
        Some(self.due? * self.bpf_us? / 1e6)
    }

    /// Frames in a stack, on average.
    pub(super) fn frames_per_stack(&self) -> Option<f64> {
        Some(self.frames? / self.kept.filter(|kept| *kept > 0.0)?)
    }

    /// Complete stacks, in percent.
    pub(super) fn complete_percent(&self) -> Option<f64> {
        Some(100.0 * self.complete? / self.kept.filter(|kept| *kept > 0.0)?)
    }
}

fn is_of_number(letter: char) -> bool {
    letter.is_ascii_digit() || letter == '.'
}

fn number_after(text: &str, words: &str) -> Option<f64> {
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
