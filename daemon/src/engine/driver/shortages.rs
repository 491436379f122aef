//! What the machine is short of while an engine runs. It is looked when dockerd or containerd complain,
//! when dockerd was asked how it is, and more often for as long as something is missing.

use std::{future::pending, rc::Rc, time::Duration};

use rootlessd_api::{Part, Reason};
use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};

use super::{Event, World, probe::Probe};
use crate::{
    engine::{
        init::InitStatus,
        shortage::{self, Places},
    },
    plan::DockerPlan,
};

/// How often it is looked whether a shortage is over.
const INTERVAL: Duration = Duration::from_secs(5);

/// Look again and again, and tell of each change.
pub(super) fn watch(
    docker: &DockerPlan,
    world: &World,
    probe: Rc<Probe>,
) -> impl Future<Output = ()> + use<> {
    go_on(Places::of(docker, &world.dirs.runtime), probe, world.events.clone())
}

async fn go_on(places: Places, probe: Rc<Probe>, events: mpsc::Sender<Event>) {
    let mut told = vec![];
    loop {
        let (places, init) = (places.clone(), probe.init());
        // A file system may take its time.
        let found = spawn_blocking(move || look(&places, init)).await.unwrap_or_default();
        if is_news(&told, &found) {
            told.clone_from(&found);
            if events.send(Event::Short(found)).await.is_err() {
                return;
            }
        }
        let is_short = !told.is_empty();
        let pause = async { if is_short { sleep(INTERVAL).await } else { pending().await } };
        tokio::select! {
            () = pause => {}
            () = probe.occasion() => {}
        }
    }
}

fn look(places: &Places, init: InitStatus) -> Vec<Reason> {
    let parts = [(Part::Containerd, init.containerd), (Part::Dockerd, init.dockerd)];
    let files = parts.into_iter().filter_map(|(part, pid)| shortage::too_many_files(part, pid?));
    places.full().into_iter().chain(files).collect()
}

/// Whether something came or went: that what is left is a little more or less is no news.
fn is_news(told: &[Reason], found: &[Reason]) -> bool {
    let about = |reasons: &[Reason]| -> Vec<_> {
        reasons.iter().map(|reason| (reason.code.clone(), reason.part)).collect()
    };
    about(told) != about(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reasons::Code;

    #[test]
    fn news_is_what_comes_and_goes() {
        let full = |text: &str| vec![Code::DataRootFull.reason(text)];
        for (told, found, news) in [
            (vec![], vec![], false),
            (vec![], full("a"), true),
            (full("a"), full("b"), false),
            (full("a"), vec![Code::RuntimeDirFull.reason("a")], true),
            (full("a"), vec![], true),
        ] {
            assert_eq!(is_news(&told, &found), news, "{told:?} {found:?}");
        }
    }
}
