//! The helper's gate, on a bus of the test's own, with a polkit that answers as the test says; the
//! helper works on a tree that stands for the machine.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rootlessd_api::{
    Error, ErrorKind,
    dbus::helper::{to_grant, to_outcome},
    helper::{Action, MOST_PORTS},
};
use rootlessd_tests::{
    BOUND,
    polkit::{Answer, World, caller, proxy},
    run, until,
};
use tokio::task::JoinHandle;

fn kind<T: std::fmt::Debug>(result: zbus::Result<T>) -> ErrorKind {
    Error::from(result.expect_err("it is refused")).kind
}

#[test]
fn polkit_decides() {
    run(async {
        for (answer, interactive, expected) in [
            (Answer::Yes, true, None),
            (Answer::Yes, false, None),
            (Answer::Ask, true, None),
            (Answer::Ask, false, Some(ErrorKind::InteractionRequired)),
            (Answer::NobodyThere, true, Some(ErrorKind::InteractionRequired)),
            (Answer::No, true, Some(ErrorKind::AccessDenied)),
            (Answer::No, false, Some(ErrorKind::AccessDenied)),
            (Answer::Fail, true, Some(ErrorKind::PolkitUnavailable)),
            (Answer::Hang, true, Some(ErrorKind::PolkitUnavailable)),
            (Answer::Hang, false, Some(ErrorKind::PolkitUnavailable)),
        ] {
            let world = World::new(answer).await;
            let connection = world.connect(caller()).await;
            let begin = Instant::now();
            let result = if interactive {
                proxy(&connection).await.set_unprivileged_port_start(80).await.map(drop)
            } else {
                let name = Some("org.rootlessd.Helper1");
                let path = "/org/rootlessd/Helper1";
                let method = "SetUnprivilegedPortStart";
                connection.call_method(name, path, name, method, &80_u16).await.map(drop)
            };
            match expected {
                None => {
                    result.unwrap();
                    assert_eq!(world.port_start(), "80\n");
                }
                Some(expected) => {
                    assert_eq!(kind(result), expected, "{answer:?} {interactive}");
                    // Attack 6 and 7: no, and at once.
                    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
                    world.assert_untouched();
                }
            }
            for question in world.questions() {
                assert_eq!(question.kind, "system-bus-name");
                assert_eq!(question.subject, connection.unique_name().unwrap().as_str());
                assert_eq!(question.action, Action::SetUnprivilegedPortStart.id());
                assert_eq!(question.details["object"], "80");
                assert!(!question.details["user"].is_empty());
                assert!(interactive || !question.interactive);
            }
        }
    });
}

#[test]
fn attack_06_without_polkit_the_answer_is_no() {
    run(async {
        let world = World::with(Answer::Yes, false).await;
        let helper = world.proxy().await;
        assert_eq!(
            kind(helper.set_unprivileged_port_start(80).await),
            ErrorKind::PolkitUnavailable
        );
        world.assert_untouched();
        // What needs no yes goes on.
        assert_eq!(helper.list_grants().await.unwrap().len(), 0);
    });
}

#[test]
fn a_polkit_that_has_to_be_started_is_waited_for() {
    run(async {
        let mut world = World::with(Answer::Yes, false).await;
        world.install_slow_polkit().await;
        let helper = world.proxy().await;
        let call = tokio::spawn(async move { helper.set_unprivileged_port_start(80).await });
        // Longer than one that runs may take to answer.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(!call.is_finished());
        world.start_polkit().await;
        call.await.unwrap().unwrap();
        assert_eq!(world.port_start(), "80\n");
    });
}

#[test]
fn attack_05_each_request_is_a_question_of_its_own() {
    run(async {
        let world = World::new(Answer::Ask).await;
        let helper = world.proxy().await;
        helper.set_unprivileged_port_start(80).await.unwrap();
        helper.set_unprivileged_port_start(22).await.unwrap();
        let asked: Vec<_> =
            world.questions().into_iter().filter(|question| question.interactive).collect();
        let objects: Vec<_> = asked.iter().map(|question| &question.details["object"]).collect();
        assert_eq!(objects, ["80", "22"]);
    });
}

