//! Bodies to frames.

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Answer, Challenge, ChallengeId, Instance, Nonce};
use rat_engine::hash::Digest;
use rat_engine::pcr::{PcrIndex, PcrSet, PcrValues};
use rat_engine::tpm::PcrSelection;
use rat_engine::verdict::Code;

use super::archive;
use super::error::{FieldFault, WireError};
use super::fields::{self, field};
use super::preamble::FrameType;
use super::{
    AgentHello, EXTENSION_CRITICAL, Evidence, Frame, Hello, ListHead, Refused, RelayWelcome,
    UploadLimits, Versions, Welcome,
};
use crate::quic::Reason;

/// The frame of this type with this body.
pub(super) fn body(frame: FrameType, body: &[u8]) -> Result<Frame, WireError> {
    match frame {
        FrameType::Versions => match body {
            [min, max] => Ok(Frame::Versions(Versions {
                min: *min,
                max: *max,
            })),
            _ => Err(WireError::Archive { frame }),
        },
        FrameType::Hello => hello(frame, archive::decode(frame, body)?).map(Frame::Hello),
        FrameType::Welcome => welcome(archive::decode(frame, body)?).map(Frame::Welcome),
        FrameType::Refused => {
            let refused: archive::Refused = archive::decode(frame, body)?;
            extensions(frame, &refused.extensions)?;
            Ok(Frame::Refused(Refused {
                reason: Reason::from_number(refused.reason),
                retry_after_ms: refused.retry_after_ms,
            }))
        }
        FrameType::Challenge => challenge(archive::decode(frame, body)?).map(Frame::Challenge),
        FrameType::Evidence => evidence(archive::decode(frame, body)?).map(Frame::Evidence),
        FrameType::Verdict => verdict(archive::decode(frame, body)?),
        FrameType::Renew => {
            let renew: archive::Renew = archive::decode(frame, body)?;
            extensions(frame, &renew.extensions)?;
            field(frame, "csr").some_within(fields::CSR, renew.csr.len())?;
            Ok(Frame::Renew(renew.csr))
        }
        FrameType::Renewed => {
            let renewed: archive::Renewed = archive::decode(frame, body)?;
            extensions(frame, &renewed.extensions)?;
            field(frame, "chain").certificates(&renewed.chain)?;
            Ok(Frame::Renewed(renewed.chain))
        }
        _ => relayed(frame, body),
    }
}

/// What a relay and a server say to each other.
fn relayed(frame: FrameType, body: &[u8]) -> Result<Frame, WireError> {
    match frame {
        FrameType::RelayHello => {
            let hello: archive::RelayHello = archive::decode(frame, body)?;
            extensions(frame, &hello.extensions)?;
            Ok(Frame::RelayHello)
        }
        FrameType::RelayWelcome => {
            relay_welcome(archive::decode(frame, body)?).map(Frame::RelayWelcome)
        }
        FrameType::AgentHello => {
            let archive::AgentHello {
                client_key_sha256,
                hello,
            } = archive::decode(frame, body)?;
            Ok(Frame::AgentHello(AgentHello {
                client_key_sha256,
                hello: self::hello(frame, hello)?,
            }))
        }
        FrameType::AgentWelcome => {
            let welcome: archive::AgentWelcome = archive::decode(frame, body)?;
            extensions(frame, &welcome.extensions)?;
            let next_after_ms = welcome.next_after_ms;
            Ok(Frame::AgentWelcome { next_after_ms })
        }
        FrameType::Arriving => {
            let arriving: archive::Arriving = archive::decode(frame, body)?;
            extensions(frame, &arriving.extensions)?;
            Ok(Frame::Arriving(ChallengeId(arriving.id), arriving.bytes))
        }
        FrameType::More => {
            let more: archive::More = archive::decode(frame, body)?;
            extensions(frame, &more.extensions)?;
            Ok(Frame::More(ChallengeId(more.id)))
        }
        FrameType::Piece => {
            let piece: archive::Piece = archive::decode(frame, body)?;
            extensions(frame, &piece.extensions)?;
            let bytes = usize::try_from(piece.length).unwrap_or(usize::MAX);
            field(frame, "length").some_within(fields::PIECE, bytes)?;
            Ok(Frame::Piece(ChallengeId(piece.id), bytes))
        }
        FrameType::Left => {
            let left: archive::Left = archive::decode(frame, body)?;
            extensions(frame, &left.extensions)?;
            Ok(Frame::Left)
        }
        found => Err(WireError::Unexpected { found }),
    }
}

fn relay_welcome(welcome: archive::RelayWelcome) -> Result<RelayWelcome, WireError> {
    let frame = FrameType::RelayWelcome;
    extensions(frame, &welcome.extensions)?;
    field(frame, "ca_set").certificates(&welcome.ca_set)?;
    Ok(RelayWelcome {
        ca_set: welcome.ca_set,
        limits: UploadLimits {
            boot_log_bytes_max: welcome.boot_log_bytes_max,
            list_bytes_max: welcome.list_bytes_max,
            upload_bytes_per_second_min: welcome.upload_bytes_per_second_min,
        },
        agents_max: welcome.agents_max,
        hellos_per_second_max: welcome.hellos_per_second_max,
    })
}

/// Skips what a newer peer added, unless it may not be skipped. No extension is known yet.
fn extensions(frame: FrameType, list: &[archive::Extension]) -> Result<(), WireError> {
    let here = field(frame, "extensions");
    here.within(fields::EXTENSIONS, list.len())?;
    here.distinct(list.iter().map(|extension| extension.id.into()))?;
    for extension in list {
        here.within(fields::EXTENSION, extension.bytes.len())?;
        if extension.id & EXTENSION_CRITICAL != 0 {
            let id = extension.id;
            return Err(WireError::CriticalExtension { frame, id });
        }
    }
    Ok(())
}

