//! Reading the configuration again: one reload at a time, which serves all who asked before it
//! began. Who asks meanwhile is served by the next one, since the files may have changed in between.

use futures_util::{FutureExt, future::LocalBoxFuture};
use rootlessd_api::{Error, ErrorKind};
use tokio::sync::oneshot;

use super::{Supervisor, handle::Reply};
use crate::{
    config::{Loaded, Reader},
    engine::driver,
};

/// A reload, as far as it is.
pub(super) enum Step {
    /// The files were read.
    Read(Vec<Reply<()>>, Box<Result<Loaded, Error>>),
    /// The engine has answered, and so were all who asked.
    Done,
}

/// What is to come of the step at work.
pub(super) type Work = LocalBoxFuture<'static, Step>;

impl Supervisor {
    /// Reload, after the reload at work if there is one.
    pub(super) fn reload(&mut self, reply: Reply<()>) {
        self.reloads.push(reply);
        if self.reloading.is_none() {
            self.begin_reload();
        }
    }

    /// Go on with the reload at work.
    pub(super) fn go_on_reloading(&mut self, step: Step) {
        self.reloading = None;
        match step {
            Step::Read(replies, loaded) => match *loaded {
                Ok(loaded) => {
                    self.links.loaded.send_replace(loaded);
                    self.publish();
                    self.reloading = Some(self.tell_engine(replies));
                }
                Err(error) => {
                    answer(replies, &Err(error));
                    self.begin_reload();
                }
            },
            Step::Done => self.begin_reload(),
        }
    }

    fn begin_reload(&mut self) {
        if !self.reloads.is_empty() {
            let replies = std::mem::take(&mut self.reloads);
            self.reloading = Some(read(self.links.reader.clone(), replies).boxed_local());
        }
    }

    fn tell_engine(&self, replies: Vec<Reply<()>>) -> Work {
        let (reply, told) = oneshot::channel();
        self.command(driver::Command::Reload(reply));
        let gone = |_| Err(Error::new(ErrorKind::Busy, "the engine has come to its end meanwhile"));
        async move {
            answer(replies, &told.await.unwrap_or_else(gone));
            Step::Done
        }
        .boxed_local()
    }
}

async fn read(reader: Reader, replies: Vec<Reply<()>>) -> Step {
    Step::Read(replies, Box::new(reader.read().await))
}

fn answer(replies: Vec<Reply<()>>, result: &Result<(), Error>) {
    for reply in replies {
        // Whoever stopped waiting needs no answer.
        let _ = reply.send(result.clone());
    }
}
