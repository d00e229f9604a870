//! A clock of its own for one program, which may be wrong.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use coupon_dispatcher::servers::Setup;
use time::Duration;

use super::World;

pub(crate) struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// Right until it is set.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let (file, library) = (folder.join(format!("{name}.clock")), folder.join(format!("{name}.clock.so")));
        fs::write(&file, [0; 16]).unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/clock.c");
        // Where Rust is, there is the linker of a C compiler.
        let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
        assert!(made.unwrap().success());
        Self { file, library }
    }

    /// What a program has to be told, so that it goes by this clock.
    pub(crate) fn environment(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.library.display().to_string()), ("CLOCK", self.file.display().to_string())]
    }

    /// From now on it is so far ahead.
    pub(crate) fn set(&self, ahead: Duration) {
        self.write(0, ahead);
    }

    /// From now on the time that the program measures is so far ahead.
    pub(crate) fn pass(&self, time: Duration) {
        self.write(8, time);
    }

    fn write(&self, at: u64, ahead: Duration) {
        let file = OpenOptions::new().write(true).open(&self.file).unwrap();
        file.write_all_at(&ahead.whole_seconds().to_ne_bytes(), at).unwrap();
    }
}

impl World {
    /// Adds a process with all roles, and with a clock of its own.
    pub(crate) async fn add_process_with(&mut self, clock: &Clock) {
        let mut process = self.process("");
        for (name, value) in clock.environment() {
            process.set(name, &value);
        }
        process.start().await;
        self.processes.push(process);
    }

    /// Starts Redis again, with a clock of its own.
    pub(crate) async fn clock_of_redis(&mut self) -> Clock {
        let info: redis::InfoDict =
            redis::cmd("INFO").arg("server").query_async(&mut self.redis().await).await.unwrap();
        let redis: String = info.get("executable").unwrap();
        let clock = Clock::new(self.folder(), "redis");
        let variables = clock.environment().map(|(name, value)| format!("{name}='{value}'")).join(" ");
        let program = self.folder().join("redis-with-a-clock");
        fs::write(&program, format!("#!/bin/sh\nexec env {variables} '{redis}' \"$@\"\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let setup = Setup { program: Some(program), ..Setup::default() };
        self.servers.redis.restart_with(setup).await.unwrap();
        clock
    }
}
