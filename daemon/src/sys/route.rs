//! Which way the kernel sends what goes out, as it tells it (rtnetlink(7)).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::net::if_::if_indextoname;

use super::netlink;

/// An address of the world outside: a root name server's (`a.root-servers.net`). Nothing is sent there.
pub const OUTSIDE4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4));
/// The same over IPv6.
pub const OUTSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 0x2, 0x30));

/// What the kernel says at a time is less.
const DATAGRAM: usize = 8 << 10;

/// By which interface it would go to an address, after all rules and tables: those of a VPN are often
/// others than the main one, or are two halves of the default route. Fails where there is no way.
pub fn interface_to(address: IpAddr) -> io::Result<String> {
    let socket = netlink::ask(NETLINK_ROUTE, 0, RouteNetlinkMessage::GetRoute(route_to(address)))?;
    let mut buffer = Vec::with_capacity(DATAGRAM);
    socket.recv(&mut buffer, 0)?;
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
            let index = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            let index = index.ok_or(io::ErrorKind::NetworkUnreachable)?;
            Ok(if_indextoname(index)?.to_string_lossy().into_owned())
        }
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("{other:?} was not expected"))),
    }
}

fn route_to(address: IpAddr) -> RouteMessage {
    let mut route = RouteMessage::default();
    (route.header.address_family, route.header.destination_prefix_length) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    route.attributes.push(RouteAttribute::Destination(address.into()));
    route
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_oneself_is_the_loopback() {
        assert_eq!(interface_to(Ipv4Addr::LOCALHOST.into()).unwrap(), "lo");
    }
}
