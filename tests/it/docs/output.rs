//! Whether a command printed what a document shows.
//!
//! Ids, times, codes of coupons, addresses, decimals, rates and sizes match any of their shape; runs of spaces count
//! as one, and the members of a JSON object have no order. `…` in a line matches anything, and as a line of its own any
//! number of lines. Everything else must be equal.

use serde_json::Value;

use super::console::Command;

const ANYTHING: &str = "…";
/// What stands behind numbers that depend on ids and on the machine: sizes, rates, and users who are told to retry.
const MEASURED: [&str; 3] = ["bytes", "requests/s", "told"];

/// How what was printed differs from what is shown; nothing when it does not.
pub(super) fn shown_differs(command: &Command, printed: &str) -> Option<String> {
    (!lines_match(&expected(command), &found(command, printed))).then(|| {
        let Command { line, shown, .. } = command;
        format!("`{line}` does not print what is shown\nshown:\n{}\nprinted:\n{printed}", shown.join("\n"))
    })
}

/// Whether a command that is still running has printed all that is shown before Ctrl-C.
pub(super) fn begins_as_shown(command: &Command, printed: &str) -> bool {
    let mut shown = expected(command);
    if let Some(interrupted) = command.shown.iter().position(|line| line.starts_with("^C")) {
        shown.truncate(interrupted);
    }
    shown.push(ANYTHING.to_owned());
    lines_match(&shown, &found(command, printed))
}

/// What was printed, without lines of the log, unless the document shows one.
fn found(command: &Command, printed: &str) -> Vec<String> {
    let logs = command.shown.iter().any(|line| is_logged(line));
    printed.lines().filter(|line| logs || !is_logged(line)).map(normalized).collect()
}

fn expected(command: &Command) -> Vec<String> {
    let lines = command.shown.iter().map(|line| line.strip_prefix("^C").unwrap_or(line));
    let lines = lines.map(|line| {
        replace_runs(
            &normalized(line),
            |c| c.is_ascii_digit(),
            |run| command.varying.iter().any(|number| number == run).then_some(ANYTHING),
        )
    });
    let mut lines: Vec<_> = lines.collect();
    if command.shown.last().is_some_and(|line| line == "^C") {
        lines.pop();
    }
    lines
}

/// A line of the log begins with its time and level.
fn is_logged(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next().is_some_and(is_time)
        && words.next().is_some_and(|word| ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&word))
}

