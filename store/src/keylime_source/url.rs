//! Where a database of Keylime is, as `database_url` says it: SQLAlchemy's URLs.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use thiserror::Error;

/// Bytes of a URL.
const URL_BYTES_MAX: usize = 4_096;

/// Where a database of Keylime is.
#[derive(Clone)]
pub enum SourceUrl {
    /// The file that Keylime takes by default: `sqlite`, without more.
    Default,
    /// This SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL server on this machine.
    Postgres(Box<PgConnectOptions>),
}

/// Why a URL names no database that can be read here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SourceUrlError {
    /// It is longer than any real one.
    #[error("the URL is longer than {URL_BYTES_MAX} bytes")]
    TooLong,
    /// It is no URL.
    #[error("it is neither `sqlite` nor a URL as sqlite:///path or postgresql://user@host/name")]
    Form,
    /// A database of another kind.
    #[error(
        "databases of {0} are not read here, only SQLite and PostgreSQL: move Keylime's to one of \
         these first"
    )]
    Unsupported(&'static str),
    /// A scheme or driver that nobody knows.
    #[error("{0:?} is no kind of database that is known here")]
    Unknown(String),
    /// SQLite without a file.
    #[error("sqlite:// without a path is a database in memory")]
    Memory,
    /// A parameter after `?` that is not known here, so that it cannot be left out either.
    #[error("the parameter {0:?} is not known here")]
    Parameter(String),
    /// A port that is none, or an escape that is damaged.
    #[error("{0} cannot be read")]
    Part(&'static str),
    /// What is sent would be read by others: there is no TLS to databases here.
    #[error(
        "{0} is not on this machine, and there is no TLS to databases here: forward its port with \
         `ssh -L`, or restore a dump of it here"
    )]
    Remote(String),
    /// TLS is demanded, and there is none.
    #[error("sslmode={0} demands TLS, which there is not to databases here")]
    Tls(String),
}

impl FromStr for SourceUrl {
    type Err = SourceUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > URL_BYTES_MAX {
            return Err(SourceUrlError::TooLong);
        }
        if text == "sqlite" {
            return Ok(Self::Default);
        }
        let (scheme, rest) = text.split_once("://").ok_or(SourceUrlError::Form)?;
        let (kind, driver) = scheme.split_once('+').unwrap_or((scheme, ""));
        match (kind, driver) {
            ("sqlite", "" | "pysqlite" | "aiosqlite") => sqlite(rest),
            ("postgresql", "" | "psycopg2" | "psycopg" | "asyncpg" | "pg8000") => postgres(rest),
            ("mysql", _) => Err(SourceUrlError::Unsupported("MySQL")),
            ("mariadb", _) => Err(SourceUrlError::Unsupported("MariaDB")),
            ("oracle", _) => Err(SourceUrlError::Unsupported("Oracle")),
            ("mssql", _) => Err(SourceUrlError::Unsupported("SQL Server")),
            _ => Err(SourceUrlError::Unknown(shortened(scheme))),
        }
    }
}

/// Never with a password.
impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("sqlite"),
            Self::Sqlite(path) => write!(f, "sqlite:///{}", path.display()),
            Self::Postgres(options) => {
                let host = match options.get_socket() {
                    Some(socket) => socket.display().to_string(),
                    None => format!("{}:{}", options.get_host(), options.get_port()),
                };
                let name = options.get_database().unwrap_or_default();
                write!(f, "postgresql://{}@{host}/{name}", options.get_username())
            }
        }
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceUrl({self})")
    }
}

/// As much of a text as a message shows.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

fn sqlite(rest: &str) -> Result<SourceUrl, SourceUrlError> {
    if let Some((_, parameters)) = rest.split_once('?') {
        return Err(SourceUrlError::Parameter(shortened(parameters)));
    }
    match rest.strip_prefix('/') {
        None if rest.is_empty() => Err(SourceUrlError::Memory),
        None => Err(SourceUrlError::Form),
        Some("" | ":memory:") => Err(SourceUrlError::Memory),
        Some(path) => Ok(SourceUrl::Sqlite(PathBuf::from(path))),
    }
}

/// What a URL says of a server, before it is looked at as a whole.
#[derive(Default)]
struct Server {
    user: Option<String>,
    password: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    name: Option<String>,
}

fn postgres(rest: &str) -> Result<SourceUrl, SourceUrlError> {
    let (location, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, name) = location.split_once('/').unwrap_or((location, ""));
    let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (login, None),
    };
    let (host, port) = place_of(place)?;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let mut server = Server {
        user: some(unescaped(user, "the user")?),
        password: password
            .map(|text| unescaped(text, "the password"))
            .transpose()?,
        host: some(host),
        port,
        name: some(unescaped(name, "the database's name")?),
    };
    for parameter in parameters.split('&').filter(|text| !text.is_empty()) {
        server.set(parameter)?;
    }
    server.local()
}

impl Server {
    fn set(&mut self, parameter: &str) -> Result<(), SourceUrlError> {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = unescaped(value, "a parameter")?;
        match key {
            "host" => self.host = Some(value),
            "port" => self.port = Some(port(&value)?),
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "dbname" | "database" => self.name = Some(value),
            // Names it in the server's list of connections.
            "application_name" => {}
            "sslmode" if matches!(&*value, "disable" | "allow" | "prefer") => {}
            "sslmode" => return Err(SourceUrlError::Tls(shortened(&value))),
            other => return Err(SourceUrlError::Parameter(shortened(other))),
        }
        Ok(())
    }

