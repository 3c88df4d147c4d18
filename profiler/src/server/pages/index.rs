//! The index of a target's profiles, in the form of `net/http/pprof`: a table of counts and kinds
//! with relative links, which scrapers read too.

use axum::{body::Body, http::Response};

use super::{Text, commands, page};
use crate::{
    captures::Target,
    server::{
        asked::{Asked, found, words},
        problem::Problem,
    },
};

/// The page.
pub(in crate::server) async fn index(asked: Asked) -> Result<Response<Body>, Problem> {
    let (target, kinds) = (asked.target.clone(), asked.app.kinds.every());
    let (policy, who) = (std::sync::Arc::clone(&asked.app.policy), asked.who.clone());
    let count = move || {
        found(&target)?;
        let is_allowed = |name: &str| policy.may(&who, &target, name).is_ok();
        let allowed = kinds.into_iter().filter(|kind| is_allowed(kind.name()));
        let rows = allowed.filter_map(|kind| {
            let count = kind.count(&target)?;
            Some((count, kind.name(), kind.description()))
        });
        Ok(rows.collect::<Vec<_>>())
    };
    let rows = asked.app.look(count).await?;
    let rows: String = rows
        .iter()
        .map(|(count, name, description)| {
            format!(
                "<tr><td class=\"number\">{count}</td><td class=\"name\"><a href='{name}?debug=1'>{name}</a></td><td class=\"words\">{}</td></tr>\n",
                Text(description)
            )
        })
        .collect();
    let header = format!(
        "<nav>\n{}<a href='profile?seconds=5&amp;format=html'>Flame graph of 5 s</a>\n<a href='profile?seconds=5&amp;format=top'>Hottest functions</a>\n<a href='threads?debug=1'>Threads</a>\n</nav>\n",
        up(&asked.target)
    );
    let main = format!(
        "<p>Types of profiles available:</p>\n<div class=\"wide\"><table>\n<thead><tr><td class=\"number\">Count</td><td>Profile</td><td></td></tr></thead>\n{rows}</table></div>\n<h2>Fetch one</h2>\n{}<h2>Parameters</h2>\n{PARAMETERS}",
        commands(&asked)
    );
    let title = format!("/debug/pprof/ of {}", words(&asked.target));
    Ok(page(&title, &header, &main))
}

/// Back to where the target was found.
fn up(target: &Target) -> String {
    match target {
        Target::Process(pid) => format!("<a href=\"/pid/{pid}\">Process {pid}</a>\n"),
        _ => "<a href=\"/\">All processes</a>\n".to_owned(),
    }
}

/// What a request for a profile may say.
const PARAMETERS: &str = "<dl class=\"says\">
<dt>seconds=30</dt><dd>how long to sample; of the other profiles, what changed meanwhile</dd>
<dt>hz=99</dt><dd>samples per second and CPU</dd>
<dt>format=pprof</dt><dd>or folded, svg, html, speedscope, firefox, top</dd>
<dt>labels=comm,pid</dt><dd>what samples are labelled with: comm, pid, tid, cpu, cgroup, container, thread</dd>
<dt>last=60s</dt><dd>what just happened, where the server keeps a flight recorder</dd>
<dt>debug=1</dt><dd>text in place of a profile</dd>
</dl>
";
