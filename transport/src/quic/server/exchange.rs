//! One challenge at a time, its answer, and the verdict.

use std::time::Duration;

use quinn::{RecvStream, SendStream};
use rat_engine::evidence::{Answer, Challenge, ChallengeId, Refusal, ToAgent};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::end::End;
use super::outbox::Inbox;
use super::session::{Session, not_reading};
use super::upload::{Upload, UploadEnd};
use crate::limits;
use crate::measures;
use crate::quic::Reason;
use crate::quic::streams::write_frame;
use crate::quic::wire::{Frame, Refused};

/// What follows an exchange.
enum Next {
    /// Wait for the shard.
    Idle,
    /// The shard has given up the open challenge and made another.
    Challenge(Challenge),
}

/// Carries challenges and verdicts until the connection is to end.
pub(super) async fn run(session: &Session<'_>, inbox: &mut Inbox) -> End {
    loop {
        let message = tokio::select! {
            message = inbox.recv() => message,
            () = session.draining() => return let_go(session),
        };
        let mut challenge = match message {
            None => return let_go(session),
            Some(ToAgent::Challenge(challenge)) => challenge,
            Some(ToAgent::Refused {
                code,
                retry_after_ms,
            }) => {
                return End::refused(code.into(), retry_after_ms);
            }
            // The verdict of an exchange that ended early, or of one before this connection.
            Some(ToAgent::Welcome { .. } | ToAgent::More(_) | ToAgent::Verdict(..)) => continue,
        };
        loop {
            match exchange(session, inbox, challenge).await {
                Ok(Next::Idle) => break,
                Ok(Next::Challenge(newer)) => challenge = newer,
                Err(end) => return end,
            }
        }
    }
}

/// The server stops: it says so, or its shard let go of the session without a word.
fn let_go(session: &Session<'_>) -> End {
    End::Refused(session.shared.stopping(session.id))
}

/// One challenge, to its verdict or to the next challenge.
async fn exchange(
    session: &Session<'_>,
    inbox: &mut Inbox,
    challenge: Challenge,
) -> Result<Next, End> {
    let limit = Duration::from_millis(limits::WRITE_MS_MAX);
    let open = async {
        let (mut send, receive) = session.connection.open_bi().await?;
        write_frame(&mut send, &Frame::Challenge(challenge)).await?;
        Ok::<_, End>((send, receive))
    };
    let (mut send, receive) = timeout(limit, open).await.map_err(|_| not_reading())??;
    let done = converse(session, inbox, &challenge, (&mut send, receive)).await;
    done.map_err(|end| {
        // Before the stream is dropped, so that the agent hears why and not only that it ended.
        end.close(session.connection);
        End::Lost
    })
}

/// Carries what the shard says to the agent, and the agent's answer to the shard.
async fn converse(
    session: &Session<'_>,
    inbox: &mut Inbox,
    challenge: &Challenge,
    (send, receive): (&mut SendStream, RecvStream),
) -> Result<Next, End> {
    let more = Semaphore::new(0);
    // Boxed, so that a connection without an open challenge does not carry room for one.
    let mut upload = Box::pin(upload(session, challenge, &more, receive));
    let mut uploading = true;
    loop {
        tokio::select! {
            message = inbox.recv() => match message {
                Some(ToAgent::More(id)) if id == challenge.id => more.add_permits(1),
                Some(ToAgent::Verdict(id, answer)) if id == challenge.id => {
                    return verdict(session, send, id, answer).await;
                }
                Some(ToAgent::Challenge(newer)) => {
                    let _ = send.reset(Reason::from(Refusal::Timeout).code());
                    return Ok(Next::Challenge(newer));
                }
                Some(ToAgent::Refused { code, retry_after_ms }) => {
                    return Err(End::refused(code.into(), retry_after_ms));
                }
                Some(ToAgent::Welcome { .. } | ToAgent::More(_) | ToAgent::Verdict(..)) => {}
                None => return Err(let_go(session)),
            },
            uploaded = &mut upload, if uploading => {
                uploading = false;
                match uploaded {
                    Ok(()) => {}
                    Err(UploadEnd::Declined) => {
                        let _ = send.reset(Reason::Done.code());
                        return Ok(Next::Idle);
                    }
                    Err(UploadEnd::Refused(refused)) => {
                        measures::refusal(refused.reason);
                        session.write(send, &Frame::Refused(refused)).await?;
                        return Ok(Next::Idle);
                    }
                    Err(UploadEnd::Connection(end)) => return Err(end),
                }
            }
        }
    }
}

async fn upload(
    session: &Session<'_>,
    challenge: &Challenge,
    more: &Semaphore,
    mut receive: RecvStream,
) -> Result<(), UploadEnd> {
    let upload = Upload {
        session,
        challenge,
        more,
    };
    let end = upload.run(&mut receive).await;
    if let Err(UploadEnd::Refused(Refused { reason, .. })) = &end {
        let _ = receive.stop(reason.code());
    }
    end
}

async fn verdict(
    session: &Session<'_>,
    send: &mut SendStream,
    id: ChallengeId,
    answer: Answer,
) -> Result<Next, End> {
    session.write(send, &Frame::Verdict(id, answer)).await?;
    measures::count(measures::VERDICTS, 1);
    if *session.shared.draining.borrow() {
        // Closing the connection would discard what is still on its way.
        let limit = Duration::from_millis(limits::WRITE_MS_MAX);
        let _ = timeout(limit, send.stopped()).await;
    }
    Ok(Next::Idle)
}
