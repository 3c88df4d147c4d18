//! The report: tables that are read as text and as Markdown alike.

use std::fmt;

/// One table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Markdown {
    lines: Vec<Vec<String>>,
}

impl Markdown {
    /// A table without lines.
    pub(crate) fn with_columns(names: &[&str]) -> Self {
        Self {
            lines: vec![names.iter().map(|name| (*name).to_owned()).collect()],
        }
    }

    /// Adds a line.
    pub(crate) fn push(&mut self, cells: Vec<String>) {
        self.lines.push(cells);
    }
}

/// The first column stands left, numbers stand right.
impl fmt::Display for Markdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.lines.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (number, line) in self.lines.iter().enumerate() {
            for (column, width) in widths.iter().enumerate() {
                let cell = line.get(column).map_or("", String::as_str);
                match column {
                    0 => write!(f, "| {cell:<width$} ")?,
                    _ => write!(f, "| {cell:>width$} ")?,
                }
            }
            writeln!(f, "|")?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    match column {
                        0 => write!(f, "|{:-<1$}", "", width + 2)?,
                        _ => write!(f, "|{:-<1$}:", "", width + 1)?,
                    }
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// A figure with so many digits after the point, or a dash.
pub(crate) fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// Bytes in MiB.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The middle one of some figures; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    match sorted.len() % 2 {
        0 => Some(f64::midpoint(sorted[middle - 1], upper)),
        _ => Some(upper),
    }
}

/// The median of some figures, and the least and the greatest of them, or a dash.
pub(crate) fn spread(values: &[f64], digits: usize) -> String {
    match median(values) {
        Some(median) => format!("{median:.digits$} ({})", range(values, digits)),
        None => figure(None, digits),
    }
}

/// The least and the greatest of some figures, or a dash.
pub(crate) fn range(values: &[f64], digits: usize) -> String {
    let least = values.iter().copied().reduce(f64::min);
    let greatest = values.iter().copied().reduce(f64::max);
    match (least, greatest) {
        (Some(least), Some(greatest)) => format!("{least:.digits$}..{greatest:.digits$}"),
        _ => figure(None, digits),
    }
}

/// The geometric mean of some figures above zero.
pub(crate) fn geometric_mean(values: &[f64]) -> Option<f64> {
    let logarithms: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (logarithms / values.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown_with_straight_columns() {
        let mut table = Markdown::with_columns(&["what", "µs"]);
        table.push(vec!["one thing".to_owned(), figure(Some(1.25), 1)]);
        table.push(vec!["b".to_owned(), figure(None, 1)]);
        let expected = "\
| what      |  µs |
|-----------|----:|
| one thing | 1.2 |
| b         |   – |
";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn figures_have_a_median_and_a_spread() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(spread(&[3.0, 1.0, 2.0], 1), "2.0 (1.0..3.0)");
        assert_eq!(spread(&[], 1), "–");
        assert_eq!(range(&[3.0, 1.0, 2.0], 1), "1.0..3.0");
        assert_eq!(geometric_mean(&[2.0, 8.0]).map(f64::round), Some(4.0));
        assert_eq!(geometric_mean(&[]), None);
    }
}
