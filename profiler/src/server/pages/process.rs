//! The page of one process: who it is, and how to profile it.

use axum::{body::Body, http::Response};

use super::{Text, base, bytes, commands, cpu_time, links, page};
use crate::{
    captures::Target,
    server::{
        asked::{Asked, found},
        cmdline::arguments_of,
        problem::Problem,
        processes::{self, Users},
        route::MOST_COMM_BYTES,
    },
    target::{Pid, Stat, TargetError},
};

/// Most characters of a command line that are shown.
const MOST_CHARS: usize = 2000;

/// What the page tells of its process.
struct Facts {
    pid: Pid,
    stat: Stat,
    user: String,
    cgroup: Option<String>,
    executable: Option<String>,
    /// `None` if it may not be seen.
    arguments: Option<Vec<Vec<u8>>>,
}

/// The page.
pub(in crate::server) async fn process(asked: Asked) -> Result<Response<Body>, Problem> {
    let Target::Process(pid) = asked.target else {
        return Err(Problem::unknown_profile());
    };
    let may = asked.app.policy.may(&asked.who, &asked.target, "cmdline");
    let policy = may
        .is_ok()
        .then(|| std::sync::Arc::clone(&asked.app.policy));
    let read = move || {
        found(&Target::Process(pid))?;
        let gone = || Problem::of_target(&TargetError::NoSuchProcess { pid });
        let arguments = policy.and_then(|policy| {
            let arguments = arguments_of(pid).ok()?;
            Some(policy.shown_cmdline(arguments))
        });
        Ok(Facts {
            pid,
            stat: processes::stat_of(pid).ok_or_else(gone)?,
            user: Users::of_host().of_process(pid),
            cgroup: processes::cgroup_of(pid),
            executable: processes::executable_of(pid)
                .map(|path| path.to_string_lossy().into_owned()),
            arguments,
        })
    };
    let facts = asked.app.look(read).await?;
    let title = format!("{} ({pid})", facts.stat.comm_text());
    let base = base(&asked.target);
    let header = format!(
        "{}<nav>\n<a href=\"/\">All processes</a>\n<a href=\"{base}\">Profiles</a>\n{}</nav>\n",
        short(&facts),
        links(&base)
    );
    let main = format!("{}<h2>Profile it</h2>\n{}", table(&facts), commands(&asked));
    Ok(page(&title, &header, &main))
}

fn short(facts: &Facts) -> String {
    let stat = &facts.stat;
    format!(
        "<ul class=\"facts\"><li><b>{}</b></li><li><b>{}</b> {}</li><li><b>{}</b> in memory</li><li><b>{}</b> of CPU time</li></ul>\n",
        processes::state_words(stat.state),
        stat.thread_count,
        match stat.thread_count {
            1 => "thread",
            _ => "threads",
        },
        bytes(processes::resident_bytes(stat)),
        cpu_time(processes::cpu_time(stat)),
    )
}

fn table(facts: &Facts) -> String {
    let mut rows = vec![
        ("Name", Text(facts.stat.comm_text()).to_string()),
        ("User", Text(&facts.user).to_string()),
        ("Threads", facts.stat.thread_count.to_string()),
    ];
    if let Some(path) = &facts.executable {
        rows.push(("Executable", Text(path).to_string()));
    }
    if let Some(line) = facts.arguments.as_ref().and_then(|all| command_line(all)) {
        rows.push(("Command line", Text(line).to_string()));
    }
    if let Some(cgroup) = &facts.cgroup {
        let link = base(&Target::Cgroup(cgroup.into()));
        let (link, cgroup) = (Text(link), Text(cgroup));
        rows.push(("Cgroup", format!("<a href=\"{link}\">{cgroup}</a>")));
    }
    let comm = facts.stat.comm_text();
    // Workers of the kernel tell more than their name.
    if comm.len() <= MOST_COMM_BYTES {
        let link = base(&Target::Comm(comm.clone()));
        let (link, comm) = (Text(link), Text(comm));
        let alike = format!("<a href=\"{link}\">every process named {comm}</a>");
        rows.push(("Others", alike));
    }
    if facts.stat.is_kernel_thread() {
        let words = format!(
            "pid {} is a kernel thread: it has kernel stacks alone",
            facts.pid
        );
        rows.push(("Note", words));
    }
    let rows: String = rows
        .iter()
        .map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>\n"))
        .collect();
    format!("<h2>Process {}</h2>\n<dl>\n{rows}</dl>\n", facts.pid)
}

/// The arguments on one line, as far as there is room.
fn command_line(arguments: &[Vec<u8>]) -> Option<String> {
    let parts = arguments.iter().map(|part| String::from_utf8_lossy(part));
    let line = parts.collect::<Vec<_>>().join(" ");
    let mut chars = line.chars();
    let start: String = chars.by_ref().take(MOST_CHARS).collect();
    let more = chars.next().map_or("", |_| " …");
    (!start.is_empty()).then(|| format!("{start}{more}"))
}
