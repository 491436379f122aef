//! dockerd's file is changed while containers run, and dockerd is replaced before anybody reloads it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use nix::sys::signal::Signal;
use rootlessd_tests::{
    command::wait_for,
    solo::{SOON, User, page, signal, text},
};
use serde_json::json;

/// An engine with a page, and where its file is.
fn serving(config: &str) -> (User, PathBuf, u16) {
    let user = User::new();
    let file = user.write(user.home.join(".config/docker/daemon.json"), config);
    user.start();
    user.load_image();
    let (_, port) = user.serve_page("");
    (user, file, port)
}

#[test]
fn live_restore_is_turned_off() {
    let (user, file, port) = serving(r#"{"live-restore": true}"#);
    let container = user.pid("serve");
    user.write(&file, r#"{"live-restore": false}"#);
    user.ctl("restart --keep-containers").ok();
    assert_eq!(user.pid("serve"), container);
    assert!(page(port).is_some());
    // What the file says counts from then on.
    wait_for("dockerd to go by its file", SOON, || {
        let told = user.docker("info --format {{.LiveRestoreEnabled}}").ok();
        (told.trim() == "false").then_some(())
    });
    let refused = user.ctl("restart --keep-containers").fails();
    assert!(refused.contains("live-restore"), "{refused}");
    assert_eq!(user.pid("serve"), container);
    user.ctl("stop").ok();
    user.assert_clean(false);
}

#[test]
fn dockerd_refuses_it() {
    let (user, file, port) = serving("{}");
    let container = user.pid("serve");
    user.write(&file, r#"{"no-such-key": true}"#);
    let mut watch = user.watch();
    watch.next_status();
    signal(user.pid("dockerd"), Signal::SIGKILL);
    watch.until(|status| status["state"] == "degraded");
    let status = watch.until(|status| status["state"] == "running");
    assert_eq!(status["deaths"], json!([]));
    let incidents = status["incidents"].as_array().unwrap();
    let is_told = |it: &&serde_json::Value| text(&it["text"]).contains("did not start by");
    let told = incidents.iter().find(is_told).unwrap_or_else(|| panic!("{incidents:#?}"));
    assert!(text(&told["text"]).contains(&file.display().to_string()), "{told}");
    assert_eq!(user.pid("serve"), container);
    assert!(page(port).is_some());
    // Once it is mended, nothing is left of it.
    user.write(&file, r#"{"debug": true}"#);
    user.ctl("restart --keep-containers").ok();
    assert_eq!(user.docker("info --format {{.Debug}}").ok().trim(), "true");
    assert_eq!(user.pid("serve"), container);
}
