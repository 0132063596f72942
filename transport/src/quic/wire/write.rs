//! Frames to bodies.

use rat_engine::evidence::{Answer, Challenge, ChallengeId};

use super::archive;
use super::error::WireError;
use super::fields::{self, field, log_format_number, status_number};
use super::preamble::FrameType;
use super::{AgentHello, Evidence, Frame, Hello, Refused, RelayWelcome, Versions, Welcome};
use crate::limits;

/// The body of a frame; `None` when there is no memory for it.
pub(super) fn body(frame: &Frame) -> Result<Option<Vec<u8>>, WireError> {
    match frame {
        Frame::Versions(Versions { min, max }) => Ok(Some(vec![*min, *max])),
        Frame::Hello(hello) => Ok(archive::encode(&self::hello(FrameType::Hello, hello)?)),
        Frame::Welcome(welcome) => self::welcome(welcome),
        Frame::Refused(Refused {
            reason,
            retry_after_ms,
        }) => Ok(archive::encode(&archive::Refused {
            reason: reason.number(),
            retry_after_ms: *retry_after_ms,
            extensions: Vec::new(),
        })),
        Frame::Challenge(challenge) => self::challenge(challenge),
        Frame::Evidence(evidence) => self::evidence(evidence),
        Frame::Verdict(id, answer) => Ok(verdict(*id, answer)),
        Frame::Renew(csr) => {
            field(FrameType::Renew, "csr").some_within(fields::CSR, csr.len())?;
            Ok(archive::encode(&archive::Renew {
                csr: csr.clone(),
                extensions: Vec::new(),
            }))
        }
        Frame::Renewed(chain) => {
            field(FrameType::Renewed, "chain").certificates(chain)?;
            Ok(archive::encode(&archive::Renewed {
                chain: chain.clone(),
                extensions: Vec::new(),
            }))
        }
        _ => relayed(frame),
    }
}

/// What a relay and a server say to each other.
fn relayed(frame: &Frame) -> Result<Option<Vec<u8>>, WireError> {
    let extensions = Vec::new();
    Ok(match frame {
        Frame::RelayHello => archive::encode(&archive::RelayHello { extensions }),
        Frame::RelayWelcome(welcome) => return relay_welcome(welcome),
        Frame::AgentHello(AgentHello {
            client_key_sha256,
            hello,
        }) => archive::encode(&archive::AgentHello {
            client_key_sha256: *client_key_sha256,
            hello: self::hello(FrameType::AgentHello, hello)?,
        }),
        Frame::AgentWelcome { next_after_ms } => archive::encode(&archive::AgentWelcome {
            next_after_ms: *next_after_ms,
            extensions,
        }),
        Frame::Arriving(id, bytes) => archive::encode(&archive::Arriving {
            id: id.0,
            bytes: *bytes,
            extensions,
        }),
        Frame::More(id) => archive::encode(&archive::More {
            id: id.0,
            extensions,
        }),
        Frame::Piece(id, bytes) => {
            field(FrameType::Piece, "length").some_within(fields::PIECE, *bytes)?;
            archive::encode(&archive::Piece {
                id: id.0,
                length: u32::try_from(*bytes).unwrap_or(u32::MAX),
                extensions,
            })
        }
        Frame::Left => archive::encode(&archive::Left { extensions }),
        other => {
            let found = other.frame_type();
            return Err(WireError::Unexpected { found });
        }
    })
}

fn relay_welcome(welcome: &RelayWelcome) -> Result<Option<Vec<u8>>, WireError> {
    field(FrameType::RelayWelcome, "ca_set").certificates(&welcome.ca_set)?;
    Ok(archive::encode(&archive::RelayWelcome {
        ca_set: welcome.ca_set.clone(),
        boot_log_bytes_max: welcome.limits.boot_log_bytes_max,
        list_bytes_max: welcome.limits.list_bytes_max,
        upload_bytes_per_second_min: welcome.limits.upload_bytes_per_second_min,
        agents_max: welcome.agents_max,
        hellos_per_second_max: welcome.hellos_per_second_max,
        extensions: Vec::new(),
    }))
}