    /// What is not said is as PostgreSQL's own clients have it: from `PG*` variables and `~/.pgpass`.
    fn local(self) -> Result<SourceUrl, SourceUrlError> {
        let mut options = PgConnectOptions::new()
            .ssl_mode(PgSslMode::Disable)
            .application_name("ratd keylime migrate");
        if let Some(port) = self.port {
            options = options.port(port);
        }
        match &self.host {
            Some(folder) if folder.starts_with('/') => options = options.socket(folder),
            Some(host) => options = options.host(host),
            None => {}
        }
        if let Some(user) = &self.user {
            options = options.username(user);
        }
        if let Some(password) = &self.password {
            options = options.password(password);
        }
        if let Some(name) = &self.name {
            options = options.database(name);
        }
        let host = options.get_host();
        // A host of the environment may be a folder, too.
        let is_here = options.get_socket().is_some()
            || host.starts_with('/')
            || host == "localhost"
            || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        match is_here {
            true => Ok(SourceUrl::Postgres(Box::new(options))),
            false => Err(SourceUrlError::Remote(shortened(host))),
        }
    }
}

fn port(text: &str) -> Result<u16, SourceUrlError> {
    text.parse().map_err(|_| SourceUrlError::Part("the port"))
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn place_of(place: &str) -> Result<(String, Option<u16>), SourceUrlError> {
    let damaged = || SourceUrlError::Part("the host");
    let (host, rest) = match place.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').ok_or_else(damaged)?,
        None => match place.split_once(':') {
            Some((host, number)) => return Ok((unescaped(host, "the host")?, Some(port(number)?))),
            None => (place, ""),
        },
    };
    let number = match rest.strip_prefix(':') {
        Some(number) => Some(port(number)?),
        None if rest.is_empty() => None,
        None => return Err(damaged()),
    };
    Ok((unescaped(host, "the host")?, number))
}

/// The text that percent signs and digits stand for.
fn unescaped(text: &str, what: &'static str) -> Result<String, SourceUrlError> {
    let damaged = || SourceUrlError::Part(what);
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or_else(damaged)?;
        let digits = digits.as_bytes();
        let mut byte = [0];
        hex::decode_to_slice(digits, &mut byte).map_err(|_| damaged())?;
        bytes.extend(byte);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> SourceUrlError {
        text.parse::<SourceUrl>().unwrap_err()
    }

    fn shown(text: &str) -> String {
        text.parse::<SourceUrl>().unwrap().to_string()
    }

    #[test]
    fn urls_of_sqlalchemy_are_understood_and_never_shown_with_a_password() {
        assert_eq!(shown("sqlite"), "sqlite");
        for (url, path) in [
            ("sqlite:///cv_data.sqlite", "cv_data.sqlite"),
            ("sqlite:////var/lib/cv.sqlite", "/var/lib/cv.sqlite"),
            ("sqlite+pysqlite:////a%20b", "/a%20b"),
        ] {
            let SourceUrl::Sqlite(found) = url.parse().unwrap() else {
                panic!("{url}");
            };
            assert_eq!(found, PathBuf::from(path));
        }
        for (url, is) in [
            (
                "postgresql://u:p%40ss%3A@127.0.0.1:5433/kl",
                "postgresql://u@127.0.0.1:5433/kl",
            ),
            (
                "postgresql+psycopg2://u:s3cret@localhost/kl",
                "postgresql://u@localhost:5432/kl",
            ),
            (
                "postgresql+psycopg://u@[::1]:5/kl",
                "postgresql://u@::1:5/kl",
            ),
            (
                "postgresql://u:s3cret@/kl?host=/run/pg&port=7",
                "postgresql://u@/run/pg/kl",
            ),
        ] {
            assert_eq!(shown(url), is);
            let debug = format!("{:?}", url.parse::<SourceUrl>().unwrap());
            assert!(!debug.contains("s3cret"), "{debug}");
        }
        let SourceUrl::Postgres(options) = "postgresql://u%2Fv:p@localhost/kl".parse().unwrap()
        else {
            panic!("no server");
        };
        assert_eq!(options.get_username(), "u/v");
    }

    #[test]
    fn what_is_not_read_here_is_refused_by_its_reason() {
        use SourceUrlError as E;
        assert_eq!(
            error("mysql+pymysql://u:p@h/kl"),
            E::Unsupported("MySQL"),
            "keylime's third kind"
        );
        assert_eq!(error("mariadb://h/kl"), E::Unsupported("MariaDB"));
        assert_eq!(error("redis://h"), E::Unknown("redis".into()));
        assert_eq!(error("postgres"), E::Form);
        assert_eq!(error(""), E::Form);
        for url in ["sqlite://", "sqlite:///", "sqlite:///:memory:"] {
            assert_eq!(error(url), E::Memory, "{url}");
        }
        assert_eq!(error("sqlite://host/path"), E::Form);
        assert_eq!(
            error("sqlite:///f?mode=rwc"),
            E::Parameter("mode=rwc".into())
        );
        assert_eq!(
            error("postgresql://u:p@db.example/kl"),
            E::Remote("db.example".into())
        );
        assert_eq!(
            error("postgresql://u@localhost/kl?host=10.0.0.1"),
            E::Remote("10.0.0.1".into())
        );
        assert_eq!(
            error("postgresql://u@localhost/kl?sslmode=require"),
            E::Tls("require".into())
        );
        assert_eq!(
            error("postgresql://u@localhost/kl?options=-c"),
            E::Parameter("options".into())
        );
        assert_eq!(error("postgresql://u@localhost:x/kl"), E::Part("the port"));
        assert_eq!(error("postgresql://u%4@localhost/kl"), E::Part("the user"));
        assert_eq!(
            error(&format!("sqlite:///{}", "a".repeat(5_000))),
            E::TooLong
        );
    }
}
