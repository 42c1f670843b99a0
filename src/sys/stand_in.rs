//! A network namespace that stands in for one that is gone: with an interface of the same name and
//! addresses, and nothing behind it. For programs that look into a namespace for what to undo outside.
//!
//! It lasts as long as its descriptor. The functions block.

use std::ffi::c_ulong;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::{CloneFlags, unshare};

use super::namespaces::{Namespace, NamespaceError, on_own_thread};

/// <linux/sockios.h>: makes a bridge of the name that the argument begins with.
const SIOCBRADDBR: c_ulong = 0x89a0;

/// The namespace.
#[derive(Debug)]
pub struct StandIn(OwnedFd);

impl StandIn {
    /// Makes one with this interface, which is down, and these addresses with the lengths of their
    /// networks.
    ///
    /// # Errors
    /// What the kernel refused: the namespace, the interface or every address.
    pub fn make(interface: &str, addresses: &[(IpAddr, u8)]) -> Result<Self, NamespaceError> {
        on_own_thread(|| {
            let made = unshare(CloneFlags::CLONE_NEWNET);
            made.map_err(|errno| NamespaceError::Unshare {
                namespaces: vec![Namespace::Network],
                source: errno.into(),
            })?;
            let refused = |source| NamespaceError::Interface { name: interface.to_owned(), source };
            fill(interface, addresses).map_err(refused)?;
            Ok(Self(File::open("/proc/thread-self/ns/net").map_err(refused)?.into()))
        })
    }

    /// Where other processes find it while it lasts.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

/// Makes the interface in this thread's namespace. A bridge, because that takes a name and no more.
fn fill(interface: &str, addresses: &[(IpAddr, u8)]) -> io::Result<()> {
    let name = name_of(interface)?;
    let control = socket(libc::AF_INET)?;
    // SAFETY: `control` is open; SIOCBRADDBR reads IFNAMSIZ bytes through the pointer, which `name`
    // has, and keeps nothing of it.
    check(unsafe { libc::ioctl(control.as_raw_fd(), SIOCBRADDBR, &raw const name) })?;
    // One that cannot be had (IPv6 may be off, a label be too long) takes nothing from the others.
    let numbered = addresses.iter().enumerate();
    let (added, refused): (Vec<_>, Vec<_>) = numbered
        .map(|(number, (ip, prefix))| add(&control, interface, number, *ip, *prefix))
        .partition(io::Result::is_ok);
    match refused.into_iter().next() {
        Some(refused) if added.is_empty() => refused,
        _ => Ok(()),
    }
}

fn add(
    control: &OwnedFd,
    interface: &str,
    number: usize,
    ip: IpAddr,
    prefix: u8,
) -> io::Result<()> {
    match ip {
        // An interface has one address a label (netdevice(7)).
        IpAddr::V4(ip) if number == 0 => add_v4(control, interface, ip, prefix),
        IpAddr::V4(ip) => add_v4(control, &format!("{interface}:{number}"), ip, prefix),
        IpAddr::V6(ip) => {
            let index = nix::net::if_::if_nametoindex(interface)?;
            let request = libc::in6_ifreq {
                ifr6_addr: libc::in6_addr { s6_addr: ip.octets() },
                ifr6_prefixlen: prefix.into(),
                ifr6_ifindex: index.cast_signed(),
            };
            let control = socket(libc::AF_INET6)?;
            let fd = control.as_raw_fd();
            // SAFETY: `control` is open and of IPv6, whose SIOCSIFADDR reads one in6_ifreq
            // through the pointer and keeps nothing of it.
            check(unsafe { libc::ioctl(fd, libc::SIOCSIFADDR, &raw const request) })
        }
    }
}

fn add_v4(control: &OwnedFd, label: &str, ip: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    for (verb, ip) in [(libc::SIOCSIFADDR, ip), (libc::SIOCSIFNETMASK, Ipv4Addr::from_bits(mask))] {
        // struct sockaddr_in: after the family a port and the address.
        let mut data = [0; 14];
        for (to, from) in data[2..6].iter_mut().zip(ip.octets()) {
            *to = from.cast_signed();
        }
        let family = libc::AF_INET as libc::sa_family_t;
        let address = libc::sockaddr { sa_family: family, sa_data: data };
        let request = libc::ifreq {
            ifr_name: name_of(label)?,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_addr: address },
        };
        // SAFETY: `control` is open and of IPv4, whose verbs read one ifreq through the pointer, with
        // a name that ends in zero and an address, and keep nothing of it.
        check(unsafe { libc::ioctl(control.as_raw_fd(), verb, &raw const request) })?;
    }
    Ok(())
}

fn name_of(interface: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    Ok(name)
}

fn socket(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes three integers and touches no memory of ours.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the kernel returned this descriptor a line ago; nobody else can own it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::namespaces::run_in_netns;

    /// Needs root.
    #[test]
    fn other_processes_find_the_interface_with_all_its_addresses() {
        let addresses = [("10.9.0.5", 16), ("fd00:9::5", 64), ("10.9.0.6", 32)];
        let addresses = addresses.map(|(ip, prefix)| (ip.parse().expect("an address"), prefix));
        let stand_in = StandIn::make("eth0", &addresses).expect("a namespace");
        let netns = format!("--net={}", stand_in.path().display());
        let mut look = std::process::Command::new("nsenter");
        let output = look.args([&netns, "ip", "-o", "addr", "show", "eth0"]).output();
        let text = String::from_utf8_lossy(&output.expect("nsenter").stdout).into_owned();
        for address in ["10.9.0.5/16", "fd00:9::5/64", "10.9.0.6/32"] {
            assert!(text.contains(&format!(" {address} ")), "{address}: {text}");
        }
        let path = stand_in.path();
        drop(stand_in);
        assert!(run_in_netns(&path, || ()).is_err(), "it is still there");
        // Its second label would be too long.
        let addresses = [addresses[0], addresses[2], addresses[1]];
        let stand_in = StandIn::make("a-name-of-15-by", &addresses).expect("a namespace");
        let both = run_in_netns(&stand_in.path(), || {
            let of =
                |family: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{family}"));
            (of("fib_trie").unwrap_or_default(), of("if_inet6").unwrap_or_default())
        });
        let (v4, v6) = both.expect("it is there");
        assert!(v4.contains("10.9.0.5") && !v4.contains("10.9.0.6"), "{v4}");
        assert!(v6.starts_with("fd00"), "{v6}");
        let long = StandIn::make("a-name-of-16-byte", &[]).expect_err("too long");
        assert!(matches!(long, NamespaceError::Interface { .. }), "{long:?}");
    }
}
