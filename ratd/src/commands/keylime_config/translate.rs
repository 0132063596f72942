//! What Keylime's options come to here.

mod registrar;
mod verifier;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rat_identity::ek::EkTrust;
use serde::Serialize;

use super::ini::shown;
use super::options::{Kind, known, of_logging};
use super::sources::{COMPONENTS, Sources, Value};
use super::values::{flag, seconds, socket, toml, without_password};

/// What became of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fate {
    /// It is a key of the configuration that is printed.
    Taken,
    /// It says what Keylime does anyway.
    Default,
    /// Something else is to be done for it.
    Elsewhere,
    /// Nothing here does what it does.
    NoCounterpart,
    /// It is a secret, which is not printed.
    Secret,
    /// It weakens, or what it demanded is not demanded here.
    Insecure,
    /// It has no value that can be used.
    Invalid,
    /// Keylime does not know it either.
    Unknown,
}

impl Fate {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Default => "default",
            Self::Elsewhere => "elsewhere",
            Self::NoCounterpart => "no counterpart",
            Self::Secret => "secret",
            Self::Insecure => "insecure",
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
        }
    }
}

/// One option, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Remark {
    /// `verifier.quote_interval`: with its section's name.
    pub(super) option: String,
    pub(super) origin: String,
    pub(super) fate: Fate,
    pub(super) text: String,
}

/// A configuration in the making.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Keys with their values in TOML, and where they come from.
    pub(super) lines: BTreeMap<&'static str, (String, String)>,
    pub(super) remarks: Vec<Remark>,
}

/// Reads options, and writes keys and remarks.
pub(super) struct Translation<'a> {
    sources: &'a Sources,
    keylime_dir: &'a Path,
    pub(super) draft: Draft,
}

type Given<'a> = Option<&'a Value>;

impl<'a> Translation<'a> {
    pub(super) fn new(sources: &'a Sources, keylime_dir: &'a Path) -> Self {
        Self {
            sources,
            keylime_dir,
            draft: Draft::default(),
        }
    }

    pub(super) fn run(mut self) -> Draft {
        for component in COMPONENTS {
            self.unmapped(component);
            self.version(component);
        }
        let is_there = |name| self.sources.component(name).is_some_and(|it| it.is_there);
        let (verifier, registrar) = (is_there("verifier"), is_there("registrar"));
        if verifier {
            self.verifier();
            self.pull();
        }
        if registrar {
            self.registrar();
        }
        self.trust(registrar);
        self.databases(verifier, registrar);
        self.log_level();
        for (name, value) in &self.sources.other_variables {
            let (fate, text) = match name.as_str() {
                "KEYLIME_DIR" => (Fate::Elsewhere, "where Keylime keeps its state".to_owned()),
                "KEYLIME_TEST" if flag(value) != Some(false) => {
                    let text = "turns checks of Keylime off; there is no such thing here";
                    (Fate::Insecure, text.to_owned())
                }
                _ => (Fate::NoCounterpart, "no option of a server".to_owned()),
            };
            self.draft.remarks.push(Remark {
                option: name.clone(),
                origin: "variable".to_owned(),
                fate,
                text,
            });
        }
        self.draft
    }

