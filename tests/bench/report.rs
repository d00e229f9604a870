//! The table of figures with their goals.

pub(crate) fn heading() {
    println!("\n{:<60} {:>9}  goal", "", "measured");
}

pub(crate) fn line(name: &str, value: f64, goal: &str) {
    println!("{name:<60} {value:>9.2}  {goal}");
}
