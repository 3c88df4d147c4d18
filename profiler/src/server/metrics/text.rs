//! The two texts that scrapers read: Prometheus's, version 0.0.4, and OpenMetrics, version 1.0.0.

use std::fmt::{Display, Write};

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// What Prometheus has read ever since.
    Prometheus,
    /// What came of it.
    OpenMetrics,
}

impl Form {
    /// The one that an `Accept` header asks for. Without one it is Prometheus's.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let weight = |wanted: &[&str]| {
            let weights = accept.split(',').filter_map(|offer| {
                let mut parts = offer.split(';').map(str::trim);
                let name = parts.next()?.to_ascii_lowercase();
                let weight = parts.find_map(|part| part.strip_prefix("q="));
                let weight = weight.map_or(Some(1.0), |weight| weight.parse::<f64>().ok())?;
                wanted.contains(&&*name).then_some(weight)
            });
            weights.fold(0.0, f64::max)
        };
        let open = weight(&["application/openmetrics-text"]);
        if open > 0.0 && open >= weight(&["text/plain", "text/*"]) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// What it is called.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What the values of a family mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// They only grow.
    Counter,
    /// They are what is so now.
    Gauge,
    /// How often what took how long.
    Histogram,
    /// Labels that tell something; the value is 1.
    Info,
}

/// A text on its way.
#[derive(Debug)]
pub(super) struct Page {
    form: Form,
    text: String,
    /// The family that samples belong to now, with what its counters end in.
    name: String,
}

impl Page {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            text: String::new(),
            name: String::new(),
        }
    }

    /// Begins a family. Its name is without `_total` and `_info`.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let (end, kind) = match (kind, self.form) {
            (Kind::Counter, _) => ("_total", "counter"),
            (Kind::Gauge, _) => ("", "gauge"),
            (Kind::Histogram, _) => ("", "histogram"),
            (Kind::Info, Form::OpenMetrics) => ("_info", "info"),
            (Kind::Info, Form::Prometheus) => ("_info", "gauge"),
        };
        self.name = format!("{name}{end}");
        // OpenMetrics names the family, Prometheus the sample.
        let shown = match self.form {
            Form::OpenMetrics => name,
            Form::Prometheus => &self.name,
        };
        let _ = writeln!(self.text, "# HELP {shown} {help}\n# TYPE {shown} {kind}");
    }

    /// A value of the family.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.part("", labels, value);
    }

    /// A part of a histogram.
    pub(super) fn part(&mut self, end: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{}{end}", self.name);
        for (number, (name, text)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{name}=\"{}\"", escaped(text));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
    }

    pub(super) fn finish(mut self) -> String {
        if self.form == Form::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// A label's value. Other control characters are allowed and of no use to anybody.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, expected: Form) {
        assert_eq!(Form::accepted(accept), expected, "{accept}");
    }

    #[test]
    fn scrapers_get_the_text_that_they_like_best() {
        use Form::{OpenMetrics, Prometheus};
        check("", Prometheus);
        check("*/*", Prometheus);
        check("text/html,*/*;q=0.8", Prometheus);
        check("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Prometheus);
        check("application/openmetrics-text", OpenMetrics);
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OpenMetrics,
        );
        check("application/openmetrics-text;q=0", Prometheus);
        check("application/openmetrics-text;q=0.2,text/plain", Prometheus);
    }

    fn page(form: Form) -> String {
        let mut page = Page::new(form);
        page.family("x_samples", Kind::Counter, "Samples.");
        page.sample(&[("kind", "c\"p\\u\n")], 7);
        page.family("x_build", Kind::Info, "What we are.");
        page.sample(&[("version", "1"), ("a", "b")], 1);
        page.family("x_now", Kind::Gauge, "Now.");
        page.sample(&[], 0.5);
        page.finish()
    }

    #[test]
    fn prometheus_names_samples() {
        let expected = r#"# HELP x_samples_total Samples.
# TYPE x_samples_total counter
x_samples_total{kind="c\"p\\u\n"} 7
# HELP x_build_info What we are.
# TYPE x_build_info gauge
x_build_info{version="1",a="b"} 1
# HELP x_now Now.
# TYPE x_now gauge
x_now 0.5
"#;
        assert_eq!(page(Form::Prometheus), expected);
    }

    #[test]
    fn open_metrics_names_families_and_has_an_end() {
        let expected = r#"# HELP x_samples Samples.
# TYPE x_samples counter
x_samples_total{kind="c\"p\\u\n"} 7
# HELP x_build What we are.
# TYPE x_build info
x_build_info{version="1",a="b"} 1
# HELP x_now Now.
# TYPE x_now gauge
x_now 0.5
# EOF
"#;
        assert_eq!(page(Form::OpenMetrics), expected);
    }
}
