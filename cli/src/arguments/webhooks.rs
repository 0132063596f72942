//! `rat webhooks`.

use clap::Subcommand;

use super::remote::RemoteArguments;

const LIST_HELP: &str = "\
Webhooks are made in the server's configuration, and ended there.

Example:
  rat webhooks list
  rat webhooks list --output json | jq '.[] | select(.state == \"failing\")'";

const SHOW_HELP: &str = "\
Example:
  rat webhooks show ops";

const DEAD_LETTERS_HELP: &str = "\
The newest come first; the newest 10,000 are kept.

Example:
  rat webhooks dead-letters ops
  rat webhooks dead-letters ops --limit 20 --output json";

const REDELIVER_HELP: &str = "\
It is queued behind what waits about the same agent, with the id that it had.

Example:
  rat webhooks redeliver ops 0d5f1a34-7d6b-4a2e-9a06-5f6f4d0a8c11";

const TEST_HELP: &str = "\
The message is signed like any other, and goes past those that wait.

Exit codes:
  0  it was taken
  1  it was not, or the server refused

Example:
  rat webhooks test ops";

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// List webhooks, and how each stands
    #[command(after_help = LIST_HELP)]
    List {
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Show a webhook
    #[command(after_help = SHOW_HELP)]
    Show {
        /// Its name
        webhook: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// List messages that were given up
    #[command(after_help = DEAD_LETTERS_HELP)]
    DeadLetters {
        /// The webhook's name
        webhook: String,
        /// The first N of them
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Send a message again that was given up
    #[command(after_help = REDELIVER_HELP)]
    Redeliver {
        /// The webhook's name
        webhook: String,
        /// Its `id` among the dead letters
        message: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
    /// Send a test message at once, and say how it was taken
    #[command(after_help = TEST_HELP)]
    Test {
        /// The webhook's name
        webhook: String,
        #[command(flatten)]
        remote: RemoteArguments,
    },
}
