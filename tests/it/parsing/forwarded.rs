//! Any bytes in a header `X-Forwarded-For`.

use std::net::IpAddr;

use coupon_dispatcher::limits::client;

/// Takes bytes that tell of a client. Whatever they are, a stranger is not believed, and what a trusted proxy appends to
/// them, in the same header or in another, is the client.
pub(super) fn forwarded(bytes: &[u8]) -> bool {
    let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap());
    let [stranger, proxy, user]: [IpAddr; 3] =
        ["192.0.2.1", "10.0.0.1", "198.51.100.7"].map(|address| address.parse().unwrap());
    let seen = |peer, values: &[&[u8]]| client(peer, values.iter().copied(), &trusted);
    assert_eq!(seen(stranger, &[bytes]), stranger);
    assert_eq!(seen(proxy, &[&[bytes, b", 198.51.100.7"].concat()]), user);
    assert_eq!(seen(proxy, &[bytes, b"198.51.100.7", b"10.2.2.2, 2001:db8::2"]), user);
    let taken = seen(proxy, &[bytes]);
    assert_eq!(taken, taken.to_canonical());
    taken != proxy
}
