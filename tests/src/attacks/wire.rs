//! D-Bus by hand: messages as no library would write them, and a connection that sends them.
//!
//! The format is that of the D-Bus specification, "Message Protocol", in little endian.

use std::{
    io::{self, IoSlice, Read, Write},
    os::{fd::RawFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// No answer is wanted.
pub const NO_REPLY: u8 = 1;
/// Somebody may be asked.
pub const INTERACTIVE: u8 = 4;
/// How long an answer may take before it counts as missing: longer than a person may.
const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Their types.
    pub signature: String,
    /// Their bytes.
    pub bytes: Vec<u8>,
}

/// Writes values, each where its alignment has it.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    /// What was written.
    pub bytes: Vec<u8>,
}

impl Writer {
    /// Fills up to a multiple of `to`.
    pub fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    /// A number of as many bytes as the slice has.
    pub fn number(&mut self, bytes: &[u8]) {
        self.align(bytes.len());
        self.bytes.extend(bytes);
    }

    /// A length, or a `u`.
    pub fn length(&mut self, length: usize) {
        self.number(&(length as u32).to_le_bytes());
    }

    /// A string or an object path, whatever is in it.
    pub fn string(&mut self, text: &[u8]) {
        self.length(text.len());
        self.bytes.extend(text);
        self.bytes.push(0);
    }

    /// A signature.
    pub fn signature(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    /// An array of what `write` writes, whose elements are aligned so.
    pub fn array(&mut self, alignment: usize, write: impl FnOnce(&mut Self)) {
        self.align(4);
        let place = self.bytes.len();
        self.length(0);
        self.align(alignment);
        let begin = self.bytes.len();
        write(self);
        let length = (self.bytes.len() - begin) as u32;
        self.bytes[place..place + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// A method call.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The name to call.
    pub destination: &'a str,
    /// The object.
    pub path: &'a str,
    /// The interface; none if it is empty.
    pub interface: &'a str,
    /// The method.
    pub member: &'a str,
    /// [`NO_REPLY`], [`INTERACTIVE`].
    pub flags: u8,
    /// Who it claims to be from; the bus knows better.
    pub sender: Option<&'a str>,
    /// How many open files it says that it has.
    pub files: u32,
    /// The arguments.
    pub body: &'a Body,
}

impl Call<'_> {
    fn encode(&self, serial: u32) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.bytes.extend([b'l', 1, self.flags, 1]);
        writer.length(self.body.bytes.len());
        writer.number(&serial.to_le_bytes());
        let texts = [
            (1, "o", self.path),
            (2, "s", self.interface),
            (3, "s", self.member),
            (6, "s", self.destination),
            (7, "s", self.sender.unwrap_or_default()),
        ];
        writer.array(8, |writer| {
            for (code, kind, text) in texts.into_iter().filter(|(.., text)| !text.is_empty()) {
                writer.align(8);
                writer.bytes.push(code);
                writer.signature(kind);
                writer.string(text.as_bytes());
            }
            if !self.body.signature.is_empty() {
                writer.align(8);
                writer.bytes.push(8);
                writer.signature("g");
                writer.signature(&self.body.signature);
            }
            if self.files > 0 {
                writer.align(8);
                writer.bytes.push(9);
                writer.signature("u");
                writer.number(&self.files.to_le_bytes());
            }
        });
        writer.align(8);
        writer.bytes.extend(&self.body.bytes);
        writer.bytes
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Which call's.
    pub to: u32,
    /// The error's name, if it is one.
    pub error: Option<String>,
    /// The arguments as they came.
    pub body: Vec<u8>,
}

impl Reply {
    /// The first argument, if it is a string.
    pub fn text(&self) -> String {
        let length = self.body.get(..4).map_or(0, |_| number(&self.body, 0) as usize);
        let text = self.body.get(4..4 + length).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// `ok`, or the error's name and text.
    pub fn line(&self) -> String {
        match &self.error {
            None => "ok".into(),
            Some(name) => format!("{name}: {}", self.text().replace('\n', "\\n")),
        }
    }

    /// What looks like the ids of grants in it.
    pub fn ids(&self) -> Vec<String> {
        let words = self.body.split(|byte| !byte.is_ascii_hexdigit());
        let ids = words.filter(|word| word.len() == 32);
        ids.map(|id| String::from_utf8_lossy(id).into_owned()).collect()
    }
}

/// A connection to a bus.
#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    received: Vec<u8>,
    serial: u32,
    /// Its unique name.
    pub name: String,
}

impl Bus {
    /// Connects to the bus at a socket, as whoever this process is.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        expect_line(&mut stream, "OK ")?;
        stream.write_all(b"NEGOTIATE_UNIX_FD\r\n")?;
        expect_line(&mut stream, "AGREE_UNIX_FD")?;
        stream.write_all(b"BEGIN\r\n")?;
        let mut bus = Self { stream, received: Vec::new(), serial: 0, name: String::new() };
        bus.name = bus.ask_bus("Hello", &Body::default())?.text();
        Ok(bus)
    }

    /// Calls a method of the bus itself.
    pub fn ask_bus(&mut self, member: &str, body: &Body) -> io::Result<Reply> {
        let name = "org.freedesktop.DBus";
        self.call(&Call {
            destination: name,
            path: "/org/freedesktop/DBus",
            interface: name,
            member,
            flags: 0,
            sender: None,
            files: 0,
            body,
        })
    }

    /// Sends a call; its serial number.
    pub fn send(&mut self, call: &Call<'_>) -> io::Result<u32> {
        self.serial += 1;
        self.stream.write_all(&call.encode(self.serial))?;
        Ok(self.serial)
    }

    /// The same with open files.
    pub fn send_files(&mut self, call: &Call<'_>, files: &[RawFd]) -> io::Result<u32> {
        self.serial += 1;
        let bytes = call.encode(self.serial);
        let rights = [ControlMessage::ScmRights(files)];
        let sent = sendmsg::<()>(
            std::os::fd::AsRawFd::as_raw_fd(&self.stream),
            &[IoSlice::new(&bytes)],
            &rights,
            MsgFlags::empty(),
            None,
        )?;
        self.stream.write_all(&bytes[sent..])?;
        Ok(self.serial)
    }

    /// Sends a call and waits for its answer; others that come meanwhile are dropped.
    pub fn call(&mut self, call: &Call<'_>) -> io::Result<Reply> {
        let serial = self.send(call)?;
        loop {
            let reply = self.receive()?;
            if reply.to == serial {
                return Ok(reply);
            }
        }
    }

    /// The next answer.
    pub fn receive(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(length) = self.complete() {
                let message: Vec<_> = self.received.drain(..length).collect();
                if let Some(reply) = parse(&message) {
                    return Ok(reply);
                }
                continue;
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.received.extend(&chunk[..read]),
            }
        }
    }

