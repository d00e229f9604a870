//! Ceilings for files and functions. Where one is reached, the code wants a better idea.

use std::fs;

use super::{crate_folder, sources};

/// Lines of a file.
const FILE_LINES_MAX: [(&str, usize); 3] = [("src", 300), ("relay/src", 300), ("tests", 400)];
/// Lines of a function, from its signature to its closing bracket.
const FUNCTION_LINES_MAX: [(&str, usize); 3] = [("src", 70), ("relay/src", 70), ("tests", 90)];
/// Arguments of a function, without `self`.
const ARGUMENTS_MAX: usize = 5;
/// Lines of README.md: what is longer is a page in `docs/`.
const README_LINES_MAX: usize = 149;

/// A function: its name, its arguments without `self`, and its lines.
struct Function {
    name: String,
    arguments: usize,
    lines: usize,
}

/// The functions of a file. rustfmt gives the closing bracket of a function the indentation of its signature.
fn functions(text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(keyword) = words.iter().position(|word| *word == "fn") else { continue };
        let qualifiers = ["pub", "const", "async", "unsafe", "pub(crate)", "pub(super)", "pub(in"];
        if line.trim_start().starts_with("//")
            || !words[..keyword].iter().all(|word| qualifiers.contains(word))
        {
            continue;
        }
        let name = words[keyword + 1].split(['(', '<']).next().unwrap_or_default().to_owned();
        let indentation = &line[..line.len() - line.trim_start().len()];
        let one_line = line.ends_with('}') || line.ends_with(';');
        let inside = lines[first + 1..].iter().take_while(|line| !is_end(line, indentation)).count();
        let length = if one_line { 1 } else { inside + 2 };
        found.push(Function { name, arguments: arguments(&lines[first..]), lines: length });
    }
    found
}

/// Whether a line closes a function of this indentation, or a signature without a body.
fn is_end(line: &str, indentation: &str) -> bool {
    line.strip_prefix(indentation)
        .is_some_and(|rest| rest.starts_with('}') || rest.starts_with(')') && rest.ends_with(';'))
}

/// Counts the arguments of the function whose signature begins on the first line.
fn arguments(lines: &[&str]) -> usize {
    let text: String = lines.iter().take(40).flat_map(|line| [line.trim(), " "]).collect();
    let Some((_, text)) = text.split_once("fn ") else { return 0 };
    let mut depth = 0;
    let (mut parts, mut part) = (Vec::new(), String::new());
    let mut begun = false;
    let mut before = ' ';
    for c in text.chars() {
        match c {
            '(' if !begun && depth == 0 => {
                begun = true;
                continue;
            }
            '<' | '(' | '[' | '{' => depth += 1,
            '>' if before != '-' && before != '=' => depth -= 1,
            ')' if begun && depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if begun && depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        before = c;
        if begun {
            part.push(c);
        }
    }
    parts.push(part);
    let is_self = |part: &str| {
        part.split(':').next().is_some_and(|name| {
            name.split_whitespace().next_back().is_some_and(|name| name.trim_start_matches('&') == "self")
        })
    };
    parts.iter().filter(|part| !part.trim().is_empty() && !is_self(part)).count()
}

#[test]
fn no_file_and_no_function_is_too_large() {
    let mut large = Vec::new();
    for ((folder, file_lines_max), (_, function_lines_max)) in
        FILE_LINES_MAX.into_iter().zip(FUNCTION_LINES_MAX)
    {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            if lines > file_lines_max {
                large.push(format!("{}: {lines} lines, {file_lines_max} are the most", path.display()));
            }
            for Function { name, arguments, lines } in functions(&text) {
                if lines > function_lines_max {
                    large.push(format!(
                        "{}: {name}: {lines} lines, {function_lines_max} are the most",
                        path.display()
                    ));
                }
                if arguments > ARGUMENTS_MAX {
                    large.push(format!(
                        "{}: {name}: {arguments} arguments, {ARGUMENTS_MAX} are the most",
                        path.display()
                    ));
                }
            }
        }
    }
    assert!(large.is_empty(), "{}", large.join("\n"));
}

#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string(crate_folder().join("README.md")).unwrap().lines().count();
    assert!(lines <= README_LINES_MAX, "{lines} lines, {README_LINES_MAX} are the most");
}

#[test]
fn functions_are_measured() {
    let text = "impl A {\n    pub(crate) async fn long<T: B<C>>(\n        &mut self,\n        a: (u8, u8),\n        b: impl Fn(u8, u8) -> u8,\n    ) -> X {\n        one();\n    }\n\n    fn short(self, d: u8) {}\n}\n";
    let measured: Vec<_> = functions(text).into_iter().map(|f| (f.name, f.arguments, f.lines)).collect();
    assert_eq!(measured, [("long".to_owned(), 2, 7), ("short".to_owned(), 1, 1)]);
}
