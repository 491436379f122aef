//! Ports that were refused for want of a privilege, and the questions whether to grant them: published
//! to rootlessd, which answers.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use rootlessd_api::Port;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// How many refused ports are told; whoever publishes more at a time is told of some.
const MOST_REFUSED: usize = 32;

/// What the answer to a question is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The engine may listen on the port now.
    Granted,
    /// It may not; why, in a sentence, if there is more to say.
    Refused(Option<String>),
}

/// What rootlessd is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortsStatus {
    /// Ports that were refused last.
    pub refused: Vec<Port>,
    /// Those of them that somebody waits for.
    pub asked: Vec<Port>,
}

/// Where ports are asked for and answered; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PortDesk(Rc<Desk>);

#[derive(Debug, Default)]
struct Desk {
    /// The open questions. One port is one question, however many wait: Docker publishes each port
    /// twice, for IPv4 and IPv6.
    questions: RefCell<BTreeMap<Port, watch::Sender<Option<Verdict>>>>,
    refused: RefCell<Vec<Port>>,
    status: watch::Sender<PortsStatus>,
}

impl PortDesk {
    /// Ask whether a refused port is granted. Where nobody is there to be asked, it is not.
    pub async fn ask(&self, port: Port) -> Verdict {
        self.note(port);
        if self.0.status.receiver_count() == 0 {
            return Verdict::Refused(None);
        }
        let mut answer = {
            let mut questions = self.0.questions.borrow_mut();
            questions.entry(port).or_default().subscribe()
        };
        self.publish();
        let mut waiting = Waiting { desk: self, port, in_vain: true };
        let verdict =
            answer.wait_for(Option::is_some).await.ok().and_then(|verdict| verdict.clone());
        waiting.in_vain = false;
        verdict.unwrap_or(Verdict::Refused(None))
    }

    /// Answer the question about a port, if it is open.
    pub fn answer(&self, port: Port, verdict: Verdict) {
        let question = self.0.questions.borrow_mut().remove(&port);
        if let Some(question) = question {
            question.send_replace(Some(verdict));
        }
        self.publish();
    }

    /// Note that a port was refused.
    pub fn note(&self, port: Port) {
        {
            let mut refused = self.0.refused.borrow_mut();
            refused.retain(|other| *other != port);
            refused.push(port);
            let excess = refused.len().saturating_sub(MOST_REFUSED);
            refused.drain(..excess);
        }
        self.publish();
    }

    /// A port was published: it is refused no more.
    pub fn forget(&self, port: Port) {
        self.0.refused.borrow_mut().retain(|other| *other != port);
        self.publish();
    }

    /// What is refused and asked, now and after each change.
    pub fn follow(&self) -> watch::Receiver<PortsStatus> {
        self.0.status.subscribe()
    }

    fn publish(&self) {
        let status = PortsStatus {
            refused: self.0.refused.borrow().clone(),
            asked: self.0.questions.borrow().keys().copied().collect(),
        };
        self.0.status.send_if_modified(|last| {
            let changed = *last != status;
            *last = status;
            changed
        });
    }
}

/// One who waits; a question that nobody waits for any more is closed.
struct Waiting<'a> {
    desk: &'a PortDesk,
    port: Port,
    in_vain: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.in_vain {
            return;
        }
        {
            // One waits still: who goes.
            let mut questions = self.desk.0.questions.borrow_mut();
            if questions.get(&self.port).is_some_and(|question| question.receiver_count() <= 1) {
                questions.remove(&self.port);
            }
        }
        self.desk.publish();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn port(text: &str) -> Port {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn one_port_is_one_question() {
        let desk = PortDesk::default();
        let mut told = desk.follow();
        let both = async { tokio::join!(desk.ask(port("80")), desk.ask(port("80"))) };
        let answer = async {
            let asked = told.wait_for(|status| !status.asked.is_empty()).await.unwrap().clone();
            assert_eq!((asked.asked, asked.refused), (vec![port("80")], vec![port("80")]));
            desk.answer(port("80"), Verdict::Granted);
        };
        let (verdicts, ()) = tokio::join!(both, answer);
        assert_eq!(verdicts, (Verdict::Granted, Verdict::Granted));
        assert_eq!(desk.follow().borrow().asked, []);
        desk.forget(port("80"));
        assert_eq!(*desk.follow().borrow(), PortsStatus::default());
    }

    #[tokio::test]
    async fn without_anybody_to_answer_it_is_no() {
        let desk = PortDesk::default();
        assert_eq!(desk.ask(port("80")).await, Verdict::Refused(None));
        assert_eq!(desk.follow().borrow().refused, [port("80")]);
    }

    #[tokio::test]
    async fn a_question_that_nobody_waits_for_is_closed() {
        let desk = PortDesk::default();
        let told = desk.follow();
        let mut one = Box::pin(desk.ask(port("80")));
        let mut other = Box::pin(desk.ask(port("80")));
        assert!((&mut one).now_or_never().is_none() && (&mut other).now_or_never().is_none());
        drop(one);
        assert_eq!(told.borrow().asked, [port("80")]);
        drop(other);
        assert_eq!(told.borrow().asked, []);
    }
}
