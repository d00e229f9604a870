//! The targets are those of the tests; a program for each is in `targets/`.

#[path = "../../it/parsing/targets.rs"]
mod targets;

/// # Panics
/// When the target takes these bytes for what they are not.
pub fn attack(name: &str, bytes: &[u8]) {
    let (_, target) =
        targets::TARGETS.iter().find(|(target, _)| *target == name).expect("there is such a target");
    target(bytes);
}
