//! How a flame graph is drawn, in each format that is one.

/// Which way stacks grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Growth {
    /// Callers below what they called: flames.
    #[default]
    Up,
    /// Callers above what they called: icicles.
    Down,
}

/// Where stacks are merged from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Root {
    /// The outermost frame: what a function called, and for how much of the time.
    #[default]
    Outermost,
    /// The innermost frame: where the time went, and who called that.
    Innermost,
}

/// How a flame graph is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flame {
    /// Which way stacks grow.
    pub growth: Growth,
    /// Where they are merged from.
    pub root: Root,
}
