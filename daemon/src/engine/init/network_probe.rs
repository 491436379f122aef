//! Whether the network helper still answers. One that hangs is seen by nobody: its process is there,
//! and what containers send vanishes.
//!
//! It is asked from inside, while containers run, who has the gateway's address (ARP): that is its
//! own to say, whatever the machine's network is like. If it stays silent, and takes no packet either
//! (one that is flooded may never see the question), it is ended, with a word for engine-shim, which
//! sees it die and replaces it.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::fd::AsRawFd,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
    sys::{
        socket::{LinkAddr, MsgFlags, sendto, setsockopt, sockopt::ReceiveTimeout},
        time::{TimeVal, TimeValLike},
    },
};
use rustix::net::{AddressFamily, RecvFlags, SocketType, eth, recv, socket};
use tokio::{sync::oneshot, time::sleep};

use super::{containers::Containers, hung, kit::Kit};
use crate::{
    config::OnLoss,
    engine::{dir::EngineDir, network_helper, processes},
    plan::Plan,
    sys::{
        activity::Activity,
        process::{Identity, Stat},
    },
};

/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long it may take to answer; less than a millisecond is usual.
const PATIENCE: Duration = Duration::from_secs(1);
/// After so many questions in a row without an answer it hangs.
const LIMIT: u32 = 3;

/// Ask the helper again and again, and end one that hangs. One that cannot be replaced may come to itself,
/// and a pasta that cannot is only ended where the engine is to start anew for it.
pub(super) async fn watch(dir: EngineDir, plan: Plan) {
    let is_to_end = plan.network_on_loss == OnLoss::Restart && plan.network_driver == "pasta";
    if network_helper::why_irreplaceable(&plan).is_some() && !is_to_end {
        return;
    }
    let netns = plan.detach_netns.then(|| plan.state_dir.join("netns"));
    let containers = Containers::of(&plan.docker);
    let mut silence = None;
    loop {
        if silence.is_none() {
            containers.until_any().await;
            sleep(INTERVAL).await;
        }
        if !containers.any() {
            silence = None;
            continue;
        }
        let answer = ask(netns.clone()).await;
        if let Err(error) = &answer {
            tracing::debug!("the network cannot be asked: {error}");
        }
        let helper = if matches!(answer, Ok(false)) { helper() } else { None };
        silence = Silence::after(silence, helper);
        if let Some(Silence { helper, questions: LIMIT.. }) = silence {
            if let Some(activity) = Activity::of(helper.pid) {
                hung::end(&dir, &plan.network_driver, helper, &activity, PATIENCE * LIMIT);
            }
            silence = None;
        }
    }
}

/// A helper that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Silence {
    helper: Identity,
    questions: u32,
}

impl Silence {
    /// After another question, which this helper did not answer, if there was one.
    fn after(before: Option<Self>, helper: Option<Identity>) -> Option<Self> {
        let helper = helper?;
        let before = before.filter(|before| before.helper == helper);
        Some(Self { helper, questions: before.map_or(0, |before| before.questions) + 1 })
    }
}

/// The helper that lives, as engine-shim finds it.
fn helper() -> Option<Identity> {
    let rootlesskit = Kit::ours()?.parent;
    let shim = Stat::of(rootlesskit)?.parent;
    let pid = processes::network_helper(rootlesskit, shim)?;
    let stat = Stat::of(pid).filter(|stat| stat.state != 'Z')?;
    Some(Identity { pid, start_time: stat.start_time })
}

/// Whether the helper gives a sign of life, in this network namespace or in another.
async fn ask(netns: Option<PathBuf>) -> io::Result<bool> {
    // The network namespace is a thread's.
    let (answer, asked) = oneshot::channel();
    thread::Builder::new().spawn(move || {
        // Who asked may have ended.
        let _ = answer.send(ask_from(netns));
    })?;
    asked.await.map_err(io::Error::other)?
}

fn ask_from(netns: Option<PathBuf>) -> io::Result<bool> {
    if let Some(netns) = netns {
        setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
    }
    let routes = fs::read_to_string("/proc/thread-self/net/route")?;
    let (name, gateway) =
        default_route(&routes).ok_or_else(|| io::Error::other("there is no default route"))?;
    let (mut link, mut address) = (None, None);
    for found in getifaddrs()?.filter(|found| found.interface_name == name) {
        let Some(found) = found.address else { continue };
        link = link.or(found.as_link_addr().copied());
        address = address.or(found.as_sockaddr_in().map(|found| found.ip()));
    }
    let (Some(link), Some(address)) = (link, address) else {
        return Err(io::Error::other(format!("{name} has no address")));
    };
    let taken = || -> io::Result<_> {
        Ok(packets_taken(&fs::read_to_string("/proc/thread-self/net/dev")?, name))
    };
    let before = taken()?;
    Ok(has_address(&link, address, gateway)? || taken()? != before)
}