    /// The socket, for who is to inherit it.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    fn complete(&self) -> Option<usize> {
        self.received.get(..16)?;
        let (body, fields) = (number(&self.received, 4), number(&self.received, 12));
        let length = (16 + fields as usize).next_multiple_of(8) + body as usize;
        (self.received.len() >= length).then_some(length)
    }
}

fn expect_line(stream: &mut UnixStream, start: &str) -> io::Result<()> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    if line.starts_with(start) { Ok(()) } else { Err(io::Error::other(line)) }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// An answer, if it is one: buses and zbus on this machine write in its own order, little endian.
fn parse(message: &[u8]) -> Option<Reply> {
    if !matches!(message[1], 2 | 3) {
        return None;
    }
    let end = 16 + number(message, 12) as usize;
    let body = message[end.next_multiple_of(8)..].to_vec();
    let mut reply = Reply { to: 0, error: None, body };
    let mut at = 16;
    while at < end {
        at = at.next_multiple_of(8);
        let (code, kind) = (message[at], message[at + 2]);
        // Each field's signature is one letter, so that its value begins four bytes on.
        at += 4;
        match kind {
            b'u' => {
                if code == 5 {
                    reply.to = number(message, at);
                }
                at += 4;
            }
            b'g' => at += 2 + usize::from(message[at]),
            _ => {
                let length = number(message, at) as usize;
                if code == 4 {
                    let text = &message[at + 4..at + 4 + length];
                    reply.error = Some(String::from_utf8_lossy(text).into_owned());
                }
                at += 4 + length + 1;
            }
        }
    }
    Some(reply)
}
