//! The kinds of servers: where their programs lie and how they are run.

use std::path::PathBuf;
use std::{env, fs};

use rustix::process::geteuid;

use super::error::ServersError;

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Postgres,
    Redis,
    Nats,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Nats => "nats",
        }
    }

    /// The environment variable that names the program, the program, and its Debian package.
    const fn source(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Postgres => ("POSTGRES", "postgres", "postgresql"),
            Self::Redis => ("REDIS_SERVER", "redis-server", "redis-server"),
            Self::Nats => ("NATS_SERVER", "nats-server", "nats-server"),
        }
    }

    /// The signal with which the guard ends it. At SIGQUIT, Postgres cuts all sessions and writes no checkpoint, which
    /// nobody would read as its folder is removed.
    pub(super) const fn last_signal(self) -> &'static str {
        match self {
            Self::Postgres => "QUIT",
            Self::Redis | Self::Nats => "TERM",
        }
    }

    #[rustfmt::skip]
    pub(super) const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => &[
                "-D", ".",
                "-c", "listen_addresses=127.0.0.1", // private
                "-c", "unix_socket_directories=.", // goes with the folder
                "-c", "dynamic_shared_memory_type=mmap", // goes with the folder, even after SIGKILL
                "-c", "fsync=on", "-c", "synchronous_commit=on", // explicit, as the guarantees rest on them
                "-c", "max_connections=100", // the default, whatever initdb found on this machine
                "-c", "shared_buffers=128MB", // likewise
                "-c", "max_wal_size=2GB", // a burst of writes forces no checkpoint
                "-c", "min_wal_size=2GB", // WAL files are kept to be used again
            ],
            Self::Redis => &[
                "--bind", "127.0.0.1",
                "--appendonly", "yes", "--appendfsync", "everysec", // a power cut loses a second
                "--lazyfree-lazy-expire", "yes", // a large gate that expires delays no request
                "--save", "", // no snapshots: the append-only file is the data
            ],
            Self::Nats => &["-a", "127.0.0.1", "-js", "-sd", "."],
        }
    }

    fn find(self) -> Option<PathBuf> {
        let (variable, program, _) = self.source();
        let found = match env::var_os(variable) {
            Some(named) => Some(named.into()).filter(|path: &PathBuf| path.is_file()),
            None => places().map(|place| place.join(program)).find(|path| path.is_file()),
        };
        match self {
            // The folder of a link to it may lack initdb.
            Self::Postgres => found
                .and_then(|path| path.canonicalize().ok())
                .filter(|path| path.with_file_name("initdb").is_file()),
            // A link is not followed, as the program goes by its name: `redis-server` may be a link to `redis-check-rdb`.
            Self::Redis | Self::Nats => found.and_then(|path| std::path::absolute(path).ok()),
        }
    }
}

pub(super) fn find_programs() -> Result<[PathBuf; 3], ServersError> {
    let kinds = [Kind::Postgres, Kind::Redis, Kind::Nats];
    let found = kinds.map(Kind::find);
    if let [Some(postgres), Some(redis), Some(nats)] = found {
        return Ok([postgres, redis, nats]);
    }
    let missing = kinds.iter().zip(&found).filter(|(_, found)| found.is_none());
    let (programs, packages): (Vec<_>, Vec<_>) = missing
        .map(|(kind, _)| kind.source())
        .map(|(variable, program, package)| (format!("{program} [{variable}]"), package))
        .unzip();
    Err(ServersError::Missing { programs: programs.join(", "), packages: packages.join(" ") })
}

/// Folders of server programs: PATH, then those that Debian leaves out of it, the newest Postgres first.
fn places() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let path: Vec<_> = env::split_paths(&path).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions
        .map(|version| version.path())
        .map(|path| (path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()), path))
        .collect();
    versions.sort();
    let versions = versions.into_iter().rev().map(|(_, path)| path.join("bin"));
    path.into_iter().chain(versions).chain([PathBuf::from("/usr/sbin")])
}

/// User and group for Postgres, which refuses to run as root: root runs it as `postgres` or else as `nobody`.
pub(super) fn postgres_user() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let user = |name| {
        let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let user = users.find(|user| user[0] == name)?;
        Some((user.get(2)?.parse().ok()?, user.get(3)?.parse().ok()?))
    };
    user("postgres").or_else(|| user("nobody"))
}