    fn given(&self, component: &str, option: &str) -> Given<'a> {
        self.given_in(component, component, option)
    }

    pub(super) fn given_in(&self, component: &str, section: &str, option: &str) -> Given<'a> {
        let values = &self.sources.component(component)?.values;
        let of = |section: &str| values.get(&(section.to_owned(), option.to_owned()));
        // What stands in [DEFAULT] holds for every section.
        of(section).or_else(|| of("DEFAULT"))
    }

    /// The text of an option, or Keylime's own.
    pub(super) fn text(&self, component: &str, option: &str) -> &'a str {
        let default = || known(component, component, option).and_then(|known| known.default);
        let given = self.given(component, option);
        given.map_or_else(|| default().unwrap_or_default(), |value| &value.text)
    }

    pub(super) fn remark(
        &mut self,
        component: &str,
        option: &str,
        fate: Fate,
        text: impl Into<String>,
    ) {
        if let Some(value) = self.given(component, option) {
            self.draft.remarks.push(Remark {
                option: format!("{component}.{option}"),
                origin: value.origin.clone(),
                fate,
                text: text.into(),
            });
        }
    }

    pub(super) fn invalid(&mut self, component: &str, option: &str, what: &str) {
        let value = shown(self.text(component, option));
        let text = format!("{value:?} is not {what}; ratd's own default stands");
        self.remark(component, option, Fate::Invalid, text);
    }

    pub(super) fn set(&mut self, key: &'static str, value: String, component: &str, option: &str) {
        let origin = self.given(component, option);
        let origin = origin.map_or_else(
            || format!("Keylime's default of {component}.{option}"),
            |value| format!("{component}.{option}, {}", value.origin),
        );
        self.draft.lines.insert(key, (value, origin));
        self.remark(component, option, Fate::Taken, key);
    }

    /// Options that lead to no key.
    fn unmapped(&mut self, component: &'static str) {
        let Some(found) = self.sources.component(component) else {
            return;
        };
        for ((section, option), value) in &found.values {
            let of = if section == "DEFAULT" {
                component
            } else {
                section
            };
            let known = known(component, of, option);
            let kind = match (known, component) {
                (Some(known), _) => Some(known.kind),
                (None, "logging") => Some(of_logging(section, option)),
                (None, _) => None,
            };
            let is_default = known.and_then(|known| known.default) == Some(&*value.text);
            let (fate, text) = match kind {
                Some(Kind::Mapped) => continue,
                None => (Fate::Unknown, "Keylime 7.14.3 has no such option"),
                // That a default password is one is no secret, and is said.
                Some(Kind::Secret(_)) if value.text.is_empty() => (Fate::Default, "none is set"),
                Some(Kind::Secret(why)) => (Fate::Secret, why),
                Some(Kind::None(why) | Kind::Weaker(why) | Kind::Elsewhere(why)) if is_default => {
                    (Fate::Default, why)
                }
                Some(Kind::None(why)) => (Fate::NoCounterpart, why),
                Some(Kind::Weaker(why)) => (Fate::Insecure, why),
                Some(Kind::Elsewhere(why)) => (Fate::Elsewhere, why),
            };
            self.draft.remarks.push(Remark {
                option: format!("{}.{}", shown(section), shown(option)),
                origin: value.origin.clone(),
                fate,
                text: text.to_owned(),
            });
        }
    }

    fn version(&mut self, component: &str) {
        let version = self.text(component, "version").to_owned();
        let parts = version.split_once('.');
        let number = parts.and_then(|(a, b)| a.parse::<u32>().ok().zip(b.parse::<u32>().ok()));
        match number {
            Some((2, 0..=6)) => {
                self.remark(
                    component,
                    "version",
                    Fate::Default,
                    "of Keylime 7.14.3 or before",
                );
            }
            _ => {
                let text = "options of other versions than 2.0 to 2.6 may mean something else";
                self.remark(component, "version", Fate::Invalid, text);
            }
        }
    }

    /// A key whose value is what the option says, where the option is given and not as ratd has it.
    fn seconds_key(&mut self, (option, key): (&str, &'static str), max: u64, factor: u64) {
        let Some(value) = self.given("verifier", option) else {
            return;
        };
        let default = known("verifier", "verifier", option).and_then(|known| known.default);
        match seconds(&value.text, max) {
            Some(_) if default == Some(&*value.text) => {
                let text = format!("Keylime's default; ratd's own default of {key} stands");
                self.remark("verifier", option, Fate::Default, text);
            }
            Some(seconds) => {
                let value = seconds.max(1).saturating_mul(factor).to_string();
                self.set(key, value, "verifier", option);
            }
            None => self.invalid("verifier", option, &format!("seconds up to {max}")),
        }
    }

    fn flag_key(&mut self, option: &str, key: &'static str) {
        let Some(value) = self.given("verifier", option) else {
            return;
        };
        let default = known("verifier", "verifier", option).and_then(|known| known.default);
        match flag(&value.text) {
            None => self.invalid("verifier", option, "True or False"),
            given if given == default.and_then(flag) => {
                self.remark("verifier", option, Fate::Default, "as here");
            }
            Some(is_on) => self.set(key, is_on.to_string(), "verifier", option),
        }
    }

    fn listen(&mut self, key: &'static str, component: &str, port: &str) {
        let (ip, number) = (self.text(component, "ip"), self.text(component, port));
        match socket(ip, number) {
            Some(socket) => {
                self.set(key, toml(&socket.to_string()), component, port);
                let mut text = key.to_owned();
                if socket.ip().is_unspecified() {
                    text.push_str("; set `address` to the name that agents reach this server by");
                } else if !socket.ip().is_loopback() {
                    let address = (toml(&socket.ip().to_string()), format!("{component}.ip"));
                    self.draft.lines.entry("address").or_insert(address);
                }
                if port != "tls_port" {
                    self.remark(component, "ip", Fate::Taken, text);
                }
            }
            None => {
                let text = "ip and port are no address to listen on: it is not served";
                self.remark(component, "ip", Fate::Invalid, text);
                self.remark(component, port, Fate::Invalid, text);
            }
        }
    }

    /// More names for the certificate: `DNS:name, IP:address`.
    fn names(&mut self, component: &str) {
        let (option, key) = ("cert_subject_alternative_names", "identity.server_names");
        let given = self.text(component, option).to_owned();
        if given.is_empty() {
            return self.remark(component, option, Fate::Default, "none");
        }
        let mut names = Vec::new();
        for part in given
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let name = part
                .strip_prefix("DNS:")
                .or_else(|| part.strip_prefix("IP:"));
            let name = name.unwrap_or(part).trim();
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:*".contains(&byte);
            if name.is_empty() || !name.bytes().all(is_plain) {
                return self.invalid(component, option, "a list of DNS: and IP: names");
            }
            names.push(toml(name));
        }
        self.set(key, format!("[{}]", names.join(", ")), component, option);
    }

    fn folder(&self, component: &str) -> PathBuf {
        match self.text(component, "tls_dir") {
            "generate" | "default" | "" => self.keylime_dir.join("cv_ca"),
            // A relative one is seen from there; an absolute one stands for itself.
            folder => self.keylime_dir.join(folder),
        }
    }

    /// Databases are no configuration here; their contents are moved once.
    fn databases(&mut self, verifier: bool, registrar: bool) {
        for (component, is_there, flag) in [
            ("verifier", verifier, "--verifier-db"),
            ("registrar", registrar, "--registrar-db"),
        ] {
            if is_there {
                let url = shown(&without_password(self.text(component, "database_url")));
                let text = format!("`ratd keylime migrate {flag} {url}` takes its contents over");
                self.remark(component, "database_url", Fate::Elsewhere, text);
            }
        }
    }

    fn log_level(&mut self) {
        for section in ["logger_keylime", "logger_root"] {
            let Some(value) = self.given_in("logging", section, "level") else {
                continue;
            };
            let level = match value.text.to_uppercase().as_str() {
                "CRITICAL" | "FATAL" | "ERROR" => Some("error"),
                "WARNING" | "WARN" => Some("warn"),
                "INFO" => Some("info"),
                "DEBUG" | "NOTSET" => Some("debug"),
                _ => None,
            };
            let (fate, text) = match level {
                _ if self.draft.lines.contains_key("log.level") => (
                    Fate::NoCounterpart,
                    "the level of [logger_keylime] stands".to_owned(),
                ),
                Some(level) => {
                    let origin = format!("{section}.level, {}", value.origin);
                    self.draft.lines.insert("log.level", (toml(level), origin));
                    (Fate::Taken, "log.level".to_owned())
                }
                None => (
                    Fate::Invalid,
                    "is no level; ratd's own default stands".to_owned(),
                ),
            };
            self.draft.remarks.push(Remark {
                option: format!("{section}.level"),
                origin: value.origin.clone(),
                fate,
                text,
            });
        }
    }
}
