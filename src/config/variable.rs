//! The variables of the environment: one table, from which the configuration takes its defaults and `coupon --help`
//! its list.

/// The deployment whose locks and consumers have no name in theirs: every database that is older than deployments
/// belongs to it.
pub const FIRST_DEPLOYMENT: &str = "coupon";

/// One variable of the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    /// Its value where it is not set.
    pub default: Option<&'static str>,
    /// What it says, on one line.
    pub about: &'static str,
}

impl Variable {
    /// Its value in `lookup`, or its default.
    pub fn value(&self, lookup: impl Fn(&str) -> Option<String>) -> Option<String> {
        lookup(self.name).or_else(|| self.default.map(str::to_owned))
    }
}

pub const DATABASE_URL: Variable = Variable {
    name: "DATABASE_URL",
    default: None,
    about: "Postgres, such as postgres://coupon:password@db:5432/coupon",
};
pub const REDIS_URL: Variable = Variable {
    name: "REDIS_URL",
    default: None,
    about: "Redis, such as redis://cache:6379; of a Redis Cluster one node or several, separated by commas",
};
pub const REDIS_CA: Variable = Variable {
    name: "REDIS_CA",
    default: None,
    about: "PEM file of the certificate authorities to trust for rediss:// in place of the system's",
};
pub const NATS_URL: Variable = Variable {
    name: "NATS_URL",
    default: None,
    about: "NATS with JetStream, such as nats://bus:4222; several servers are separated by commas",
};
pub const NATS_CA: Variable = Variable {
    name: "NATS_CA",
    default: None,
    about: "PEM file of the certificate authorities to trust for NATS in place of the system's; requires TLS",
};
pub const NATS_CREDENTIALS: Variable = Variable {
    name: "NATS_CREDENTIALS",
    default: None,
    about: "file of credentials (.creds) with which to log in to NATS",
};
pub const HTTP_ADDR: Variable = Variable {
    name: "HTTP_ADDR",
    default: Some("127.0.0.1:8080"),
    about: "address and port of the API; if set, a process without the API serves /livez, /readyz and /metrics there",
};
pub const MONITOR_ADDR: Variable = Variable {
    name: "MONITOR_ADDR",
    default: None,
    about: "address and port where every process serves /livez, /readyz and /metrics in addition, apart from clients",
};
pub const ADMIN_TOKEN: Variable = Variable {
    name: "ADMIN_TOKEN",
    default: None,
    about: "bearer token with all rights, at least 16 visible ASCII characters; without it /v1 takes other tokens alone",
};
pub const JWT_KEYS: Variable = Variable {
    name: "JWT_KEYS",
    default: None,
    about: "keys that verify tokens of end users: file of a JWKS or of a public key (PEM), or https:// URL of a JWKS",
};
pub const JWT_SECRET: Variable = Variable {
    name: "JWT_SECRET",
    default: None,
    about: "secret that verifies tokens of end users with HS256, at least 32 bytes",
};
pub const JWT_ISSUER: Variable = Variable {
    name: "JWT_ISSUER",
    default: None,
    about: "`iss` of every token of an end user; needed with JWT_KEYS or JWT_SECRET",
};
pub const JWT_AUDIENCE: Variable = Variable {
    name: "JWT_AUDIENCE",
    default: None,
    about: "`aud` of every token of an end user, or one of several; needed with JWT_KEYS or JWT_SECRET",
};
pub const JWT_CA: Variable = Variable {
    name: "JWT_CA",
    default: None,
    about: "PEM file of the certificate authorities to trust for the URL in JWT_KEYS in place of the system's",
};
pub const RATE_LIMIT_PER_PRINCIPAL: Variable = Variable {
    name: "RATE_LIMIT_PER_PRINCIPAL",
    default: Some("off"),
    about: "requests of a token or end user a second, and at once, such as 1000/2000, in each process; or off",
};
pub const RATE_LIMIT_PER_ADDRESS: Variable = Variable {
    name: "RATE_LIMIT_PER_ADDRESS",
    default: Some("off"),
    about: "requests from an address a second, and at once, such as 100/200, in each process; or off",
};
pub const FAILED_LOGIN_LIMIT: Variable = Variable {
    name: "FAILED_LOGIN_LIMIT",
    default: Some("10/60"),
    about: "invalid tokens from an address a second, and at once, in each process, before 429 takes the place of 401; or off",
};
pub const TRUSTED_PROXIES: Variable = Variable {
    name: "TRUSTED_PROXIES",
    default: None,
    about: "addresses or networks (10.0.0.0/8) of proxies whose X-Forwarded-For is read, separated by commas",
};
pub const COUPON_URL: Variable = Variable {
    name: "COUPON_URL",
    default: None,
    about: "URL of the API for commands that call it, such as https://coupons.example.com; without it http:// and HTTP_ADDR",
};
pub const COUPON_TOKEN: Variable = Variable {
    name: "COUPON_TOKEN",
    default: None,
    about: "token for commands that call the API; without it ADMIN_TOKEN",
};
pub const COUPON_CA: Variable = Variable {
    name: "COUPON_CA",
    default: None,
    about: "PEM file of the certificate authorities to trust for the URL of the API in place of the system's",
};
pub const SHARDS: Variable = Variable {
    name: "SHARDS",
    default: Some("1"),
    about: "number of shards, 1 to 64; fixed by the first `coupon migrate`",
};
pub const DEPLOYMENT: Variable = Variable {
    name: "DEPLOYMENT",
    default: Some(FIRST_DEPLOYMENT),
    about: "name of the deployment, 1 to 32 of a-z, 0-9 and -; fixed by the first `coupon migrate`",
};
pub const NATS_REPLICAS: Variable = Variable {
    name: "NATS_REPLICAS",
    default: Some("1"),
    about: "copies of each new stream except that of replays, which has one: 1, or 3 or 5 in a cluster of NATS",
};
pub const BATCH_ROWS: Variable = Variable {
    name: "BATCH_ROWS",
    default: Some("500"),
    about: "largest number of claims in one transaction",
};
pub const OUTBOX_RETENTION_DAYS: Variable = Variable {
    name: "OUTBOX_RETENTION_DAYS",
    default: Some("30"),
    about: "days for which the outbox keeps an event that is published and applied; 0 keeps all",
};
pub const RUST_LOG: Variable = Variable {
    name: "RUST_LOG",
    default: None,
    about: "what is logged, such as debug; by default info for serve and migrate, error for demo, else warn",
};
pub const LOG_FORMAT: Variable = Variable {
    name: "LOG_FORMAT",
    default: Some("text"),
    about: "text, or json for one object of JSON a line",
};
const SSL_CERT_FILE: Variable = Variable {
    name: "SSL_CERT_FILE",
    default: None,
    about: "PEM file of the certificate authorities to trust in place of the system's, for servers without a file of their own",
};

/// Every variable that a command reads, in the order of `coupon --help`.
pub const VARIABLES: [Variable; 29] = [
    DATABASE_URL,
    REDIS_URL,
    REDIS_CA,
    NATS_URL,
    NATS_CA,
    NATS_CREDENTIALS,
    HTTP_ADDR,
    MONITOR_ADDR,
    ADMIN_TOKEN,
    JWT_KEYS,
    JWT_SECRET,
    JWT_ISSUER,
    JWT_AUDIENCE,
    JWT_CA,
    RATE_LIMIT_PER_PRINCIPAL,
    RATE_LIMIT_PER_ADDRESS,
    FAILED_LOGIN_LIMIT,
    TRUSTED_PROXIES,
    COUPON_URL,
    COUPON_TOKEN,
    COUPON_CA,
    SHARDS,
    DEPLOYMENT,
    NATS_REPLICAS,
    BATCH_ROWS,
    OUTBOX_RETENTION_DAYS,
    RUST_LOG,
    LOG_FORMAT,
    SSL_CERT_FILE,
];
