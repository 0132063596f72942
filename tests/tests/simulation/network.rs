//! Connections, and what travels over them.

use rat_engine::evidence::{Challenge, Hello, Refusal, SessionId, ToAgent};
use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_engine::shard::{AgentPath, Input};

use crate::fleet::Body;
use crate::world::{Happening, UNIX_MS, World};

impl World {
    pub(crate) fn connect(&mut self, body: &Body) {
        let Some(machine) = self.bodies.get(body) else {
            return;
        };
        if self.sessions.contains_key(body) || self.now_ms < machine.down_until_ms {
            return;
        }
        let hello = Hello {
            path: AgentPath::Native,
            agent: body.agent.clone(),
            client_key_sha256: [1; 32],
            log_formats: vec![LogFormat::Ascii],
            banks: vec![HashAlg::Sha256],
            reset_count: machine.boot.reset_count,
            restart_count: machine.boot.restart_count,
            entry_count: machine.machine.list.len() as u64,
            instance: machine.instance,
            relay_key_sha256: None,
        };
        self.next_session += 1;
        let session = SessionId(self.next_session);
        self.sessions.insert(body.clone(), session);
        let hello = Box::new(hello);
        self.handle(&body.agent, Input::Connected { session, hello });
    }

    pub(crate) fn connect_after(&mut self, after_ms: u64, body: &Body) {
        let body = body.clone();
        self.schedule(after_ms, Happening::Connect { body });
    }

    pub(crate) fn disconnect(&mut self, body: &Body) {
        if let Some(session) = self.sessions.remove(body) {
            let agent = body.agent.clone();
            self.handle(&body.agent, Input::Disconnected { session, agent });
        }
    }

    pub(crate) fn deliver(&mut self, body: &Body, session: SessionId, message: ToAgent) {
        if self.sessions.get(body) != Some(&session) {
            return;
        }
        if self.random.permille(self.faults.drop) {
            self.disconnect(body);
            let after = self.delay_ms();
            return self.connect_after(after, body);
        }
        match message {
            ToAgent::Challenge(challenge) => self.answer(body, session, &challenge),
            ToAgent::Refused {
                code,
                retry_after_ms,
            } => {
                let is_expected = match code {
                    Refusal::Busy | Refusal::Superseded => true,
                    Refusal::UnknownAgent => self.was_removed.contains(&body.agent),
                    _ => false,
                };
                assert!(is_expected, "{body:?} was refused: {code}");
                self.sessions.remove(body);
                self.connect_after(u64::from(retry_after_ms), body);
            }
            ToAgent::Welcome { .. } | ToAgent::More(_) | ToAgent::Verdict(..) => {}
        }
    }

    fn answer(&mut self, body: &Body, session: SessionId, challenge: &Challenge) {
        let machine = &self.bodies[body];
        let binding = session_binding(session);
        let submission = Box::new(machine.answer(challenge, binding, self.now_ms));
        let copies = 1 + u64::from(self.random.permille(self.faults.duplicate));
        for _ in 0..copies {
            let after = self.delay_ms();
            self.schedule(
                after,
                Happening::Evidence {
                    agent: body.agent.clone(),
                    session,
                    submission: submission.clone(),
                    life: self.life,
                },
            );
        }
    }

    pub(crate) fn send(&mut self, session: SessionId, message: ToAgent) {
        let Some((body, _)) = self.sessions.iter().find(|(_, live)| **live == session) else {
            return;
        };
        let body = body.clone();
        if let ToAgent::Challenge(challenge) = &message {
            let issued = (body.agent.clone(), UNIX_MS + self.now_ms);
            let again = self.challenged.insert(challenge.id, issued);
            assert!(again.is_none(), "an id was used twice (Q04)");
        }
        if let ToAgent::Verdict(id, answer) = &message
            && answer.code.is_none()
        {
            // What is answered is durable. (S03, S05)
            let (_, issued_unix_ms) = self.challenged[id];
            let state = self.ledger.state(&body.agent);
            let verdict = state
                .verdict
                .expect("a verdict was answered, and none is committed");
            assert_eq!(verdict.challenged_unix_ms, issued_unix_ms, "{body:?}");
        }
        let after = self.delay_ms();
        self.schedule(
            after,
            Happening::Deliver {
                body,
                session,
                message,
            },
        );
    }
}

fn session_binding(session: SessionId) -> [u8; 32] {
    let mut binding = [0; 32];
    binding[..8].copy_from_slice(&session.0.to_le_bytes());
    binding
}
