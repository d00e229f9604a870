//! What can break is written in `tests/faults.toml`; the tests that own a row are marked here.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use tokio::time::Instant;

/// All rows, by id.
pub(crate) static ROWS: LazyLock<BTreeMap<String, Row>> = LazyLock::new(|| {
    let Matrix { fault } = toml::from_str(include_str!("../../faults.toml")).unwrap();
    let count = fault.len();
    let rows: BTreeMap<_, _> = fault.into_iter().map(|row| (row.id.clone(), row)).collect();
    assert_eq!(rows.len(), count, "an id occurs twice");
    rows
});

#[derive(Deserialize)]
struct Matrix {
    fault: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) hop: String,
    pub(crate) fault: String,
    pub(crate) effect: String,
    pub(crate) promises: Vec<String>,
    pub(crate) injected: String,
    pub(crate) tier: Tier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tier {
    /// In `make test`.
    Test,
    /// In `make nemesis`, and by fixed seeds in `make test`.
    Nemesis,
    /// In `make drill`.
    Drill,
}

/// A row that the test owns. The fault has to happen at least once.
#[must_use]
pub(crate) struct Fault {
    row: &'static Row,
    fired: Cell<usize>,
    last: Cell<Instant>,
}

/// The test owns this row.
pub(crate) fn owns(id: &str) -> Fault {
    let row = ROWS.get(id).unwrap_or_else(|| panic!("tests/faults.toml has no {id}"));
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
        let (row, fired, took) = (&self.row.id, self.fired.get(), self.last.get().elapsed());
        println!("{row}: {fired} times, healed after {:.1} s", took.as_secs_f64());
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.fired.get() > 0, "the fault {} did not happen", self.row.id);
        }
    }
}
