//! The address of the client of a request.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue};

use crate::config::Network;
use crate::limits;

/// The other end of the connection, in the extensions of each request that the server has read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// The client, as the peer or a chain of trusted proxies tells it.
///
/// Only `X-Forwarded-For` is read: a proxy that sets this header passes the others that name a client on as the client
/// wrote them, `Forwarded` (RFC 7239) too.
pub(super) fn client(Peer(peer): Peer, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let forwarded = headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes);
    limits::client(peer, forwarded, trusted)
}
