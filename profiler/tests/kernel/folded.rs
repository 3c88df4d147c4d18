//! Folded stacks, read back strictly.

/// One line: a stack and its samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    /// The thread's name, the first part of the line.
    pub(crate) comm: String,
    /// Root first.
    pub(crate) frames: Vec<String>,
    pub(crate) count: u64,
}

/// A file of folded stacks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folded(pub(crate) Vec<Stack>);

impl Folded {
    /// Reads a file of which every line is a stack.
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "the last line is whole"
        );
        Self(text.lines().map(stack).collect())
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|stack| stack.count).sum()
    }

    /// Samples of the stacks for which something holds.
    pub(crate) fn count(&self, holds: impl Fn(&Stack) -> bool) -> u64 {
        let chosen = self.0.iter().filter(|stack| holds(stack));
        chosen.map(|stack| stack.count).sum()
    }

    /// Percent of all samples for which something holds.
    pub(crate) fn percent(&self, holds: impl Fn(&Stack) -> bool) -> f64 {
        percent(self.count(holds), self.total())
    }

    /// Fails unless the samples for which something holds have this share of all, within
    /// `tolerance` points.
    #[track_caller]
    pub(crate) fn check_percent(
        &self,
        what: &str,
        expected: f64,
        tolerance: f64,
        holds: impl Fn(&Stack) -> bool,
    ) {
        let actual = self.percent(holds);
        assert!(
            (actual - expected).abs() <= tolerance,
            "{what} has {actual:.1} % instead of {expected} % ± {tolerance}:\n{}",
            self.text()
        );
    }

    /// The commonest stacks, for a message.
    pub(crate) fn text(&self) -> String {
        let mut stacks: Vec<&Stack> = self.0.iter().collect();
        stacks.sort_by_key(|stack| std::cmp::Reverse(stack.count));
        let line = |stack: &&Stack| {
            let Stack {
                comm,
                frames,
                count,
            } = stack;
            format!("{count:>6} {comm}: {}\n", frames.join(" > "))
        };
        stacks.iter().take(30).map(line).collect()
    }
}

impl Stack {
    /// Whether the kernel was at work.
    pub(crate) fn in_kernel(&self) -> bool {
        self.frames.last().is_some_and(|frame| is_kernel(frame))
    }

    /// The frames of user code, root first. Fails when a kernel frame has called one.
    #[track_caller]
    pub(crate) fn user(&self) -> &[String] {
        let end = self.frames.iter().position(|frame| is_kernel(frame));
        let (user, kernel) = self.frames.split_at(end.unwrap_or(self.frames.len()));
        assert!(kernel.iter().all(|frame| is_kernel(frame)), "{self:?}");
        user
    }

    /// The frames of user code from this function on, root first; none without it.
    #[track_caller]
    pub(crate) fn user_from(&self, function: &str) -> &[String] {
        let user = self.user();
        let start = user.iter().position(|frame| frame == function);
        &user[start.unwrap_or(user.len())..]
    }

    pub(crate) fn has(&self, function: &str) -> bool {
        self.frames.iter().any(|frame| frame == function)
    }

    /// Whether these functions call each other without one in between.
    pub(crate) fn calls(&self, chain: &[&str]) -> bool {
        self.frames.windows(chain.len()).any(|part| part == chain)
    }
}

/// Whether a frame is the kernel's.
pub(crate) fn is_kernel(frame: &str) -> bool {
    frame.ends_with("_[k]")
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of samples are far below 2^52"
)]
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        100.0 * part as f64 / whole as f64
    }
}

#[track_caller]
fn stack(line: &str) -> Stack {
    let (stack, count) = line
        .rsplit_once(' ')
        .unwrap_or_else(|| panic!("no count: {line:?}"));
    let mut parts = stack.split(';').map(str::to_owned);
    let comm = parts.next().unwrap_or_default();
    let frames: Vec<String> = parts.collect();
    let count = count
        .parse()
        .unwrap_or_else(|_| panic!("no count: {line:?}"));
    assert!(count > 0 && !comm.is_empty(), "{line:?}");
    assert!(
        !frames.is_empty() && frames.iter().all(|frame| !frame.is_empty()),
        "{line:?}"
    );
    Stack {
        comm,
        frames,
        count,
    }
}
