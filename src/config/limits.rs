//! Limits of requests, and the proxies whose word on the client's address counts.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::str::FromStr;

use super::reader::Reader;
use super::variable::{
    FAILED_LOGIN_LIMIT, RATE_LIMIT_PER_ADDRESS, RATE_LIMIT_PER_PRINCIPAL, TRUSTED_PROXIES, Variable,
};

/// Requests a second, and at once, at most: beyond this a limit limits nothing.
const RATE_MAX: u32 = 1_000_000;
/// Bits of an address of IPv6 before that of an IPv4 address in it: 0:0:0:0:0:ffff.
const MAPPED_BITS: u8 = 96;

/// The limits of a process.
#[derive(Clone, Debug, Default)]
pub struct RateLimits {
    /// For each principal.
    pub per_principal: Option<Rate>,
    /// For each address.
    pub per_address: Option<Rate>,
    /// For invalid tokens from each address.
    pub failed_logins: Option<Rate>,
    /// The peers whose header `X-Forwarded-For` is read.
    pub trusted_proxies: Vec<Network>,
}

/// How many requests a token bucket admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second, for ever.
    pub per_second: NonZeroU32,
    /// Requests at once, from a full bucket: at least those of a second.
    pub burst: NonZeroU32,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok().filter(|number: &NonZeroU32| number.get() <= RATE_MAX);
        let rate = text.split_once('/').and_then(|(per_second, burst)| {
            Some(Self { per_second: number(per_second)?, burst: number(burst)? })
        });
        rate.filter(|rate| rate.burst >= rate.per_second).ok_or_else(|| {
            format!(
                "must be off, or requests a second and at once, such as 1000/2000: 1 to {RATE_MAX}, and the second \
                 number not below the first"
            )
        })
    }
}

/// An address, or all addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: u128,
    mask: u128,
}

impl Network {
    /// Whether the address belongs to it. An IPv4 address in one of IPv6 (`::ffff:…`) is that IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.first
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) =
            text.split_once('/').map_or((text, None), |(address, rest)| (address, Some(rest)));
        let parsed = address.parse().ok().and_then(|address: IpAddr| {
            let all =
                if address.is_ipv4() { Ipv6Addr::BITS - u32::from(MAPPED_BITS) } else { Ipv6Addr::BITS };
            let prefix = prefix.map_or(Some(all), |prefix| prefix.parse().ok());
            let prefix = prefix.filter(|prefix| (1..=all).contains(prefix))?;
            let mask = u128::MAX.checked_shl(all - prefix).unwrap_or_default();
            Some(Self { first: bits(address) & mask, mask })
        });
        parsed.ok_or_else(|| {
            format!("must be addresses or networks such as 10.0.0.0/8, separated by commas, not {text:?}")
        })
    }
}

/// As an address of IPv6.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    pub(super) fn limits(&mut self) -> Option<RateLimits> {
        let [per_principal, per_address, failed_logins] =
            [RATE_LIMIT_PER_PRINCIPAL, RATE_LIMIT_PER_ADDRESS, FAILED_LOGIN_LIMIT]
                .map(|name| self.rate(name));
        let proxies = TRUSTED_PROXIES.value(&self.lookup).unwrap_or_default();
        let proxies = proxies.split(',').map(str::trim).filter(|text| !text.is_empty());
        let proxies = proxies.map(str::parse).collect();
        let trusted_proxies = self.noted(TRUSTED_PROXIES, proxies);
        Some(RateLimits {
            per_principal: per_principal?,
            per_address: per_address?,
            failed_logins: failed_logins?,
            trusted_proxies: trusted_proxies?,
        })
    }

    /// `Some(None)` if there is no limit.
    #[expect(clippy::option_option, reason = "the outer one says whether there is a problem")]
    fn rate(&mut self, variable: Variable) -> Option<Option<Rate>> {
        let text = variable.value(&self.lookup).filter(|text| !text.is_empty() && text != "off");
        self.noted(variable, text.map(|text| text.parse()).transpose())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<RateLimits, String> {
        let servers = [
            ("DATABASE_URL", "postgres://db/coupon"),
            ("REDIS_URL", "redis://cache"),
            ("NATS_URL", "nats://bus"),
        ];
        let all = [&servers[..], variables].concat();
        let find =
            |name: &str| all.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Config::read(find).map(|config| config.limits).map_err(|error: ConfigError| error.to_string())
    }

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() }
    }

    #[test]
    fn by_default_failed_logins_alone_are_limited() {
        let limits = read(&[]).unwrap();
        assert_eq!((limits.per_principal, limits.per_address), (None, None));
        assert_eq!(limits.failed_logins, Some(rate(10, 60)));
        assert!(limits.trusted_proxies.is_empty());
        for off in ["", "off"] {
            assert_eq!(read(&[("FAILED_LOGIN_LIMIT", off)]).unwrap().failed_logins, None);
        }
    }

    #[test]
    fn limits_are_read() {
        let limits = [("RATE_LIMIT_PER_PRINCIPAL", "1000/2000"), ("RATE_LIMIT_PER_ADDRESS", "5/5")];
        let limits = read(&limits).unwrap();
        assert_eq!((limits.per_principal, limits.per_address), (Some(rate(1_000, 2_000)), Some(rate(5, 5))));
        for wrong in ["1000", "0/5", "5/4", "1/1000001", "-1/5", "1/2/3", "on", " 1/2"] {
            let told = read(&[("RATE_LIMIT_PER_ADDRESS", wrong)]).expect_err(wrong);
            assert!(told.contains("RATE_LIMIT_PER_ADDRESS must be off, or requests a second"), "{told}");
        }
    }

    #[test]
    fn networks_hold_their_addresses() {
        let proxies = "10.0.0.0/8, 192.0.2.7,2001:db8::/33,,::1";
        let proxies = read(&[("TRUSTED_PROXIES", proxies)]).unwrap().trusted_proxies;
        let trusted =
            |address: &str| proxies.iter().any(|network| network.contains(address.parse().unwrap()));
        for address in
            ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3", "192.0.2.7", "2001:db8:7fff::1", "::1"]
        {
            assert!(trusted(address), "{address}");
        }
        for address in ["9.255.255.255", "11.0.0.0", "192.0.2.6", "2001:db8:8000::", "::2", "::10.0.0.1"] {
            assert!(!trusted(address), "{address}");
        }
        for wrong in
            ["10.0.0.0/33", "10.0.0.0/0", "::/0", "::/129", "proxy", "10.0.0.0/", "10.0.0.0/8/8", "10.0"]
        {
            let told = read(&[("TRUSTED_PROXIES", wrong)]).expect_err(wrong);
            assert!(told.contains("TRUSTED_PROXIES must be addresses or networks"), "{told}");
        }
    }
}
