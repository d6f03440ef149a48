//! TOML text to [`Config`], with every fault found in one go.
//!
//! The text is parsed once with positions. Each key is looked up among the known ones, which are those that
//! the default configuration has when it is printed; then each value is tried alone, so that one bad value does
//! not hide the next.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::settings::Config;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub text: String,
}

/// All that is wrong with a file.
#[derive(Debug)]
pub(crate) struct Faults {
    /// Which file.
    pub file: PathBuf,
    /// In the order of their lines; at least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{}: {}", self.file.display(), fault.line, fault.text)?;
        }
        Ok(())
    }
}

/// Reads a configuration. With it come the lines on which its settings stand.
pub(super) fn read(text: &str) -> Result<(Config, BTreeMap<String, usize>), Vec<Fault>> {
    let line_of = |offset: usize| 1 + text.bytes().take(offset).filter(|octet| *octet == b'\n').count();
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let faults = errors.iter().map(|error| Fault {
            line: line_of(error.span().map_or(0, |span| span.start)),
            text: error.message().to_owned(),
        });
        return Err(faults.collect());
    }
    let known = known_settings();
    let mut lines = BTreeMap::new();
    let mut faults = Vec::new();
    for (key, value) in document.get_ref() {
        let line = line_of(key.span().start);
        let name: &str = key.get_ref();
        match (known.get(name), value.get_ref()) {
            (None, _) => faults.push(unknown(line, name, "", known.keys())),
            (Some(Some(members)), DeValue::Table(section)) => {
                for (key, value) in section {
                    let line = line_of(key.span().start);
                    let member: &str = key.get_ref();
                    if !members.contains(&member.to_owned()) {
                        faults.push(unknown(line, member, name, members.iter()));
                        continue;
                    }
                    lines.insert(format!("{name}.{member}"), line);
                    try_alone(text, line, &format!("[{name}]\n"), member, value.span(), &mut faults);
                }
            }
            (Some(Some(_)), _) => {
                faults.push(Fault { line, text: format!("'{name}' is a section: write [{name}]") });
            }
            (Some(None), DeValue::Table(_)) => {
                faults.push(Fault { line, text: format!("'{name}' is a setting, not a section") });
            }
            (Some(None), _) => {
                lines.insert(name.to_owned(), line);
                try_alone(text, line, "", name, value.span(), &mut faults);
            }
        }
    }
    let config = match faults.is_empty() {
        true => toml::from_str::<Config>(text).map_err(|error| {
            vec![Fault {
                line: line_of(error.span().map_or(0, |span| span.start)),
                text: error.message().to_owned(),
            }]
        })?,
        false => return Err(in_order(faults)),
    };
    for (name, fault) in config.faults() {
        let line = lines.get(&name).copied().unwrap_or(1);
        faults.push(Fault { line, text: format!("{name}: {fault}") });
    }
    if faults.is_empty() { Ok((config, lines)) } else { Err(in_order(faults)) }
}

fn in_order(mut faults: Vec<Fault>) -> Vec<Fault> {
    faults.sort_by_key(|fault| fault.line);
    faults
}

/// Each top-level name; with a section's members if it is one.
fn known_settings() -> BTreeMap<String, Option<Vec<String>>> {
    let defaults = toml::Table::try_from(Config::default()).unwrap_or_default();
    let entry = |(name, value): (String, toml::Value)| match value {
        toml::Value::Table(section) => (name, Some(section.keys().cloned().collect())),
        _ => (name, None),
    };
    defaults.into_iter().map(entry).collect()
}

fn unknown<'a>(line: usize, name: &str, section: &str, known: impl Iterator<Item = &'a String>) -> Fault {
    let nearest = known
        .map(|candidate| (strsim::damerau_levenshtein(&name.to_lowercase(), candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min();
    let place = if section.is_empty() { String::new() } else { format!(" in [{section}]") };
    let suggestion = nearest.map_or(String::new(), |(_, name)| format!("; did you mean '{name}'?"));
    Fault { line, text: format!("unknown setting '{name}'{place}{suggestion}") }
}

/// Reads one value as if it stood alone.
fn try_alone(
    text: &str,
    line: usize,
    header: &str,
    key: &str,
    span: std::ops::Range<usize>,
    faults: &mut Vec<Fault>,
) {
    let value = text.get(span).unwrap_or_default();
    if let Err(error) = toml::from_str::<Config>(&format!("{header}{key} = {value}\n")) {
        faults.push(Fault { line, text: format!("{key}: {}", error.message()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<(usize, String)> {
        read(text).unwrap_err().into_iter().map(|fault| (fault.line, fault.text)).collect()
    }

    #[test]
    fn all_faults_are_told_with_their_lines() {
        let text = "data_dir = 5\nhostnam = \"x\"\n[imap]\nlisten = [\n  \"nowhere\",\n]\n[lmpt]\n[lmtp]\nlisten = \"x\"\nfoo = 1\n";
        let found = faults(text);
        let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 7, 9, 10], "{found:?}");
        assert!(found[1].1.ends_with("did you mean 'hostname'?"), "{found:?}");
        assert!(found[2].1.ends_with("did you mean 'lmtp'?"), "{found:?}");
        assert_eq!(found[4].1, "unknown setting 'foo' in [lmtp]");
    }

    #[test]
    fn values_are_checked_and_placed() {
        let found =
            faults("default_domain = \"a b\"\n\n[imap]\nlisten = [\"nowhere\"]\n[tls]\ncert = \"x\"\n");
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 4, 6], "{found:?}");
        assert_eq!(faults("a = [").len(), 1);
        assert_eq!(faults("imap = 1")[0].1, "'imap' is a section: write [imap]");
    }

    #[test]
    fn a_file_overrides_defaults_and_nothing_else() {
        let (config, lines) = read("hostname = \"h\"\n[lmtp]\nlisten = []\nrecipients_max = 200\n").unwrap();
        assert_eq!((config.hostname.as_str(), config.lmtp.recipients_max), ("h", 200));
        assert!(config.lmtp.listen.is_empty());
        assert_eq!(config.imap, Config::default().imap);
        assert_eq!(lines["lmtp.recipients_max"], 4);
        assert!(read("").is_ok());
    }
}
