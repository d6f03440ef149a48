//! What commands print: tables for people, JSON for programs, progress on a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rookery_admin::socket::Progress;
use serde_json::Value;

/// Prints a line to standard output. A reader that has gone (`| head`) is no failure.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints rows as JSON, one array.
pub(crate) fn json(value: &Value) {
    line(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// A column: its title, the row's member it shows, and whether it is a number of octets.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) member: &'static str,
    pub(crate) octets: bool,
}

/// A column of text or plain numbers.
pub(crate) const fn column(title: &'static str, member: &'static str) -> Column {
    Column { title, member, octets: false }
}

/// A column of sizes.
pub(crate) const fn octets(title: &'static str, member: &'static str) -> Column {
    Column { title, member, octets: true }
}

/// Rows as aligned text with a title line; numbers to the right.
pub(crate) fn table(columns: &[Column], rows: &[Value]) -> String {
    let cell = |row: &Value, column: &Column| match row.get(column.member) {
        Some(Value::Number(number)) if column.octets => size(number.as_u64().unwrap_or(0)),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(yes)) => if *yes { "yes" } else { "" }.to_owned(),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|column| column.title.to_owned()).collect()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()));
    let is_number = |at: usize| {
        let member = columns.get(at).map_or("", |column| column.member);
        rows.iter().any(|row| row.get(member).is_some_and(Value::is_number))
    };
    let width = |at: usize| {
        lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let layout: Vec<(usize, bool)> = (0..columns.len()).map(|at| (width(at), is_number(at))).collect();
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(&layout).map(|(cell, (width, right))| match right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// `1.5 MiB`.
pub(crate) fn size(octets: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut whole, mut unit) = (octets as f64, 0);
    while whole >= 1024.0 && unit + 1 < UNITS.len() {
        whole /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("B");
    if unit == 0 { format!("{octets} {name}") } else { format!("{whole:.1} {name}") }
}

/// A bar on the terminal for work that takes longer than a second; nothing where nobody watches.
pub(crate) struct Bar {
    began: Instant,
    bar: Option<ProgressBar>,
}

impl Bar {
    pub(crate) fn new() -> Bar {
        Bar { began: Instant::now(), bar: None }
    }

    pub(crate) fn show(&mut self, now: &Progress) {
        if self.bar.is_none() {
            if self.began.elapsed() < Duration::from_secs(1) || !std::io::stderr().is_terminal() {
                return;
            }
            let bar = ProgressBar::new(now.total.unwrap_or(0));
            let style = match now.total {
                Some(_) => "{msg:30!} {wide_bar} {pos}/{len} {eta}",
                None => "{msg:30!} {spinner} {pos} {per_sec}",
            };
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            if let Some(total) = now.total {
                bar.set_length(total);
            }
            bar.set_position(now.done);
            bar.set_message(now.text.clone());
        }
    }

    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_are_aligned() {
        let rows = [
            json!({"name": "INBOX", "messages": 12, "octets": 2048, "use": []}),
            json!({"name": "Entwürfe", "messages": 3, "octets": 5, "use": ["\\Drafts"]}),
        ];
        let columns = [
            column("NAME", "name"),
            column("MESSAGES", "messages"),
            octets("SIZE", "octets"),
            column("USE", "use"),
        ];
        let expected = "NAME      MESSAGES     SIZE  USE\n\
                        INBOX           12  2.0 KiB\n\
                        Entwürfe         3      5 B  \\Drafts\n";
        assert_eq!(table(&columns, &rows), expected);
    }

    #[test]
    fn sizes_are_short() {
        let shown: Vec<String> = [0, 1023, 1024, 1 << 30, u64::MAX].map(size).to_vec();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.0 GiB", "16777216.0 TiB"]);
    }
}
