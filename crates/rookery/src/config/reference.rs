//! The reference of all settings, `docs/settings.md`, from their types.

use rookery_types::Setting;

use super::settings::{Config, SECTIONS};
use crate::reload::is_live;

const BEGINNING: &str = "\
# Settings

<!-- Made by `rookery config reference` from the settings' types; a test compares. -->

One TOML file. It is looked for in this order: `--config FILE`, `$ROOKERY_CONFIG`, `./rookery.toml`,
`/etc/rookery/rookery.toml`; without any, the defaults hold. `rookery config check FILE` finds mistakes,
`rookery config show` prints what is in effect and where each value comes from.

SIGHUP and `rookery reload` read the file and the certificates again. Settings marked *reload* change then, for
connections that come later, and the others are named: they need `rookery restart`.
";

/// All settings with type, default, how a change takes effect, and meaning, as Markdown.
pub(crate) fn reference() -> String {
    let defaults = toml::Table::try_from(Config::default()).unwrap_or_default();
    let mut text = BEGINNING.to_owned();
    text += &section("At the top", "", Config::SETTINGS.iter(), &defaults);
    for (name, parts) in SECTIONS {
        let about = Config::SETTINGS.iter().find(|setting| setting.name == name).map(Setting::text);
        let title = format!("[{name}] {}", about.unwrap_or_default().trim_end_matches('.'));
        if let Some(members) = defaults.get(name).and_then(toml::Value::as_table) {
            text += &section(&title, &format!("{name}."), parts.iter().copied().flatten(), members);
        }
    }
    text
}

/// One section. What has no value of its own is a section itself, or fields that stand among the others.
fn section<'a>(
    title: &str,
    prefix: &str,
    settings: impl Iterator<Item = &'a Setting>,
    defaults: &toml::Table,
) -> String {
    let mut text = format!(
        "\n## {title}\n\n| Setting | Type | Default | Changes by | Meaning |\n| --- | --- | --- | --- | --- |\n"
    );
    for setting in settings {
        let Some(value) = defaults.get(setting.name).filter(|value| !value.is_table()) else { continue };
        let how = if is_live(&format!("{prefix}{}", setting.name)) { "reload" } else { "restart" };
        let kind = kind(setting).unwrap_or_else(|| setting.kind.to_owned());
        let meaning = setting.text().replace('|', "\\|");
        text += &format!("| `{}` | {kind} | `{value}` | {how} | {meaning} |\n", setting.name);
    }
    text
}

/// A setting's type in words, with the unit that its name ends in. `None`: a type without words.
fn kind(setting: &Setting) -> Option<String> {
    let word = match setting.kind.replace(' ', "").as_str() {
        "bool" => "true or false",
        "u8" | "u16" | "u32" | "u64" | "usize" => "number",
        "String" => "text",
        "PathBuf" => "path",
        "Vec<String>" => "list of texts",
        "CertificateField" => "`cn` or `email`",
        "SourceKind" => "`embedded` or `etcd`",
        "LogFormat" => "`text` or `json`",
        _ => return None,
    };
    let units = [("_s", "seconds"), ("_days", "days"), ("_kib", "KiB")];
    let unit = units.iter().find(|(end, _)| setting.name.ends_with(end)).map(|(_, unit)| *unit);
    Some(match unit {
        _ if word != "number" => word.to_owned(),
        Some(unit) => format!("number of {unit}"),
        None if setting.name.ends_with("_percent") => "percentage".to_owned(),
        None if setting.name.contains("octets") => "number of octets".to_owned(),
        None => word.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Every setting with the name of its section, empty at the top.
    fn all() -> Vec<(&'static str, &'static Setting)> {
        let sections = SECTIONS.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>();
        let mut all: Vec<_> = Config::SETTINGS.iter().map(|setting| ("", setting)).collect();
        all.retain(|(_, setting)| !sections.contains(setting.name));
        for (name, parts) in SECTIONS {
            all.extend(parts.iter().copied().flatten().map(|setting| (name, setting)));
        }
        // The sessions' settings of IMAP stand in its section as if they were its own.
        all.retain(|(_, setting)| setting.kind != "ImapConfig");
        all
    }

    #[test]
    fn the_page_is_what_the_types_say() {
        let page = include_str!("../../../../docs/settings.md");
        assert!(page == reference(), "run `cargo run -p rookery -- config reference > docs/settings.md`");
    }

    #[test]
    fn every_setting_is_described_and_has_a_type_in_words() {
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        let mut known = BTreeSet::new();
        for (name, value) in &defaults {
            match value.as_table() {
                Some(members) => known.extend(members.keys().map(|key| format!("{name}.{key}"))),
                None => drop(known.insert(name.clone())),
            }
        }
        let name = |section: &str, key: &str| {
            if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
        };
        let described: BTreeSet<_> =
            all().iter().map(|(section, setting)| name(section, setting.name)).collect();
        assert_eq!(known, described);
        for (section, setting) in all() {
            assert!(kind(setting).is_some(), "{section} {setting:?}");
            assert!(setting.text().len() > 5, "{section} {setting:?}");
        }
    }

    /// Source text without comments, unit tests and checks of values, by its path.
    fn sources() -> Vec<(PathBuf, String)> {
        let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
        let crates = here.parent().unwrap();
        let mut folders = vec![crates.to_path_buf()];
        let mut sources = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                if path.is_dir() && name != "tests" {
                    folders.push(path);
                } else if name.ends_with(".rs") && name != "tests.rs" {
                    let text = std::fs::read_to_string(&path).unwrap();
                    sources.push((path.strip_prefix(crates).unwrap().to_path_buf(), code(&text)));
                }
            }
        }
        sources
    }

    fn code(text: &str) -> String {
        let mut code = String::new();
        let mut checks = false;
        for line in text.lines().take_while(|line| *line != "#[cfg(test)]") {
            checks |= line.contains("fn faults(&self)");
            if !checks && !line.trim_start().starts_with("//") {
                code += line.trim();
                code.push('\n');
            }
            checks &= line != "    }";
        }
        code
    }

    /// Whether the text has these words with nothing that would go on with the last.
    fn has(text: &str, words: &str) -> bool {
        text.match_indices(words).any(|(at, _)| {
            let next = text[at + words.len()..].chars().next().unwrap_or(' ');
            !next.is_alphanumeric() && next != '_'
        })
    }

    /// Whether something that is no check of its value takes a setting: as a member of its section, or, in the crate or
    /// the file of its section, of anything.
    fn is_read(sources: &[(PathBuf, String)], section: &str, key: &str) -> bool {
        let owner = match section {
            "" => "config".to_owned(),
            section => section.to_owned(),
        };
        sources.iter().any(|(path, text)| {
            let own = path.starts_with(format!("rookery-{section}/src"))
                || *path == Path::new(&format!("rookery/src/{section}.rs"));
            let settings = path.ends_with("config/settings.rs");
            has(text, &format!("{owner}.{key}"))
                || (own && has(text, &format!(".{key}")))
                || (settings && has(text, &format!("self.{key}")))
        })
    }

    #[test]
    fn every_setting_is_read_by_something() {
        let sources = sources();
        let unread: Vec<_> = all()
            .into_iter()
            .filter(|(section, setting)| !is_read(&sources, section, setting.name))
            .collect();
        assert!(unread.is_empty(), "{unread:?}");
        let odd = [(
            "a.rs".into(),
            code("    fn faults(&self) {\n        self.lmtp.unread;\n    }\n    // lmtp.unread\n"),
        )];
        assert!(!is_read(&odd, "lmtp", "unread") && !is_read(&sources, "imap", "no_such_setting"));
    }
}
