//! What tests need another process for: a bus that can be killed, and a client of another user.
//!
//! `rootlessd-test-helper bus PATH` serves a message bus and says `ready`.
//! `rootlessd-test-helper call PATH MESSAGE` sends a varlink message and prints all that comes back.

use std::{
    error::Error,
    io::{Read, Write},
    os::unix::net::UnixStream,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bus", path] => bus(path),
        ["call", path, message] => call(path, message),
        _ => Err("usage: rootlessd-test-helper bus PATH | call PATH MESSAGE".into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn bus(path: &str) -> Result<(), Box<dyn Error>> {
    let mut bus = busd::bus::Bus::for_address(Some(&format!("unix:path={path}"))).await?;
    println!("ready");
    Ok(bus.run().await?)
}

fn call(path: &str, message: &str) -> Result<(), Box<dyn Error>> {
    let mut stream = UnixStream::connect(path)?;
    // The other side may have answered and closed already.
    let _ = stream.write_all(message.as_bytes()).and_then(|()| stream.write_all(&[0]));
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        eprintln!("the connection ended: {error}");
    }
    println!("{}", String::from_utf8_lossy(&answer).replace('\0', "\n"));
    Ok(())
}
