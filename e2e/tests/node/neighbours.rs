//! Router advertisements (RFC 4861): sent, and what came of them. All of it in the network namespace of
//! the calling thread.

use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6};

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, sockopt};

/// The prefix that is advertised, of those for documentation (RFC 3849).
const PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0x1, 0, 0, 0, 0);
/// How addresses of it begin in /proc/net.
const DIGITS: &str = "20010db80bad0001";

/// What was made of an advertisement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// An address of the prefix.
    pub(crate) address: bool,
    /// A default route.
    pub(crate) route: bool,
}

/// Tells all on `eth0` that this is a router to everywhere and that they have addresses of [`PREFIX`].
pub(crate) fn advertise() -> Result<()> {
    let kind = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(
        AddressFamily::INET6,
        SocketType::RAW,
        kind,
        Some(ipproto::ICMPV6),
    )?;
    // What has been forwarded is not believed.
    sockopt::set_ipv6_multicast_hops(&socket, 255)?;
    // Type 134; the kernel adds the checksum. Hop limit 64, and a router for 1800 s.
    let mut packet = vec![134, 0, 0, 0, 64, 0];
    packet.extend(1800_u16.to_be_bytes());
    packet.extend([0; 8]);
    // Prefix information: 4 times 8 bytes, 64 bits, on this link and for addresses; for a day.
    packet.extend([3, 4, 64, 0xc0]);
    packet.extend([86_400_u32.to_be_bytes(), 14_400_u32.to_be_bytes(), [0; 4]].concat());
    packet.extend(PREFIX.octets());
    let index = nix::net::if_::if_nametoindex("eth0")?;
    let all_nodes = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
    let sent = sendto(&socket, &packet, SendFlags::empty(), &all_nodes)?;
    ensure!(sent == packet.len(), "{sent} bytes of {}", packet.len());
    Ok(())
}

/// How many addresses of `eth0` that begin with these digits can be used already.
pub(crate) fn addresses(digits: &str) -> Result<usize> {
    const TENTATIVE: u32 = 0x40;
    let text = fs::read_to_string("/proc/thread-self/net/if_inet6")?;
    let mut count = 0;
    for line in text.lines().filter(|line| line.starts_with(digits) && line.ends_with("eth0")) {
        let flags = line.split_whitespace().nth(4).context("no flags")?;
        count += usize::from(u32::from_str_radix(flags, 16)? & TENTATIVE == 0);
    }
    Ok(count)
}

/// What this namespace made of advertisements.
pub(crate) fn heard() -> Result<Heard> {
    let addresses = fs::read_to_string("/proc/thread-self/net/if_inet6")?;
    let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route")?;
    // Destination, length, source, length, next hop, …, device.
    let is_default = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.first().is_some_and(|to| to.bytes().all(|c| c == b'0'))
            && fields.get(1) == Some(&"00")
            && fields.last() == Some(&"eth0")
    };
    Ok(Heard {
        address: addresses.lines().any(|line| line.starts_with(DIGITS)),
        route: routes.lines().any(is_default),
    })
}
