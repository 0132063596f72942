//! A machine with a TPM, on which nothing runs yet: for `rat-agent` itself.

use std::path::Path;

use rat_load::measured::Entry;
use rat_load::swtpm::{Kernel, Manufacturer, Process};

/// A machine that has booted.
pub(crate) struct Machine {
    process: Process,
    kernel: Kernel,
}

impl Machine {
    /// Makes a TPM in `folder`, certified by the maker whose CA is in `maker`, and boots; the same
    /// two programs run as on the machines of `rat-load swtpm`.
    pub(crate) fn boot(folder: &Path, maker: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let tpm = folder.join("tpm");
        Manufacturer::new(maker).unwrap().make(&tpm).unwrap();
        let process = Process::start(&tpm).unwrap();
        let kernel = Kernel::new(folder);
        kernel.boot(process.tcti()).unwrap();
        for path in ["/usr/bin/init", "/usr/bin/service"] {
            let entry = Entry::file(path, path.as_bytes());
            kernel.measure(process.tcti(), &entry).unwrap();
        }
        Self { process, kernel }
    }

    /// What `rat-agent` is told by its environment: which TPM, and where a kernel shows its lists.
    pub(crate) fn variables(&self, folder: &Path) -> Vec<(String, String)> {
        let paths = self.kernel.paths();
        let shown = |path: &Path| path.display().to_string();
        [
            ("RAT_AGENT_TCTI", self.process.tcti().to_string()),
            ("RAT_AGENT_STATE_DIR", shown(&folder.join("state"))),
            ("RAT_AGENT_IMA_BINARY", shown(&paths.ima_binary)),
            ("RAT_AGENT_IMA_ASCII", shown(&paths.ima_ascii)),
            ("RAT_AGENT_BOOT_LOG", shown(&paths.boot_log)),
            ("RAT_AGENT_BOOT_ID", shown(&paths.boot_id)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}
