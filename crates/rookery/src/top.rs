//! `rookery top`: what the running server does now, counted between two looks at its metrics.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::Top;
use crate::client::call;
use crate::config::Config;
use crate::exit::Failure;
use crate::output;

/// Each metric with its labels, and its value.
type Metrics = BTreeMap<String, f64>;

/// Commands that are shown, the busiest first.
const COMMANDS_MAX: usize = 15;

/// Looks again and again, until interrupted or as often as asked.
pub(crate) async fn top(config: &Config, options: Top) -> Result<(), Failure> {
    let pause = Duration::from_secs(options.interval.max(1));
    let mut before = look(config).await?;
    let mut at = Instant::now();
    let mut left = options.count;
    let clears = std::io::stdout().is_terminal() && !options.json.json;
    while left != Some(0) {
        tokio::time::sleep(pause).await;
        let now = look(config).await?;
        let seconds = at.elapsed().as_secs_f64();
        at = Instant::now();
        let shown = Shown { before: &before, now: &now, seconds };
        if options.json.json {
            output::json(&shown.json());
        } else {
            if clears {
                // The cursor goes home and the screen is cleared below it.
                let _ = write!(std::io::stdout(), "\x1b[H\x1b[J");
            }
            output::line(&shown.text());
        }
        before = now;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

async fn look(config: &Config) -> Result<Metrics, Failure> {
    let (_, done) = call(config, "metrics", Value::Null).await?;
    Ok(read(done.get("text").and_then(Value::as_str).unwrap_or_default()))
}

/// Prometheus' text form: `name{labels} value`.
fn read(text: &str) -> Metrics {
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

fn label<'a>(name: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = name.split_once(&format!("{label}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// The server between two looks.
struct Shown<'a> {
    before: &'a Metrics,
    now: &'a Metrics,
    seconds: f64,
}

impl Shown<'_> {
    fn family(&self, name: &str) -> impl Iterator<Item = (&String, f64)> {
        let (bare, labelled) = (name.to_owned(), format!("{name}{{"));
        let is_of = move |key: &str| key == bare || key.starts_with(&labelled);
        self.now.iter().filter(move |(key, _)| is_of(key)).map(|(key, value)| (key, *value))
    }

    fn sum(&self, name: &str) -> f64 {
        self.family(name).map(|(_, value)| value).sum()
    }

    /// By how much a family rises in a second.
    fn rate(&self, name: &str, keep: impl Fn(&str) -> bool) -> f64 {
        let risen = self.family(name).filter(|(key, _)| keep(key));
        let risen: f64 = risen.map(|(key, value)| value - self.before.get(key).copied().unwrap_or(0.0)).sum();
        // A server that was restarted in between counts from nothing again.
        (risen / self.seconds).max(0.0)
    }

    fn connections(&self) -> BTreeMap<String, f64> {
        let mut found = BTreeMap::new();
        for (key, value) in self.family("rookery_net_connections") {
            *found.entry(label(key, "protocol").unwrap_or("?").to_owned()).or_insert(0.0) += value;
        }
        found
    }

    /// Commands of all protocols: how many in a second, how long each took in milliseconds, how many failed.
    fn commands(&self) -> Vec<(String, f64, f64, f64)> {
        let mut found: BTreeMap<String, (f64, f64, f64)> = BTreeMap::new();
        for protocol in ["imap", "pop3"] {
            let total = format!("rookery_{protocol}_commands_total");
            for (key, value) in self.family(&total) {
                let risen = (value - self.before.get(key).copied().unwrap_or(0.0)).max(0.0);
                let name = format!("{protocol} {}", label(key, "command").unwrap_or("?"));
                let entry = found.entry(name).or_default();
                entry.0 += risen;
                if label(key, "result") != Some("ok") {
                    entry.2 += risen;
                }
            }
            for (key, value) in self.family(&format!("rookery_{protocol}_command_seconds_sum")) {
                let risen = (value - self.before.get(key).copied().unwrap_or(0.0)).max(0.0);
                let name = format!("{protocol} {}", label(key, "command").unwrap_or("?"));
                found.entry(name).or_default().1 += risen;
            }
        }
        let row = |(name, (count, seconds, failed)): (String, (f64, f64, f64))| {
            (name, count / self.seconds, 1000.0 * seconds / count, failed / self.seconds)
        };
        let mut rows: Vec<_> = found.into_iter().filter(|(_, (count, ..))| *count > 0.0).map(row).collect();
        rows.sort_by(|a, b| b.1.total_cmp(&a.1));
        rows.truncate(COMMANDS_MAX);
        rows
    }

    fn failed_logins(&self) -> f64 {
        self.rate("rookery_auth_logins_total", |key| label(key, "result") != Some("ok"))
    }

    fn text(&self) -> String {
        let up = Duration::from_secs_f64(self.sum("rookery_process_uptime_seconds").max(0.0));
        let memory = output::size(self.sum("process_resident_memory_bytes") as u64);
        let connections: Vec<String> =
            self.connections().iter().map(|(protocol, count)| format!("{protocol} {count}")).collect();
        let mut text = format!(
            "up {} s   memory {memory}   connections {}   idle sessions {}\n",
            up.as_secs(),
            if connections.is_empty() { "none".to_owned() } else { connections.join("  ") },
            self.sum("rookery_imap_idle_sessions"),
        );
        text += &format!(
            "logins {:.1}/s (failed {:.1}/s)   messages in {:.1}/s ({}/s)\n\n",
            self.rate("rookery_auth_logins_total", |_| true),
            self.failed_logins(),
            self.rate("rookery_lmtp_messages_total", |_| true),
            output::size(self.rate("rookery_lmtp_octets_total", |_| true) as u64),
        );
        text += &format!("{:<24}{:>12}{:>12}{:>12}", "COMMAND", "PER SECOND", "MS EACH", "FAILED/S");
        for (name, count, each, failed) in self.commands() {
            text += &format!("\n{name:<24}{count:>12.1}{each:>12.2}{failed:>12.1}");
        }
        text
    }

    fn json(&self) -> Value {
        let commands = self.commands().into_iter().map(|(name, count, each, failed)| {
            json!({"command": name, "per_second": count, "ms_each": each, "failed_per_second": failed})
        });
        json!({
            "uptime_s": self.sum("rookery_process_uptime_seconds"),
            "resident_octets": self.sum("process_resident_memory_bytes"),
            "connections": self.connections(),
            "idle_sessions": self.sum("rookery_imap_idle_sessions"),
            "logins_per_second": self.rate("rookery_auth_logins_total", |_| true),
            "failed_logins_per_second": self.failed_logins(),
            "messages_per_second": self.rate("rookery_lmtp_messages_total", |_| true),
            "octets_per_second": self.rate("rookery_lmtp_octets_total", |_| true),
            "commands": commands.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_counted_between_two_looks() {
        let text = |ok: u32, no: u32, seconds: f64| {
            format!(
                "# HELP x\nrookery_imap_commands_total{{command=\"NOOP\",result=\"ok\"}} {ok}\n\
                 rookery_imap_commands_total{{command=\"NOOP\",result=\"no\"}} {no}\n\
                 rookery_imap_command_seconds_sum{{command=\"NOOP\"}} {seconds}\n\
                 rookery_net_connections{{protocol=\"imap\"}} 3\nrookery_process_uptime_seconds 7\n"
            )
        };
        let (before, now) = (read(&text(10, 0, 1.0)), read(&text(28, 2, 1.5)));
        let shown = Shown { before: &before, now: &now, seconds: 2.0 };
        assert_eq!(shown.commands(), [("imap NOOP".to_owned(), 10.0, 25.0, 1.0)]);
        assert_eq!(shown.connections(), [("imap".to_owned(), 3.0)].into());
        assert!(shown.text().contains("up 7 s"), "{}", shown.text());
        // After a restart all counts are lower.
        let shown = Shown { before: &now, now: &before, seconds: 2.0 };
        assert!(shown.commands().is_empty());
    }
}
