//! What makes code in a process, and how to have it tell the names.

/// A runtime that makes code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Runtime {
    /// HotSpot.
    Java,
    /// Node.js, and others with V8.
    Node,
    /// CPython that can name its functions.
    Python,
    /// .NET.
    DotNet,
    /// Ruby with YJIT.
    Ruby,
    /// Erlang's BEAM.
    Beam,
    /// One that we do not know.
    Other,
}

impl Runtime {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Java,
        Self::Node,
        Self::Python,
        Self::DotNet,
        Self::Ruby,
        Self::Beam,
        Self::Other,
    ];

    /// The runtime of a process that maps these objects, which are known by the last part of their
    /// path.
    pub fn of<'a>(mut objects: impl Iterator<Item = &'a str>) -> Self {
        objects.find_map(of_object).unwrap_or(Self::Other)
    }

    /// As people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Java => "HotSpot",
            Self::Node => "V8",
            Self::Python => "CPython",
            Self::DotNet => ".NET",
            Self::Ruby => "Ruby",
            Self::Beam => "BEAM",
            Self::Other => "an unknown runtime",
        }
    }

    /// What to type, or to start the program with, so that its code has names.
    #[must_use]
    pub fn advice(self, pid: u32) -> String {
        match self {
            Self::Java => format!(
                "jcmd {pid} Compiler.perfmap, while it is recorded (JDK 17 or later), and java -XX:+PreserveFramePointer for whole stacks"
            ),
            Self::Node => {
                "node --perf-basic-prof-only-functions --interpreted-frames-native-stack".to_owned()
            }
            Self::Python => "python3 -X perf (CPython 3.12 or later)".to_owned(),
            Self::DotNet => "DOTNET_PerfMapEnabled=1 dotnet".to_owned(),
            Self::Ruby => "ruby --yjit --yjit-perf".to_owned(),
            Self::Beam => "erl +JPperf true".to_owned(),
            Self::Other => format!(
                "have the program write /tmp/perf-{pid}.map or a jitdump; its documentation may say how"
            ),
        }
    }
}

fn of_object(name: &str) -> Option<Runtime> {
    let is_library = |library: &str| {
        let rest = name.strip_prefix(library);
        rest.is_some_and(|rest| rest.starts_with(".so") || rest.starts_with(['.', '-']))
    };
    let is_program = |program: &str| {
        let version = name.strip_prefix(program);
        version.is_some_and(|rest| rest.bytes().all(|c| c.is_ascii_digit() || c == b'.'))
    };
    Some(match name {
        "libjvm.so" => Runtime::Java,
        "libcoreclr.so" => Runtime::DotNet,
        "beam.smp" => Runtime::Beam,
        _ if is_program("node") || is_program("nodejs") || is_library("libnode") => Runtime::Node,
        _ if is_program("python") || name.starts_with("libpython") => Runtime::Python,
        _ if is_program("ruby") || is_library("libruby") => Runtime::Ruby,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(objects: &[&str], expected: Runtime, words: &str) {
        let runtime = Runtime::of(objects.iter().copied());
        assert_eq!(runtime, expected, "{objects:?}");
        assert!(runtime.advice(7).contains(words), "{}", runtime.advice(7));
    }

    #[test]
    fn the_objects_of_a_process_tell_its_runtime() {
        check(
            &["java", "libc.so.6", "libjvm.so"],
            Runtime::Java,
            "jcmd 7 ",
        );
        check(&["node"], Runtime::Node, "--perf-basic-prof");
        check(
            &["app", "libnode.so.108"],
            Runtime::Node,
            "--perf-basic-prof",
        );
        check(&["python3.12"], Runtime::Python, "-X perf");
        check(
            &["uwsgi", "libpython3.13.so.1.0"],
            Runtime::Python,
            "-X perf",
        );
        check(
            &["dotnet", "libcoreclr.so"],
            Runtime::DotNet,
            "PerfMapEnabled",
        );
        check(&["ruby3.3"], Runtime::Ruby, "--yjit-perf");
        check(&["beam.smp"], Runtime::Beam, "+JPperf");
        check(
            &["nodestats", "pythonic"],
            Runtime::Other,
            "/tmp/perf-7.map",
        );
    }
}
