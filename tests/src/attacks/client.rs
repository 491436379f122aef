//! What an attacker does to the helper: each is a mode of `rootlessd-attacker`, which runs in a bed as
//! whoever is to be the attacker.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rootlessd_api::helper::{BUS_NAME, INTERFACE, OBJECT_PATH};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, RenameFlags};

use crate::attacks::{
    random::Random,
    wire::{Body, Bus, Call, INTERACTIVE, NO_REPLY, Reply, Writer},
};

/// Where the system bus is.
pub const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Every method with arguments that would have it do something.
pub const METHODS: [(&str, &str, &[&str]); 11] = [
    ("GrantPorts", "a(sq)", &["tcp/80"]),
    ("GrantBindCapability", "", &[]),
    ("SetUnprivilegedPortStart", "q", &["80"]),
    ("SetPingRange", "s", &["all"]),
    ("DelegateControllers", "as", &["cpu"]),
    ("AllocateSubIds", "", &[]),
    ("AllowUserNamespaces", "", &[]),
    ("AttachGrants", "", &[]),
    ("ListGrants", "", &[]),
    ("ListAllGrants", "", &[]),
    ("Revoke", "s", &["00000000000000000000000000000000"]),
];

/// A client of the helper.
#[derive(Debug)]
pub struct Client {
    bus: Bus,
    /// Flags of its calls.
    pub flags: u8,
    /// The sender that its calls claim.
    pub sender: Option<String>,
}

impl Client {
    /// Connects.
    pub fn new() -> io::Result<Self> {
        Ok(Self { bus: Bus::connect(Path::new(SYSTEM_BUS))?, flags: 0, sender: None })
    }

    /// Calls a method.
    pub fn call(&mut self, member: &str, body: &Body) -> io::Result<Reply> {
        let (flags, sender) = (self.flags, self.sender.clone());
        self.bus.call(&helper(member, flags, sender.as_deref(), body))
    }

    /// Sends a call.
    pub fn send(&mut self, member: &str, body: &Body) -> io::Result<u32> {
        let (flags, sender) = (self.flags, self.sender.clone());
        self.bus.send(&helper(member, flags, sender.as_deref(), body))
    }
}

fn helper<'a>(member: &'a str, flags: u8, sender: Option<&'a str>, body: &'a Body) -> Call<'a> {
    Call {
        destination: BUS_NAME,
        path: OBJECT_PATH,
        interface: INTERFACE,
        member,
        flags,
        sender,
        files: 0,
        body,
    }
}

/// Arguments as words: `@N` is a string of N letters, `tcp/80` a port.
pub fn arguments(signature: &str, words: &[OsString]) -> io::Result<Body> {
    let wrong = || io::Error::other(format!("not {signature}: {words:?}"));
    let mut writer = Writer::default();
    let text = |word: &OsString| match word.as_bytes() {
        [b'@', many @ ..] => {
            let many = std::str::from_utf8(many).ok().and_then(|many| many.parse().ok());
            vec![b'x'; many.unwrap_or_default()]
        }
        other => other.to_vec(),
    };
    let number = |word: &OsString| word.to_str().and_then(|word| word.parse::<i64>().ok());
    match signature {
        "" => {}
        "as" => {
            writer.array(4, |writer| words.iter().for_each(|word| writer.string(&text(word))));
        }
        "a(sq)" => {
            let ports: Option<Vec<_>> = words
                .iter()
                .map(|word| {
                    let (protocol, port) = word.to_str()?.rsplit_once('/')?;
                    Some((protocol, port.parse::<u16>().ok()?))
                })
                .collect();
            let ports = ports.ok_or_else(wrong)?;
            writer.array(8, |writer| {
                for (protocol, port) in ports {
                    writer.align(8);
                    writer.string(protocol.as_bytes());
                    writer.number(&port.to_le_bytes());
                }
            });
        }
        kinds => {
            for (kind, word) in kinds.chars().zip(words) {
                match kind {
                    's' => writer.string(&text(word)),
                    'q' => writer.number(&(number(word).ok_or_else(wrong)? as u16).to_le_bytes()),
                    'u' | 'i' => {
                        writer.number(&(number(word).ok_or_else(wrong)? as u32).to_le_bytes());
                    }
                    _ => return Err(wrong()),
                }
            }
        }
    }
    Ok(Body { signature: signature.into(), bytes: writer.bytes })
}

