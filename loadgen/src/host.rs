//! The machine that a run was on: figures of two machines say nothing about each other.

use std::num::NonZeroUsize;

/// Its processor, and how many cores of it this process may use.
pub fn description() -> String {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    format!("{} ({cores} cores)", processor(&cpuinfo))
}

/// The model in `/proc/cpuinfo`; machines other than x86 do not name one there.
fn processor(cpuinfo: &str) -> &str {
    let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let model = fields.find(|(name, _)| name.trim() == "model name");
    model.map_or(std::env::consts::ARCH, |(_, model)| model.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_a_name_or_an_architecture() {
        let x86 = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\n\nprocessor\t: 1\n";
        assert_eq!(processor(x86), "Some CPU @ 2.00GHz");
        assert_eq!(processor("processor\t: 0\n"), std::env::consts::ARCH);
        assert!(description().ends_with(" cores)"));
    }
}
