//! Who imports whom: every module is a file, and an arrow goes from a file to each file that it names.

use std::collections::{BTreeMap, BTreeSet};

use super::{module, sources};

/// The modules of a crate, such as `gate::redis`, and the modules that each imports.
pub(super) type Graph = BTreeMap<String, BTreeSet<String>>;

/// Reads the imports of the crate whose sources are in `folder`. What a file names of the crate's root counts as an
/// import of `lib`.
pub(super) fn read(folder: &str) -> Graph {
    let files: Vec<(String, bool, String)> = sources(folder)
        .into_iter()
        .map(|(path, text)| {
            let module = module(folder, &path);
            let is_root = ["lib", "main"].contains(&&*module);
            (module, is_root, without_tests_and_comments(&text))
        })
        .collect();
    let modules: BTreeSet<&str> = files.iter().map(|(module, ..)| &**module).collect();
    let arrows = files.iter().map(|(module, is_root, text)| {
        let base: Vec<&str> = if *is_root { Vec::new() } else { module.split("::").collect() };
        let named = paths(text).into_iter().filter_map(|path| resolve(&path, &base, &modules));
        (module.clone(), named.filter(|import| import != module).collect())
    });
    arrows.collect()
}

/// The modules that lie on a circle of imports.
pub(super) fn circles(graph: &Graph) -> Vec<&str> {
    // What imports nothing that is left cannot lie on one, nor what nothing that is left imports.
    let mut left: BTreeSet<&str> = graph.keys().map(String::as_str).collect();
    loop {
        let before = left.len();
        let imports = |module: &str| graph[module].iter().any(|import| left.contains(&**import));
        let imported = |module: &str| left.iter().any(|other| graph[*other].contains(module));
        left = left.iter().copied().filter(|module| imports(module) && imported(module)).collect();
        if left.len() == before {
            return left.into_iter().collect();
        }
    }
}

fn without_tests_and_comments(text: &str) -> String {
    let code =
        text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().replace("pub(in crate::", "pub(in ");
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Every path that a file names and that begins in its crate.
fn paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = String::new();
    for (number, statement) in text.split("use ").enumerate() {
        let (tree, behind) =
            if number > 0 { statement.split_once(';').unwrap_or(("", statement)) } else { ("", statement) };
        expand("", tree, &mut found);
        rest.push_str(behind);
        rest.push(' ');
    }
    let words = rest.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    found.extend(words.map(str::to_owned));
    found.retain(|path| ["crate::", "self::", "super::"].iter().any(|begin| path.starts_with(begin)));
    found
}

/// The paths of a tree such as `crate::gate::{self, seat::Seat}`.
fn expand(before: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((prefix, inside)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default();
        let path = format!("{before}{name}");
        found.push(path.strip_suffix("::self").unwrap_or(&path).to_owned());
        return;
    };
    let prefix = format!("{before}{}", prefix.trim());
    let inside = inside.strip_suffix('}').unwrap_or(inside);
    let (mut depth, mut start) = (0, 0);
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                expand(&prefix, &inside[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inside[start..].trim().is_empty() {
        expand(&prefix, &inside[start..], found);
    }
}

/// The module that a path from a module names: the longest beginning that is one, or else the root.
fn resolve(path: &str, from: &[&str], modules: &BTreeSet<&str>) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
    let mut base: Vec<&str> = from.to_vec();
    if parts.first() == Some(&"crate") {
        base.clear();
        parts.remove(0);
    }
    while let Some(first @ ("self" | "super")) = parts.first().copied() {
        if first == "super" {
            base.pop();
        }
        parts.remove(0);
    }
    base.extend(parts);
    let names = (1..=base.len()).rev().map(|length| base[..length].join("::"));
    let known = names.into_iter().find(|name| modules.contains(&**name));
    let of_the_root = || (path.starts_with("crate::") && modules.contains("lib")).then(|| "lib".to_owned());
    known.or_else(of_the_root)
}

#[test]
fn a_circle_is_found_and_what_hangs_on_it_is_not_named() {
    let graph = |arrows: &[(&str, &[&str])]| -> Graph {
        arrows
            .iter()
            .map(|(from, to)| ((*from).to_owned(), to.iter().map(|to| (*to).to_owned()).collect()))
            .collect()
    };
    let circle = graph(&[("roof", &["a"]), ("a", &["b", "ground"]), ("b", &["a"]), ("ground", &[])]);
    assert_eq!(circles(&circle), ["a", "b"]);
    assert!(circles(&graph(&[("a", &["b"]), ("b", &[])])).is_empty());
}

#[test]
fn imports_are_read_in_every_form() {
    let text = "use crate::a::{self, b::{C, D as E}};\npub use self::f::G;\nfn h() { super::i::j(crate::k::L) }\nuse std::fmt;";
    let mut read = paths(text);
    read.sort();
    assert_eq!(
        read,
        ["crate::a", "crate::a::b::C", "crate::a::b::D", "crate::k::L", "self::f::G", "super::i::j"]
    );
    let modules = BTreeSet::from(["a", "a::b", "lib", "x::i"]);
    for (path, module) in
        [("crate::a::b::C", "a::b"), ("crate::a::Z", "a"), ("super::i::j", "x::i"), ("crate::L", "lib")]
    {
        assert_eq!(resolve(path, &["x", "y"], &modules).as_deref(), Some(module), "{path}");
    }
}
