//! Which addresses no request may go to.
//!
//! Link-local addresses are where clouds answer with the credentials of the machine. A name that leads there is a mistake
//! or an attack, so they are refused whatever a configuration says; other private networks are where services live.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses outside the link-local ranges at which clouds answer with credentials: AWS and Google over IPv6, Alibaba,
/// Oracle, Azure.
const METADATA: [IpAddr; 5] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Whether no request may go to an address: link-local, or a metadata service; also where an IPv6 address stands for it.
#[must_use]
pub fn is_forbidden(address: IpAddr) -> bool {
    METADATA.contains(&address)
        || match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => {
                address.is_unicast_link_local() || embedded(address).is_some_and(|v4| is_forbidden(IpAddr::V4(v4)))
            }
        }
}

/// The IPv4 address that an IPv6 address stands for: mapped or compatible (RFC 4291), through NAT64 (RFC 6052), 6to4
/// (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let last = |octets: [u8; 16]| Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
    let octets = address.octets();
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(last(octets)),
        [0x2002, ..] => Some(Ipv4Addr::new(octets[2], octets[3], octets[4], octets[5])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_and_metadata_addresses_are_forbidden_in_every_disguise() {
        for text in [
            "169.254.0.0",
            "169.254.169.254",
            "169.254.255.255",
            "fe80::1",
            "febf::1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "::ffff:100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
        ] {
            assert!(is_forbidden(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn loopback_and_other_networks_are_where_services_live() {
        for text in [
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "192.168.1.1",
            "169.253.255.255",
            "169.255.0.0",
            "fec0::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "2001:db8::1",
            "93.184.216.34",
        ] {
            assert!(!is_forbidden(text.parse().unwrap()), "{text}");
        }
    }
}
