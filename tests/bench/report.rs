//! Sizes from the environment, and the table of figures with their goals.

/// The number in an environment variable, or `default` when it is unset or no number.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub(crate) fn heading() {
    println!("\n{:<60} {:>9}  goal", "", "measured");
}

pub(crate) fn line(name: &str, value: f64, goal: &str) {
    println!("{name:<60} {value:>9.2}  {goal}");
}