#[test]
fn what_is_wrong_or_done_already_is_nobodys_question() {
    run(async {
        let world = World::new(Answer::Yes).await;
        let helper = world.proxy().await;
        let many: Vec<_> = (1..=MOST_PORTS as u16 + 1).map(|number| ("tcp", number)).collect();
        assert_eq!(kind(helper.grant_ports(&[]).await), ErrorKind::InvalidArgument);
        assert_eq!(kind(helper.grant_ports(&many).await), ErrorKind::InvalidArgument);
        assert_eq!(kind(helper.grant_ports(&[("tcp", 0)]).await), ErrorKind::InvalidArgument);
        assert_eq!(kind(helper.grant_ports(&[("icmp", 80)]).await), ErrorKind::InvalidArgument);
        for start in [1024, 8080, u16::MAX] {
            let refused = helper.set_unprivileged_port_start(start).await;
            assert_eq!(kind(refused), ErrorKind::InvalidArgument);
        }
        // Attack 17: what would be a line of its own in the file.
        for range in ["", "0 0", "own\n", "all\nkernel.core_pattern=|/tmp/x", "\u{1b}[31m"] {
            assert_eq!(kind(helper.set_ping_range(range).await), ErrorKind::InvalidArgument);
        }
        let wrong: &[&[&str]] = &[&[], &["devices"], &["cpu", "cpu\n"], &["CPU"], &["../cpu"]];
        for controllers in wrong {
            let refused = helper.delegate_controllers(controllers).await;
            assert_eq!(kind(refused), ErrorKind::InvalidArgument);
        }
        assert_eq!(kind(helper.revoke("0").await), ErrorKind::NoSuchGrant);
        assert_eq!(world.questions().len(), 0);
        world.assert_untouched();

        // Port 8080 is nobody's privilege.
        let outcome = to_outcome(helper.grant_ports(&[("tcp", 8080)]).await.unwrap()).unwrap();
        assert_eq!(outcome, Default::default());
        helper.set_unprivileged_port_start(80).await.unwrap();
        let asked = world.questions().len();
        let outcome = to_outcome(helper.set_unprivileged_port_start(443).await.unwrap()).unwrap();
        assert_eq!(outcome, Default::default());
        assert_eq!(world.questions().len(), asked);
    });
}

#[test]
fn a_grant_is_seen_and_undone_by_whom_it_is_for() {
    run(async {
        let world = World::new(Answer::Yes).await;
        let helper = world.proxy().await;
        let outcome = helper.set_unprivileged_port_start(80).await.unwrap();
        let id = to_outcome(outcome).unwrap().grants.remove(0);
        assert_eq!(id.len(), 32);
        let grants = helper.list_grants().await.unwrap();
        let grant = to_grant(grants.into_iter().next().unwrap()).unwrap();
        assert_eq!((grant.id.as_str(), grant.uid), (id.as_str(), caller()));
        assert_eq!(grant.drift, [""; 0]);

        // Undoing what affects all is an administrator's affair, too.
        world.answer(Answer::No);
        assert_eq!(kind(helper.revoke(&id).await), ErrorKind::AccessDenied);
        assert_eq!(kind(helper.list_all_grants().await), ErrorKind::AccessDenied);
        assert_eq!(world.port_start(), "80\n");
        world.answer(Answer::Yes);
        assert_eq!(helper.list_all_grants().await.unwrap().len(), 1);
        helper.revoke(&id).await.unwrap();
        assert_eq!(world.port_start(), "1024\n");
        assert_eq!(kind(helper.revoke(&id).await), ErrorKind::NoSuchGrant);
        let actions: Vec<_> = world.questions().into_iter().map(|asked| asked.action).collect();
        assert!(
            actions.contains(&Action::Revoke.id()) && !actions.contains(&Action::RevokeOthers.id())
        );
        world.assert_untouched();
    });
}

/// Attack 4: whoever has gone when the yes comes has nothing done.
#[test]
fn attack_04_a_caller_that_has_gone_gets_nothing() {
    run(async {
        let world = World::new(Answer::Never).await;
        let connection = world.connect(caller()).await;
        let helper = proxy(&connection).await;
        let call = tokio::spawn(async move { helper.set_unprivileged_port_start(80).await });
        until("a person is asked", || world.questions().iter().any(|asked| asked.interactive))
            .await;
        // All that holds the connection goes with the call.
        call.abort();
        let _ = call.await;
        connection.close().await.unwrap();
        let cancelled = tokio::time::timeout(BOUND, world.polkit.cancelled.notified()).await;
        assert!(cancelled.is_ok(), "the question is taken back");
        world.answer(Answer::Yes);
        assert_eq!(world.proxy().await.list_grants().await.unwrap().len(), 0);
        world.assert_untouched();
    });
}

/// Attack 27: of one user four requests are under way at most, however many are asked; none of them
/// keeps the helper from answering when they are done.
#[test]
fn attack_27_one_user_has_four_requests_under_way() {
    run(async {
        let world = World::new(Answer::Never).await;
        let connection = world.connect(caller()).await;
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let connection = connection.clone();
                tokio::spawn(async move {
                    proxy(&connection).await.set_unprivileged_port_start(80).await.map(drop)
                })
            })
            .collect();
        let (refused, waiting): (Vec<_>, Vec<_>) = {
            until("the others are refused", || {
                calls.iter().filter(|call| call.is_finished()).count() == 96
            })
            .await;
            calls.into_iter().partition(|call| call.is_finished())
        };
        for call in join_all(refused).await {
            assert_eq!(kind(call.unwrap()), ErrorKind::LimitsExceeded);
        }
        waiting.iter().for_each(JoinHandle::abort);
        join_all(waiting).await;
        connection.close().await.unwrap();
        // When they have gone, the next is let in.
        let helper = world.proxy().await;
        let mut last = helper.list_grants().await;
        while let Err(error) = last {
            assert_eq!(Error::from(error).kind, ErrorKind::LimitsExceeded);
            last = helper.list_grants().await;
        }
        world.assert_untouched();
    });
}

#[test]
fn without_work_it_goes_and_gives_its_name_back_first() {
    run(async {
        let world = World::new(Answer::Yes).await;
        tokio::time::pause();
        // The clock goes on when nothing else does.
        world.helper.await.unwrap().unwrap();
    });
}
