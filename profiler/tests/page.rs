//! The page in a browser: its script runs under its own policy, and shows what the profile says.
//!
//! The address behind `#` says what is asked for, so no mouse is needed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use ebpfprof::{
    export::{self, Format},
    profile::{FrameKind, Function, LabelKey, LabelValue, Line, LocationId, Profile},
};

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A name that would run a script, if any part of the page took it for more than a name.
const HOSTILE: &str = "</script><script>document.title='broken'</script><img src=x>";

#[track_caller]
fn browser() -> &'static str {
    let found = BROWSERS.into_iter().find(|browser| {
        let version = Command::new(browser).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    });
    found.unwrap_or_else(|| panic!("there is none of {}", BROWSERS.join(", ")))
}

fn location(profile: &mut Profile, name: &str, line: u32) -> LocationId {
    let text = profile.string(name);
    let file = profile.string("/src/main.c");
    let function = profile.function(Function {
        name: text,
        system_name: text,
        file,
        start_line: 1,
    });
    let address = 0x1000 * function.index() as u64 + u64::from(line);
    let id = profile.location(FrameKind::User, None, address);
    let line = Line {
        function,
        line,
        column: 0,
    };
    profile.set_lines(id, vec![line]);
    id
}

/// 100 samples of two programs: 60 in `parse`, of which 20 by way of itself, and 40 in what has a
/// hostile name.
fn profile() -> Profile {
    let mut profile = Profile::cpu(10_000_000);
    profile.comments = vec![
        "ebpfprof kept=100 lost=3".to_owned(),
        format!("#target: {HOSTILE}"),
    ];
    let [main, parse, again, hostile] = [("main", 9), ("parse", 20), ("parse", 21), (HOSTILE, 30)]
        .map(|(name, line)| location(&mut profile, name, line));
    for (stack, comm, count) in [
        (vec![parse, main], "one", 40),
        (vec![again, parse, main], "one", 20),
        (vec![hostile, main], HOSTILE, 40),
    ] {
        let comm = LabelValue::Text(profile.string(comm));
        profile.add(&stack, &[(LabelKey::Comm, comm)], count);
    }
    profile
}

/// The page as the browser has it in the end.
fn shown(browser: &str, page: &Path, asked: &str) -> String {
    // Two browsers at once do not share what they keep.
    let kept = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .arg(format!("--user-data-dir={}", kept.path().display()))
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
        .arg("--virtual-time-budget=2000")
        .arg(format!("file://{}{asked}", page.display()))
        .output()
        .unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    // Without the data and the script, in which anything may stand.
    let (before, rest) = page
        .split_once("<script type=")
        .unwrap_or_else(|| panic!("{page}\n{}", String::from_utf8_lossy(&output.stderr)));
    assert!(rest.contains("</body>"));
    before.to_owned()
}

fn page(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut out = File::create(&path).unwrap();
    export::write(Format::Html, &profile(), &mut out).unwrap();
    path
}

#[track_caller]
fn check(shown: &str, expected: &[&str]) {
    for text in expected {
        assert!(shown.contains(text), "no {text:?} in:\n{shown}");
    }
}

#[test]
fn a_browser_shows_what_the_profile_says() {
    let browser = browser();
    let page = page("whole.html");
    let whole = shown(browser, &page, "");
    check(
        &whole,
        &[
            "<b>100</b> samples",
            "<b>100</b> Hz",
            "<b>1 s</b> cpu",
            "<li class=\"bad\"><b>3</b> lost</li>",
            "user <b>100%</b>",
            "kept=100",
            // As text, in the title and in the choice of comms.
            "&lt;/script&gt;&lt;script&gt;document.title=",
        ],
    );
    assert!(!whole.contains("<title>broken") && !whole.contains("<img"));
    check(
        &shown(browser, &page, "#search=%5Epar"),
        &["matched 60.00%"],
    );
    // What is no regular expression is looked for as it stands.
    check(
        &shown(browser, &page, "#search=script%3E%3C%28"),
        &["matched 0%"],
    );
    let focused = shown(browser, &page, "#label.comm=one&search=parse");
    check(&focused, &["matched 100%"]);
    let zoomed = shown(browser, &page, "#path=0.0.0&search=parse");
    check(
        &zoomed,
        &["<b>parse</b>", "60 · 60.00%", "matched 100% of this"],
    );
    let reversed = shown(browser, &page, "#reversed=true&search=parse");
    check(&reversed, &["innermost functions", "matched 60.00%"]);
    let around = shown(browser, &page, "#function=parse");
    check(&around, &["<b>parse</b>", "60 · 60.00%"]);
    fs::remove_file(page).unwrap();
}

#[test]
fn a_browser_shows_a_table_in_which_a_recursive_call_counts_once() {
    let browser = browser();
    let page = page("table.html");
    let table = shown(browser, &page, "#view=table");
    let numbers = |row: &str| -> Vec<String> {
        let cells = row.split("class=\"number\">").skip(1);
        cells
            .map(|cell| cell.split('<').next().unwrap().to_owned())
            .collect()
    };
    let rows: Vec<Vec<String>> = table.split("<tr>").skip(2).map(numbers).collect();
    assert_eq!(
        rows,
        [
            ["60", "60.00%", "60", "60.00%"],
            ["40", "40.00%", "40", "40.00%"],
            ["0", "0%", "100", "100%"],
        ]
    );
    check(&table, &["/src/main.c:20", "/src/main.c:30"]);
    fs::remove_file(page).unwrap();
}