/// With a placeholder for everything that differs from run to run, and the members of JSON objects in one order.
fn normalized(line: &str) -> String {
    let json = line.starts_with('{').then(|| serde_json::from_str::<Value>(line).ok()).flatten();
    let sorted = json.map(|mut json| {
        json.sort_all_objects();
        json.to_string()
    });
    let line = replace_runs(
        sorted.as_deref().unwrap_or(line),
        |c| c.is_ascii_digit() || c.is_ascii_uppercase(),
        |run| (run.len() == 26).then_some("<id>"),
    );
    let line = replace_runs(
        &line,
        |c| c.is_ascii_digit() || c.is_ascii_uppercase() || c == '-',
        |run| {
            let groups: Vec<_> = run.split('-').map(str::len).collect();
            (groups == [4; 5]).then_some("<code>")
        },
    );
    let line = replace_runs(
        &line,
        |c| c.is_ascii_digit() || "T:.Z-".contains(c),
        |run| is_time(run).then_some("<time>"),
    );
    let line = replace_runs(
        &line,
        |c| c.is_ascii_digit() || ".:".contains(c),
        |run| {
            let parts: Vec<_> = run.split('.').collect();
            let is_decimal = parts.len() == 2 && parts.iter().all(|part| is_number(part));
            let is_address = run.strip_prefix("127.0.0.1:").is_some_and(is_number);
            if is_address { Some("<address>") } else { is_decimal.then_some("<decimal>") }
        },
    );
    let words: Vec<&str> = line.split_whitespace().collect();
    let words = words.iter().enumerate().map(|(index, word)| {
        let unit = words.get(index + 1).copied().unwrap_or_default();
        let is_measured = is_number(word) && MEASURED.iter().any(|measured| unit.starts_with(measured));
        if is_measured { "<number>" } else { *word }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// As RFC 3339 writes it, in UTC.
fn is_time(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape.starts_with("0000-00-00T00:00:00") && shape.ends_with('Z')
}

/// With every longest run of such characters replaced, for which there is something else.
fn replace_runs(text: &str, is_in: fn(char) -> bool, with: impl Fn(&str) -> Option<&'static str>) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let inside = is_in(first);
        let end = rest.find(|c| is_in(c) != inside).unwrap_or(rest.len());
        let (run, behind) = rest.split_at(end);
        replaced.push_str(if inside { with(run).unwrap_or(run) } else { run });
        rest = behind;
    }
    replaced
}

fn lines_match(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line == ANYTHING => {
            (0..=printed.len()).any(|skipped| lines_match(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, behind)| line_matches(line, first) && lines_match(rest, behind)),
    }
}

/// Between two `…` the parts come in their order; the first and the last stand at the ends.
fn line_matches(shown: &str, printed: &str) -> bool {
    let Some((start, rest)) = shown.split_once(ANYTHING) else { return shown == printed };
    let Some(mut printed) = printed.strip_prefix(start) else { return false };
    let mut parts: Vec<_> = rest.split(ANYTHING).collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(found) = printed.find(part) else { return false };
        printed = &printed[found + part.len()..];
    }
    printed.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::super::console::commands;
    use super::shown_differs;

    fn differs(shown: &str, printed: &str) -> bool {
        let text = format!("<!-- varies: 17 -->\n```console\n$ x\n{shown}\n```\n");
        shown_differs(&commands("x.md", &text)[0], printed).is_some()
    }

    #[test]
    fn what_differs_from_run_to_run_matches_and_nothing_else_does() {
        for (shown, printed, same) in [
            ("issued 999", "issued     999\n", true),
            ("issued 999", "issued 998\n", false),
            ("issued 17", "issued 98\n", true),
            ("issued 17", "issued some\n", true),
            ("run 01M7WY7SK0CNGS3JVEMZ5JPP83: x", "run 01M8DMQJPPVT164ZCNRE77FSDF: x", true),
            ("run 01M7WY7SK0CNGS3JVEMZ5JPP83: x", "run 1: x", false),
            ("at \"2026-11-20T12:41:20.06Z\"", "at \"2027-01-02T02:41:20Z\"", true),
            ("at \"2026-11-20T12:41:20.06Z\"", "at \"noon\"", false),
            ("68HZ-6HC0-3KND-5VK9-NY14", "P9JG-0GJ9-6VBD-E7MT-FH7A", true),
            ("5 requests/s for 1.2 s", "77 requests/s for 0.4 s", true),
            ("5 requests/s for 1.2 s", "77 requests/s for 4 s", false),
            ("http://127.0.0.1:80/v1", "http://127.0.0.1:40525/v1", true),
            ("a\n…\nz", "a\nz", true),
            ("a\n…\nz", "a\nb\nc\nz", true),
            ("a\n…\nz", "a\nb", false),
            ("{…,\"left\":0}", "{\"id\":1,\"left\":0}", true),
            ("{…,\"left\":0}", "{\"id\":1,\"left\":2}", false),
            ("a", "a\nb", false),
            ("{\"a\":1,\"b\":2}", "{\"b\":2,\"a\":1}", true),
            ("{\"a\":1,\"b\":2}", "{\"b\":1,\"a\":2}", false),
            ("a", "2026-11-27T04:38:29.307157Z  WARN x: y\na", true),
            ("a", "2026-11-27T04:38:29.307157Z is not logged\na", false),
        ] {
            assert_eq!(!differs(shown, printed), same, "{shown:?} {printed:?}");
        }
    }
}
