//! What a shard was given and what it asked for, to be given again to another one.

use std::sync::Arc;

use rat_engine::evidence::{SessionId, ToAgent};
use rat_engine::shard::{
    Action, Assignment, Driver, Event, Input, Pacer, PacerSettings, Rejudge, Shard, Task, Tick,
};
use rat_engine::time::Now;

use crate::lists::{self, KeptList};
use crate::stage::Counting;

/// What happened to a shard, in order.
#[derive(Debug, Default)]
pub struct Recording(Vec<(Now, Step)>);

#[derive(Debug)]
enum Step {
    Input(Box<Input>),
    /// The appraisal of this assignment ended: it is computed again.
    Judged(Box<Assignment>),
    /// The list that the store had then was judged: it is judged again.
    Rejudged(Box<Rejudge>, Option<KeptList>),
    /// It was asked what to do.
    Polled(Option<Asked>),
}

/// An action, as far as it can be compared.
#[derive(Debug, PartialEq)]
enum Asked {
    Send(SessionId, ToAgent),
    Appraise(String),
    Rejudge(String),
    Commit(Arc<Tick>),
    Event(Event),
}

impl From<&Action> for Asked {
    fn from(action: &Action) -> Self {
        match action {
            Action::Send { session, message } => Self::Send(*session, message.clone()),
            Action::Appraise(assignment) => {
                let Assignment {
                    agent,
                    session,
                    challenge,
                    issued,
                    ak_name,
                    rules,
                    boot_pcrs,
                    start,
                    boot,
                    submission,
                    ..
                } = &**assignment;
                Self::Appraise(format!(
                    "{agent} {session:?} {challenge:?} {issued:?} {ak_name:?} {rules:?} \
                     {boot_pcrs:?} {start:?} {boot:?} {submission:?}"
                ))
            }
            Action::Rejudge(rejudge) => {
                let Rejudge {
                    agent,
                    id,
                    rules,
                    committed,
                    boot,
                    boot_pcrs,
                    ima,
                    ..
                } = &**rejudge;
                Self::Rejudge(format!(
                    "{agent} {id:?} {rules:?} {committed:?} {boot:?} {boot_pcrs:?} {ima:?}"
                ))
            }
            Action::Commit(tick) => Self::Commit(Arc::clone(tick)),
            Action::Event(event) => Self::Event(event.clone()),
        }
    }
}

impl Recording {
    pub(crate) fn input(&mut self, input: &Input, now: Now) {
        // Appraisals and lists that were judged again are noted with what they are of.
        if let Some(input) = copy(input) {
            self.0.push((now, Step::Input(Box::new(input))));
        }
    }

    pub(crate) fn judged(&mut self, of: Assignment, now: Now) {
        self.0.push((now, Step::Judged(Box::new(of))));
    }

    pub(crate) fn rejudged(&mut self, of: Rejudge, list: Option<KeptList>, now: Now) {
        self.0.push((now, Step::Rejudged(Box::new(of), list)));
    }

    pub(crate) fn polled(&mut self, action: Option<&Action>, now: Now) {
        self.0.push((now, Step::Polled(action.map(Asked::from))));
    }

    /// Gives all of it to a shard in its first state, which must ask for the same.
    pub fn replay(self, mut shard: Shard) {
        let mut pacer = Pacer::new(PacerSettings::default());
        let mut nonces = Counting::default();
        for (nth, (now, step)) in self.0.into_iter().enumerate() {
            match step {
                Step::Input(input) => shard.handle(*input, now),
                Step::Judged(assignment) => {
                    let mut task = Task::new(*assignment);
                    task.begin();
                    shard.handle(Input::Judged(Box::new(task.finish())), now);
                }
                Step::Rejudged(rejudge, list) => {
                    let rejudged = lists::rejudged(list.as_ref(), *rejudge);
                    shard.handle(Input::Rejudged(rejudged), now);
                }
                Step::Polled(expected) => {
                    let mut driver = Driver {
                        pacer: &mut pacer,
                        nonces: &mut nonces,
                    };
                    let action = shard.poll(now, &mut driver);
                    let asked = action.as_ref().map(Asked::from);
                    assert_eq!(asked, expected, "step {nth} has another action");
                }
            }
        }
    }
}

/// The same input; `None` for the end of an appraisal, or of a list's.
fn copy(input: &Input) -> Option<Input> {
    Some(match input {
        Input::Agent {
            record,
            state,
            candidate,
        } => Input::Agent {
            record: record.clone(),
            state: state.clone(),
            candidate: candidate.clone(),
        },
        Input::Remove(agent) => Input::Remove(agent.clone()),
        Input::SetAside(agent) => Input::SetAside(agent.clone()),
        Input::Group(group) => Input::Group(Arc::clone(group)),
        Input::Terms { agent, terms } => Input::Terms {
            agent: agent.clone(),
            terms: Arc::clone(terms),
        },
        Input::Connected { session, hello } => Input::Connected {
            session: *session,
            hello: hello.clone(),
        },
        Input::Disconnected { session, agent } => Input::Disconnected {
            session: *session,
            agent: agent.clone(),
        },
        Input::Evidence {
            session,
            agent,
            submission,
        } => Input::Evidence {
            session: *session,
            agent: agent.clone(),
            submission: submission.clone(),
        },
        Input::Judged(_) | Input::Rejudged(_) => return None,
        Input::Rejudging { agent, id } => Input::Rejudging {
            agent: agent.clone(),
            id: *id,
        },
        Input::Abandoned {
            agent,
            challenge,
            why,
        } => Input::Abandoned {
            agent: agent.clone(),
            challenge: *challenge,
            why: *why,
        },
        Input::Committed { seq } => Input::Committed { seq: *seq },
        Input::Arriving {
            session,
            agent,
            challenge,
            bytes,
        } => Input::Arriving {
            session: *session,
            agent: agent.clone(),
            challenge: *challenge,
            bytes: *bytes,
        },
        Input::CommitFailed { seq } => Input::CommitFailed { seq: *seq },
        Input::Operate { agent, operation } => Input::Operate {
            agent: agent.clone(),
            operation: *operation,
        },
        Input::Drain => Input::Drain,
    })
}
