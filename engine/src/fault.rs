//! Faults on demand, in unit tests only: the n-th fallible step fails.
//!
//! Steps on the way to a verdict call [`fault_point!`]. In a build that is not a test the macro
//! expands to nothing.

/// Returns the given error from here when a test has chosen this step to fail.
macro_rules! fault_point {
    ($error:expr) => {
        $crate::fault::fault_point!(in module_path!(), $error)
    };
    (in $place:expr, $error:expr) => {
        #[cfg(test)]
        if $crate::fault::strikes($place) {
            return Err($error);
        }
    };
}
pub(crate) use fault_point;

#[cfg(test)]
pub(crate) use chosen::{strikes, with_failing_step};

#[cfg(test)]
mod chosen {
    use std::cell::Cell;

    thread_local! {
        static STEPS: Cell<u64> = const { Cell::new(0) };
        static CHOSEN: Cell<Option<u64>> = const { Cell::new(None) };
        static PLACE: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Whether the step that asks, at a place to remember, is the chosen one.
    pub(crate) fn strikes(place: &'static str) -> bool {
        let step = STEPS.get();
        STEPS.set(step + 1);
        let strikes = CHOSEN.get() == Some(step);
        if strikes {
            PLACE.set(Some(place));
        }
        strikes
    }

    /// What came of some work, one step of which may have failed.
    pub(crate) struct Struck<T> {
        pub(crate) result: T,
        /// How many steps it took.
        pub(crate) steps: u64,
        /// Module or structure in which the chosen step failed.
        pub(crate) place: Option<&'static str>,
    }

    /// Runs `work` with its n-th step failing.
    pub(crate) fn with_failing_step<T>(chosen: Option<u64>, work: impl FnOnce() -> T) -> Struck<T> {
        STEPS.set(0);
        PLACE.set(None);
        CHOSEN.set(chosen);
        let result = work();
        CHOSEN.set(None);
        Struck {
            result,
            steps: STEPS.get(),
            place: PLACE.get(),
        }
    }
}
