//! The fuzzer: calls every method and property that a service says it has, with arguments of the
//! right types and of wrong ones, and counts what comes back.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    thread,
    time::Duration,
};

use crate::attacks::{
    random::Random,
    values::{body, signature, value},
    wire::{Body, Bus, Call, INTERACTIVE, Reply, Writer},
};

/// The longest string within reason.
const LONGEST: usize = 50_000;
/// dbus-daemon's own limit for a message on the system bus is 32 MiB; on the session bus it is larger.
const TOO_MUCH: usize = 33 << 20;
/// How many calls are under way at a time: fewer than the helper lets one user have.
const UNDER_WAY: usize = 3;
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// A service to be called.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The object.
    pub path: String,
    /// Methods that are only called wrongly, since what they do rightly takes too long.
    pub gentle: Vec<String>,
    /// How many calls each method gets.
    pub calls: usize,
}

/// A method, as introspection has it.
#[derive(Clone, Debug)]
pub struct Method {
    /// Its interface.
    pub interface: String,
    /// Its name.
    pub name: String,
    /// The signature of its arguments.
    pub signature: String,
}

/// What came back: for each method, how often what.
pub type Counts = BTreeMap<String, BTreeMap<String, usize>>;

/// Every method and property of the object; those of the standard interfaces, too.
pub fn methods(bus: &mut Bus, service: &Service) -> io::Result<Vec<Method>> {
    let call = Call {
        destination: &service.name,
        path: &service.path,
        interface: "org.freedesktop.DBus.Introspectable",
        member: "Introspect",
        flags: 0,
        sender: None,
        files: 0,
        body: &Body::default(),
    };
    let xml = bus.call(&call)?.text();
    let node = zbus_xml::Node::from_reader(xml.as_bytes()).map_err(io::Error::other)?;
    let mut methods = Vec::new();
    for interface in node.interfaces() {
        for method in interface.methods() {
            let inputs = method.args().iter();
            let inputs = inputs.filter(|arg| arg.direction() != Some(zbus_xml::ArgDirection::Out));
            methods.push(Method {
                interface: interface.name().to_string(),
                name: method.name().to_string(),
                signature: inputs.map(|arg| arg.ty().to_string()).collect(),
            });
        }
    }
    Ok(methods)
}

/// Calls all of it. An error is a call without an answer, or a service that went away.
pub fn run(socket: &Path, service: &Service, seed: u64) -> io::Result<Counts> {
    let mut fuzz = Fuzz {
        bus: Bus::connect(socket)?,
        random: Random::new(seed),
        counts: Counts::new(),
        open: HashMap::new(),
        known: Vec::new(),
    };
    let methods = methods(&mut fuzz.bus, service)?;
    let owner = fuzz.owner(&service.name)?;
    // Round by round, so that what one does meets what another left.
    for round in 0..service.calls {
        for method in &methods {
            fuzz.one(service, method)?;
        }
        if round % (service.calls / 2).max(1) == 0 {
            for method in &methods {
                fuzz.hostile(socket, service, method)?;
            }
        }
    }
    while !fuzz.open.is_empty() {
        fuzz.answer()?;
    }
    if fuzz.owner(&service.name)? != owner {
        return Err(io::Error::other(format!("{} is somebody else now", service.name)));
    }
    Ok(fuzz.counts)
}

struct Fuzz {
    bus: Bus,
    random: Random,
    counts: Counts,
    open: HashMap<u32, String>,
    /// Ids that were seen in answers.
    known: Vec<String>,
}

impl Fuzz {
    fn owner(&mut self, name: &str) -> io::Result<String> {
        let mut writer = Writer::default();
        writer.string(name.as_bytes());
        let body = Body { signature: "s".into(), bytes: writer.bytes };
        let reply = self.bus.ask_bus("GetNameOwner", &body)?;
        match reply.error {
            None => Ok(reply.text()),
            Some(error) => Err(io::Error::other(format!("{name} has gone: {error}"))),
        }
    }

