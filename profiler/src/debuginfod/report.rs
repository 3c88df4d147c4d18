//! What came of asking, for the end of a run.

use std::time::Duration;

/// What came of asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files that servers sent.
    pub fetched: usize,
    /// Files that were found in the cache.
    pub cached: usize,
    /// Files that no server has.
    pub absent: usize,
    /// Files of which no server gave a good answer.
    pub refused: usize,
    /// Files that were still on their way when the waiting ended.
    pub unfinished: usize,
    /// What is wrong with servers, one for each that something is wrong with.
    pub complaints: Vec<Complaint>,
    /// Why a file could not be written.
    pub disk: Option<String>,
    /// How long the end of the run may wait.
    pub patience: Duration,
}

/// What is wrong with a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Its address.
    pub server: String,
    /// What it did first.
    pub what: String,
    /// How often there was something wrong.
    pub count: usize,
}

impl Report {
    /// What the user should know, one sentence each; none if nothing was wanted.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let found = self.fetched + self.cached;
        let wanted = found + self.absent + self.refused + self.unfinished;
        if wanted == 0 {
            return Vec::new();
        }
        let mut summary = format!("debuginfod: {found} of {wanted} files found");
        let rest = [
            (self.cached, "from the cache"),
            (self.absent, "not there"),
            (self.refused, "refused"),
            (self.unfinished, "given up"),
        ];
        for (count, words) in rest.iter().filter(|(count, _)| *count > 0) {
            summary.push_str(&format!(", {count} {words}"));
        }
        if self.unfinished > 0 {
            let longer = 5 * self.patience.as_secs().max(1);
            summary.push_str(&format!(
                "; try: DEBUGINFOD_MAXTIME={longer}, to wait longer"
            ));
        }
        let mut notes = vec![summary];
        for Complaint {
            server,
            what,
            count,
        } in &self.complaints
        {
            let often = match count {
                1 => String::new(),
                count => format!(" ({count} times something was wrong)"),
            };
            notes.push(format!("debuginfod: {server} {what}{often}"));
        }
        if let Some(why) = &self.disk {
            notes.push(format!("debuginfod: a file could not be kept: {why}; try: DEBUGINFOD_CACHE_PATH, set to a folder with more room"));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_of_nothing() {
        assert_eq!(Report::default().notes(), Vec::<String>::new());
    }

    #[test]
    fn every_file_and_every_server_is_accounted_for() {
        let report = Report {
            fetched: 2,
            cached: 1,
            absent: 1,
            unfinished: 1,
            complaints: vec![Complaint {
                server: "http://a".to_owned(),
                what: "redirects too often".to_owned(),
                count: 2,
            }],
            patience: Duration::from_secs(60),
            ..Report::default()
        };
        let expected = [
            "debuginfod: 3 of 5 files found, 1 from the cache, 1 not there, 1 given up; try: DEBUGINFOD_MAXTIME=300, to wait longer",
            "debuginfod: http://a redirects too often (2 times something was wrong)",
        ];
        assert_eq!(report.notes(), expected);
    }
}