fn has_address(link: &LinkAddr, own: Ipv4Addr, wanted: Ipv4Addr) -> io::Result<bool> {
    let socket = socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ARP))?;
    let question = question(link.addr().unwrap_or_default(), own, wanted);
    sendto(socket.as_raw_fd(), &question, link, MsgFlags::empty())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would be for ever.
        let left = i64::try_from(left.as_micros()).unwrap_or_default();
        if left == 0 {
            return Ok(false);
        }
        setsockopt(&socket, ReceiveTimeout, &TimeVal::microseconds(left))?;
        let mut frame = [0; 64];
        match recv(&socket, &mut frame, RecvFlags::empty()) {
            Ok((count, _)) if is_answer(&frame[..count], own, wanted) => return Ok(true),
            Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The interface and the gateway of the default route in a `/proc/net/route`.
fn default_route(routes: &str) -> Option<(&str, Ipv4Addr)> {
    routes.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (name, destination, gateway) = (fields.next()?, fields.next()?, fields.next()?);
        if destination != "00000000" {
            return None;
        }
        // As it lies in memory.
        let gateway = u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes();
        Some((name, Ipv4Addr::from(gateway)))
    })
}

/// How many packets were taken from an interface by whoever is at its other end, in a
/// `/proc/net/dev`.
fn packets_taken(devices: &str, name: &str) -> Option<u64> {
    devices.lines().find_map(|line| {
        let (device, counters) = line.split_once(':')?;
        let packets = counters.split_ascii_whitespace().nth(9).filter(|_| device.trim() == name)?;
        packets.parse().ok()
    })
}

/// The kind of a frame of ARP and of the addresses in it: Ethernet's and IPv4's.
const ARP: [u8; 8] = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4];

/// The frame that asks all who has an address (RFC 826).
fn question(own_link: [u8; 6], own: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    [&[0xff; 6], &own_link[..], &ARP, &[0, 1], &own_link, &own.octets(), &[0; 6], &wanted.octets()]
        .concat()
}

/// Whether a frame is the answer.
fn is_answer(frame: &[u8], own: Ipv4Addr, wanted: Ipv4Addr) -> bool {
    frame.get(12..20) == Some(&ARP)
        && frame.get(20..22) == Some(&[0, 2])
        && frame.get(28..32) == Some(&wanted.octets())
        && frame.get(38..42) == Some(&own.octets())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

    #[test]
    fn the_default_route_is_found() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                      docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\n\
                      tap0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\n";
        assert_eq!(default_route(routes), Some(("tap0", GATEWAY)));
        assert_eq!(default_route("Iface\tDestination\tGateway\n"), None);
    }

    #[test]
    fn packets_are_counted() {
        let devices = "Inter-|   Receive                       |  Transmit\n \
                       face |bytes    packets errs drop fifo frame compressed multicast|bytes \
                       packets errs\n\
                       \x20 tap0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
                       docker0: 0 0 0 0 0 0 0 0 0 4711 0 0 0 0 0 0\n";
        assert_eq!(packets_taken(devices, "tap0"), Some(10));
        assert_eq!(packets_taken(devices, "docker0"), Some(4711));
        assert_eq!(packets_taken(devices, "eth0"), None);
    }

    #[test]
    fn only_the_answer_is_one() {
        let asked = question([2; 6], OWN, GATEWAY);
        assert_eq!(asked.len(), 42);
        assert!(!is_answer(&asked, OWN, GATEWAY));
        let mut answer = question([4; 6], GATEWAY, OWN);
        answer[21] = 2;
        assert!(is_answer(&answer, OWN, GATEWAY));
        // Padded, as Ethernet has it.
        assert!(is_answer(&[answer.clone(), vec![0; 18]].concat(), OWN, GATEWAY));
        assert!(!is_answer(&answer, OWN, Ipv4Addr::new(10, 0, 2, 3)));
        assert!(!is_answer(&answer, Ipv4Addr::new(10, 0, 2, 101), GATEWAY));
        assert!(!is_answer(&answer[..41], OWN, GATEWAY));
    }

    #[test]
    fn a_helper_hangs_that_is_silent_three_times() {
        let one = Some(Identity { pid: 1, start_time: 1 });
        let next = Some(Identity { pid: 1, start_time: 2 });
        let rows = [
            (vec![one, one], Some(2)),
            (vec![one, one, one], Some(3)),
            (vec![one, one, None, one], Some(1)),
            // It was replaced meanwhile.
            (vec![one, one, next], Some(1)),
            (vec![one, None], None),
        ];
        for (silent, expected) in rows {
            let silence = silent.iter().fold(None, |silence, &it| Silence::after(silence, it));
            assert_eq!(silence.map(|silence| silence.questions), expected, "{silent:?}");
        }
    }
}
