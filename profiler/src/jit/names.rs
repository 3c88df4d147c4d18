//! What to show of a name that a runtime wrote: its function, file and line.
//!
//! Each form is told by its shape alone. A name of no known shape stays as it is.

/// A name as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The function. Never empty.
    pub function: String,
    /// Absolute path of its source file, or nothing.
    pub file: String,
    /// Line at which the function starts; 0 when unknown.
    pub start_line: u32,
    /// Line of the address; 0 when unknown.
    pub line: u32,
    /// Whether calls may be inlined in it, so that lines of the code need not be its own.
    pub may_inline: bool,
}

/// The name of a function that has none.
const ANONYMOUS: &str = "(anonymous)";

/// What V8 puts before the names of functions that a script defines. Older versions told more of
/// them apart. Source: `src/logging/code-events.h` of V8.
const V8_SCRIPT_TAGS: [&str; 7] = [
    "JS",
    "LazyCompile",
    "Function",
    "Script",
    "Eval",
    "NativeFunction",
    "NativeLazyCompile",
];
/// V8's marks of how code was made: interpreted, and compiled by Sparkplug, Maglev, TurboFan.
/// Source: `CodeKindToMarker` in `src/objects/code-kind.cc` of V8.
const V8_MARKS: [char; 4] = ['~', '^', '+', '*'];
/// Those of compilers that inline.
const V8_INLINING: [char; 2] = ['+', '*'];

impl Named {
    /// What to show of a name.
    #[must_use]
    pub fn of(raw: &[u8]) -> Self {
        let text = String::from_utf8_lossy(raw);
        let text = text.trim();
        v8(text)
            .or_else(|| cpython(text))
            .or_else(|| java(text))
            .unwrap_or_else(|| Self::plain(text))
    }

    /// With the file and line that a table of lines has.
    #[must_use]
    pub fn with_lines(mut self, found: Option<(&str, u32)>) -> Self {
        let Some((file, line)) = found.map(|(file, line)| (absolute(file), line)) else {
            return self;
        };
        if self.file.is_empty() {
            self.file = file.clone();
        }
        // A line of inlined code would be shown as one of this function.
        if !self.may_inline && line != 0 && !file.is_empty() && self.file == file {
            self.line = line;
        }
        self
    }

    fn plain(function: &str) -> Self {
        let function = match function.trim() {
            "" => ANONYMOUS,
            function => function,
        };
        Self {
            function: function.to_owned(),
            ..Self::default()
        }
    }
}

/// `JS:*foo /path/x.js:10:5`, `LazyCompile:~ /x.js:1:1`, `Function:foo`. What V8 calls `Builtin:`,
/// `BytecodeHandler:` or `RegExp:` is no function of a script and keeps its name.
fn v8(text: &str) -> Option<Named> {
    let (tag, rest) = text.split_once(':')?;
    if !V8_SCRIPT_TAGS.contains(&tag) {
        return None;
    }
    let name = rest.strip_prefix(V8_MARKS).unwrap_or(rest);
    let may_inline = rest.starts_with(V8_INLINING);
    let Some((function, url, line)) = v8_place(name) else {
        return Some(Named {
            may_inline,
            ..Named::plain(name)
        });
    };
    // A line is one of a file: without the one the other says nothing.
    let file = absolute(url);
    let line = if file.is_empty() { 0 } else { line };
    Some(Named {
        file,
        start_line: line,
        line,
        may_inline,
        ..Named::plain(function)
    })
}

/// Function, script and line of `function script:line:column`. Names and paths may hold blanks: the
/// script starts where a path or a scheme does, else at the last blank.
fn v8_place(text: &str) -> Option<(&str, &str, u32)> {
    let (rest, column) = text.rsplit_once(':')?;
    let (rest, line) = rest.rsplit_once(':')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(column) || !is_number(line) {
        return None;
    }
    let starts = ["/", "file:", "node:", "http:", "https:"];
    let start = starts
        .iter()
        .filter_map(|start| match rest.strip_prefix(start) {
            Some(_) => Some(0),
            None => rest.find(&format!(" {start}")).map(|blank| blank + 1),
        })
        .min()
        .or_else(|| rest.rfind(' ').map(|blank| blank + 1))?;
    let (function, script) = rest.split_at(start);
    Some((function.trim_end(), script, line.parse().unwrap_or(0)))
}

