//! Pages about the kinds of problems, for people who open the type of a problem: HTML for browsers, text for others.

use std::fmt::Write as _;

use askama::Template;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderValue, header};

use super::super::extract::NoQuery;
use super::super::problem::Problem;
use super::super::problem_kind::{About, ProblemKind};
use super::{Document, html, text};

#[derive(Template)]
#[template(path = "problems.html", config = "src/http/pages/askama.toml")]
struct Problems {
    title: &'static str,
    kinds: Vec<About>,
}

#[derive(Template)]
#[template(path = "problem.html", config = "src/http/pages/askama.toml")]
struct OneProblem {
    title: &'static str,
    about: About,
    sections: [(&'static str, &'static str); 3],
}

/// `GET /problems`: all kinds.
pub(in crate::http) async fn list(headers: HeaderMap, _: NoQuery) -> Document {
    let kinds = ProblemKind::ALL.iter().map(|kind| kind.about());
    by_accept(if prefers_html(&headers) {
        html(&Problems { title: "Problems", kinds: kinds.collect() })
    } else {
        text(kinds.fold(String::new(), |mut page, About { status, slug, title, .. }| {
            let _ = writeln!(page, "{} {slug}: {title}", status.as_u16());
            page
        }))
    })
}

/// `GET /problems/{slug}`: one kind, with its cause, what to do about it, and whether a retry is safe.
pub(in crate::http) async fn show(
    headers: HeaderMap,
    slug: Result<Path<String>, PathRejection>,
    _: NoQuery,
) -> Result<Document, Problem> {
    let slug = slug.map(|Path(slug)| slug).unwrap_or_default();
    let kind = ProblemKind::ALL.iter().map(|kind| kind.about()).find(|about| about.slug == slug);
    let about = kind.ok_or_else(|| Problem::not_found("No problem has this slug."))?;
    let About { status, title, cause, advice, retry, .. } = about;
    let sections = [("Cause", cause), ("What to do", advice), ("Is a retry safe?", retry.sentence())];
    Ok(by_accept(if prefers_html(&headers) {
        html(&OneProblem { title, about, sections })
    } else {
        let sections = sections.map(|(name, words)| format!("\n{name}\n{words}\n")).concat();
        text(format!("{title}\nStatus {}, slug {slug}\n{sections}", status.as_u16()))
    }))
}

/// The page, whose type the header `Accept` has chosen.
fn by_accept((mut headers, page): Document) -> Document {
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    (headers, page)
}

/// Whether HTML is more welcome than plain text, or as welcome and named: a client that accepts anything gets text.
fn prefers_html(headers: &HeaderMap) -> bool {
    let (html, is_named) = quality(headers, "text/html");
    let (text, _) = quality(headers, "text/plain");
    html > text || (is_named && html > 0.0 && html >= text)
}

/// How welcome a type of text is, 0 to 1, and whether it is named. Its name counts more than `text/*`, and that more
/// than `*/*` (RFC 9110, 12.5.1).
fn quality(headers: &HeaderMap, wanted: &str) -> (f32, bool) {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<(&str, f32)> = accepted
        .flat_map(|value| value.split(','))
        .map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let quality = |part: &str| {
                let (name, value) = part.split_once('=')?;
                name.eq_ignore_ascii_case("q").then(|| value.parse().unwrap_or(0.0))
            };
            (name, parts.find_map(quality).unwrap_or(1.0))
        })
        .collect();
    let best = |name: &str| {
        let named = ranges.iter().filter(|(range, _)| range.eq_ignore_ascii_case(name));
        named.map(|(_, quality)| *quality).reduce(f32::max)
    };
    let named = best(wanted);
    (named.or_else(|| best("text/*")).or_else(|| best("*/*")).unwrap_or(0.0), named.is_some())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn html_is_for_those_who_name_it() {
        let prefers = |accept: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.extend(accept.map(|accept| (header::ACCEPT, HeaderValue::from_static(accept))));
            prefers_html(&headers)
        };
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for accept in [
            browser,
            "TEXT/HTML",
            "text/plain, text/html",
            "text/plain;q=0.4, text/html; q=0.5",
            "text/plain;Q=0.4, text/html; Q=0.5",
            "*/*;q=0.4, text/html;q=0.5",
            "text/plain;q=0, */*",
            "*/*, text/html",
        ] {
            assert!(prefers(Some(accept)), "{accept}");
        }
        for accept in [
            "*/*",
            "text/*",
            "",
            "text/html;q=0",
            "text/html;Q=0",
            "text/html;q=0.4, text/plain",
            "text/html;q=0.4, */*",
            "text/html;q=0.4, text/*;q=0.5",
            "text/html;q=x",
            "text/html;q=0, */*",
        ] {
            assert!(!prefers(Some(accept)), "{accept}");
        }
        assert!(!prefers(None));
    }
}