    fn one(&mut self, service: &Service, method: &Method) -> io::Result<()> {
        let gentle = service.gentle.contains(&method.name);
        // A third are wrong in their types; of them it is known what to expect.
        let wrong = gentle || self.random.one_in(3);
        let types = if wrong {
            let types = signature(&mut self.random);
            // Rather nothing at all than rightly.
            if types == method.signature { "u".into() } else { types }
        } else {
            method.signature.clone()
        };
        let bytes = if method.interface == PROPERTIES && !wrong {
            self.property(&types)
        } else {
            body(&mut self.random, &types, LONGEST, &self.known)
        };
        let body = Body { signature: types, bytes };
        self.send(service, method, &body)?;
        while self.open.len() >= UNDER_WAY {
            self.answer()?;
        }
        Ok(())
    }

    /// Get, Set and GetAll of something that there may be.
    fn property(&mut self, types: &str) -> Vec<u8> {
        const INTERFACES: [&str; 5] = [
            "org.rootlessd.Helper1",
            "org.rootlessd.Supervisor1.Engine",
            "org.rootlessd.Supervisor1.Ports",
            PROPERTIES,
            "",
        ];
        const NAMES: [&str; 6] = ["State", "Granted", "Version", "MainPid", "Deaths", "No"];
        let mut writer = Writer::default();
        writer.string(self.random.pick(&INTERFACES).as_bytes());
        if types.len() > 1 {
            writer.string(self.random.pick(&NAMES).as_bytes());
        }
        if types.len() > 2 {
            let kind = *self.random.pick(&["s", "u", "as", "a(sq)", "v"]);
            writer.signature(kind);
            value(&mut self.random, &mut writer, kind, LONGEST, &self.known);
        }
        writer.bytes
    }

    /// What the bus itself should not let through: not UTF-8, no value of its type, and too much.
    fn hostile(&mut self, socket: &Path, service: &Service, method: &Method) -> io::Result<()> {
        while !self.open.is_empty() {
            self.answer()?;
        }
        let mut long = Writer::default();
        long.string(&vec![b'x'; TOO_MUCH]);
        let mut not_utf8 = Writer::default();
        not_utf8.string(b"own\xff\xfe\x80");
        let bodies = [
            Body { signature: "s".into(), bytes: not_utf8.bytes },
            Body { signature: "s".into(), bytes: vec![0xff; 8] },
            Body { signature: "b".into(), bytes: 2_u32.to_le_bytes().into() },
            Body { signature: "s".into(), bytes: long.bytes },
        ];
        for body in bodies {
            let sent = self.send(service, method, &body);
            let ended = sent.and_then(|()| self.answer()).is_err();
            let result = if ended { "(disconnected by the bus)" } else { "(let through)" };
            *self
                .counts
                .entry(method.name.clone())
                .or_default()
                .entry(result.into())
                .or_default() += 1;
            if ended {
                self.open.clear();
                self.bus = Bus::connect(socket)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, service: &Service, method: &Method, body: &Body) -> io::Result<()> {
        let flags = if self.random.one_in(2) { INTERACTIVE } else { 0 };
        let sent = self.bus.send(&Call {
            destination: &service.name,
            path: &service.path,
            interface: &method.interface,
            member: &method.name,
            flags,
            sender: None,
            files: 0,
            body,
        });
        let what = format!("{} {:?} of {} bytes", method.name, body.signature, body.bytes.len());
        let serial = sent.map_err(|error| {
            io::Error::new(error.kind(), format!("{error}: {what}, after {:?}", self.open.values()))
        })?;
        self.open.insert(serial, what);
        Ok(())
    }

    fn answer(&mut self) -> io::Result<()> {
        let reply = self.bus.receive().map_err(|error| {
            io::Error::new(error.kind(), format!("no answer: {error}: {:?}", self.open.values()))
        })?;
        let Some(what) = self.open.remove(&reply.to) else { return Ok(()) };
        let method = what.split(' ').next().unwrap_or_default();
        let result = short(&reply);
        if result == "LimitsExceeded" && reply.text().contains("in a second") {
            // Nothing is learnt from more of these: the next second begins soon.
            thread::sleep(Duration::from_millis(300));
        }
        *self.counts.entry(method.into()).or_default().entry(result).or_default() += 1;
        self.known.extend(reply.ids());
        self.known.dedup();
        let many = self.known.len();
        self.known.drain(..many.saturating_sub(200));
        Ok(())
    }
}

fn short(reply: &Reply) -> String {
    match &reply.error {
        None => "ok".into(),
        Some(name) => name.rsplit('.').next().unwrap_or_default().to_owned(),
    }
}