/// `py::Foo.bar:/path/x.py`, or `py::f:<frozen importlib._bootstrap>`.
/// Source: `Python/perf_trampoline.c` of CPython 3.12.
fn cpython(text: &str) -> Option<Named> {
    let (function, file) = text.strip_prefix("py::")?.split_once(':')?;
    Some(Named {
        file: absolute(file),
        ..Named::plain(function)
    })
}

/// Java methods, in the forms of `jcmd PID Compiler.perfmap` (`int Foo.bar(long)`), of perf's agent
/// (`Lcom/Foo;bar(J)I`), and of perf-map-agent (`Lcom/Foo;::bar`, `com.Foo::bar`).
/// Sources: `CodeCache::write_perf_map` of OpenJDK 17 and `Method::external_name`;
/// `tools/perf/jvmti/libjvmti.c` of the kernel; `src/c/perf-map-agent.c` of perf-map-agent.
fn java(text: &str) -> Option<Named> {
    java_external(text)
        .or_else(|| java_signature(text))
        .or_else(|| java_colons(text))
        .map(|function| Named {
            may_inline: true,
            ..Named::plain(&function)
        })
}

fn java_external(text: &str) -> Option<String> {
    let (returned, method) = text.split_once(' ')?;
    let (name, arguments) = method.split_once('(')?;
    let arguments = arguments.strip_suffix(')')?;
    let (class, function) = name.rsplit_once('.')?;
    let is_type = |text: &str| is_class(text.trim_end_matches("[]"));
    let are_types = arguments.is_empty() || arguments.split(", ").all(is_type);
    (is_type(returned) && is_class(class) && is_method(function) && are_types)
        .then(|| method.to_owned())
}

fn java_signature(text: &str) -> Option<String> {
    let (class, method) = text.strip_prefix('L')?.split_once(';')?;
    let method = match method.strip_prefix("::") {
        Some(method) => method,
        None => method.split_once('(')?.0,
    };
    (is_class(class) && is_method(method)).then(|| format!("{}.{method}", class.replace('/', ".")))
}

fn java_colons(text: &str) -> Option<String> {
    let (class, method) = text.split_once("::")?;
    // Other languages have `::` too, but no dots or slashes before it.
    let is_qualified = class.contains(['.', '/']);
    (is_qualified && is_class(class) && is_method(method))
        .then(|| format!("{}.{method}", class.replace('/', ".")))
}

/// A class, dotted or with slashes, or a primitive type. A hidden class has an address behind a
/// slash: `Foo$$Lambda$3/0x00007f2d58000c10`.
fn is_class(text: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.chars().all(is_java);
    text.split(['.', '/']).all(part) && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn is_method(text: &str) -> bool {
    matches!(text, "<init>" | "<clinit>") || !text.is_empty() && text.chars().all(is_java)
}

fn is_java(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '-' | '+')
}

/// A path, if this is one, also as a URL. Scripts that are no file (`node:internal/timers`,
/// `<frozen runpy>`) have none.
pub(super) fn absolute(text: &str) -> String {
    let path = match text.strip_prefix("file://") {
        Some(path) => percent_decoded(path),
        None => text.to_owned(),
    };
    if path.starts_with('/') {
        path
    } else {
        String::new()
    }
}

