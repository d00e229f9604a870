//! The address of a client, behind proxies that are trusted.

use std::net::{IpAddr, SocketAddr};

use crate::config::Network;

/// The client of a connection: its peer or, if that is a trusted proxy, the last address in `forwarded` that is not. A
/// proxy appends the address of its own peer, so what stands to the left of that may be invented. An address that
/// cannot be read ends the search: the request counts as that of the proxy that sent it.
///
/// `forwarded` has the values of the headers `X-Forwarded-For`, in their order.
pub fn client<'v>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'v [u8]>,
    trusted: &[Network],
) -> IpAddr {
    let mut client = peer.to_canonical();
    let mut hops = forwarded.rev().flat_map(|value| value.rsplit(|byte| *byte == b','));
    while trusted.iter().any(|network| network.contains(client))
        && let Some(hop) = hops.next().and_then(read)
    {
        client = hop.to_canonical();
    }
    client
}

/// An address, with or without a port.
fn read(hop: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(hop).ok()?.trim();
    text.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, forwarded: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap());
        let forwarded = forwarded.iter().map(|value| value.as_bytes());
        client(peer.parse().unwrap(), forwarded, &trusted).to_string()
    }

    #[test]
    fn the_word_of_a_stranger_does_not_count() {
        assert_eq!(seen("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(seen("::ffff:192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
    }

    #[test]
    fn the_last_hop_that_is_not_trusted_is_the_client() {
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("::ffff:10.0.0.1", &["203.0.113.9", "198.51.100.7 , 10.0.0.2"]), "198.51.100.7");
        assert_eq!(seen("2001:db8::1", &["10.1.1.1,10.2.2.2"]), "10.1.1.1");
        assert_eq!(seen("10.0.0.1", &["::ffff:198.51.100.7"]), "198.51.100.7");
    }

    #[test]
    fn a_hop_may_have_a_port_and_none_that_cannot_be_read_is_passed() {
        assert_eq!(seen("10.0.0.1", &["198.51.100.7:443"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["[2001:db9::1]:443"]), "2001:db9::1");
        for garbage in ["", ",", "unknown", "198.51.100.7, _hidden", "198.51.100.7,", "198.51.100.7, \u{e9}"]
        {
            assert_eq!(seen("10.0.0.1", &[garbage]), "10.0.0.1", "{garbage}");
        }
        assert_eq!(seen("10.0.0.1", &["198.51.100.7, ?, 10.0.0.2"]), "10.0.0.2");
    }
}
