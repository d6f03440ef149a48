//! The comparison: all contenders run during a stage, the rounds of a row go over them in turn.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rookery_tests::process;
use rookery_tests::server::Program;
use tokio::runtime::Runtime;

use crate::contender::{Contender, name};
use crate::machine::{Noise, sync_ms};
use crate::report::{Report, RowResult};
use crate::rows::{self, Row, Values};

/// What is to be compared.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Who takes part.
    pub contenders: Vec<Program>,
    /// Names of rows, or their beginnings; empty: all.
    pub rows: Vec<String>,
    /// Times that each row is measured.
    pub rounds: usize,
    /// Rounds in which others took more than this part of the machine's CPU are discarded.
    pub others_max: f64,
    /// Times that a discarded round is taken again.
    pub retries: usize,
    /// The optimised server binary.
    pub binary: Option<PathBuf>,
}

/// The names of all rows with what they measure.
pub fn row_names() -> Vec<(String, String)> {
    rows::all().into_iter().map(|row| (row.name, row.title)).collect()
}

fn chosen(wanted: &[String]) -> Result<Vec<Row>> {
    let mut unused: BTreeSet<&String> = wanted.iter().collect();
    let mut chosen = Vec::new();
    for row in rows::all() {
        let named: Vec<_> = wanted.iter().filter(|name| row.name.starts_with(name.as_str())).collect();
        if wanted.is_empty() || !named.is_empty() {
            chosen.push(row);
        }
        named.iter().for_each(|name| {
            unused.remove(name);
        });
    }
    ensure!(unused.is_empty(), "there are no rows {unused:?}");
    Ok(chosen)
}

/// Measures; `progress` hears what goes on, `checkpoint` gets what is there after each row.
pub fn compare(
    plan: &Plan,
    mut progress: impl FnMut(&str),
    mut checkpoint: impl FnMut(&Report) -> Result<()>,
) -> Result<Report> {
    process::raise_descriptor_limit(20_000)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::Builder::new().prefix("rookery-bench-").tempdir()?;
    // Servers run as users of their own and have to get through.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut report = Report::default();
    let rows = chosen(&plan.rows)?;
    for stage in rows.chunk_by(|a, b| a.stage == b.stage) {
        let Some(first) = stage.first() else { continue };
        let place = folder.path().join(first.stage);
        std::fs::create_dir(&place)?;
        std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let mut contenders = Vec::new();
        for program in plan.contenders.iter().filter(|it| stage.iter().any(|row| row.takes.contains(it))) {
            let contender = Contender::start(*program, &place, plan.binary.as_deref(), first.before);
            contenders.push(contender.with_context(|| format!("{} does not start", name(*program)))?);
        }
        for row in stage {
            let mut run = Run { plan, runtime: &runtime, row, progress: &mut progress };
            report.rows.push(run.row(&mut contenders)?);
            checkpoint(&report)?;
        }
        drop(contenders);
        std::fs::remove_dir_all(&place)?;
    }
    Ok(report)
}

struct Run<'a> {
    plan: &'a Plan,
    runtime: &'a Runtime,
    row: &'a Row,
    progress: &'a mut dyn FnMut(&str),
}

impl Run<'_> {
    fn row(&mut self, contenders: &mut [Contender]) -> Result<RowResult> {
        let mut result = RowResult {
            name: self.row.name.clone(),
            title: self.row.title.clone(),
            metrics: self.row.metrics.clone(),
            ..RowResult::default()
        };
        let mut able: Vec<&mut Contender> = Vec::new();
        let takes_part = |contender: &&mut Contender| self.row.takes.contains(&contender.program());
        for contender in contenders.iter_mut().filter(takes_part) {
            (self.progress)(&format!("{}: preparing {}", self.row.name, name(contender.program())));
            match (self.row.prepare)(contender, self.runtime) {
                Ok(()) => able.push(contender),
                Err(error) => self.failed(&mut result, contender.program(), &error),
            }
        }
        let rounds = if self.row.once { 1 } else { self.plan.rounds };
        for round in 1..=rounds {
            // Whoever begins meets what the one before left behind, so they take turns.
            if round > 1 && able.len() > 1 {
                able.rotate_left(1);
            }
            for attempt in 0..=self.plan.retries {
                if self.round(round, &mut able, &mut result, attempt)? {
                    break;
                }
            }
        }
        Ok(result)
    }

    /// One round over all contenders; false if it was too noisy and should be taken again.
    fn round(
        &mut self,
        round: usize,
        able: &mut Vec<&mut Contender>,
        result: &mut RowResult,
        attempt: usize,
    ) -> Result<bool> {
        let Some(first) = able.first() else { return Ok(true) };
        let latency = sync_ms(first.server.root())?;
        let noise = Noise::begin()?;
        let mut taken: Vec<(&'static str, Values)> = Vec::new();
        let mut failed = Vec::new();
        for (at, contender) in able.iter_mut().enumerate() {
            match (self.row.measure)(contender, self.runtime) {
                Ok(values) => taken.push((name(contender.program()), values)),
                Err(error) => {
                    self.failed(result, contender.program(), &error);
                    failed.push(at);
                }
            }
        }
        let others = noise.others()?;
        for at in failed.into_iter().rev() {
            able.remove(at);
        }
        let shown: Vec<_> = taken.iter().map(|(who, values)| format!("{who} {}", brief(values))).collect();
        let said = format!(
            "{}: round {round}: {} [sync {latency:.2} ms, others {:.0} % of the CPU]",
            self.row.name,
            shown.join("; "),
            others * 100.0
        );
        // What can be measured once only cannot be taken again.
        if others > self.plan.others_max && !self.row.once {
            (self.progress)(&format!("{said}: discarded"));
            result.discarded.push(others);
            return Ok(attempt >= self.plan.retries);
        }
        (self.progress)(&said);
        result.sync_ms.push(latency);
        result.others.push(others);
        for (who, values) in taken {
            for (metric, value) in values {
                result.values.entry(metric).or_default().entry(who).or_default().push(value);
            }
        }
        Ok(true)
    }

    fn failed(&mut self, result: &mut RowResult, program: Program, error: &anyhow::Error) {
        let text = format!("{}: {error:#}", name(program));
        (self.progress)(&format!("{}: {text}", self.row.name));
        result.failures.push(text);
    }
}

fn brief(values: &Values) -> String {
    let all: Vec<_> = values.iter().map(|(metric, value)| format!("{metric} {value:.3}")).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_how_their_names_begin() {
        let names = |wanted: &[&str]| -> Result<Vec<String>> {
            let wanted: Vec<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
            Ok(chosen(&wanted)?.into_iter().map(|row| row.name).collect())
        };
        assert_eq!(names(&["select-1"]).unwrap(), ["select-10k", "select-100k", "select-1m"]);
        assert_eq!(names(&[]).unwrap().len(), row_names().len());
        assert!(names(&["select-1m", "nothing"]).is_err());
    }
}
