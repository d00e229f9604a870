//! Limits of requests, for each principal and each address. Each process counts its own requests: behind a balancer with
//! three processes a caller may have three times as many.

mod address;
mod buckets;

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

pub use self::address::client;
use self::buckets::Buckets;
use crate::config::{Network, Rate, RateLimits};
use crate::identity::Principal;

/// The bits of an IPv6 address that name a network: a client has all the addresses in it.
const IPV6_NETWORK: Ipv6Addr = Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// The requests of a principal.
    Principal,
    /// The requests from an address.
    Address,
    /// Invalid tokens from an address.
    FailedLogin,
}

impl Counted {
    const ALL: [Self; 3] = [Self::Principal, Self::Address, Self::FailedLogin];

    /// The name of the limit, in headers and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Principal => "principal",
            Self::Address => "address",
            Self::FailedLogin => "failed-login",
        }
    }
}

/// A request beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    pub counted: Counted,
    pub rate: Rate,
    /// Until the limit admits one.
    pub wait: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLimit {
    limit: &'static str,
}

/// The limits of a process.
#[derive(Debug)]
pub struct Limits {
    per_principal: Option<Limit>,
    per_address: Option<Limit>,
    failed_logins: Option<Limit>,
    trusted_proxies: Vec<Network>,
    /// Its keys are random, so that no client can choose what shares a bucket.
    hasher: RandomState,
    refused: Family<OfLimit, Counter>,
}

#[derive(Debug)]
struct Limit {
    counted: Counted,
    rate: Rate,
    buckets: Buckets,
    refused: Counter,
}

impl Limits {
    #[must_use]
    pub fn new(limits: &RateLimits) -> Self {
        let refused = Family::<OfLimit, Counter>::default();
        let [per_principal, per_address, failed_logins] = Counted::ALL.map(|counted| {
            let rate = match counted {
                Counted::Principal => limits.per_principal,
                Counted::Address => limits.per_address,
                Counted::FailedLogin => limits.failed_logins,
            };
            let refused = refused.get_or_create(&OfLimit { limit: counted.as_str() }).clone();
            rate.map(|rate| Limit { counted, rate, buckets: Buckets::new(rate), refused })
        });
        let trusted_proxies = limits.trusted_proxies.clone();
        Self {
            per_principal,
            per_address,
            failed_logins,
            trusted_proxies,
            hasher: RandomState::new(),
            refused,
        }
    }

    /// Counts a request of a principal.
    ///
    /// # Errors
    /// When it is beyond the limit.
    pub fn of_principal(&self, principal: &Principal) -> Result<(), Exceeded> {
        take(self.per_principal.as_ref(), || self.hasher.hash_one(principal))
    }

    /// Counts a request from an address, which is asked for only if there is a limit.
    ///
    /// # Errors
    /// When it is beyond the limit.
    pub fn of_address(&self, address: impl FnOnce(&[Network]) -> IpAddr) -> Result<(), Exceeded> {
        take(self.per_address.as_ref(), || self.digest(address))
    }

    /// Counts an invalid token from an address, which is asked for only if there is a limit.
    ///
    /// # Errors
    /// When it is beyond the limit.
    pub fn of_failed_login(&self, address: impl FnOnce(&[Network]) -> IpAddr) -> Result<(), Exceeded> {
        take(self.failed_logins.as_ref(), || self.digest(address))
    }

    fn digest(&self, address: impl FnOnce(&[Network]) -> IpAddr) -> u64 {
        match address(&self.trusted_proxies) {
            IpAddr::V6(address) => self.hasher.hash_one(address & IPV6_NETWORK),
            address @ IpAddr::V4(_) => self.hasher.hash_one(address),
        }
    }

    /// Gives the metrics their names.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests that were refused because they were beyond a limit";
        registry.register("requests_limited", help, self.refused.clone());
    }
}

fn take(limit: Option<&Limit>, key: impl FnOnce() -> u64) -> Result<(), Exceeded> {
    let Some(Limit { counted, rate, buckets, refused }) = limit else { return Ok(()) };
    buckets.take(key()).map_err(|wait| {
        refused.inc();
        Exceeded { counted: *counted, rate: *rate, wait }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::UserId;

    fn limits() -> Limits {
        let rate =
            |burst: u32| Some(Rate { per_second: 1.try_into().unwrap(), burst: burst.try_into().unwrap() });
        Limits::new(&RateLimits {
            per_principal: rate(1),
            per_address: rate(2),
            failed_logins: rate(3),
            trusted_proxies: Vec::new(),
        })
    }

    #[test]
    fn each_limit_counts_by_itself() {
        let limits = limits();
        let here = |_: &[Network]| IpAddr::from([192, 0, 2, 1]);
        let user = |name: &str| Principal::User(UserId::parse(name).unwrap());
        for (name, admitted) in [("alice", true), ("bob", true), ("alice", false), ("bob", false)] {
            assert_eq!(limits.of_principal(&user(name)).is_ok(), admitted, "{name}");
        }
        assert_eq!((0..9).filter(|_| limits.of_address(here).is_ok()).count(), 2);
        assert_eq!((0..9).filter(|_| limits.of_failed_login(here).is_ok()).count(), 3);
        let counted = limits.of_failed_login(here).map_err(|exceeded| exceeded.counted);
        assert_eq!(counted, Err(Counted::FailedLogin));
        let refused = |limit| limits.refused.get_or_create(&OfLimit { limit }).get();
        assert_eq!(["principal", "address", "failed-login"].map(refused), [2, 7, 7]);
    }

    #[test]
    fn a_client_of_ipv6_has_one_bucket_for_its_network() {
        let limits = limits();
        let admitted = |address: &str| limits.of_address(|_| address.parse().unwrap()).is_ok();
        assert!(admitted("2001:db8::1") && admitted("2001:db8::2:2") && !admitted("2001:db8::3:0:0"));
        assert!(admitted("2001:db8:0:1::1"));
        assert!(admitted("192.0.2.1") && admitted("192.0.2.2"));
        assert!(admitted("192.0.2.1") && !admitted("192.0.2.1") && admitted("192.0.2.2"));
    }

    #[test]
    fn what_is_off_asks_for_no_address() {
        let limits = Limits::new(&RateLimits::default());
        let never = |_: &[Network]| -> IpAddr { panic!("asked") };
        assert_eq!(limits.of_address(never).and(limits.of_failed_login(never)), Ok(()));
        assert_eq!(limits.of_principal(&Principal::Administrator), Ok(()));
    }
}