/// `%20` as a blank. What is no valid text then stays as it was.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .and_then(|digits| str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw: &str, function: &str, file: &str, line: u32) {
        let named = Named::of(raw.as_bytes());
        assert_eq!(
            (named.function.as_str(), named.file.as_str(), named.line),
            (function, file, line),
            "{raw}"
        );
        assert_eq!(named.start_line, line, "{raw}");
    }

    #[test]
    fn javascript_has_neither_tags_nor_marks() {
        check("JS:*foo /tmp/x.js:10:5", "foo", "/tmp/x.js", 10);
        check(
            "JS:^foo file:///tmp/a%20b.mjs:3:5",
            "foo",
            "/tmp/a b.mjs",
            3,
        );
        check("LazyCompile:*foo /x.js:1:2", "foo", "/x.js", 1);
        check(
            "Function:~get size /a dir/x.js:7:1",
            "get size",
            "/a dir/x.js",
            7,
        );
        check("JS:~ /tmp/x.js:4:156", "(anonymous)", "/tmp/x.js", 4);
        check("Eval:~ /tmp/x.js:1:1", "(anonymous)", "/tmp/x.js", 1);
        check("JS:+next node:internal/util:598:1", "next", "", 0);
        check("JS:~x evalmachine.<anonymous>:1:2", "x", "", 0);
        check("LazyCompile:~foo file.js:1:2", "foo", "", 0);
        check("Function:*fib-0-turbofan", "fib-0-turbofan", "", 0);
        check("JS:*", "(anonymous)", "", 0);
    }

    #[test]
    fn what_is_no_function_of_a_script_keeps_its_name() {
        check("Builtin:ArrayMap", "Builtin:ArrayMap", "", 0);
        check(
            "BytecodeHandler:Add.Wide",
            "BytecodeHandler:Add.Wide",
            "",
            0,
        );
        check("RegExp:[a-c]+ /x:1:2", "RegExp:[a-c]+ /x:1:2", "", 0);
        check("I2C/C2I adapters", "I2C/C2I adapters", "", 0);
        check("jni_fast_GetFloatField", "jni_fast_GetFloatField", "", 0);
        check("VM_Version stub", "VM_Version stub", "", 0);
        check("$lists:map/2", "$lists:map/2", "", 0);
        check("rust::path::f", "rust::path::f", "", 0);
        check("wasm[0]::function[3]", "wasm[0]::function[3]", "", 0);
        let dotnet = "void [System.Private.CoreLib] System.Foo::Bar(int32)[Tier0]";
        check(dotnet, dotnet, "", 0);
        check("", "(anonymous)", "", 0);
    }

    #[test]
    fn java_has_dots_and_no_return_type() {
        check("int Hot.inner(int)", "Hot.inner(int)", "", 0);
        check(
            "void com.foo.Bar.<init>(byte[][], java.lang.String)",
            "com.foo.Bar.<init>(byte[][], java.lang.String)",
            "",
            0,
        );
        check("java.lang.Object[] a.B$C.d()", "a.B$C.d()", "", 0);
        let lambda = "Hot$$Lambda$3/0x00007f2d58000c10.f(int)";
        check(&format!("int {lambda}"), lambda, "", 0);
        check("Lcom/foo/Bar;::baz", "com.foo.Bar.baz", "", 0);
        check("LHot;inner(I)I", "Hot.inner", "", 0);
        check("Lcom/foo/Bar;<clinit>()V", "com.foo.Bar.<clinit>", "", 0);
        check("com.foo.Bar::baz", "com.foo.Bar.baz", "", 0);
        check("com/foo/Bar::baz", "com.foo.Bar.baz", "", 0);
    }

    #[test]
    fn python_has_its_file() {
        check("py::Foo.bar:/tmp/a:b.py", "Foo.bar", "/tmp/a:b.py", 0);
        check("py::<module>:/tmp/hot.py", "<module>", "/tmp/hot.py", 0);
        check("py::f:<frozen importlib._bootstrap>", "f", "", 0);
        check("py::f:relative.py", "f", "", 0);
    }

    #[test]
    fn text_that_is_no_text_is_shown_as_far_as_it_is() {
        assert_eq!(Named::of(b"a\xffb").function, "a\u{fffd}b");
    }
}
