//! What an agent remembers of itself, and whether its state directory knows it too.

use crate::state::{Enrolled, StateDir, StateError};

/// An enrolment in memory, and where it is kept.
///
/// What changes holds at once. A disk that takes no writes at the time is tried again later:
/// otherwise a new certificate would be gone at the next start, and the old one expired.
pub(super) struct Memory {
    enrolled: Enrolled,
    /// `None` for agents that live in memory.
    state: Option<StateDir>,
    saved: Saved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saved {
    Everything,
    NotTheLastChange,
}

impl Memory {
    /// What was loaded from `state`, if there is one.
    pub(super) const fn new(enrolled: Enrolled, state: Option<StateDir>) -> Self {
        Self {
            enrolled,
            state,
            saved: Saved::Everything,
        }
    }

    pub(super) const fn enrolled(&self) -> &Enrolled {
        &self.enrolled
    }

    /// Changes the enrolment, and saves it.
    ///
    /// # Errors
    /// [`StateError`] when it is not saved. It is changed all the same.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Enrolled)) -> Result<(), StateError> {
        change(&mut self.enrolled);
        self.saved = Saved::NotTheLastChange;
        self.save()
    }

    /// Saves what could not be saved before; does nothing when there is nothing to save.
    pub(super) fn save_again(&mut self) {
        if let Err(error) = self.save() {
            // The change itself was reported.
            tracing::debug!(%error, "still not saved");
        }
    }

    fn save(&mut self) -> Result<(), StateError> {
        if let (Saved::NotTheLastChange, Some(state)) = (self.saved, &self.state) {
            state.save_enrolled(&self.enrolled)?;
        }
        self.saved = Saved::Everything;
        Ok(())
    }
}