fn hello(frame: FrameType, hello: &Hello) -> Result<archive::Hello, WireError> {
    let log_formats: Vec<u8> = hello
        .log_formats
        .iter()
        .map(|format| log_format_number(*format))
        .collect();
    let banks: Vec<u16> = hello.banks.iter().map(|bank| bank.tpm_id()).collect();
    field(frame, "log_formats").within(fields::FORMATS, log_formats.len())?;
    field(frame, "log_formats").distinct(log_formats.iter().map(|number| (*number).into()))?;
    field(frame, "banks").within(fields::BANKS, banks.len())?;
    field(frame, "banks").distinct(banks.iter().map(|id| (*id).into()))?;
    Ok(archive::Hello {
        agent: hello.agent.as_str().to_owned(),
        log_formats,
        banks,
        reset_count: hello.reset_count,
        restart_count: hello.restart_count,
        entry_count: hello.entry_count,
        instance: hello.instance.0,
        extensions: Vec::new(),
    })
}

fn welcome(welcome: &Welcome) -> Result<Option<Vec<u8>>, WireError> {
    field(FrameType::Welcome, "ca_set").certificates(&welcome.ca_set)?;
    Ok(archive::encode(&archive::Welcome {
        next_after_ms: welcome.next_after_ms,
        ca_set: welcome.ca_set.clone(),
        boot_log_bytes_max: welcome.limits.boot_log_bytes_max,
        list_bytes_max: welcome.limits.list_bytes_max,
        upload_bytes_per_second_min: welcome.limits.upload_bytes_per_second_min,
        extensions: Vec::new(),
    }))
}

fn challenge(challenge: &Challenge) -> Result<Option<Vec<u8>>, WireError> {
    let selection: Vec<_> = challenge
        .selection
        .banks()
        .map(|(bank, pcrs)| archive::Selection {
            bank: bank.tpm_id(),
            pcrs: pcrs.bits(),
        })
        .collect();
    field(FrameType::Challenge, "selection").some_within(fields::BANKS, selection.len())?;
    Ok(archive::encode(&archive::Challenge {
        id: challenge.id.0,
        nonce: challenge.nonce.0,
        selection,
        ima_from_entry: challenge.ima_from_entry,
        boot_log: challenge.boot_log,
        deadline_ms: challenge.deadline_ms,
        extensions: Vec::new(),
    }))
}

fn evidence(evidence: &Evidence) -> Result<Option<Vec<u8>>, WireError> {
    let frame = FrameType::Evidence;
    field(frame, "quote").some_within(fields::QUOTE, evidence.quote.len())?;
    field(frame, "signature").some_within(fields::SIGNATURE, evidence.signature.len())?;
    Ok(archive::encode(&archive::Evidence {
        id: evidence.challenge.0,
        binding: evidence.claimed_binding,
        quote: evidence.quote.clone(),
        signature: evidence.signature.clone(),
        pcr_values: evidence
            .pcr_values
            .iter()
            .map(|(bank, pcr, value)| archive::PcrValue {
                bank: bank.tpm_id(),
                pcr: pcr.get(),
                value: value.as_bytes().to_vec(),
            })
            .collect(),
        reset_count: evidence.reset_count,
        restart_count: evidence.restart_count,
        ima: evidence.ima.map(|list| archive::List {
            from_entry: list.from_entry,
            count: list.count,
            format: log_format_number(list.format),
            length: list.length,
        }),
        boot_log_length: evidence.boot_log_bytes,
        extensions: Vec::new(),
    }))
}

fn verdict(id: ChallengeId, answer: &Answer) -> Option<Vec<u8>> {
    let end = answer.detail.floor_char_boundary(limits::DETAIL_BYTES_MAX);
    archive::encode(&archive::Verdict {
        id: id.0,
        status: status_number(answer.status),
        code: answer.code.map(|code| code.as_str().to_owned()),
        detail: answer.detail.get(..end).unwrap_or_default().to_owned(),
        next_after_ms: answer.next_after_ms,
        extensions: Vec::new(),
    })
}
