//! What the black-box tests share.

pub mod apart;
pub mod attacks;
pub mod bed;
pub mod bus;
pub mod changed;
pub mod command;
pub mod engine;
pub mod faults;
pub mod front;
pub mod grants;
pub mod idl;
pub mod install;
pub mod load;
pub mod machine;
pub mod name_servers;
pub mod polkit;
pub mod raw;
pub mod solo;
pub mod status;
pub mod virtual_machine;

use std::{
    sync::{PoisonError, RwLock},
    time::Duration,
};

use tokio::task::LocalSet;

/// How long anything may take in a test before it counts as hanging.
pub const BOUND: Duration = Duration::from_secs(20);

/// How often a test repeats what it repeats: `ROOTLESSD_ROUNDS`, or so often.
pub fn rounds(usual: u32) -> u32 {
    let asked = std::env::var("ROOTLESSD_ROUNDS").ok();
    asked.map_or(usual, |text| text.parse().expect("ROOTLESSD_ROUNDS is a number"))
}

static OTHERS: RwLock<()> = RwLock::new(());

/// Run a test as rootlessd runs: on one thread, with tasks that stay on it.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let _shared = OTHERS.read().unwrap_or_else(PoisonError::into_inner);
    run_local(test)
}

/// Run a test that counts what belongs to the process, or how long something takes: no other test
/// of the same program runs meanwhile.
pub fn run_alone<T>(test: impl Future<Output = T>) -> T {
    let _alone = OTHERS.write().unwrap_or_else(PoisonError::into_inner);
    run_local(test)
}

fn run_local<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    LocalSet::new().block_on(&runtime, test)
}

/// Wait until `condition` holds, letting everything else go on.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(BOUND, async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "in vain: {what}");
}

/// How many files this process has open.
pub fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc is mounted").count()
}
