//! What dockerd has published, kept while one dockerd follows another: the next asks for the same
//! ports, and whoever connects meanwhile is served.
//!
//! A published port leads to docker-proxy, a process that dies with its dockerd and takes its
//! connections along. Once it is known which container it serves, RootlessKit's builtin port driver
//! is told to connect to the container itself, as docker-proxy does, from the same namespace.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::rootlesskit::port::Spec;

/// More ways than this are not remembered: who tells of them publishes their ports at once.
const MOST_WAYS: usize = 1024;

/// Where a port of the machine leads to: what docker-proxy is told by its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// `tcp` or `udp`.
    pub proto: String,
    /// The address that docker-proxy listens on, the machine's or the network namespace's.
    pub host_ip: IpAddr,
    /// The port that it listens on, and the machine's.
    pub host_port: u16,
    /// The container's address.
    pub container_ip: IpAddr,
    /// The container's port.
    pub container_port: u16,
}

impl Way {
    /// Whether this port is meant.
    fn is_of(&self, spec: &Spec) -> bool {
        let is_host = |ip: &str| ip.parse() == Ok(self.host_ip);
        spec.proto.trim_end_matches(['4', '6']) == self.proto
            && spec.parent_port == self.host_port
            && (is_host(&spec.parent_ip) || is_host(&spec.child_ip))
    }

    /// What RootlessKit is asked for instead of `asked`, so that it goes this way.
    fn lead(&self, asked: &Value) -> Value {
        let mut spec = asked.clone();
        spec["childIP"] = json!(self.container_ip);
        spec["childPort"] = json!(self.container_port);
        spec
    }
}

/// A port that dockerd has published.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    /// What dockerd asked for.
    asked: Value,
    /// What RootlessKit was asked for.
    spec: Value,
    /// The number by which dockerd knows it.
    number: u64,
    /// RootlessKit's.
    id: u64,
    /// Whether the dockerd that runs asked for it.
    claimed: bool,
}

/// A port that is to be published in another way than it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detour {
    /// RootlessKit's number of it.
    pub id: u64,
    /// How it is published now.
    pub before: Value,
    /// How it is to be.
    pub after: Value,
}

/// Everything that dockerd has published.
#[derive(Debug, Default)]
pub struct PortTable {
    /// Whether RootlessKit can be told where to connect to.
    direct: bool,
    kept: Vec<Kept>,
    ways: Vec<Way>,
    /// How many dockerds there were before this one.
    generation: u32,
}

impl PortTable {
    /// For a port driver.
    pub fn new(port_driver: &str) -> Self {
        Self { direct: port_driver == "builtin", ..Self::default() }
    }

    /// A dockerd asks for a port that one before it had published: the answer. It may be of another version, and
    /// ask in other words: dockerd 28 and newer say where the port leads to in the network namespace, those
    /// before leave that to RootlessKit's port driver, whose choice is the same.
    pub fn claim(&mut self, asked: &Value) -> Option<Value> {
        let spec = Spec::deserialize(asked).ok();
        let is_meant = |kept: &Kept| {
            let before = Spec::deserialize(&kept.asked).ok();
            kept.asked == *asked
                || before.zip(spec.as_ref()).is_some_and(|(before, now)| before.is_same(now))
        };
        let kept = self.kept.iter_mut().find(|it| !it.claimed && is_meant(it))?;
        kept.claimed = true;
        kept.asked.clone_from(asked);
        Some(json!({ "id": kept.number, "spec": kept.asked }))
    }

    /// RootlessKit's number of a port that one dockerd had published and the next asks for in a way that
    /// leads elsewhere: it has to go first.
    pub fn take_rival(&mut self, asked: &Value) -> Option<u64> {
        let spec = Spec::deserialize(asked).ok()?;
        let is_rival = |kept: &&Kept| {
            let before = Spec::deserialize(&kept.asked).ok();
            !kept.claimed && before.is_some_and(|before| before.is_rival(&spec))
        };
        let id = self.kept.iter().find(is_rival)?.id;
        self.removed(id);
        Some(id)
    }

    /// Which dockerd asks at present, by a number that the next one does not have.
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// What RootlessKit is to be asked for when dockerd asks for this.
    pub fn spec(&self, asked: &Value) -> Value {
        let spec = Spec::deserialize(asked).ok();
        let way = spec.and_then(|spec| self.ways.iter().find(|way| way.is_of(&spec)));
        way.map_or_else(|| asked.clone(), |way| way.lead(asked))
    }