/// The page with a script of ours behind its own, which tells what it finds in the title.
fn driven(name: &str, script: &str) -> String {
    let browser = browser();
    let page = page(name);
    let text = fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once("<meta http-equiv").unwrap();
    let (_, after) = rest.split_once('>').unwrap();
    let script = format!(
        "<script>addEventListener('DOMContentLoaded', () => {{ document.getElementById('title').textContent = (() => {{ {script} }})(); }});</script></body>"
    );
    fs::write(
        &page,
        format!("{before}{}", after.replace("</body>", &script)),
    )
    .unwrap();
    let shown = shown(browser, &page, "");
    fs::remove_file(page).unwrap();
    let (_, title) = shown.split_once("<h1 id=\"title\">").unwrap();
    title.split_once("</h1>").unwrap().0.to_owned()
}

#[test]
fn a_name_without_room_loses_arguments_and_path_first() {
    // A name, and the least that is said of it.
    const CASES: &[(&str, &str)] = &[
        ("main", "main"),
        ("<alloc::vec::Vec<T> as core::ops::Drop>::drop", "drop"),
        ("<a::Ctxt>::intern_ty.warm", "intern_ty"),
        ("core::fmt::impls::<impl Debug for u8>::fmt", "fmt"),
        ("a::b::<u8>::c", "c"),
        ("main::work::{closure#0}", "work::{closure#0}"),
        ("<F as FnMut<fn(u8) -> u8>>::call", "call"),
        ("std::vector<int, std::allocator<int> >::push(int)", "push"),
        ("bool operator< <char>(A<char> const&, B)", "operator<"),
        ("std::o& std::operator<< <char>(std::o&)", "operator<<"),
        ("A::operator()(int) const", "operator()"),
        ("A::operator->() const", "operator->"),
        ("A::operator std::string() const", "operator std::string"),
        ("A::my_operator(int)", "my_operator"),
        ("f(int)::{lambda(int)#1}::operator()(int)", "operator()"),
        ("v8::(anonymous namespace)::Run(v8::Isolate*)", "Run"),
        ("x::Run(bool (*)(v8::H*)) [clone .isra.0]", "Run"),
        ("decltype(auto) a::g<int>(int)", "g"),
        ("net/http.(*conn).serve", "serve"),
        ("github.com/a/b.Map[go.shape.int,bool].Get", "Get"),
        ("main.main.func1", "main.func1"),
        ("com.foo.Bar.method(int)", "method"),
        ("int java.lang.String.hashCode()", "hashCode"),
        ("java.lang.Object.<init>()", "Object.<init>"),
        ("vtable stub", "vtable stub"),
        ("JS:*fib /app/server.js:12:5", "fib"),
        ("<module>", "<module>"),
        ("[libc.so.6]", "[libc.so.6]"),
        ("foo.isra.0.cold", "foo"),
        ("a(b", "a"),
        (">", ">"),
    ];
    let names: Vec<&str> = CASES.iter().map(|(name, _)| *name).collect();
    let names = serde_json::to_string(&names)
        .unwrap()
        .replace('<', "\\u003c");
    let least = driven(
        "names.html",
        &format!("return {names}.map((name) => shorter(name).at(-1)).join('|');"),
    );
    let expected: Vec<String> = CASES
        .iter()
        .map(|(_, least)| {
            let least = least.replace('&', "&amp;");
            least.replace('<', "&lt;").replace('>', "&gt;")
        })
        .collect();
    assert_eq!(least.split('|').collect::<Vec<_>>(), expected);
    // As much of the path as there is room for, and no stump of a word.
    let fitted = driven(
        "fitted.html",
        "const name = 'a::bc::drop_all(int)';
         return [99, 14, 12, 10, 8, 5, 4].map((room) => fitting(name, shorter(name), room)).join('|');",
    );
    assert_eq!(
        fitted,
        "a::bc::drop_all(int)|bc::drop_all|bc::drop_all|drop_all|drop_all|drop…|"
    );
}

#[test]
fn a_search_goes_from_hit_to_hit_and_to_what_is_too_narrow() {
    let said = driven(
        "hits.html",
        "const said = [];
         const press = (shiftKey) => {
           $('search').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', shiftKey, bubbles: true }));
           said.push($('matched').textContent);
         };
         app.setSearch('parse');
         [false, false, false, true].forEach(press);
         Object.defineProperty(app.graph.holder, 'clientWidth', { value: 0.7 });
         app.graph.layOut();
         said.push(app.graph.hits().every((hit) => hit.hidden));
         press(false);
         said.push($('tip').textContent.includes('too narrow'));
         return said.join('|');",
    );
    assert_eq!(
        said,
        "matched 60.00% · 1 of 2|matched 60.00% · 2 of 2|matched 60.00% · 1 of 2|matched 60.00% · 2 of 2|true|matched 60.00% · 1 of 1|true"
    );
}

#[test]
fn a_lower_window_keeps_what_the_graph_grows_from() {
    let said = driven(
        "window.html",
        "const { graph } = app;
         const resize = (height) => {
           document.querySelector('main').style.flex = `0 0 ${height}px`;
           graph.fit();
         };
         const fromBottom = () => graph.holder.clientHeight - graph.baseOnScreen();
         resize(60);
         const before = fromBottom();
         resize(40);
         const lower = fromBottom();
         resize(60);
         const { scrollTop, scrollHeight, clientHeight } = graph.holder;
         return [before, lower, fromBottom(), scrollTop + clientHeight === scrollHeight].join('|');",
    );
    assert_eq!(said, "19|19|19|true");
}
