//! Processes and signals.

use std::process::Child;
use std::{fs, iter};

use rustix::process::{Pid, Signal, kill_process};

/// A child and its own children.
pub(super) fn family(child: &Child) -> Vec<Pid> {
    let pid = child.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
    iter::once(Pid::from_child(child)).chain(children).collect()
}

/// Sends a signal. A process that has ended meanwhile is no error.
pub(super) fn send(signal: Signal, processes: &[Pid]) {
    for &process in processes {
        let _ = kill_process(process, signal);
    }
}

/// Whether a process, which need not be a child, still holds ports or files.
pub(super) fn exists(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}
