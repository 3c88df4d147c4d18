//! Pages for people: the busiest processes, one process, and the kinds of profiles of a target.
//!
//! They are whole in themselves, have no script and load nothing; their policy forbids it. Names come
//! from processes that we do not trust, and stand as text.

mod busiest;
mod index;
mod process;

use std::fmt;

use axum::{body::Body, http::Response};

pub(super) use busiest::processes;
pub(super) use index::index;
pub(super) use process::process;

use super::{Scheme, answer, asked::Asked, route::encoded};
use crate::captures::Target;

const STYLE: &str = include_str!("style.css");

/// SHA-256 of the style, in base64. A test tells what it should be.
const STYLE_HASH: &str = "3rkFqkYjgu8vHEOaynigGVdgTA7oVjFJM8f14RY1/9w=";

/// A text in a page, also in an attribute.
struct Text<T>(T);

impl<T: fmt::Display> fmt::Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() => f.write_str("\u{fffd}")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

/// A page with this title. `header` and `main` are HTML.
fn page(title: &str, header: &str, main: &str) -> Response<Body> {
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let title = Text(title);
    let text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n{header}</header>\n<main>\n{main}</main>\n<footer>ebpfprof {}</footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    answer::page(text, &policy)
}

/// Where the profiles of a target are.
fn base(target: &Target) -> String {
    match target {
        Target::Host => "/debug/pprof/".to_owned(),
        Target::Process(pid) => format!("/pid/{pid}/debug/pprof/"),
        Target::Comm(name) => format!("/comm/{}/debug/pprof/", encoded(name)),
        Target::Cgroup(path) => {
            let path = path.to_string_lossy();
            let parts = path.trim_end_matches('/').split('/');
            let parts: Vec<String> = parts.map(encoded).collect();
            format!("/cgroup{}/debug/pprof/", parts.join("/"))
        }
        Target::Container(id) => format!("/container/{}/debug/pprof/", encoded(id)),
    }
}

/// Commands that fetch profiles of a target from where this request came to.
fn commands(asked: &Asked) -> String {
    let scheme = match asked.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let address = asked.address().unwrap_or("127.0.0.1:6060");
    let base = format!("{scheme}://{address}{}", base(&asked.target));
    let commands = [
        (
            "In a browser, after 30 seconds",
            format!("go tool pprof -http=: '{base}profile?seconds=30'"),
        ),
        (
            "On the terminal",
            format!("go tool pprof -top '{base}profile?seconds=10'"),
        ),
        (
            "Without Go",
            format!("curl -o profile.svg '{base}profile?seconds=10&format=svg'"),
        ),
    ];
    let rows = commands.iter().map(|(about, command)| {
        let command = Text(command);
        format!("<p class=\"about\">{about}</p>\n<pre>{command}</pre>\n")
    });
    rows.collect()
}

/// Links to what people look at first.
fn links(base: &str) -> String {
    let base = Text(base);
    format!(
        "<a href=\"{base}profile?seconds=5&amp;format=html\">Flame graph of 5 s</a>\n<a href=\"{base}profile?seconds=5&amp;format=top\">Hottest functions</a>\n<a href=\"{base}threads?debug=1\">Threads</a>\n"
    )
}

/// Bytes as people read them.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn bytes(bytes: u64) -> String {
    match bytes {
        0 => "-".to_owned(),
        bytes if bytes < 1 << 30 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        bytes => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// CPU time as people read it.
fn cpu_time(time: std::time::Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::target::Pid;

    #[test]
    fn the_policy_lets_our_style_in() {
        let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(STYLE));
        assert_eq!(hash, STYLE_HASH);
        assert!(!STYLE.contains('<'));
    }

    #[test]
    fn a_name_cannot_break_a_page() {
        let hostile = Text("</title><script>alert('1')</script>\"&\n");
        assert_eq!(
            hostile.to_string(),
            "&lt;/title&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot;&amp;\u{fffd}"
        );
    }

    #[test]
    fn addresses_lead_back_to_their_targets() {
        use super::super::route::{Page, Route};
        for target in [
            Target::Host,
            Target::Process(Pid(7)),
            Target::Comm("kworker/0:1 \"x\"".to_owned()),
            Target::Cgroup("/system.slice/a b.service".into()),
            Target::Cgroup("/".into()),
            Target::Container("web-1".to_owned()),
        ] {
            let route = Route::of(&base(&target)).unwrap();
            assert_eq!((route.target, route.page), (target, Page::Index));
        }
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!(bytes(0), "-");
        assert_eq!(bytes(3 << 19), "1.5 MiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        let time = |seconds| cpu_time(std::time::Duration::from_secs(seconds));
        assert_eq!(
            [time(2), time(61), time(7260)],
            ["2.0 s", "1 min 01 s", "2 h 01 min"]
        );
    }
}
