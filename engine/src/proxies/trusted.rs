//! Whose word counts: a list of addresses, networks, "unix" and "*".
//! Must not know: what is said, and how.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::io::Peer;

/// Bits before those of an IPv4 address that is mapped into IPv6 (RFC 4291, section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Peers and hops that are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    /// Every peer, be it named or not.
    everybody: bool,
    unix: bool,
    networks: Vec<Network>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    V4 { base: u32, mask: u32 },
    V6 { base: u128, mask: u128 },
}

impl Trusted {
    /// Reads a list whose parts are separated by commas or blanks; `None` where it is empty.
    ///
    /// # Errors
    /// The part that is none of `ADDRESS`, `ADDRESS/BITS`, `unix` and `*`.
    pub fn parse(list: &str) -> Result<Option<Trusted>, &str> {
        let mut trusted = Trusted::default();
        for part in list.split([',', ' ', '\t']).filter(|part| !part.is_empty()) {
            match part {
                "*" => trusted.everybody = true,
                "unix" => trusted.unix = true,
                _ => trusted.networks.push(Network::parse(part).ok_or(part)?),
            }
        }
        Ok((trusted != Trusted::default()).then_some(trusted))
    }

    /// Whether what `peer` says counts.
    pub fn trusts(&self, peer: Peer) -> bool {
        self.everybody || self.names(peer.ip)
    }

    /// Whether the list names an address (`None`: a Unix socket). `*` names nobody: it lets every peer speak, but a hop that
    /// anybody could have made up is not passed over for one more.
    pub fn names(&self, ip: Option<IpAddr>) -> bool {
        match ip {
            None => self.unix,
            Some(ip) => self.networks.iter().any(|network| network.has(ip)),
        }
    }
}

impl Network {
    /// `ADDRESS` or `ADDRESS/BITS`; no bit behind those may be set, since then it is not clear what is meant.
    fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) if !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                (address, Some(bits.parse::<u8>().ok()?))
            }
            Some(_) => return None,
        };
        let (ip, bits) = match (address.parse().ok()?, bits) {
            // Peers that are mapped are taken for what they are, and so are networks.
            (IpAddr::V6(ip), bits) if bits.is_none_or(|bits| bits >= MAPPED_BITS) && ip.to_ipv4_mapped().is_some() => {
                (ip.to_canonical(), bits.map(|bits| bits - MAPPED_BITS))
            }
            other => other,
        };
        let network = match ip {
            IpAddr::V4(ip) => {
                let bits = bits.unwrap_or(32);
                let free = 32u8.checked_sub(bits)?;
                Network::V4 { base: ip.to_bits(), mask: u32::MAX.checked_shl(free.into()).unwrap_or(0) }
            }
            IpAddr::V6(ip) => {
                let bits = bits.unwrap_or(128);
                let free = 128u8.checked_sub(bits)?;
                Network::V6 { base: ip.to_bits(), mask: u128::MAX.checked_shl(free.into()).unwrap_or(0) }
            }
        };
        let is_clear = match network {
            Network::V4 { base, mask } => base & !mask == 0,
            Network::V6 { base, mask } => base & !mask == 0,
        };
        is_clear.then_some(network)
    }

    fn has(&self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Network::V4 { base, mask }, IpAddr::V4(ip)) => Ipv4Addr::to_bits(ip) & mask == *base,
            (Network::V6 { base, mask }, IpAddr::V6(ip)) => Ipv6Addr::to_bits(ip) & mask == *base,
            _ => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn peer(ip: &str) -> Peer {
        match ip {
            "unix" => Peer::default(),
            ip => Peer::new(std::net::SocketAddr::new(ip.parse().unwrap(), 1)),
        }
    }

    #[test]
    fn lists_and_whom_they_name() {
        let rows: &[(&str, &[&str], &[&str])] = &[
            ("10.0.0.1", &["10.0.0.1", "::ffff:10.0.0.1"], &["10.0.0.2", "unix", "::1"]),
            ("10.0.0.0/8, ::1", &["10.255.0.1", "::1"], &["11.0.0.0", "9.255.255.255", "::2"]),
            ("10.0.0.0/31", &["10.0.0.0", "10.0.0.1"], &["10.0.0.2"]),
            ("0.0.0.0/0", &["1.2.3.4", "255.255.255.255"], &["::1", "unix"]),
            ("::/0", &["::1", "2001:db8::1"], &["1.2.3.4", "unix"]),
            ("2001:db8::/32", &["2001:db8:ffff::1"], &["2001:db9::"]),
            ("::ffff:10.0.0.0/104", &["10.1.2.3"], &["11.0.0.0"]),
            ("::ffff:10.0.0.1", &["10.0.0.1"], &["10.0.0.2"]),
            ("unix", &["unix"], &["127.0.0.1"]),
            ("\tunix ,,127.0.0.1 ", &["unix", "127.0.0.1"], &["127.0.0.2"]),
        ];
        for (list, named, others) in rows {
            let trusted = Trusted::parse(list).unwrap().unwrap();
            for ip in *named {
                assert!(trusted.trusts(peer(ip)) && trusted.names(peer(ip).ip), "{list} names {ip}");
            }
            for ip in *others {
                assert!(!trusted.trusts(peer(ip)) && !trusted.names(peer(ip).ip), "{list} does not name {ip}");
            }
        }
    }

    #[test]
    fn everybody_is_trusted_and_named_by_nobody() {
        let trusted = Trusted::parse("* 10.0.0.1").unwrap().unwrap();
        for (ip, named) in [("10.0.0.1", true), ("10.0.0.2", false), ("::1", false), ("unix", false)] {
            assert!(trusted.trusts(peer(ip)));
            assert_eq!(trusted.names(peer(ip).ip), named, "{ip}");
        }
    }

    #[test]
    fn a_list_without_parts_is_none() {
        for list in ["", " ", ", \t,"] {
            assert_eq!(Trusted::parse(list), Ok(None));
        }
    }

    #[test]
    fn the_bad_part_is_named() {
        for bad in [
            "localhost",
            "10.0.0",
            "010.0.0.1",
            "10.0.0.1/33",
            "10.0.0.1/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/300",
            "::/129",
            "::1/64",
            "[::1]",
            "::1%lo",
            "**",
            "Unix",
        ] {
            assert_eq!(Trusted::parse(&format!("::1, {bad} 10.0.0.1")), Err(bad));
        }
    }
}
