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
}