fn usual(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Every method once, a line each.
pub fn each(client: &mut Client) -> io::Result<()> {
    for (member, signature, words) in METHODS {
        let reply = client.call(member, &arguments(signature, &usual(words))?)?;
        println!("{member} {}", reply.line());
    }
    Ok(())
}

/// The same call so many times at once; the answers as they come.
pub fn repeat(client: &mut Client, many: usize, member: &str, body: &Body) -> io::Result<()> {
    for _ in 0..many {
        client.send(member, body)?;
    }
    for _ in 0..many {
        println!("{}", client.bus.receive()?.line());
    }
    Ok(())
}

/// Asks for one port start and then for another, when it reads a line; somebody may be asked.
pub fn ask_twice(starts: &[&str]) -> io::Result<()> {
    let mut client = Client::new()?;
    client.flags = INTERACTIVE;
    io::stdin().read_line(&mut String::new())?;
    for start in starts {
        let body = arguments("q", &usual(&[start]))?;
        // Until the agent is there, there is nobody to ask.
        let reply = loop {
            let reply = client.call("SetUnprivilegedPortStart", &body)?;
            let nobody = reply.error.as_deref()
                == Some("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired");
            if !nobody {
                break reply;
            }
            thread::sleep(Duration::from_millis(50));
        };
        println!("{start}: {}", reply.line());
    }
    Ok(())
}

/// Has so many questions under way once there is an agent; how many were refused at once.
pub fn pending(many: usize) -> io::Result<()> {
    let mut client = Client::new()?;
    client.flags = INTERACTIVE;
    let body = arguments("q", &usual(&["80"]))?;
    let (mut refused, mut waiting) = (0, 0);
    let nobody = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";
    // Until the agent is there, there is nobody to ask.
    while waiting == 0 {
        for _ in 0..many {
            client.send("SetUnprivilegedPortStart", &body)?;
        }
        waiting = many;
        let mut asked = 0;
        while waiting > 4 {
            let reply = client.bus.receive()?;
            waiting -= 1;
            asked += usize::from(reply.error.as_deref() == Some(nobody));
            refused += usize::from(reply.error.is_some());
        }
        if asked > 0 {
            while waiting > 0 {
                client.bus.receive()?;
                waiting -= 1;
            }
            thread::sleep(Duration::from_millis(1100));
        }
    }
    println!("refused {refused}, waiting {waiting}");
    io::stdin().read_line(&mut String::new()).map(drop)
}

/// Asks for a low port start, and is gone a random time afterwards.
pub fn vanish(many: usize, most: u64) -> io::Result<()> {
    let seed = Random::seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let body = arguments("q", &usual(&["80"]))?;
    for _ in 0..many {
        let mut client = Client::new()?;
        client.flags = if random.one_in(2) { INTERACTIVE } else { 0 };
        client.send("SetUnprivilegedPortStart", &body)?;
        // The attack is about being gone at any time.
        thread::sleep(Duration::from_micros(random.any() % most));
    }
    Ok(())
}

/// Asks, and becomes another program at once, which keeps the connection.
pub fn become_another(program: &[OsString]) -> io::Result<()> {
    let mut client = Client::new()?;
    rustix::io::fcntl_setfd(client.bus.stream(), rustix::io::FdFlags::empty())?;
    client.send("SetUnprivilegedPortStart", &arguments("q", &usual(&["80"]))?)?;
    Err(Command::new(&program[0]).args(&program[1..]).exec())
}

/// Every method with open files of each kind attached, so many times.
pub fn files(many: usize) -> io::Result<()> {
    let flags = [OFlags::PATH, OFlags::WRONLY | OFlags::TMPFILE, OFlags::RDONLY];
    let mut kinds = Vec::<Vec<OwnedFd>>::new();
    for flags in flags {
        kinds.push(vec![rustix::fs::openat(CWD, "/tmp", flags, Mode::RUSR | Mode::WUSR)?]);
    }
    kinds.push(vec![rustix::fs::memfd_create("attack", MemfdFlags::empty())?]);
    let pair = std::os::unix::net::UnixStream::pair()?;
    kinds.push(vec![pair.0.into(), pair.1.into()]);
    let ten = (0..10).map(|_| rustix::fs::openat(CWD, "/", OFlags::PATH, Mode::empty()));
    kinds.push(ten.collect::<Result<_, _>>()?);
    let mut client = Client::new()?;
    let mut lines = std::collections::BTreeMap::<_, usize>::new();
    for round in 0..many {
        let (member, signature, words) = METHODS[round % METHODS.len()];
        let files: Vec<_> = kinds[round % kinds.len()].iter().map(AsRawFd::as_raw_fd).collect();
        let body = arguments(signature, &usual(words))?;
        let call = Call { files: files.len() as u32, ..helper(member, 0, None, &body) };
        client.bus.send_files(&call, &files)?;
        let reply = client.bus.receive()?;
        *lines.entry(reply.error.unwrap_or_else(|| "ok".into())).or_default() += 1;
    }
    lines.iter().for_each(|(line, many)| println!("{line} {many}"));
    Ok(())
}

/// Calls without waiting for answers, so often in a second, for so long; with a string of so many bytes.
pub fn flood(seconds: u64, rate: u64, size: usize) -> io::Result<()> {
    let mut client = Client::new()?;
    client.flags = NO_REPLY;
    let body = match size {
        0 => arguments("", &[])?,
        size => arguments("s", &usual(&[&format!("@{size}")]))?,
    };
    let member = if size == 0 { "ListGrants" } else { "SetPingRange" };
    let begin = Instant::now();
    let mut many = 0_u64;
    println!("ready");
    while begin.elapsed() < Duration::from_secs(seconds) {
        client.send(member, &body)?;
        many += 1;
        // It keeps its pace; where it cannot, it does what it can.
        let due = Duration::from_micros(many * 1_000_000 / rate);
        if let Some(early) = due.checked_sub(begin.elapsed()).filter(|early| early.as_millis() > 0)
        {
            thread::sleep(early);
        }
    }
    println!("{many} calls in {} ms", begin.elapsed().as_millis());
    Ok(())
}

/// Calls and waits, a hundred times a second, for so long: how long an answer takes, in microseconds.
pub fn latency(seconds: u64) -> io::Result<()> {
    let mut client = Client::new()?;
    let body = arguments("", &[])?;
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < Duration::from_secs(seconds) {
        let call = Instant::now();
        let reply = client.call("ListGrants", &body)?;
        times.push(call.elapsed().as_micros());
        if reply.error.is_some() {
            println!("{}", reply.line());
        }
        // One who has nothing else to do would be told that it is too often.
        thread::sleep(Duration::from_millis(8));
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("calls {} p50 {} p99 {} max {}", times.len(), at(50), at(99), at(100));
    Ok(())
}

/// Puts two files into each other's place until it is killed; tells of each 10,000 times.
pub fn exchange(one: &OsString, other: &OsString) -> io::Result<()> {
    for many in 1_u64.. {
        rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?;
        if many % 10_000 == 0 {
            println!("{many}");
        }
    }
    Ok(())
}

/// Has a controller granted and taken back, so many times; what came back.
pub fn reloads(many: usize) -> io::Result<()> {
    let mut client = Client::new()?;
    let mut lines = std::collections::BTreeMap::<_, usize>::new();
    let mut granted: Option<String> = None;
    let begin = Instant::now();
    for _ in 0..many {
        let reply = match &granted {
            Some(id) => client.call("Revoke", &arguments("s", &usual(&[id]))?)?,
            None => client.call("DelegateControllers", &arguments("as", &usual(&["cpu"]))?)?,
        };
        if reply.error.is_none() {
            granted = reply.ids().first().cloned();
        }
        *lines.entry(reply.error.unwrap_or_else(|| "ok".into())).or_default() += 1;
    }
    println!("ms {}", begin.elapsed().as_millis());
    lines.iter().for_each(|(line, many)| println!("{line} {many}"));
    Ok(())
}

/// Guesses ids of grants.
pub fn guess(many: usize) -> io::Result<()> {
    let mut random = Random::new(Random::seed());
    let mut client = Client::new()?;
    let mut lines = std::collections::BTreeMap::<_, usize>::new();
    for _ in 0..many {
        let id = format!("{:016x}{:016x}", random.any(), random.any());
        let reply = client.call("Revoke", &arguments("s", &usual(&[&id]))?)?;
        *lines.entry(reply.error.unwrap_or_else(|| "ok".into())).or_default() += 1;
    }
    lines.iter().for_each(|(line, many)| println!("{line} {many}"));
    Ok(())
}
