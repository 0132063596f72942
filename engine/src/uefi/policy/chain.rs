//! The boot chain as a whole: firmware, and what it started in turn.

use super::breach::{Breach, BreachRule, Breaches};
use super::seen::Seen;
use super::{Firmware, Kernel, RefState};
use crate::hash::Digest;
use crate::policy::exclude::{Match, StepBudget};

/// The events of the chain, each kind in the log's order. Only the order within one PCR is
/// authenticated, and each kind is of one PCR.
#[derive(Debug, Default)]
pub(super) struct Chain<'e> {
    pub(super) crtm: Vec<&'e Seen<'e>>,
    pub(super) firmware: Vec<&'e Seen<'e>>,
    /// Images that were started: shim, boot loader, kernel.
    pub(super) applications: Vec<&'e Seen<'e>>,
    /// Files that GRUB read as kernels and as initial RAM disks.
    pub(super) kernels: Vec<&'e Seen<'e>>,
    pub(super) initrds: Vec<&'e Seen<'e>>,
    /// What GRUB measured as the kernel's command line.
    pub(super) command_lines: Vec<(&'e Seen<'e>, &'e str)>,
}

/// A part that does not fit one of the alternatives.
struct Misfit<'e> {
    event: Option<&'e Seen<'e>>,
    found: String,
    wanted: String,
}

impl<'e> Misfit<'e> {
    fn count(what: &str, found: usize, wanted: &str) -> Self {
        Self {
            event: None,
            found: format!("{found} {what}"),
            wanted: wanted.to_owned(),
        }
    }

    fn of(event: &'e Seen<'e>, what: &str) -> Self {
        Self {
            event: Some(event),
            found: event.digests_text(),
            wanted: format!("a digest listed for {what}"),
        }
    }
}

impl<'e> Chain<'e> {
    /// One firmware and one kernel must fit in all their parts.
    pub(super) fn judge(&self, state: &RefState, breaches: &mut Breaches) {
        let firmware = state.firmware.iter().map(|it| self.firmware(it));
        Self::tell(BreachRule::Firmware, firmware, breaches);
        let mut budget = StepBudget::default();
        let kernels = state.kernels.iter();
        let kernels = kernels.map(|it| self.kernel(it, state.has_secureboot, &mut budget));
        Self::tell(BreachRule::Kernel, kernels, breaches);
    }

    /// Nothing, when one alternative fits; otherwise what does not fit in the nearest.
    fn tell(
        rule: BreachRule,
        alternatives: impl Iterator<Item = Vec<Misfit<'e>>>,
        breaches: &mut Breaches,
    ) {
        let mut nearest: Option<Vec<Misfit<'e>>> = None;
        for misfits in alternatives {
            if misfits.is_empty() {
                return;
            }
            if nearest.as_ref().is_none_or(|it| misfits.len() < it.len()) {
                nearest = Some(misfits);
            }
        }
        let Some(nearest) = nearest else {
            let found = "an empty list in the reference state";
            breaches.push(Breach::of_log(rule, found, "one that lists something"));
            return;
        };
        for Misfit {
            event,
            found,
            wanted,
        } in nearest
        {
            breaches.push(match event {
                Some(event) => Breach::of_event(rule, event, &found, &wanted),
                None => Breach::of_log(rule, &found, &wanted),
            });
        }
    }

    fn firmware(&self, allowed: &Firmware) -> Vec<Misfit<'e>> {
        let mut misfits = Vec::new();
        let crtm = [("the CRTM version", &*allowed.scrtm)];
        in_turn("CRTM versions", &self.crtm, &crtm, &mut misfits);
        let blobs: Vec<_> = allowed
            .blobs
            .iter()
            .map(|blob| ("the platform's firmware", &**blob))
            .collect();
        in_turn("firmware blobs", &self.firmware, &blobs, &mut misfits);
        misfits
    }

    fn kernel(
        &self,
        allowed: &Kernel,
        has_secureboot: bool,
        budget: &mut StepBudget,
    ) -> Vec<Misfit<'e>> {
        let mut misfits = Vec::new();
        let one = std::slice::from_ref::<Digest>;
        let mut started = vec![("shim", one(&allowed.shim)), ("GRUB", one(&allowed.grub))];
        if has_secureboot {
            started.push(("the kernel", one(&allowed.image)));
            // Some versions of GRUB let the kernel be measured twice.
            if self.applications.len() > started.len() {
                started.push(("the kernel", one(&allowed.image)));
            }
        }
        in_turn("started images", &self.applications, &started, &mut misfits);
        let initrd = [("the initial RAM disk", one(&allowed.initrd))];
        in_turn("initial RAM disks", &self.initrds, &initrd, &mut misfits);
        // With Secure Boot the image was measured when it was started; a file there must be.
        match (&*self.kernels, has_secureboot) {
            ([_], true) => {}
            (files, true) => misfits.push(Misfit::count("kernel files", files.len(), "one")),
            (files, false) => {
                let image = [("the kernel", one(&allowed.image))];
                in_turn("kernel files", files, &image, &mut misfits);
            }
        }
        match &*self.command_lines {
            [(event, text)] => {
                let line = format!("kernel_cmdline: {text}");
                if allowed.command_line.excludes_within(&line, budget) != Match::Excluded {
                    misfits.push(Misfit {
                        event: Some(event),
                        found: line,
                        wanted: "a full match of kernel_cmdline".to_owned(),
                    });
                }
            }
            lines => misfits.push(Misfit::count("kernel command lines", lines.len(), "one")),
        }
        misfits
    }
}

/// As many events as there are steps, each with a digest of its step.
fn in_turn<'e>(
    what: &str,
    events: &[&'e Seen<'e>],
    steps: &[(&str, &[Digest])],
    misfits: &mut Vec<Misfit<'e>>,
) {
    if events.len() != steps.len() {
        let wanted = steps.len().to_string();
        misfits.push(Misfit::count(what, events.len(), &wanted));
        return;
    }
    for (event, (name, digests)) in events.iter().zip(steps) {
        if !event.is_one_of(digests) {
            misfits.push(Misfit::of(event, name));
        }
    }
}
