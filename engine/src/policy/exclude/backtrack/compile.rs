//! From the tree of a pattern to steps.

use super::{Loop, Step};
use crate::policy::exclude::syntax::{Greed, Node};

/// The steps of a pattern and the number of registers that they use.
pub(super) fn compile(node: &Node, groups: u32) -> (Vec<Step>, usize) {
    let captures = index(groups).saturating_add(1).saturating_mul(2);
    let mut compiler = Compiler {
        steps: Vec::new(),
        registers: captures,
    };
    compiler.node(node);
    compiler.steps.push(Step::Done);
    (compiler.steps, compiler.registers)
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

struct Compiler {
    steps: Vec<Step>,
    registers: usize,
}

impl Compiler {
    fn register(&mut self) -> usize {
        let register = self.registers;
        self.registers = self.registers.saturating_add(1);
        register
    }

    fn here(&self) -> usize {
        self.steps.len()
    }

    /// Appends a step whose target is not known yet.
    fn reserve(&mut self) -> usize {
        self.steps.push(Step::Fail);
        self.here().saturating_sub(1)
    }

    fn place(&mut self, at: usize, step: Step) {
        if let Some(slot) = self.steps.get_mut(at) {
            *slot = step;
        }
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Set(set) => self.steps.push(Step::Set(set.clone())),
            Node::Anchor(anchor) => self.steps.push(Step::Anchor(*anchor)),
            Node::Concat(nodes) => nodes.iter().for_each(|node| self.node(node)),
            Node::Alternate(nodes) => self.alternate(nodes),
            Node::Group { capture, body } => {
                let start = index(*capture).saturating_mul(2);
                self.steps.push(Step::Store(start));
                self.node(body);
                self.steps.push(Step::Store(start.saturating_add(1)));
            }
            Node::Repeat {
                min,
                max,
                greed,
                body,
            } => self.repeat(*min, *max, *greed, body),
            Node::Atomic(body) => {
                let height = self.register();
                self.steps.push(Step::Mark(height));
                self.node(body);
                self.steps.push(Step::Cut(height));
            }
            Node::Look {
                behind,
                negated,
                body,
            } => self.look(*behind, *negated, body),
            Node::BackReference { group, case } => self.steps.push(Step::BackReference {
                group: index(*group),
                case: *case,
            }),
            Node::Conditional { group, yes, no } => {
                let test = self.reserve();
                self.node(yes);
                let skip = self.reserve();
                let otherwise = self.here();
                self.node(no);
                let group = index(*group);
                self.place(test, Step::IfGroup { group, otherwise });
                self.place(skip, Step::Jump(self.here()));
            }
        }
    }

    fn alternate(&mut self, nodes: &[Node]) {
        let mut exits = Vec::new();
        let Some((last, rest)) = nodes.split_last() else {
            return;
        };
        for node in rest {
            let fork = self.reserve();
            self.node(node);
            exits.push(self.reserve());
            let other = self.here();
            self.place(fork, Step::Fork { other });
        }
        self.node(last);
        let end = self.here();
        for exit in exits {
            self.place(exit, Step::Jump(end));
        }
    }

    fn repeat(&mut self, min: u32, max: Option<u32>, greed: Greed, body: &Node) {
        let mut bounds = Loop {
            min: index(min),
            max: max.map_or(usize::MAX, index),
            greed,
            count: self.register(),
            began: self.register(),
            exit: 0,
        };
        self.steps.push(Step::Begin(bounds));
        let decide = self.reserve();
        self.steps.push(Step::Enter(bounds));
        self.node(body);
        self.steps.push(Step::Jump(decide));
        bounds.exit = self.here();
        self.place(decide, Step::Loop(bounds));
    }

    fn look(&mut self, behind: Option<usize>, negated: bool, body: &Node) {
        let height = self.register();
        let place = self.register();
        self.steps.push(Step::Mark(height));
        let fork = if negated {
            self.reserve()
        } else {
            self.steps.push(Step::Store(place));
            0
        };
        if let Some(count) = behind {
            self.steps.push(Step::Back(count));
        }
        self.node(body);
        self.steps.push(Step::Cut(height));
        if negated {
            self.steps.push(Step::Fail);
            let other = self.here();
            self.place(fork, Step::Fork { other });
        } else {
            self.steps.push(Step::Recall(place));
        }
    }
}
