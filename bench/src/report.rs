//! What was measured, as a table for people and as JSON for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Whom Rookery is compared with.
const PEERS: [&str; 3] = ["cyrus", "dovecot", "nginx"];

/// What a row is to reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    /// Nothing: shown for the reader.
    Shown,
    /// So many times better than the better peer.
    Times(f64),
    /// So many times better than this peer.
    TimesPeer(&'static str, f64),
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// Not worse than the same measure of another row.
    NotWorseThan(&'static str),
}

/// One measure of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    /// Its name with its unit, such as `messages/s`.
    pub(crate) name: &'static str,
    /// Whether more is better.
    pub(crate) more: bool,
    pub(crate) aim: Aim,
}

/// More is better.
pub(crate) const fn more(name: &'static str, aim: Aim) -> Metric {
    Metric { name, more: true, aim }
}

/// Less is better.
pub(crate) const fn less(name: &'static str, aim: Aim) -> Metric {
    Metric { name, more: false, aim }
}

/// What one row gave.
#[derive(Debug, Default)]
pub(crate) struct RowResult {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) metrics: Vec<Metric>,
    /// By metric and contender, the values of all rounds that count.
    pub(crate) values: BTreeMap<&'static str, BTreeMap<&'static str, Vec<f64>>>,
    /// Sync latency at each round, in milliseconds.
    pub(crate) sync_ms: Vec<f64>,
    /// The part of the machine that others took, at each round that counts.
    pub(crate) others: Vec<f64>,
    /// The same at rounds that were discarded.
    pub(crate) discarded: Vec<f64>,
    /// What went wrong.
    pub(crate) failures: Vec<String>,
}

/// All rows.
#[derive(Debug, Default)]
pub struct Report {
    pub(crate) rows: Vec<RowResult>,
}

/// The middle value; NaN of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "-".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn with_spread(values: &[f64]) -> String {
    let Some(least) = values.iter().copied().min_by(f64::total_cmp) else { return "-".to_owned() };
    let most = values.iter().copied().max_by(f64::total_cmp).unwrap_or(least);
    if values.len() < 2 {
        return number(least);
    }
    format!("{} ({}–{})", number(median(values)), number(least), number(most))
}

impl RowResult {
    fn median(&self, metric: &str, contender: &str) -> Option<f64> {
        let values = self.values.get(metric)?.get(contender)?;
        (!values.is_empty()).then(|| median(values))
    }

    fn better_peer(&self, metric: &Metric) -> Option<(&'static str, f64)> {
        let one = if let Aim::TimesPeer(one, _) = metric.aim { Some(one) } else { None };
        let peers = PEERS.into_iter().filter(|peer| one.is_none_or(|one| one == *peer));
        let medians = peers.filter_map(|peer| Some((peer, self.median(metric.name, peer)?)));
        medians.reduce(|a, b| if (a.1 > b.1) == metric.more { a } else { b })
    }
}

impl Report {
    /// How many times better than the better peer we are.
    fn ratio(row: &RowResult, metric: &Metric) -> Option<f64> {
        let (_, peer) = row.better_peer(metric)?;
        let ours = row.median(metric.name, "rookery")?;
        let ratio = if metric.more { ours / peer } else { peer / ours };
        ratio.is_finite().then_some(ratio)
    }

    fn met(&self, row: &RowResult, metric: &Metric) -> Option<bool> {
        let ours = row.median(metric.name, "rookery")?;
        match metric.aim {
            Aim::Shown => None,
            Aim::AtMost(most) => Some(ours <= most),
            Aim::AtLeast(least) => Some(ours >= least),
            Aim::Times(times) | Aim::TimesPeer(_, times) => Some(Report::ratio(row, metric)? >= times),
            Aim::NotWorseThan(other) => {
                let other = self.rows.iter().find(|row| row.name == other)?;
                let other = other.median(metric.name, "rookery")?;
                Some(if metric.more { ours >= other } else { ours <= other })
            }
        }
    }