    /// RootlessKit has published a port, as `id`.
    pub fn published(&mut self, asked: &Value, spec: Value, id: u64) {
        self.kept.push(Kept { asked: asked.clone(), spec, number: id, id, claimed: true });
    }

    /// Where a port leads to, and which port has to be published anew for it.
    pub fn learn(&mut self, way: Way) -> Option<Detour> {
        if !self.direct {
            return None;
        }
        let detour = self.kept.iter().find_map(|kept| {
            let spec = Spec::deserialize(&kept.asked).ok().filter(|spec| way.is_of(spec));
            let after = spec.map(|_| way.lead(&kept.asked))?;
            // Another version may have asked for it in other words.
            let (is, was) = (Spec::deserialize(&after).ok(), Spec::deserialize(&kept.spec).ok());
            let is_led = is
                .zip(was)
                .is_some_and(|(is, was)| is.is_same(&was) && is.child_ip == was.child_ip);
            (!is_led).then(|| Detour { id: kept.id, before: kept.spec.clone(), after })
        });
        let is_other = |other: &Way| {
            (&other.proto, other.host_ip, other.host_port)
                != (&way.proto, way.host_ip, way.host_port)
        };
        self.ways.retain(is_other);
        self.ways.truncate(MOST_WAYS - 1);
        self.ways.insert(0, way);
        detour
    }

    /// RootlessKit publishes a port anew: as what, and its new number; as nothing, if that failed.
    pub fn moved(&mut self, id: u64, now: Option<(Value, u64)>) {
        match now {
            Some((spec, new)) => {
                for kept in self.kept.iter_mut().filter(|kept| kept.id == id) {
                    kept.spec.clone_from(&spec);
                    kept.id = new;
                }
            }
            None => self.kept.retain(|kept| kept.id != id),
        }
    }

    /// RootlessKit's number of a port that dockerd knows by this one.
    pub fn id(&self, number: u64) -> u64 {
        self.kept.iter().find(|kept| kept.number == number).map_or(number, |kept| kept.id)
    }

    /// RootlessKit publishes a port no more.
    pub fn removed(&mut self, id: u64) {
        let Self { kept, ways, .. } = self;
        kept.retain(|it| {
            if it.id == id
                && let Ok(spec) = Spec::deserialize(&it.asked)
            {
                ways.retain(|way| !way.is_of(&spec));
            }
            it.id != id
        });
    }

    /// The dockerd that had published all this is gone.
    pub fn disown(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        for kept in &mut self.kept {
            kept.claimed = false;
        }
    }

