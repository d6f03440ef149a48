//! The configuration: one TOML file, or none.
//!
//! Invariants:
//! - A file with a fault is refused as a whole, and all its faults are told together, each with its line.
//! - An unknown key is a fault; the nearest known one is suggested.

mod directory;
mod read;
mod reference;
mod settings;
mod show;

use std::path::{Path, PathBuf};

pub(crate) use directory::{DirectorySection, SourceKind};
pub(crate) use read::Faults;
pub(crate) use reference::reference;
pub(crate) use settings::{Config, LogFormat};
pub(crate) use show::show;

/// A configuration and where it came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The values.
    pub config: Config,
    /// The file; `None`: there is none, and every value is a default.
    pub file: Option<PathBuf>,
    /// The settings that the file names, `section.key`, with their lines.
    pub lines: std::collections::BTreeMap<String, usize>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {file} cannot be read: {source}", file = file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has faults.
    #[error("{0}")]
    Faults(Faults),
}

/// Where a configuration is looked for when nothing names one.
const PLACES: [&str; 2] = ["rookery.toml", "/etc/rookery/rookery.toml"];

/// Finds and reads the configuration: `named`, or $ROOKERY_CONFIG, or `./rookery.toml`, or
/// `/etc/rookery/rookery.toml`, or the defaults.
pub(crate) fn load(named: Option<&Path>) -> Result<Loaded, ConfigError> {
    let from_environment =
        || std::env::var_os("ROOKERY_CONFIG").filter(|text| !text.is_empty()).map(PathBuf::from);
    let found = || PLACES.iter().map(PathBuf::from).find(|place| place.exists());
    match named.map(Path::to_path_buf).or_else(from_environment).or_else(found) {
        Some(file) => load_file(&file),
        None => Ok(Loaded { config: Config::default(), file: None, lines: Default::default() }),
    }
}

/// Reads one file.
pub(crate) fn load_file(file: &Path) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
    let (config, lines) =
        read::read(&text).map_err(|faults| ConfigError::Faults(Faults { file: file.to_owned(), faults }))?;
    Ok(Loaded { config, file: Some(file.to_owned()), lines })
}