fn hello(frame: FrameType, hello: archive::Hello) -> Result<Hello, WireError> {
    extensions(frame, &hello.extensions)?;
    let agent = AgentId::parse(&hello.agent)
        .map_err(|error| field(frame, "agent").fault(FieldFault::AgentId(error)))?;
    let here = field(frame, "log_formats");
    here.within(fields::FORMATS, hello.log_formats.len())?;
    here.distinct(hello.log_formats.iter().map(|number| (*number).into()))?;
    let log_formats = hello.log_formats.iter();
    let log_formats = log_formats.map(|number| here.log_format(*number));
    let log_formats = log_formats.collect::<Result<_, _>>()?;
    let here = field(frame, "banks");
    here.within(fields::BANKS, hello.banks.len())?;
    here.distinct(hello.banks.iter().map(|id| (*id).into()))?;
    let banks = hello.banks.iter().map(|id| here.bank(*id));
    Ok(Hello {
        agent,
        log_formats,
        banks: banks.collect::<Result<_, _>>()?,
        reset_count: hello.reset_count,
        restart_count: hello.restart_count,
        entry_count: hello.entry_count,
        instance: Instance(hello.instance),
    })
}

fn welcome(welcome: archive::Welcome) -> Result<Welcome, WireError> {
    let frame = FrameType::Welcome;
    extensions(frame, &welcome.extensions)?;
    field(frame, "ca_set").certificates(&welcome.ca_set)?;
    Ok(Welcome {
        next_after_ms: welcome.next_after_ms,
        ca_set: welcome.ca_set,
        limits: UploadLimits {
            boot_log_bytes_max: welcome.boot_log_bytes_max,
            list_bytes_max: welcome.list_bytes_max,
            upload_bytes_per_second_min: welcome.upload_bytes_per_second_min,
        },
    })
}

fn challenge(challenge: archive::Challenge) -> Result<Challenge, WireError> {
    let frame = FrameType::Challenge;
    extensions(frame, &challenge.extensions)?;
    let here = field(frame, "selection");
    here.some_within(fields::BANKS, challenge.selection.len())?;
    here.distinct(challenge.selection.iter().map(|one| one.bank.into()))?;
    let mut banks = Vec::with_capacity(challenge.selection.len());
    for one in &challenge.selection {
        let pcrs = PcrSet::from_bits(one.pcrs).ok_or(here.unknown(one.pcrs.into()))?;
        banks.push((here.bank(one.bank)?, pcrs));
    }
    // The banks are distinct: `new` refuses nothing else.
    let selection = PcrSelection::new(banks).ok_or(here.fault(FieldFault::Empty))?;
    if selection.is_empty() {
        return Err(here.fault(FieldFault::Empty));
    }
    Ok(Challenge {
        id: ChallengeId(challenge.id),
        nonce: Nonce(challenge.nonce),
        selection,
        ima_from_entry: challenge.ima_from_entry,
        boot_log: challenge.boot_log,
        deadline_ms: challenge.deadline_ms,
    })
}

fn evidence(evidence: archive::Evidence) -> Result<Evidence, WireError> {
    let frame = FrameType::Evidence;
    extensions(frame, &evidence.extensions)?;
    field(frame, "quote").some_within(fields::QUOTE, evidence.quote.len())?;
    field(frame, "signature").some_within(fields::SIGNATURE, evidence.signature.len())?;
    let ima = match evidence.ima {
        None => None,
        Some(list) => Some(ListHead {
            from_entry: list.from_entry,
            count: list.count,
            format: field(frame, "ima.format").log_format(list.format)?,
            length: list.length,
        }),
    };
    Ok(Evidence {
        challenge: ChallengeId(evidence.id),
        claimed_binding: evidence.binding,
        pcr_values: pcr_values(&evidence.pcr_values)?,
        quote: evidence.quote,
        signature: evidence.signature,
        reset_count: evidence.reset_count,
        restart_count: evidence.restart_count,
        ima,
        boot_log_bytes: evidence.boot_log_length,
    })
}

fn pcr_values(list: &[archive::PcrValue]) -> Result<PcrValues, WireError> {
    let here = field(FrameType::Evidence, "pcr_values");
    here.within(fields::PCR_VALUES, list.len())?;
    let mut values = PcrValues::new();
    for one in list {
        let bank = here.bank(one.bank)?;
        let pcr = PcrIndex::new(one.pcr.into()).ok_or(here.unknown(one.pcr.into()))?;
        let value = Digest::new(bank, &one.value).map_err(|error| {
            let found = error.found;
            here.fault(FieldFault::DigestSize { found })
        })?;
        if !values.insert(pcr, value) {
            let value = one.pcr.into();
            return Err(here.fault(FieldFault::Duplicate { value }));
        }
    }
    Ok(values)
}

fn verdict(verdict: archive::Verdict) -> Result<Frame, WireError> {
    let frame = FrameType::Verdict;
    extensions(frame, &verdict.extensions)?;
    field(frame, "detail").within(fields::DETAIL, verdict.detail.len())?;
    let mut detail = verdict.detail;
    let mut code = None;
    if let Some(text) = verdict.code {
        field(frame, "code").within(fields::CODE, text.len())?;
        code = Code::from_text(&text);
        // A newer server has codes that this agent cannot name: it passes on their text.
        if code.is_none() {
            detail = format!("{text}: {detail}");
        }
    }
    let answer = Answer {
        status: field(frame, "status").status(verdict.status)?,
        code,
        detail,
        next_after_ms: verdict.next_after_ms,
    };
    Ok(Frame::Verdict(ChallengeId(verdict.id), answer))
}
