//! Runs in a process of their own, below which chance and the wall clock follow from the seed.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Outcome, Plan};

/// The library that is put below.
const SHIM: &str = env!("ROOKERY_SIM_SHIM_BUILT");
/// Set where it is.
const SEED: &str = "ROOKERY_SIM_SEED";

/// Whether this process has the shim below it.
pub fn is_below() -> bool {
    std::env::var_os(SEED).is_some()
}

/// How a run went, and what it cost.
#[derive(Clone, Debug)]
pub struct Ran {
    /// What it was.
    pub outcome: Outcome,
    /// How long it took by a clock on the wall.
    pub took: Duration,
}

/// Runs a plan in a process of its own of this program, which is `sim`.
pub fn run(program: &Path, plan: &Plan) -> Result<Ran> {
    let began = Instant::now();
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", SHIM).env(SEED, plan.seed.to_string());
    command.args(["one", "--seed", &plan.seed.to_string(), "--clients", &plan.clients.to_string()]);
    command.args(["--seconds", &plan.lasts.as_secs().to_string()]);
    if let Some(point) = plan.step {
        command.args(["--step", point.name()]);
    }
    if plan.shown {
        command.arg("--trace");
    }
    if let Some(defect) = plan.defect {
        command.args(["--defect", defect.name()]);
    }
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("a run does not begin")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut outcome = Outcome::default();
    let mut is_whole = false;
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "hash" => outcome.hash = rest.parse()?,
            "lines" => outcome.lines = rest.parse()?,
            "did" => outcome.did = rest.parse()?,
            "falls" => outcome.falls = rest.parse()?,
            "moves" => outcome.moves = rest.parse()?,
            "fault" => outcome.faults.extend([named(rest)?]),
            "pair" => outcome.pairs.extend([named(rest)?]),
            "wrong" => outcome.wrong.push(rest.to_owned()),
            "end" => is_whole = true,
            _ => bail!("a run says {line}"),
        }
    }
    if !is_whole {
        outcome.wrong.push(format!("the run ended early: {}", output.status));
    }
    Ok(Ran { outcome, took: began.elapsed() })
}

/// A name, and how often.
fn named(text: &str) -> Result<(String, u64)> {
    let (name, times) = text.rsplit_once(' ').context("a name without a number")?;
    Ok((name.to_owned(), times.parse()?))
}

/// What a run in a process of its own says in the end.
pub fn told(outcome: &Outcome) -> String {
    let mut text = format!(
        "hash {}\nlines {}\ndid {}\nfalls {}\nmoves {}\n",
        outcome.hash, outcome.lines, outcome.did, outcome.falls, outcome.moves
    );
    for (word, all) in [("fault", &outcome.faults), ("pair", &outcome.pairs)] {
        all.iter().for_each(|(name, times)| text.push_str(&format!("{word} {name} {times}\n")));
    }
    for wrong in &outcome.wrong {
        text.push_str(&format!("wrong {}\n", wrong.replace('\n', " ")));
    }
    text.push_str("end\n");
    text
}
