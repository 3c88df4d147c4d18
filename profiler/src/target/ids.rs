//! Process and thread ids, in the user-space sense: the kernel's tgid and pid.

use std::{fmt, str::FromStr};

/// The largest id the kernel gives out. Source: `PID_MAX_LIMIT` in `include/linux/threads.h`.
const MAX_ID: u32 = 1 << 22;

/// A text that is no process or thread id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no {what} id: ids are whole numbers from 1 to {MAX_ID}")]
pub struct ParseIdError {
    text: String,
    what: &'static str,
}

fn parse(text: &str, what: &'static str) -> Result<u32, ParseIdError> {
    let error = || ParseIdError {
        text: text.to_owned(),
        what,
    };
    // `u32` would take a leading plus sign.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error());
    }
    match text.parse() {
        Ok(id @ 1..=MAX_ID) => Ok(id),
        _ => Err(error()),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse(text, $what).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A process id: the kernel's tgid.
    Pid,
    "process"
);
id!(
    /// A thread id: the kernel's pid.
    Tid,
    "thread"
);

impl Pid {
    /// The id as system calls take it; `None` for 0 and for what the kernel never gives out.
    #[must_use]
    pub fn to_rustix(self) -> Option<rustix::process::Pid> {
        rustix::process::Pid::from_raw(i32::try_from(self.0).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_whole_numbers_that_the_kernel_gives_out() {
        assert_eq!("1".parse(), Ok(Pid(1)));
        assert_eq!("4194304".parse(), Ok(Tid(4_194_304)));
        for text in [
            "",
            "0",
            "-1",
            "+1",
            "4194305",
            "99999999999",
            "12x",
            " 1",
            "1.5",
        ] {
            assert!(text.parse::<Pid>().is_err(), "{text:?}");
        }
        let error = "x".parse::<Tid>().unwrap_err().to_string();
        assert_eq!(
            error,
            "'x' is no thread id: ids are whole numbers from 1 to 4194304"
        );
    }
}
