//! Challenges to a machine in software, its answers, and the engine's tasks for them.

use std::sync::Arc;

use rat_engine::agent_id::AgentId;
use rat_engine::appraisal::Rules;
use rat_engine::crypto::VerifyingKey;
use rat_engine::evidence::{
    Binding, Challenge, ChallengeId, ImaUpload, Nonce, SessionId, Submission, qualifying_data,
};
use rat_engine::hash::HashAlg;
use rat_engine::ima::judge::Judge;
use rat_engine::ima::{ImaOptions, Start};
use rat_engine::policy::RuntimePolicy;
use rat_engine::shard::{Assignment, BootEpoch, Judged, Task};
use rat_engine::time::Now;
use rat_engine::tpm::{PcrSelection, Public};

use crate::evidence::{Machine, boot_log};
use crate::software_tpm::{Attest, Scheme, SoftwareAk};

/// The channel that evidence comes over.
pub const BINDING: Binding = Binding::Channel([0xc5; 32]);

/// The boot that machines in software are in.
pub const BOOT: BootEpoch = BootEpoch {
    reset_count: 7,
    restart_count: 0,
};

/// The id of the machine.
pub fn agent() -> AgentId {
    AgentId::parse("machine-1").unwrap()
}

/// The Name of a machine's attestation key.
pub fn ak_name(machine: &Machine) -> Vec<u8> {
    let public = machine.ak.public();
    Public::parse(&public).unwrap().name().to_bytes()
}

/// A challenge that asks for the list from this entry.
pub fn challenge(machine: &Machine, ima_from_entry: Option<u64>) -> Challenge {
    Challenge {
        id: ChallengeId([0x1d; 16]),
        nonce: Nonce([0x4e; 32]),
        selection: PcrSelection::new(machine.banks.iter().copied()).unwrap(),
        ima_from_entry,
        boot_log: false,
        deadline_ms: 5_000,
    }
}

/// The machine's answer over [`BINDING`], its list from entry `from` all at once.
pub fn answer(machine: &Machine, challenge: &Challenge, from: usize) -> Submission {
    answer_with(machine, challenge, from, |_| {})
}

/// The same after a change to what the TPM signs.
pub fn answer_with(
    machine: &Machine,
    challenge: &Challenge,
    from: usize,
    change: impl FnOnce(&mut Attest),
) -> Submission {
    answer_as(machine, &agent(), challenge, from, change)
}

/// The same by the machine of this id.
pub fn answer_as(
    machine: &Machine,
    agent: &AgentId,
    challenge: &Challenge,
    from: usize,
    change: impl FnOnce(&mut Attest),
) -> Submission {
    let nonce = qualifying_data(challenge, &BINDING, &ak_name(machine), agent);
    let list = machine.list.get(from..).unwrap();
    let made = machine.attest(&nonce).with_attest(change);
    let bytes = crate::measured::ascii(list);
    Submission {
        challenge: challenge.id,
        binding: BINDING,
        claimed_binding: None,
        quote: made.quote,
        signature: made.signature,
        pcr_values: made.values,
        boot_log: challenge.boot_log.then(boot_log),
        ima: Some(ImaUpload {
            from_entry: from as u64,
            format: made.format,
            length: bytes.len() as u64,
            whole: Some(bytes),
        }),
    }
}

/// The submission with its list announced, and the bytes that follow.
pub fn streamed(mut submission: Submission) -> (Submission, Vec<u8>) {
    let upload = submission.ima.as_mut().unwrap();
    let bytes = upload.whole.take().unwrap();
    (submission, bytes)
}

/// What a group that enforces the machine's own policy makes of an answer.
pub fn assignment(machine: &Machine, challenge: Challenge, submission: Submission) -> Assignment {
    let public = machine.ak.public();
    let key = VerifyingKey::from_tpm(&Public::parse(&public).unwrap()).unwrap();
    let policy = RuntimePolicy::parse(machine.policy().as_bytes()).unwrap();
    Assignment {
        agent: agent(),
        session: SessionId(1),
        challenge,
        issued: Now {
            mono_ms: 1_000,
            unix_ms: 1_800_000_000_000,
        },
        key: key.into(),
        ak_name: ak_name(machine).into(),
        rules: Rules {
            strict: true,
            ..Rules::default()
        },
        pcr_policy: None,
        boot_pcrs: None,
        measured_boot: None,
        judge: Some(Arc::new(Judge::new(policy.into()).unwrap())),
        ima: ImaOptions::default(),
        start: Start::First,
        boot: None,
        submission,
    }
}

/// The next evidence of a machine that was attested once; its list has nothing new.
pub fn steady(scheme: Scheme, nth: u8) -> Assignment {
    let machine = Machine::valid().with(|it| it.ak = SoftwareAk::new(scheme, HashAlg::Sha256));
    let of = |from: usize, mut challenge: Challenge| {
        challenge.nonce.0 = [nth; 32];
        let submission = answer(&machine, &challenge, from);
        assignment(&machine, challenge, submission)
    };
    let proven = run(of(0, challenge(&machine, Some(0)))).ima.unwrap();
    let position = proven.committed.position();
    let mut next = of(machine.list.len(), challenge(&machine, Some(position)));
    let policy = next.judge.as_ref().unwrap().policy().compiled().digest();
    next.start = Start::Continue {
        committed: proven.committed,
        learned: proven.learned,
        passed_under: Some(policy),
    };
    next.boot = Some(BOOT);
    next
}

/// Runs a task whose list came whole.
pub fn run(assignment: Assignment) -> Judged {
    let mut task = Task::new(assignment);
    task.begin();
    assert_eq!(task.remaining(), 0);
    task.finish()
}

/// The codes of what failed.
pub fn codes(judged: &Judged) -> Vec<&'static str> {
    let codes = judged.findings.iter().map(|finding| finding.code.as_str());
    codes.collect()
}
