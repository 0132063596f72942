//! Enrolling again: an operator may have to approve the machine first, and servers may be away.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::enrol::{EnrolError, EnrolOptions, enrol};
use crate::machine::Machine;
use crate::run::{Backoff, Dice};
use crate::state::Enrolled;

/// An operator who has approved a machine sees it arrive within this and a moment.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// However the dice fall.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Enrols `machine` as [`enrol`] does, and again while that fails for what an operator or time may
/// end, until `patience` is over. `put_off` hears of each attempt that failed, and of the pause
/// after it. The last attempt may end later.
///
/// Pauses double up to a minute, each is random below its bound, and none is shorter than the
/// server asks for.
///
/// # Errors
/// The last attempt's; at once where another one could not end otherwise.
///
/// # Security
/// As [`enrol`]'s, each time: nothing is sent to a server with another CA than the token's, and that
/// ends it.
pub async fn enrol_within(
    patience: Duration,
    machine: &Machine,
    options: &EnrolOptions,
    before: Option<&Enrolled>,
    dice: &mut impl Dice,
    mut put_off: impl FnMut(&EnrolError, Duration),
) -> Result<Enrolled, EnrolError> {
    let begun = Instant::now();
    let mut backoff = Backoff::up_to(LONGEST_PAUSE);
    loop {
        let error = match enrol(machine, options, before).await {
            Ok(enrolled) => return Ok(enrolled),
            Err(error) => error,
        };
        let Some(at_least) = error.passes_after() else {
            return Err(error);
        };
        let at_least = at_least.max(SHORTEST_PAUSE);
        let left = patience.saturating_sub(begun.elapsed());
        if at_least > left {
            return Err(error);
        }
        let pause = backoff.after_failure(at_least, dice).min(left);
        put_off(&error, pause);
        sleep(pause).await;
    }
}
