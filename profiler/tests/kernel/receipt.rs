//! The receipt of a run, read from what it prints: its words and their order are an interface.

/// Where every tick went, as the run tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) ticks: u64,
    pub(crate) due: u64,
    pub(crate) elsewhere: u64,
    pub(crate) missed: u64,
    pub(crate) kept: u64,
    pub(crate) lost: u64,
    /// Ring full, no scratch, undecodable, bug.
    pub(crate) lost_by_cause: [u64; 4],
    pub(crate) complete: u64,
    pub(crate) cut: u64,
    pub(crate) cut_by_reason: Vec<(String, u64)>,
    pub(crate) frames: u64,
    pub(crate) unnamed: u64,
}

impl Receipt {
    /// Finds and reads the receipt. `Err` says what is not as agreed.
    pub(crate) fn find(stderr: &str) -> Result<Self, String> {
        let lines: Vec<&str> = stderr.lines().collect();
        let starts: Vec<usize> = (0..lines.len())
            .filter(|i| lines[*i].starts_with("ticks "))
            .collect();
        let [start] = starts[..] else {
            return Err(format!("{} receipts instead of one", starts.len()));
        };
        let line = |i: usize| lines.get(start + i).copied().unwrap_or_default();
        let mut receipt = Self::default();
        receipt.read_ticks(line(0))?;
        receipt.read_due(line(1))?;
        receipt.read_stacks(line(2))?;
        if !line(3).starts_with("cost: ") {
            return Err(format!("no cost after the receipt: {:?}", line(3)));
        }
        Ok(receipt)
    }

    fn read_ticks(&mut self, line: &str) -> Result<(), String> {
        let mut words = Words::of(line);
        self.ticks = words.number_after("ticks ")?;
        self.due = words.number_after(" = due ")?;
        self.elsewhere = words.number_after(" + elsewhere ")?;
        self.missed = words.number_after(" + missed ")?;
        words.end("")
    }

    fn read_due(&mut self, line: &str) -> Result<(), String> {
        let mut words = Words::of(line);
        let due = words.number_after("due ")?;
        if due != self.due {
            return Err(format!("due {due} on one line, {} on another", self.due));
        }
        self.kept = words.number_after(" = kept ")?;
        self.lost = words.number_after(" + lost ")?;
        self.lost_by_cause = [
            words.number_after(" (ring full ")?,
            words.number_after(", no scratch ")?,
            words.number_after(", undecodable ")?,
            // Told if there is one alone.
            words.number_after(", bug ").unwrap_or(0),
        ];
        words.end(")")
    }

    fn read_stacks(&mut self, line: &str) -> Result<(), String> {
        let mut words = Words::of(line);
        self.complete = words.number_after("stacks: ")?;
        self.cut = words.number_after(" complete, ")?;
        words.skip(" cut")?;
        if words.skip(" (").is_ok() {
            let (reasons, rest) = words.0.split_once(')').ok_or("no closing parenthesis")?;
            for part in reasons.split(", ") {
                let (reason, count) = part.rsplit_once(' ').ok_or("no count behind a reason")?;
                let count = count
                    .parse()
                    .map_err(|_| format!("{part:?} has no count"))?;
                self.cut_by_reason.push((reason.to_owned(), count));
            }
            words = Words(rest);
        }
        self.frames = words.number_after("; frames: ")?;
        self.unnamed = words.number_after(", unnamed ")?;
        words.end("")
    }

    /// Fails unless every sum holds.
    #[track_caller]
    pub(crate) fn check_sums(&self) {
        assert_eq!(
            self.ticks,
            self.due + self.elsewhere + self.missed,
            "{self:?}"
        );
        assert_eq!(self.due, self.kept + self.lost, "{self:?}");
        assert_eq!(
            self.lost,
            self.lost_by_cause.iter().sum::<u64>(),
            "{self:?}"
        );
        assert_eq!(self.kept, self.complete + self.cut, "{self:?}");
        let by_reason = self.cut_by_reason.iter().map(|(_, count)| count);
        assert_eq!(self.cut, by_reason.sum::<u64>(), "{self:?}");
        assert!(self.unnamed <= self.frames, "{self:?}");
    }
}

/// The rest of a line.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        Self(line)
    }

    fn skip(&mut self, words: &str) -> Result<(), String> {
        self.0 = self
            .0
            .strip_prefix(words)
            .ok_or_else(|| format!("{words:?} expected before {:?}", self.0))?;
        Ok(())
    }

    fn number_after(&mut self, words: &str) -> Result<u64, String> {
        self.skip(words)?;
        let end = self.0.find(|c: char| !c.is_ascii_digit());
        let (number, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        number
            .parse()
            .map_err(|_| format!("a number expected after {words:?}, before {rest:?}"))
    }

    fn end(&mut self, words: &str) -> Result<(), String> {
        if self.0 == words {
            Ok(())
        } else {
            Err(format!("{words:?} expected in place of {:?}", self.0))
        }
    }
}

#[test]
fn a_receipt_is_read_word_by_word() {
    let text = "\
a note before
ticks 10 = due 6 + elsewhere 3 + missed 1
due 6 = kept 5 + lost 1 (ring full 1, no scratch 0, undecodable 0)
stacks: 2 complete, 3 cut (no frame pointer 2, too deep 1); frames: 40, unnamed 0
cost: 0.31% of one CPU
";
    let receipt = Receipt::find(text).unwrap();
    receipt.check_sums();
    assert_eq!((receipt.ticks, receipt.kept, receipt.frames), (10, 5, 40));
    assert_eq!(receipt.cut_by_reason[1], ("too deep".to_owned(), 1));
    let uncut = text.replace("3 cut (no frame pointer 2, too deep 1)", "0 cut");
    assert_eq!(Receipt::find(&uncut).unwrap().cut_by_reason, []);
    for (word, other) in [("missed 1", "missed"), ("undecodable 0)", "undecodable 0")] {
        assert!(Receipt::find(&text.replace(word, other)).is_err());
    }
    assert!(Receipt::find("").is_err());
}
