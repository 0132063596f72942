//! A simulated machine: a software TPM, a kernel that measures, and what was done to it.

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Binding, Challenge, ImaUpload, Instance, Submission, qualifying_data};
use rat_engine::shard::BootEpoch;
use rat_engine::tpm::Public;
use rat_tests::evidence::{Machine, boot_log};
use rat_tests::measured::{self, Measured};

#[derive(Debug, Clone)]
pub(crate) struct SimMachine {
    pub(crate) id: AgentId,
    pub(crate) machine: Machine,
    pub(crate) boot: BootEpoch,
    /// Virtual time at which the TPM's clock was 0.
    powered_at_ms: u64,
    /// When something ran that the policy does not allow.
    pub(crate) compromised_at_ms: Option<u64>,
    /// Until when it is booting.
    pub(crate) down_until_ms: u64,
    /// When it was copied.
    pub(crate) copied_at_ms: Option<u64>,
    /// When an operator set it right.
    pub(crate) repaired_at_ms: Option<u64>,
    /// Whether it shows no list.
    hides: bool,
    /// Whether it ever did, since an operator set it right.
    pub(crate) has_hidden: bool,
    /// The life of its agent.
    pub(crate) instance: Instance,
    ak_name: Vec<u8>,
}

impl SimMachine {
    pub(crate) fn new(id: AgentId) -> Self {
        let machine = Machine::valid();
        let public = machine.ak.public();
        let ak_name = Public::parse(&public).unwrap().name().to_bytes();
        Self {
            id,
            machine,
            boot: BootEpoch {
                reset_count: 3,
                restart_count: 0,
            },
            powered_at_ms: 0,
            compromised_at_ms: None,
            down_until_ms: 0,
            copied_at_ms: None,
            repaired_at_ms: None,
            hides: false,
            has_hidden: false,
            instance: Instance([0; 16]),
            ak_name,
        }
    }

    pub(crate) const fn is_clean(&self) -> bool {
        self.compromised_at_ms.is_none()
    }

    /// Runs a file that the policy lists.
    pub(crate) fn run_allowed(&mut self, nth: u64) {
        let known = [("/usr/bin/bash", "bash"), ("/usr/bin/ls", "ls")];
        let (path, content) = known[nth as usize % known.len()];
        self.machine
            .list
            .push(Measured::file(path, content.as_bytes()));
    }

    /// Runs a file that the policy does not list.
    pub(crate) fn run_unlisted(&mut self, now_ms: u64) {
        self.machine
            .list
            .push(Measured::file("/tmp/implant", b"implant"));
        self.compromised_at_ms.get_or_insert(now_ms);
    }

    /// Reboots; what ran before is gone from the list, and stays on record.
    pub(crate) fn reboot(&mut self, now_ms: u64) {
        self.boot.reset_count += 1;
        self.boot.restart_count = 0;
        self.comes_up(now_ms);
    }

    /// The same after an orderly shutdown that kept the TPM's state, but not its PCRs. (T05)
    pub(crate) fn restart(&mut self, now_ms: u64) {
        self.boot.restart_count += 1;
        self.comes_up(now_ms);
    }

    fn comes_up(&mut self, now_ms: u64) {
        self.hides = false;
        self.down_until_ms = now_ms + 5_000;
        self.machine.list.truncate(4);
        self.start_agent();
    }

    /// Boots a kernel that measures nothing, shows no list, and extends the list of the boot before
    /// into its PCR: what was proven then could be continued, if anybody let it. (P06)
    pub(crate) fn boot_unseen(&mut self, now_ms: u64) {
        let list = std::mem::take(&mut self.machine.list);
        self.reboot(now_ms);
        self.machine.list = list;
        self.hides = true;
        self.has_hidden = true;
    }

    /// Shows a list from now on.
    pub(crate) fn shows(&mut self) {
        self.hides = false;
    }

    /// Its agent begins another life.
    pub(crate) fn start_agent(&mut self) {
        let life = u128::from_le_bytes(self.instance.0);
        self.instance = Instance((life + 1).to_le_bytes());
    }

    /// Is installed anew.
    pub(crate) fn repair(&mut self, now_ms: u64) {
        self.compromised_at_ms = None;
        self.copied_at_ms = None;
        self.repaired_at_ms = Some(now_ms);
        self.has_hidden = false;
        self.reboot(now_ms);
    }

    /// Its answer to a challenge over a connection with this binding.
    pub(crate) fn answer(
        &self,
        challenge: &Challenge,
        binding: [u8; 32],
        now_ms: u64,
    ) -> Submission {
        let channel = Binding::Channel(binding);
        let nonce = qualifying_data(challenge, &channel, &self.ak_name, &self.id);
        let mut from = challenge.ima_from_entry.unwrap();
        if from > self.machine.list.len() as u64 {
            from = 0;
        }
        let made = self.machine.attest(&nonce).with_attest(|attest| {
            attest.clock = 1_000 + now_ms - self.powered_at_ms;
            attest.reset_count = self.boot.reset_count;
            attest.restart_count = self.boot.restart_count;
        });
        let bytes = measured::ascii(&self.machine.list[from as usize..]);
        Submission {
            challenge: challenge.id,
            binding: channel,
            claimed_binding: Some(binding),
            quote: made.quote,
            signature: made.signature,
            pcr_values: made.values,
            boot_log: challenge.boot_log.then(boot_log),
            ima: (!self.hides).then_some(ImaUpload {
                from_entry: from,
                format: made.format,
                length: bytes.len() as u64,
                whole: Some(bytes),
            }),
        }
    }
}
