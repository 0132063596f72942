//! Why an agent gave no evidence.

use std::io;

use rat_engine::hash::HashAlg;
use rat_engine::tpm::QuoteTextError;
use thiserror::Error;

/// Why there is no evidence of an agent. It says that nothing is known of the agent, and never that
/// it is not to be trusted. Nothing that the agent wrote stands in it. (X07)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Failure {
    /// Its name leads to no address.
    #[error("its name cannot be resolved")]
    Resolve,
    /// No connection.
    #[error("no connection: {0}")]
    Connect(io::ErrorKind),
    /// It showed another certificate than the one that it is known by.
    #[error("it shows another certificate than the one that it is known by")]
    Certificate,
    /// TLS failed otherwise: mostly, it does not take our certificate.
    #[error("no TLS")]
    Tls,
    /// It has no certificate, and plain HTTP is not allowed.
    #[error("it has no certificate, and plain HTTP is not allowed")]
    PlainHttp,
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// The exchange broke off, or was not HTTP.
    #[error("no answer in HTTP")]
    Exchange,
    /// It points elsewhere, which is never followed.
    #[error("it answered {0}, and redirects are not followed")]
    Redirect(u16),
    /// It has no evidence to give.
    #[error("it answered {0}")]
    Status(u16),
    /// Its answer is compressed, which was not asked for.
    #[error("its answer is compressed")]
    Encoded,
    /// Its answer is longer than any that is read.
    #[error("its answer is longer than {0} bytes")]
    TooLong(u64),
    /// No version of the API is common.
    #[error("it speaks no version of the API that is spoken here")]
    Version,
    /// It offers only versions older than the one that it attested by.
    #[error("it speaks only versions older than the one that it attested by")]
    Downgrade,
    /// A part of its answer is not what the API says.
    #[error("{0} cannot be read")]
    Malformed(&'static str),
    /// Its quote is not of Keylime's form.
    #[error(transparent)]
    Quote(#[from] QuoteTextError),
    /// It uses an algorithm that was not accepted for it.
    #[error("its {0} is not among those that are accepted")]
    Algorithm(&'static str),
    /// It quotes another bank, which is accepted; the shard is to ask for that one.
    #[error("it quotes bank {0}, and another one was asked for")]
    Bank(HashAlg),
    /// Its list begins neither with the first entry nor with the one that was asked for.
    #[error("its list begins with an entry that was not asked for")]
    Entry,
    /// We had no room for it: no fault of the agent.
    #[error("this server is busy")]
    Busy,
}

impl Failure {
    /// A fixed word: the label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect(_) => "connect",
            Self::Certificate => "certificate",
            Self::Tls => "tls",
            Self::PlainHttp => "plain_http",
            Self::Timeout => "timeout",
            Self::Exchange => "exchange",
            Self::Redirect(_) => "redirect",
            Self::Status(_) => "status",
            Self::Encoded => "encoded",
            Self::TooLong(_) => "too_long",
            Self::Version => "version",
            Self::Downgrade => "downgrade",
            Self::Malformed(_) => "malformed",
            Self::Quote(_) => "quote",
            Self::Algorithm(_) => "algorithm",
            Self::Bank(_) => "bank",
            Self::Entry => "entry",
            Self::Busy => "busy",
        }
    }

    /// Whether it is about the agent, and not about this server.
    pub(super) const fn is_of_agent(self) -> bool {
        !matches!(self, Self::Busy)
    }
}
