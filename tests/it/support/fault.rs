//! Marks of the tests that own rows of `tests/faults.toml`.

use std::cell::Cell;

use tokio::time::Instant;

/// A row of `tests/faults.toml`, owned by the test that has this. The fault has to happen at least once.
#[must_use]
pub(crate) struct Fault {
    row: &'static str,
    fired: Cell<usize>,
    last: Cell<Instant>,
}

/// The test owns this row.
pub(crate) fn owns(row: &'static str) -> Fault {
    Fault { row, fired: Cell::new(0), last: Cell::new(Instant::now()) }
}

impl Fault {
    /// It happened so often, until now.
    pub(crate) fn fired(&self, times: usize) {
        self.fired.set(self.fired.get() + times);
        self.last.set(Instant::now());
    }

    /// All is well again: how long that took, for whoever reads the output.
    pub(crate) fn healed(&self) {
        println!(
            "{}: {} times, healed {:?} after the last",
            self.row,
            self.fired.get(),
            self.last.get().elapsed()
        );
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.fired.get() > 0, "the fault {} did not happen", self.row);
        }
    }
}
