//! The rows of the comparison: what each prepares, measures and is to reach.

mod content;
mod deliveries;
mod mailboxes;
mod memory;
mod moves;
mod proxies;
mod search;
mod sessions;
mod start;

use anyhow::Result;
use rookery_tests::server::Program;
use tokio::runtime::Runtime;

use crate::contender::Contender;
use crate::edge::Before;
use crate::report::Metric;

/// Values of one measurement by metric.
pub(crate) type Values = Vec<(&'static str, f64)>;

type Prepare = Box<dyn Fn(&mut Contender, &Runtime) -> Result<()>>;
type Measure = Box<dyn Fn(&mut Contender, &Runtime) -> Result<Values>>;

/// A row.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) title: String,
    /// Rows of one stage share servers that were new when its first row began.
    pub(crate) stage: &'static str,
    pub(crate) metrics: Vec<Metric>,
    /// Who takes part. The others' columns stay empty.
    pub(crate) takes: &'static [Program],
    /// What stands before each server; the same in all rows of a stage.
    pub(crate) before: Before,
    /// Measured once, whatever the number of rounds.
    pub(crate) once: bool,
    pub(crate) prepare: Prepare,
    pub(crate) measure: Measure,
}

impl Row {
    fn new(
        stage: &'static str,
        name: impl Into<String>,
        title: impl Into<String>,
        metrics: &[Metric],
        prepare: impl Fn(&mut Contender, &Runtime) -> Result<()> + 'static,
        measure: impl Fn(&mut Contender, &Runtime) -> Result<Values> + 'static,
    ) -> Row {
        Row {
            name: name.into(),
            title: title.into(),
            stage,
            metrics: metrics.to_vec(),
            takes: &[Program::Rookery, Program::Cyrus, Program::Dovecot],
            before: Before::Nothing,
            once: false,
            prepare: Box::new(prepare),
            measure: Box::new(measure),
        }
    }

    fn once(mut self) -> Row {
        self.once = true;
        self
    }

    /// Only these take part.
    fn of(mut self, takes: &'static [Program]) -> Row {
        self.takes = takes;
        self
    }

    /// These take part, each with an edge before it.
    fn behind_edges(mut self, takes: &'static [Program]) -> Row {
        self.before = Before::Edge;
        self.of(takes)
    }

    fn alone(mut self) -> Row {
        self.takes = &[Program::Rookery];
        self
    }
}

/// All rows in their order. What is sensitive to the server's past comes first.
pub(crate) fn all() -> Vec<Row> {
    let mut rows = deliveries::rows();
    rows.extend(sessions::rows());
    rows.extend(mailboxes::rows());
    rows.extend(content::rows());
    rows.extend(search::rows());
    rows.extend(memory::rows());
    rows.extend(start::rows());
    rows.extend(proxies::rows());
    rows.extend(moves::rows());
    rows
}

/// The fastest, in milliseconds, of an operation that was timed several times is luck; this is its middle.
fn middle_ms(took: &[std::time::Duration]) -> f64 {
    let all: Vec<_> = took.iter().map(|took| took.as_secs_f64() * 1e3).collect();
    crate::report::median(&all)
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_have_names_of_their_own_and_stages_are_not_torn() {
        let rows = super::all();
        let mut names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rows.len());
        let mut stages: Vec<_> = rows.iter().map(|row| row.stage).collect();
        stages.dedup();
        let torn = stages.len();
        let mut before: Vec<_> = rows.iter().map(|row| (row.stage, row.before)).collect();
        before.dedup();
        assert_eq!(before.len(), torn);
        stages.sort_unstable();
        stages.dedup();
        assert_eq!(stages.len(), torn);
    }
}