    /// RootlessKit's number of a port that no dockerd asked for again, such as one of a container that
    /// ended meanwhile; from now on none can.
    pub fn take_unclaimed(&mut self) -> Option<u64> {
        let id = self.kept.iter().find(|kept| !kept.claimed)?.id;
        self.removed(id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As dockerd 28 asks for it.
    fn asked(port: u16) -> Value {
        json!({
            "proto": "tcp4", "parentIP": "0.0.0.0", "parentPort": port,
            "childIP": "127.0.0.1", "childPort": port,
        })
    }

    fn way(host_ip: &str, host_port: u16, container_ip: &str) -> Way {
        Way {
            proto: "tcp".into(),
            host_ip: host_ip.parse().unwrap(),
            host_port,
            container_ip: container_ip.parse().unwrap(),
            container_port: 80,
        }
    }

    fn led(port: u16, ip: &str) -> Value {
        let mut spec = asked(port);
        spec["childIP"] = json!(ip);
        spec["childPort"] = json!(80);
        spec
    }

    #[test]
    fn the_next_dockerd_finds_its_ports_and_the_rest_goes() {
        let mut table = PortTable::new("builtin");
        table.published(&asked(8080), asked(8080), 3);
        table.published(&asked(8081), asked(8081), 4);
        assert_eq!(table.claim(&asked(8080)), None, "somebody has it");
        assert_eq!(table.take_unclaimed(), None);
        table.disown();
        assert_eq!(table.claim(&asked(8080)), Some(json!({ "id": 3, "spec": asked(8080) })));
        assert_eq!(table.claim(&asked(8080)), None);
        let elsewhere = led(8081, "127.0.0.2");
        assert_eq!(table.claim(&elsewhere), None);
        assert_eq!(table.take_rival(&asked(8080)), None, "it is claimed");
        assert_eq!(table.take_rival(&asked(8082)), None);
        assert_eq!((table.take_rival(&elsewhere), table.take_rival(&elsewhere)), (Some(4), None));
        assert_eq!(table.take_unclaimed(), None);
        table.disown();
        assert_eq!((table.take_unclaimed(), table.take_unclaimed()), (Some(3), None));
    }

    /// An upgrade from dockerd 27 to 28, and the way back.
    #[test]
    fn a_dockerd_of_another_version_finds_its_ports() {
        let mut older = asked(8080);
        older.as_object_mut().unwrap().remove("childIP");
        older["proto"] = json!("tcp");
        for (before, after) in [(older.clone(), asked(8080)), (asked(8080), older)] {
            let mut table = PortTable::new("builtin");
            table.published(&before, led(8080, "172.17.0.2"), 3);
            let generation = table.generation();
            table.disown();
            assert_ne!(table.generation(), generation);
            assert_eq!(table.claim(&after), Some(json!({ "id": 3, "spec": after })));
            assert_eq!((table.take_rival(&after), table.take_unclaimed()), (None, None));
            // It leads there already.
            for ip in ["0.0.0.0", "127.0.0.1"] {
                assert_eq!(table.learn(way(ip, 8080, "172.17.0.2")), None);
            }
            table.disown();
            assert_eq!(table.claim(&after), Some(json!({ "id": 3, "spec": after })));
        }
    }

    #[test]
    fn a_port_leads_to_its_container() {
        // dockerd 27 and older: docker-proxy is started, which then asks for the port.
        let mut table = PortTable::new("builtin");
        assert_eq!(table.learn(way("0.0.0.0", 8080, "172.17.0.2")), None);
        assert_eq!(table.spec(&asked(8080)), led(8080, "172.17.0.2"));
        assert_eq!(table.spec(&asked(8081)), asked(8081));
        table.published(&asked(8080), led(8080, "172.17.0.2"), 3);
        // The container is started again, and has another address.
        table.removed(3);
        assert_eq!(table.spec(&asked(8080)), asked(8080));

        // 28 and newer ask first, and the address is that of the namespace.
        table.published(&asked(8080), asked(8080), 4);
        let to = way("127.0.0.1", 8080, "172.17.0.3");
        let after = led(8080, "172.17.0.3");
        let detour = Detour { id: 4, before: asked(8080), after: after.clone() };
        assert_eq!(table.learn(to.clone()), Some(detour));
        table.moved(4, Some((after, 5)));
        assert_eq!(table.id(4), 5);
        // So does the next dockerd, and there is nothing to do.
        table.disown();
        assert_eq!(table.claim(&asked(8080)), Some(json!({ "id": 4, "spec": asked(8080) })));
        assert_eq!(table.learn(to), None);
        table.moved(5, None);
        assert_eq!((table.id(4), table.take_unclaimed()), (4, None));
    }

    #[test]
    fn a_way_is_that_of_one_port_only() {
        let spec = |proto, ip, port| {
            serde_json::from_value::<Spec>(json!({
                "proto": proto, "parentIP": ip, "parentPort": port,
                "childIP": "127.0.0.1", "childPort": port,
            }))
            .unwrap()
        };
        let way = way("0.0.0.0", 80, "172.17.0.2");
        for (proto, ip, port, is) in [
            ("tcp4", "0.0.0.0", 80, true),
            ("tcp", "0.0.0.0", 80, true),
            ("tcp6", "::", 80, false),
            ("udp4", "0.0.0.0", 80, false),
            ("tcp4", "0.0.0.0", 81, false),
            ("tcp4", "198.51.100.1", 80, false),
        ] {
            assert_eq!(way.is_of(&spec(proto, ip, port)), is, "{proto} {ip} {port}");
        }
    }

    #[test]
    fn other_port_drivers_are_left_alone() {
        let mut table = PortTable::new("slirp4netns");
        table.published(&asked(8080), asked(8080), 1);
        assert_eq!(table.learn(way("127.0.0.1", 8080, "172.17.0.2")), None);
        assert_eq!(table.spec(&asked(8080)), asked(8080));
    }
}
