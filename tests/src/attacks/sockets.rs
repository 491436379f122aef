//! Sockets at ports, for whoever wants to know which may be had.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

/// A port that was bound, until it is dropped.
#[derive(Debug)]
pub enum Bound {
    /// And listens.
    Tcp(TcpListener),
    /// And receives.
    Udp(UdpSocket),
}

/// Binds `tcp4/80`, `udp6/443` …
pub fn bind(what: &str) -> io::Result<Bound> {
    let wrong = || io::Error::other(format!("{what} is no port"));
    let (kind, port) = what.split_once('/').ok_or_else(wrong)?;
    let port = port.parse().map_err(io::Error::other)?;
    let address: IpAddr = match kind.ends_with('6') {
        true => Ipv6Addr::LOCALHOST.into(),
        false => Ipv4Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(address, port);
    match kind.starts_with("tcp") {
        true => TcpListener::bind(address).map(Bound::Tcp),
        false => UdpSocket::bind(address).map(Bound::Udp),
    }
}
