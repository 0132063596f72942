//! Keylime's configuration as Keylime puts it together: a file for each component, snippets over it,
//! variables over both.
//!
//! Source: Keylime 7.14.3 `keylime/config.py`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::ini::{self, FILE_BYTES_MAX};

/// What has a file of its own.
pub(super) const COMPONENTS: [&str; 5] = ["verifier", "registrar", "tenant", "ca", "logging"];
/// Snippets over one file.
const SNIPPETS_MAX: usize = 1_000;

/// The value of an option, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) text: String,
    pub(super) origin: String,
}

/// The options of one component, by section and name.
#[derive(Debug, Default)]
pub(super) struct Component {
    /// Whether a file of it was found.
    pub(super) is_there: bool,
    pub(super) values: BTreeMap<(String, String), Value>,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Sources {
    components: BTreeMap<&'static str, Component>,
    /// Variables that are no component's.
    pub(super) other_variables: Vec<(String, String)>,
}

impl Sources {
    /// Reads files of these folders, the first before the next, and variables.
    pub(super) fn read(folders: &[PathBuf], variables: &[(String, String)]) -> Result<Self> {
        let mut sources = Self::default();
        for name in COMPONENTS {
            let mut component = Component::default();
            component.read_files(name, folders, variables)?;
            sources.components.insert(name, component);
        }
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix("KEYLIME_") else {
                continue;
            };
            let of = COMPONENTS.iter().find_map(|component| {
                let rest = rest.strip_prefix(&component.to_uppercase())?;
                Some((*component, rest.strip_prefix('_')?.to_lowercase()))
            });
            match of {
                Some((_, option)) if option == "config" => {}
                Some((component, option)) => sources.set_variable(component, &option, name, value),
                None => sources.other_variables.push((name.clone(), value.clone())),
            }
        }
        Ok(sources)
    }

    /// A variable names an option of the component's own section, or of another one before it.
    fn set_variable(&mut self, component: &'static str, option: &str, name: &str, text: &str) {
        let (section, option) = match option.strip_prefix("revocations_") {
            Some(option) if component == "verifier" => ("revocations", option),
            _ => (component, option),
        };
        let value = Value {
            text: stripped(text),
            origin: format!("variable {name}"),
        };
        let component = self.components.entry(component).or_default();
        component
            .values
            .insert((section.to_owned(), option.to_owned()), value);
    }

    pub(super) fn component(&self, name: &str) -> Option<&Component> {
        self.components.get(name)
    }
}

/// As Keylime reads values.
fn stripped(text: &str) -> String {
    text.trim_matches(['"', ' ']).to_owned()
}

impl Component {
    fn read_files(
        &mut self,
        name: &str,
        folders: &[PathBuf],
        variables: &[(String, String)],
    ) -> Result<()> {
        let variable = format!("KEYLIME_{}_CONFIG", name.to_uppercase());
        let named = variables.iter().find(|(known, _)| *known == variable);
        if let Some(path) = named
            .map(|(_, path)| Path::new(path))
            .filter(|path| path.is_file())
        {
            // Then nothing else counts.
            return self.read_file(path);
        }
        let file = format!("{name}.conf");
        let base = folders
            .iter()
            .map(|folder| folder.join(&file))
            .find(|path| path.exists());
        let Some(base) = base else {
            return Ok(());
        };
        self.read_file(&base)?;
        for folder in folders.iter().rev() {
            for snippet in snippets(&folder.join(format!("{name}.conf.d")))? {
                self.read_file(&snippet)?;
            }
        }
        Ok(())
    }

    fn read_file(&mut self, path: &Path) -> Result<()> {
        let shown = path.display();
        let mut text = String::new();
        let file = File::open(path).with_context(|| shown.to_string())?;
        let limit = FILE_BYTES_MAX.saturating_add(1);
        let read = file.take(limit).read_to_string(&mut text);
        let read = read.with_context(|| shown.to_string())?;
        let is_long = u64::try_from(read).is_ok_and(|read| read > FILE_BYTES_MAX);
        ensure!(!is_long, "{shown} has more than {FILE_BYTES_MAX} bytes");
        self.is_there = true;
        for entry in
            ini::parse(&text).with_context(|| format!("{shown}: Keylime cannot read it either"))?
        {
            let value = Value {
                text: stripped(&entry.value),
                origin: format!("{shown}:{}", entry.line),
            };
            self.values.insert((entry.section, entry.option), value);
        }
        Ok(())
    }
}

/// Every file of a folder, in the order of their names, whatever they end with.
fn snippets(folder: &Path) -> Result<Vec<PathBuf>> {
    let about = || folder.display().to_string();
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(about)? {
        let path = entry.with_context(about)?.path();
        if path.is_file() {
            files.push(path);
        }
        if files.len() > SNIPPETS_MAX {
            bail!("{} has more than {SNIPPETS_MAX} files", folder.display());
        }
    }
    files.sort();
    Ok(files)
}
