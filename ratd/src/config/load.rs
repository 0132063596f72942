//! Putting the configuration together, and remembering where each value came from.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use figment::providers::{Env, Format, Serialized, Toml};
use figment::{Figment, Provider};
use thiserror::Error;

use super::Config;
use super::keys::KEYS;

/// Variables that are not keys.
const OTHER_VARIABLES: [&str; 1] = ["RATD_CONFIG"];

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    /// The configuration file.
    pub(crate) file: Option<PathBuf>,
    /// `key=value`, with the value as TOML writes it, or as bare text.
    pub(crate) set: Vec<(String, String)>,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub(crate) enum LoadError {
    #[error("configuration file {}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    /// Whoever can write it decides whom the server trusts. (A07)
    #[error(
        "configuration file {} has mode {mode:o}: others than its owner can write to it",
        .path.display()
    )]
    Writable { path: PathBuf, mode: u32 },
    #[error("variable {0} is no configuration key")]
    Variable(String),
    #[error("{0} is no configuration key")]
    Key(String),
    #[error("{}", list(.0))]
    Values(Box<figment::Error>),
}

fn list(errors: &figment::Error) -> String {
    let lines: Vec<String> = errors.clone().into_iter().map(|e| e.to_string()).collect();
    lines.join("\n")
}

/// A configuration, and where each value of it came from.
pub(crate) struct Loaded {
    pub(crate) config: Config,
    figment: Figment,
}

impl Loaded {
    /// Where the value of a key came from.
    pub(crate) fn origin(&self, key: &str) -> String {
        let Some(metadata) = self.figment.find_metadata(key) else {
            return "default".to_owned();
        };
        match &metadata.source {
            Some(figment::Source::File(path)) => format!("file {}", path.display()),
            _ => metadata.name.to_string(),
        }
    }
}

/// Reads the configuration of this process.
///
/// # Errors
/// [`LoadError`]: unknown keys and variables, values of other types, a file that is not there.
pub(crate) fn load(flags: &Flags) -> Result<Loaded, LoadError> {
    let mut figment = Figment::from(Named("default", Serialized::defaults(Config::default())));
    if let Some(directory) = std::env::var_os("STATE_DIRECTORY").filter(|value| !value.is_empty()) {
        let directory = PathBuf::from(directory);
        figment = figment.merge(Named(
            "STATE_DIRECTORY",
            Serialized::default("data_dir", directory),
        ));
    }
    let file = flags.file.clone();
    if let Some(path) = file.or_else(|| std::env::var_os("RATD_CONFIG").map(PathBuf::from)) {
        require_private(&path)?;
        figment = figment.merge(Toml::file_exact(path));
    }
    figment = figment.merge(variables()?);
    for (key, value) in &flags.set {
        if !KEYS.iter().any(|known| known.name == key) {
            return Err(LoadError::Key(key.clone()));
        }
        // As figment reads variables: TOML where it is TOML, text where it is not.
        let value: figment::value::Value = value.parse().unwrap_or_else(|never| match never {});
        figment = figment.merge(Named("command line", Serialized::default(key, value)));
    }
    let config = figment
        .extract()
        .map_err(|error| LoadError::Values(Box::new(error)))?;
    Ok(Loaded { config, figment })
}

/// `RATD_*`, each the key that its name says.
fn variables() -> Result<Env, LoadError> {
    let known: BTreeMap<String, &'static str> =
        KEYS.iter().map(|key| (key.variable(), key.name)).collect();
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let ours = name.starts_with("RATD_") && !OTHER_VARIABLES.contains(&name.as_ref());
        if ours && !known.contains_key(name.as_ref()) {
            return Err(LoadError::Variable(name.escape_debug().to_string()));
        }
    }
    let keys: BTreeMap<String, &'static str> = known
        .into_iter()
        .map(|(variable, key)| (variable.to_lowercase(), key))
        .collect();
    Ok(Env::raw().filter_map(move |name| {
        let key = keys.get(&name.as_str().to_lowercase())?;
        name.as_str()
            .bytes()
            .all(|byte| !byte.is_ascii_lowercase())
            .then(|| (*key).into())
    }))
}

fn require_private(path: &Path) -> Result<(), LoadError> {
    let metadata = std::fs::metadata(path).map_err(|source| LoadError::File {
        path: path.to_owned(),
        source,
    })?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(LoadError::Writable {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// A provider under a name that people recognise.
struct Named<P>(&'static str, P);

impl<P: Provider> Provider for Named<P> {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.0)
    }

    fn data(&self) -> figment::Result<figment::value::Map<figment::Profile, figment::value::Dict>> {
        self.1.data()
    }
}
