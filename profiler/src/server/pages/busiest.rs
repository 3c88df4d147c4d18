//! The first page: the busiest processes of the host, and where their profiles are.

use std::{sync::Arc, thread};

use axum::{body::Body, http::Response};

use super::{Text, base, bytes, commands, cpu_time, links, page};
use crate::{
    captures::Target,
    server::{
        App,
        asked::Asked,
        problem::Problem,
        processes::{self, Busy, LEAST_APART, Reading, Used, Users},
    },
};

/// Processes that are listed.
const MOST_LISTED: usize = 40;

/// A process as it is listed.
struct Row {
    used: Used,
    user: String,
}

/// The page.
pub(in crate::server) async fn processes(asked: Asked) -> Result<Response<Body>, Problem> {
    let busy = busy(&asked.app).await?;
    let all = busy.processes.len();
    let may_see = |target: &Target| {
        let policy = &asked.app.policy;
        policy.may(&asked.who, target, "profile").is_ok()
    };
    let seen = busy.processes.iter();
    let mut seen = seen.filter(|used| may_see(&Target::Process(used.pid)));
    let listed: Vec<Used> = seen.by_ref().take(MOST_LISTED).cloned().collect();
    let seen = listed.len() + seen.count();
    let cpus: f64 = listed.iter().map(|used| used.cpus).sum();
    let with_users = move || {
        let users = Users::of_host();
        let rows = listed.into_iter().map(|used| Row {
            user: users.of_process(used.pid),
            used,
        });
        Ok(rows.collect::<Vec<Row>>())
    };
    let rows = asked.app.work(with_users).await?;
    let apart = busy.apart.as_secs_f64();
    let count = thread::available_parallelism().map_or(1, usize::from);
    let mut header = format!(
        "<ul class=\"facts\"><li><b>{seen}</b> processes</li><li><b>{cpus:.2}</b> of <b>{count}</b> CPUs busy in the last <b>{apart:.1}</b> s</li></ul>\n"
    );
    if seen < all {
        header.push_str("<p>Only processes that you may profile are shown.</p>\n");
    }
    if may_see(&Target::Host) {
        let base = base(&Target::Host);
        header.push_str(&format!(
            "<nav>\n<a href=\"{base}\">Whole host</a>\n{}<a href=\"/metrics\">Metrics</a>\n</nav>\n",
            links(&base)
        ));
    }
    let mut main = table(&rows);
    if may_see(&Target::Host) {
        main.push_str(&format!("<h2>The whole host</h2>\n{}", commands(&asked)));
    }
    main.push_str(&format!(
        "<h2>More</h2>\n<p>The same below {}, and for each process below its number.</p>\n",
        ["/comm/NAME", "/cgroup/PATH", "/container/ID"]
            .map(|path| format!("<span class=\"name\">{path}/debug/pprof/</span>"))
            .join(", ")
    ));
    let host = rustix::system::uname();
    let title = format!("ebpfprof on {}", host.nodename().to_string_lossy());
    Ok(page(&title, &header, &main))
}

/// What processes did since the last look, or from now on if that was too long ago. One at a time
/// looks: others wait for it, and see what it saw.
async fn busy(app: &App) -> Result<Arc<Busy>, Problem> {
    let mut last = app.busy.lock().await;
    if let Some(last) = last.as_ref()
        && last.reading.age() < LEAST_APART
    {
        return Ok(Arc::clone(last));
    }
    let now = match last.as_ref().filter(|last| !last.reading.is_stale()) {
        Some(last) => app.work(Reading::now).await?.since(&last.reading),
        None => {
            let earlier = app.work(Reading::now).await?;
            tokio::time::sleep(LEAST_APART).await;
            app.work(Reading::now).await?.since(&earlier)
        }
    };
    let now = Arc::new(now);
    *last = Some(Arc::clone(&now));
    Ok(now)
}

fn table(rows: &[Row]) -> String {
    let mut table = "<div class=\"wide\"><table>\n<thead><tr><th class=\"bar\"></th><th class=\"number\">CPU</th><th class=\"number\">PID</th><th>Name</th><th>User</th><th class=\"number\">Threads</th><th class=\"number\">Memory</th><th class=\"number\">CPU time</th><th>Profiles</th></tr></thead>\n<tbody>\n".to_owned();
    for row in rows {
        table.push_str(&line(row));
    }
    table.push_str("</tbody>\n</table></div>\n");
    table
}

fn line(row: &Row) -> String {
    let Row { used, user } = row;
    let (pid, stat) = (used.pid, &used.stat);
    let percent = 100.0 * used.cpus;
    let class = match used.cpus > 0.0 {
        true => "",
        false => " class=\"quiet\"",
    };
    let base = base(&Target::Process(pid));
    format!(
        "<tr{class}><td class=\"bar\"><svg aria-hidden=\"true\"><rect width=\"{:.1}%\" height=\"100%\"/></svg></td><td class=\"number\">{percent:.1}%</td><td class=\"number\">{pid}</td><td class=\"name\"><a href=\"/pid/{pid}\">{}</a></td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td><a href=\"{base}profile?seconds=5&amp;format=html\">flame graph</a> · <a href=\"{base}\">pprof</a></td></tr>\n",
        percent.min(100.0),
        Text(stat.comm_text()),
        Text(user),
        stat.thread_count,
        bytes(processes::resident_bytes(stat)),
        cpu_time(processes::cpu_time(stat)),
    )
}
