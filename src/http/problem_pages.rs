//! Pages about the kinds of problems, for people who open the type of a problem: HTML for browsers, text for others.

use std::fmt::Write as _;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderName, header};

use super::extract::NoQuery;
use super::problem::Problem;
use super::problem_kind::{About, ProblemKind};

/// A page, and the headers that say what it is.
type Document = ([(HeaderName, &'static str); 2], String);

/// `GET /problems`: all kinds.
pub(super) async fn list(headers: HeaderMap, _: NoQuery) -> Document {
    let kinds = ProblemKind::ALL.iter().map(|kind| kind.about());
    if !prefers_html(&headers) {
        return text(kinds.fold(String::new(), |mut page, About { status, slug, title, .. }| {
            let _ = writeln!(page, "{} {slug}: {title}", status.as_u16());
            page
        }));
    }
    let rows = kinds.fold(String::new(), |mut rows, About { status, path, title, .. }| {
        let _ = writeln!(rows, "<li><a href=\"{path}\">{}</a> ({})</li>", escaped(title), status.as_u16());
        rows
    });
    html("Problems", &format!("<ul>\n{rows}</ul>"))
}

/// `GET /problems/{slug}`: one kind, with its cause, what to do about it, and whether a retry is safe.
pub(super) async fn show(
    headers: HeaderMap,
    slug: Result<Path<String>, PathRejection>,
    _: NoQuery,
) -> Result<Document, Problem> {
    let slug = slug.map(|Path(slug)| slug).unwrap_or_default();
    let kind = ProblemKind::ALL.iter().map(|kind| kind.about()).find(|about| about.slug == slug);
    let About { status, title, cause, advice, retry, .. } =
        kind.ok_or_else(|| Problem::not_found("No problem has this slug."))?;
    let sections = [("Cause", cause), ("What to do", advice), ("Is a retry safe?", retry.sentence())];
    if !prefers_html(&headers) {
        let sections = sections.map(|(name, words)| format!("\n{name}\n{words}\n")).concat();
        return Ok(text(format!("{title}\nStatus {}, slug {slug}\n{sections}", status.as_u16())));
    }
    let sections =
        sections.map(|(name, words)| format!("<h2>{name}</h2>\n<p>{}</p>\n", escaped(words))).concat();
    let body = format!("<p>Status {}, slug {}</p>\n{sections}", status.as_u16(), escaped(&slug));
    Ok(html(title, &format!("{body}<p><a href=\"/problems\">All problems</a></p>")))
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

fn text(page: String) -> Document {
    document("text/plain; charset=utf-8", page)
}

fn html(title: &str, body: &str) -> Document {
    let title = escaped(title);
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
    );
    document("text/html; charset=utf-8", page)
}

fn document(content_type: &'static str, page: String) -> Document {
    ([(header::CONTENT_TYPE, content_type), (header::VARY, "Accept")], page)
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, letter| {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter => escaped.push(letter),
        }
        escaped
    })
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

    #[test]
    fn what_html_reads_as_a_mark_is_escaped() {
        assert_eq!(escaped("a < b & \"c\" > d"), "a &lt; b &amp; &quot;c&quot; &gt; d");
    }
}