    /// A Markdown table, and below it what the reader has to know.
    pub fn markdown(&self) -> String {
        let some =
            |peer: &str| self.rows.iter().any(|row| row.values.values().any(|all| all.contains_key(peer)));
        // Most comparisons have no proxies.
        let peers: Vec<_> = PEERS.into_iter().filter(|peer| *peer != "nginx" || some(peer)).collect();
        let names: String = peers.iter().map(|peer| format!(" {peer} |")).collect();
        let mut text =
            format!("| row | measure | rookery |{names} better peer | times better | aim | met |\n");
        text.push_str(&format!("|{}\n", "---|".repeat(7 + peers.len())));
        for row in &self.rows {
            for metric in &row.metrics {
                let shown = |contender: &str| {
                    let values = row.values.get(metric.name).and_then(|all| all.get(contender));
                    values.map_or("-".to_owned(), |values| with_spread(values))
                };
                let aim = match metric.aim {
                    Aim::Shown => String::new(),
                    Aim::Times(times) => format!("≥ {times} ×"),
                    Aim::TimesPeer(peer, times) => format!("≥ {times} × {peer}"),
                    Aim::AtLeast(least) => format!("≥ {least}"),
                    Aim::AtMost(most) => format!("≤ {most}"),
                    Aim::NotWorseThan(other) => format!("not worse than {other}"),
                };
                let met = match (metric.aim, self.met(row, metric)) {
                    (Aim::Shown, _) => "",
                    (_, Some(true)) => "yes",
                    (_, Some(false)) => "**no**",
                    (_, None) => "not measured",
                };
                text.push_str(&format!(
                    "| {} | {} | {} |{} {} | {} | {aim} | {met} |\n",
                    row.name,
                    metric.name,
                    shown("rookery"),
                    peers.iter().map(|peer| format!(" {} |", shown(peer))).collect::<String>(),
                    row.better_peer(metric).map_or("-", |(peer, _)| peer),
                    Report::ratio(row, metric).map_or("-".to_owned(), number),
                ));
            }
        }
        text.push_str("\nRows:\n\n");
        for row in &self.rows {
            text.push_str(&format!("- `{}`: {}\n", row.name, row.title));
        }
        let syncs: Vec<f64> = self.rows.iter().flat_map(|row| row.sync_ms.iter().copied()).collect();
        let others: Vec<f64> =
            self.rows.iter().flat_map(|row| row.others.iter().map(|part| part * 100.0)).collect();
        text.push_str(&format!(
            "\nSync latency (4 KiB, write and fdatasync) before each round, ms: {}. The rest of the machine took {} % \
             of the CPU in the rounds that count.\n",
            with_spread(&syncs),
            with_spread(&others)
        ));
        for row in &self.rows {
            if !row.discarded.is_empty() {
                let parts: Vec<_> =
                    row.discarded.iter().map(|part| format!("{:.0} %", part * 100.0)).collect();
                text.push_str(&format!(
                    "\n`{}`: {} rounds discarded, in which others took {} of the CPU.\n",
                    row.name,
                    row.discarded.len(),
                    parts.join(", ")
                ));
            }
            for failure in &row.failures {
                text.push_str(&format!("\n`{}` failed: {failure}\n", row.name));
            }
        }
        text
    }

    /// All values of all rounds.
    pub fn json(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            json!({
                "row": row.name, "title": row.title, "values": row.values, "sync_ms": row.sync_ms,
                "others_cpu": row.others, "discarded_others_cpu": row.discarded, "failures": row.failures,
            })
        });
        format!("{:#}\n", Value::Array(rows.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(metric: Metric, ours: &[f64], cyrus: f64, dovecot: f64) -> RowResult {
        let values = [("rookery", ours.to_vec()), ("cyrus", vec![cyrus]), ("dovecot", vec![dovecot])];
        RowResult {
            name: "r".into(),
            metrics: vec![metric],
            values: [(metric.name, values.into())].into(),
            ..RowResult::default()
        }
    }

    #[test]
    fn the_better_peer_is_the_one_to_beat() {
        let report = Report { rows: vec![row(more("m/s", Aim::Times(2.0)), &[9.0, 10.0, 30.0], 4.0, 5.0)] };
        assert!(
            report.markdown().contains("| 10.0 (9.00–30.0) | 4.00 | 5.00 | dovecot | 2.00 | ≥ 2 × | yes |")
        );
        let report = Report { rows: vec![row(less("ms", Aim::Times(2.0)), &[3.0], 4.0, 5.0)] };
        assert!(report.markdown().contains("| cyrus | 1.33 | ≥ 2 × | **no** |"));
    }

    #[test]
    fn the_median_of_two_is_between_them() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[3.0, 1.0]), 2.0);
        assert!(median(&[]).is_nan());
    }
}
