//! The configuration, read again.

use super::{SECOND, finished, request, run_timeless, running, settled};
use rootlessd::{config::Config, engine::driver::Event, supervisor::handle::Handle};
use rootlessd_api::{Error, ErrorKind, JobKind, State};
use rootlessd_tests::engine::{Engine, is};
use tokio::task::spawn_local;

/// What is heard of a reload, once the engine has answered.
async fn reload(handle: &Handle, engine: &mut Engine) -> Result<(), Error> {
    let asking = handle.clone();
    let asked = spawn_local(async move { asking.reload().await });
    engine.take_reload().await.send(Ok(())).unwrap();
    asked.await.unwrap()
}

#[test]
fn a_reload_tells_what_needs_a_restart() {
    run_timeless(async {
        let (handle, mut engine) = running().start();
        engine.tell_launched().await;
        settled(&handle, &engine).await;
        let codes = || -> Vec<String> {
            handle.status().reasons.iter().map(|reason| reason.code.clone()).collect()
        };
        // What the supervisor itself goes by is followed at once.
        let mut config = Config::default();
        config.engine.client_wait = SECOND;
        config.engine.start_timeout = SECOND;
        config.engine.stop_timeout = 3 * SECOND;
        config.engine.restart.limit = 1;
        engine.set_config(Ok(config.clone()));
        reload(&handle, &mut engine).await.unwrap();
        assert_eq!(codes(), [""; 0]);
        assert_eq!(engine.config_in_force(), config);

        config.engine.network.mtu = Some(1500);
        engine.set_config(Ok(config.clone()));
        reload(&handle, &mut engine).await.unwrap();
        assert_eq!(codes(), ["restart-needed"]);
        let remedy = handle.status().reasons[0].remedy.clone();
        assert_eq!(remedy.as_deref(), Some("rootlessctl restart"));
        // It stays until that was done.
        reload(&handle, &mut engine).await.unwrap();
        assert_eq!(codes(), ["restart-needed"]);
        let job = request(&handle, JobKind::Restart).await;
        assert_eq!(engine.take_stop().await, 3 * SECOND);
        engine.tell(Event::Gone).await;
        engine.come_up().await;
        finished(&handle, job.id).await;
        assert_eq!(codes(), [""; 0]);

        // An engine that is down needs none.
        request(&handle, JobKind::Stop).await;
        engine.go_down().await;
        is(&handle, State::Stopped).await;
        engine.set_config(Ok(Config::default()));
        reload(&handle, &mut engine).await.unwrap();
        assert_eq!(codes(), [""; 0]);
        assert_eq!(engine.config_in_force(), Config::default());
    });
}

/// What an engine was started with is what counts, whoever reads the configuration and when.
#[test]
fn a_change_is_told_whenever_it_came() {
    run_timeless(async {
        let mut changed = Config::default();
        changed.engine.network.mtu = Some(1500);
        let codes = |handle: &Handle| -> Vec<String> {
            handle.status().reasons.iter().map(|reason| reason.code.clone()).collect()
        };
        // While the engine was on its way, with what was read before.
        let (handle, mut engine) = Engine::stopped();
        request(&handle, JobKind::Start).await;
        engine.take_start().await;
        engine.set_config(Ok(changed.clone()));
        reload(&handle, &mut engine).await.unwrap();
        engine.tell_launched_with(&Config::default()).await;
        engine.tell_healthy(0).await;
        is(&handle, State::Running).await;
        assert_eq!(codes(&handle), ["restart-needed"]);
        // What was changed back needs nothing.
        engine.set_config(Ok(Config::default()));
        reload(&handle, &mut engine).await.unwrap();
        assert_eq!(codes(&handle), [""; 0]);

        // While there was no rootlessd.
        let mut setup = running();
        setup.config = changed;
        let (handle, engine) = setup.start();
        engine.tell_launched_with(&Config::default()).await;
        settled(&handle, &engine).await;
        assert_eq!(codes(&handle), ["restart-needed"]);
    });
}

#[test]
fn a_reload_with_a_mistake_changes_nothing() {
    run_timeless(async {
        let (handle, mut engine) = running().start();
        engine.tell_launched().await;
        let before = settled(&handle, &engine).await;
        let error = Error::new(ErrorKind::Config, "config.toml:3: engine.strat is no key");
        engine.set_config(Err(error.clone()));
        assert_eq!(handle.reload().await, Err(error));
        assert!(engine.is_left_alone());
        assert_eq!(*handle.status(), before);
        assert_eq!(engine.config_in_force(), Config::default());

        // dockerd's own configuration can have one too.
        engine.set_config(Ok(Config::default()));
        let asking = handle.clone();
        let asked = spawn_local(async move { asking.reload().await });
        let error = Error::new(ErrorKind::Preflight, "daemon.json is no valid JSON");
        engine.take_reload().await.send(Err(error.clone())).unwrap();
        assert_eq!(asked.await.unwrap(), Err(error));
        // An engine that ends instead of answering.
        let asked = spawn_local(async move { handle.reload().await });
        drop(engine.take_reload().await);
        assert_eq!(asked.await.unwrap().unwrap_err().kind, ErrorKind::Busy);
    });
}

#[test]
fn reloads_wait_for_each_other_and_nothing_waits_for_them() {
    run_timeless(async {
        let (handle, mut engine) = running().start();
        let asked: Vec<_> = (0..100)
            .map(|_| {
                let handle = handle.clone();
                spawn_local(async move { handle.reload().await })
            })
            .collect();
        let first = engine.take_reload().await;
        request(&handle, JobKind::Stop).await;
        engine.go_down().await;
        is(&handle, State::Stopped).await;
        first.send(Ok(())).unwrap();
        engine.take_reload().await.send(Ok(())).unwrap();
        for asked in asked {
            asked.await.unwrap().unwrap();
        }
        assert!(engine.is_left_alone());
    });
}
