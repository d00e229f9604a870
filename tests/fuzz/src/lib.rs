//! The fuzz targets are functions that the tests use too; `targets/` has a program for each.

#[path = "../../it/parsing/forwarded.rs"]
mod forwarded;
#[path = "../../it/parsing/paths.rs"]
mod paths;
#[path = "../../it/parsing/targets.rs"]
mod targets;

/// Runs the target `name` on `bytes`.
///
/// # Panics
/// When the target accepts bytes that it should refuse, or there is no such target.
pub fn attack(name: &str, bytes: &[u8]) {
    let (_, target) =
        targets::TARGETS.iter().find(|(target, _)| *target == name).expect("there is such a target");
    target(bytes);
}
