//! Durations as ISO 8601 writes them.

use std::time::Duration;

/// Days of a duration, at most: ten years.
pub const DURATION_DAYS_MAX: u64 = 3_650;

/// Durations of ISO 8601 that are the same length everywhere: weeks, days, hours, minutes and
/// seconds, no years or months; at least a second, at most ten years.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (date, time) = match text.strip_prefix('P')?.split_once('T') {
        Some((_, "")) => return None,
        Some((date, time)) => (date, time),
        None => (text.strip_prefix('P')?, ""),
    };
    let seconds = parse_units(date, &[('W', 604_800), ('D', 86_400)])?
        .checked_add(parse_units(time, &[('H', 3_600), ('M', 60), ('S', 1)])?)?;
    (1..=DURATION_DAYS_MAX * 86_400).contains(&seconds).then_some(Duration::from_secs(seconds))
}

/// `<number><unit>…`, each unit at most once and in the order given.
fn parse_units(mut text: &str, units: &[(char, u64)]) -> Option<u64> {
    let mut seconds = 0_u64;
    for (unit, length) in units {
        if let Some((number, rest)) = text.split_once(*unit) {
            let number: u64 =
                number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())??;
            seconds = seconds.checked_add(number.checked_mul(*length)?)?;
            text = rest;
        }
    }
    text.is_empty().then_some(seconds)
}

/// The shortest way to write it in days, hours, minutes and seconds.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let part = |number: u64, unit: &str| if number > 0 { format!("{number}{unit}") } else { String::new() };
    let time =
        [part(seconds / 3_600 % 24, "H"), part(seconds / 60 % 60, "M"), part(seconds % 60, "S")].concat();
    let date = part(seconds / 86_400, "D");
    if time.is_empty() { format!("P{date}") } else { format!("P{date}T{time}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, seconds, written) in [
            ("P30D", 30 * 86_400, "P30D"),
            ("PT12H", 43_200, "PT12H"),
            ("P1W", 604_800, "P7D"),
            ("P1DT1H1M1S", 90_061, "P1DT1H1M1S"),
            ("PT90M", 5_400, "PT1H30M"),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
            assert_eq!(format_duration(Duration::from_secs(seconds)), written);
        }
        for text in [
            "",
            "P",
            "PT",
            "30D",
            "P1M",
            "P1Y",
            "PT1D",
            "P0D",
            "P1D1W",
            "P-1D",
            "P1.5D",
            "P3651D",
            "P99999999999999999999D",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
