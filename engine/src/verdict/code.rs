//! Stable codes: what a verdict may say, who is to blame for it, and what to do.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Whose doing a code may be taken for.
///
/// Only the last two may change what is recorded of an agent; anybody can cause the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attribution {
    /// Whoever sent the bytes. Counts against the sender and changes nothing about the agent.
    Sender,
    /// The operator: configuration or policy cannot be used.
    Operator,
    /// The agent, where the channel authenticated it; the sender, where it did not.
    Channel,
    /// The agent: its attestation key signed for what is wrong.
    Agent,
}

impl Attribution {
    /// One lower-case word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Operator => "operator",
            Self::Channel => "channel",
            Self::Agent => "agent",
        }
    }
}

macro_rules! codes {
    ($($variant:ident $text:literal $attribution:ident $cause:literal $remedy:literal;)*) => {
        /// A stable code. `docs/verdicts.md` has cause and remedy of each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = concat!("`", $text, "`: ", $cause)] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the stages.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable text: stage, dot, fault.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Whose doing it may be taken for.
            pub const fn attribution(self) -> Attribution {
                match self { $(Self::$variant => Attribution::$attribution,)* }
            }

            /// What happened, in a sentence.
            pub const fn cause(self) -> &'static str {
                match self { $(Self::$variant => $cause,)* }
            }

            /// What to do about it.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

codes! {
    AkMalformed "ak.malformed" Sender
        "The attestation key is not a TPM2B_PUBLIC, TPMT_PUBLIC or PEM public key."
        "Export the key again, for example with tpm2_readpublic.";
    AkNotAllowed "ak.not_allowed" Sender
        "The attestation key is of a kind, size or curve that is not accepted."
        "Use RSA of 2048, 3072 or 4096 bits, or ECC on P-256, P-384 or P-521.";
    AkAttributes "ak.attributes" Sender
        "The key is not a restricted signing key that stays in its TPM, so it could sign a forged quote."
        "Create the key as an attestation key (tpm2_createak); do not reuse another key.";
    AkRoca "ak.roca" Sender
        "The RSA modulus has the fingerprint of CVE-2017-15361: the private key can be computed."
        "Update the TPM's firmware and create a new key, or use ECC.";

    QuoteMalformed "quote.malformed" Sender
        "The attestation or its signature is not the structure that a TPM makes."
        "Check that the file is what the TPM returned, whole and unconverted.";
    QuoteWrongType "quote.wrong_type" Sender
        "The bytes were not made by TPM2_Quote: wrong magic value or attestation type."
        "Send a quote. If a TPM signed this, look for misuse of its key.";
    QuoteAlgNotAllowed "quote.alg_not_allowed" Sender
        "Signature scheme or hash is not accepted, or does not fit the key."
        "Use RSASSA, RSAPSS or ECDSA with SHA-256 or better; allow SHA-1 only for old TPMs.";
    QuoteNonceMismatch "quote.nonce_mismatch" Sender
        "The quote was made for another challenge: its extraData is not the expected nonce."
        "Ask for a new quote; give the nonce exactly as the TPM got it.";
    QuoteSignature "quote.signature" Sender
        "The signature is not the attestation key's over this quote."
        "Check that key and quote belong together; otherwise treat the quote as forged.";

    QuoteStale "quote.stale" Sender
        "The evidence answers no open challenge: it came after the deadline, or the server restarted."
        "Wait for the next challenge; if it recurs, allow more time for slow links.";
    QuoteNonceConsumed "quote.nonce_consumed" Sender
        "The challenge was answered before; evidence counts once."
        "Nothing, if it was a resend. Otherwise somebody replays evidence.";
    QuoteSignerMismatch "quote.signer_mismatch" Sender
        "The evidence answers a challenge that was made for another agent."
        "Look for the machine that sends other machines' evidence.";
    QuoteChannelMismatch "quote.channel_mismatch" Sender
        "The quote is bound to another connection than the one it came over."
        "Look for somebody who relays evidence between connections.";

    TimeRollback "time.rollback" Agent
        "The TPM's clock or one of its boot counters went back."
        "Look for a restored snapshot of a virtual machine; enrol again if its TPM was replaced.";
    TimeResetWithoutReboot "time.reset_without_reboot" Agent
        "The TPM was reset while the machine kept running, so its PCRs can be filled again."
        "Treat the machine as compromised until it was rebooted and inspected.";
    IdentityCloneSuspected "identity.clone_suspected" Agent
        "Two machines, or a machine and a copy of it that was put back, seem to answer with one key."
        "Find the clone; a virtual TPM must never be copied together with a disk.";
    IdentityHistoryLost "identity.history_lost" Agent
        "The agent was removed while its record could not be read: whether the machine had failed is not known."
        "Inspect the machine; then an operator clears the failure.";
    PathNotEnrolled "path.not_enrolled" Sender
        "The agent is enrolled by another path than the one its evidence came by."
        "Use the path that it was enrolled for, or have an operator change it.";

    PcrMalformed "pcr.malformed" Sender
        "The PCR values cannot be read."
        "Send them as JSON by bank and index, or as the file that tpm2_quote writes.";
    PcrSelectionMismatch "pcr.selection_mismatch" Sender
        "The quote selects no PCR, or others than were asked for."
        "Quote exactly the PCRs of the challenge.";
    PcrBankNotAllowed "pcr.bank_not_allowed" Agent
        "The quote covers the SHA-1 bank, which can be forged."
        "Quote the SHA-256 bank; allow SHA-1 only for TPMs that have no other.";
    PcrBankNotPinned "pcr.bank_not_pinned" Agent
        "The quote has no value in the bank that is pinned for this machine."
        "Quote the pinned bank, or have an operator pin another.";
    PcrDigestMismatch "pcr.digest_mismatch" Channel
        "The PCR values are not the ones that were quoted."
        "Read PCRs and quote together; if it recurs, somebody alters the values.";
    PcrNotAttested "pcr.not_attested" Agent
        "A PCR that the policy or a log needs is not in the quote."
        "Add it to the selection.";
    PcrValueNotAllowed "pcr.value_not_allowed" Agent
        "A quoted PCR has a value that the PCR policy does not list."
        "Find what changed in that PCR; list the new value only if the change was meant.";
    PcrBankUnextended "pcr.bank_unextended" Agent
        "Firmware left PCR 0-7 of the quoted bank at reset values, so software can fill them (CVE-2021-42299)."
        "Enable the bank in the firmware's setup, or quote one that it extends.";
    PcrBootChanged "pcr.boot_changed" Agent
        "A boot PCR has another value than earlier in the same boot."
        "Nothing measures into boot PCRs once the system runs: investigate the machine.";
    PcrBootNotQuoted "pcr.boot_not_quoted" Agent
        "IMA was quoted without PCR 0-9, so nothing ties the list to this boot."
        "Quote PCR 0-9 together with PCR 10.";

    UefiLogMissing "uefi.log_missing" Channel
        "PCRs are to be explained by a boot log and none was sent."
        "Check that the kernel exposes binary_bios_measurements and that the agent may read it. \
         Where firmware writes none: ratd group set GROUP --require-boot-log false.";
    UefiMalformed "uefi.malformed" Channel
        "The boot log is not a TCG event log."
        "Send binary_bios_measurements unchanged.";
    UefiEmpty "uefi.empty" Channel
        "The boot log has no events."
        "Check that firmware and kernel expose binary_bios_measurements.";
    UefiLimit "uefi.limit" Channel
        "The boot log is larger than any real one."
        "Send one boot's log only.";
    UefiOrder "uefi.order" Channel
        "Events stand where firmware cannot have put them, for example two separators in one PCR."
        "Update the firmware; if the order is a forgery, investigate the machine.";
    UefiEventDigest "uefi.event_digest" Channel
        "An event's data is not what its digest covers."
        "Treat the log as altered.";
    UefiBankMissing "uefi.bank_missing" Channel
        "The boot log has no digests for the quoted bank."
        "Quote a bank that the firmware logs.";
    UefiPcrMismatch "uefi.pcr_mismatch" Channel
        "Replaying the boot log does not give the quoted PCR values."
        "Take log and quote from one boot; if they are, events were hidden or altered.";
    UefiPolicyRejected "uefi.policy_rejected" Channel
        "The measured boot policy is reject-all."
        "Name another policy (keylime.measured_boot_policy_name).";
    UefiPolicyEvent "uefi.policy_event" Channel
        "The boot log has an event that the measured boot policy does not allow there, or not so often."
        "Find what measured it; the policy `example` knows shim, GRUB and Linux only.";
    UefiPolicyUnbound "uefi.policy_unbound" Channel
        "The digest of an event is not that of the content by which the measured boot policy judges it."
        "Treat the log as altered, unless the boot loader is one that measures otherwise.";
    UefiPolicySecureBoot "uefi.policy_secure_boot" Channel
        "Secure Boot is not as the measured boot policy wants it, or was not measured."
        "Switch Secure Boot on (or off) in the firmware's setup.";
    UefiPolicyKeys "uefi.policy_keys" Channel
        "PK, KEK, db or vendor_db holds a key that the measured boot policy does not list, or was not measured."
        "List the key if an update brought it; otherwise find who enrolled it.";
    UefiPolicyDbx "uefi.policy_dbx" Channel
        "dbx lacks an entry that the measured boot policy requires, or was not measured."
        "Update dbx (fwupdmgr update).";
    UefiPolicyFirmware "uefi.policy_firmware" Channel
        "The firmware's measurements are not those of one firmware that the measured boot policy lists."
        "If the firmware was updated, add its digests under scrtm_and_bios.";
    UefiPolicyMok "uefi.policy_mok" Channel
        "MokList, MokListX or MokListTrusted is none that the measured boot policy lists."
        "If a machine owner's key was enrolled on purpose, add the digest under mokdig.";
    UefiPolicyKernel "uefi.policy_kernel" Channel
        "Shim, GRUB, kernel, initial RAM disk and command line are not those of one kernel that the measured boot policy lists."
        "If they were updated, add an element to kernels; otherwise investigate the machine.";

    ImaMalformed "ima.malformed" Channel
        "An entry of the measurement list cannot be read."
        "Send the kernel's list unchanged; prefer the binary list for odd file names.";
    ImaLimit "ima.limit" Channel
        "The measurement list is longer than allowed."
        "Narrow the kernel's IMA policy; with `rat verify`, raise --max-log-size.";
    ImaTemplateUnsupported "ima.template_unsupported" Channel
        "An entry has a template that is unknown or not accepted."
        "Use ima-ng, ima-sig or another supported template on the kernel's command line.";
    ImaTemplateHash "ima.template_hash" Channel
        "An entry's template hash is not the hash of its fields."
        "The list was altered, or its hash algorithm is not the declared one.";
    ImaWrongPcr "ima.wrong_pcr" Channel
        "An entry names a PCR that is not among the quoted IMA PCRs."
        "Declare and quote every PCR that the kernel's IMA policy uses.";
    ImaPcrMismatch "ima.pcr_mismatch" Channel
        "After no entry does the replayed list give the quoted PCR value."
        "Quote first, then read the list. If that was so, entries were altered or removed.";
    ImaBanksDisagree "ima.banks_disagree" Channel
        "The quoted banks or IMA PCRs match the list after different entries."
        "One of them was extended by something other than IMA: investigate the machine.";
    ImaTruncated "ima.truncated" Channel
        "The list proves fewer entries than were proven earlier in this boot."
        "Send the whole list; if it is whole, entries were removed.";
    ImaOffsetMismatch "ima.offset_mismatch" Sender
        "The list starts at another entry than the next one expected."
        "Send the list from the expected entry, or from 0.";
    ImaIncomplete "ima.incomplete" Sender
        "Not as many bytes of the measurement list came as were announced, or they end within an entry."
        "Nothing, if the connection broke. If it recurs, look for what cuts the list short.";
    ImaKexecLogLost "ima.kexec_log_lost" Channel
        "The kernel was replaced by kexec and did not carry its list over."
        "Enable CONFIG_IMA_KEXEC, or reboot instead.";
    ImaHibernated "ima.hibernated" Channel
        "The machine was hibernated: its list goes on from before the TPM was reset."
        "Reboot the machine; disable hibernation.";
    ImaBootAggregate "ima.boot_aggregate" Channel
        "Nothing shows that the list is of this boot: boot_aggregate is missing, wrong or not proven."
        "The list is of another boot or machine, or the kernel had no TPM or no IMA policy.";
    ImaBootAggregateUnverifiable "ima.boot_aggregate_unverifiable" Channel
        "PCR 0-9 of boot_aggregate's bank were neither quoted nor replayed."
        "Quote PCR 0-9 of that bank, send the boot log, or list the aggregate in the policy.";
    ImaNoProgress "ima.no_progress" Agent
        "Entries stay beyond the cut, quote after quote."
        "Quote first, then read the list; if that is so, the TPM does not get what the kernel logs.";
    ImaLogMissing "ima.log_missing" Channel
        "There is a runtime policy and no measurement list to judge."
        "Send the list; check that IMA is enabled.";
    ImaViolation "ima.violation" Agent
        "A file was written while it was measured, so what ran is unknown."
        "Find the writer; reboot to clear the list. Excludes never excuse a violation.";
    ImaPathNotListed "ima.path_not_listed" Agent
        "A file ran that the policy does not know."
        "If it is meant to run, add it and roll out a new policy version.";
    ImaDigestNotListed "ima.digest_not_listed" Agent
        "A file ran with other content than the policy lists."
        "If it was updated on purpose, add the digest; otherwise investigate the machine.";
    ImaSigMalformed "ima.sig_malformed" Channel
        "A signature field holds something that is not a signature."
        "Sign the file again; if it is a buffer under another name, the list was relabelled.";
    ImaSigInvalid "ima.sig_invalid" Agent
        "No approved key made a file's signature, and the policy demands one that did."
        "Sign the file with an approved key, or approve the key.";
    ImaBufDigest "ima.buf_digest" Channel
        "A measured buffer does not have the digest that was measured."
        "The entry is relabelled or altered: investigate the machine.";
    ImaBufNotListed "ima.buf_not_listed" Channel
        "The kernel measured a buffer that the policy does not know."
        "If it is meant, add its name and digest under ima-buf.";
    ImaBufDigestNotListed "ima.buf_digest_not_listed" Channel
        "A measured buffer has other content than the policy lists."
        "If the change is meant, add the digest under ima-buf.";
    ImaKeyNotListed "ima.key_not_listed" Agent
        "A key was added to a kernel keyring for which the policy does not list it."
        "If it is meant, add its digest under keyrings.";
    ImaKeyUnusable "ima.key_unusable" Agent
        "A listed key that was added to a keyring is of a kind that cannot verify signatures."
        "Use RSA of at least 2048 bits or ECDSA.";
    ImaKeysTooMany "ima.keys_too_many" Agent
        "More keys were added to keyrings than are kept."
        "Ignore keyrings that need not be judged.";

    PolicyMissing "policy.missing" Operator
        "There is no policy, or an empty one."
        "Give the machine's group a policy; missing is never permission.";
    PolicyResettablePcr "policy.resettable_pcr" Operator
        "The policy or configuration relies on PCR 16 or 23, which software can reset at any time."
        "Use another PCR.";
    PolicyMalformed "policy.malformed" Operator
        "The policy cannot be read."
        "Run `rat policies lint` on it.";
}

impl Code {
    /// The code with this text.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_text(&text).ok_or_else(|| serde::de::Error::custom("unknown verdict code"))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
