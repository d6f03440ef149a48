//! The effective configuration as text that is itself a configuration.

use super::Loaded;

/// Every setting with its value, and behind it where the value came from.
pub(crate) fn show(loaded: &Loaded) -> String {
    let table = toml::Table::try_from(&loaded.config).unwrap_or_default();
    let mut text = match &loaded.file {
        Some(file) => format!("# from {}\n", file.display()),
        None => "# no configuration file: defaults\n".to_owned(),
    };
    let line = |name: &str, key: &str, value: &toml::Value| {
        let source = match loaded.lines.get(name) {
            Some(line) => format!("line {line}"),
            None => "default".to_owned(),
        };
        let setting = format!("{key} = {value}");
        format!("{setting:<60} # {source}\n")
    };
    for (key, value) in table.iter().filter(|(_, value)| !value.is_table()) {
        text += &line(key, key, value);
    }
    for (section, members) in table.iter().filter_map(|(key, value)| Some((key, value.as_table()?))) {
        text += &format!("\n[{section}]\n");
        for (key, value) in members {
            text += &line(&format!("{section}.{key}"), key, value);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::*;

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        let (mut config, lines) = read::read("hostname = \"h\\\"x\"\n[imap]\nlisten = []\n").unwrap();
        config.admins.push("joe".to_owned());
        let loaded = Loaded { config, file: Some("x.toml".into()), lines };
        let text = show(&loaded);
        assert_eq!(read::read(&text).unwrap().0, loaded.config);
        assert!(text.contains("# line 1\n") && text.contains("# default\n"), "{text}");
    }

    #[test]
    fn every_setting_is_documented_with_its_default() {
        let documented = include_str!("../../../../docs/settings.md");
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        let mut section = documented.split("\n## ");
        let mut section_of =
            |name: &str| section.find(|text| text.starts_with(name)).unwrap_or_default().to_owned();
        let rows = |text: &str, members: &toml::Table| {
            for (key, value) in members.iter().filter(|(_, value)| !value.is_table()) {
                assert!(
                    text.contains(&format!("| `{key}` | `{value}` |")),
                    "{key} = {value} is not documented"
                );
            }
        };
        rows(&section_of("At the top"), &defaults);
        for name in
            ["imap", "pop3", "lmtp", "mta", "http", "tls", "auth", "log", "accounts", "store", "server"]
        {
            rows(&section_of(&format!("[{name}]")), defaults[name].as_table().unwrap());
        }
        assert_eq!(defaults.values().filter(|value| value.is_table()).count(), 11);
    }
}
