//! Pages for people: HTML without scripts, and nothing that is not in the page itself.

pub(super) mod docs;
pub(super) mod problems;

use std::sync::LazyLock;

use askama::Template;
use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ring::digest::{SHA256, digest};

/// A page, and the headers that say what it is. Cheap to clone.
pub(super) type Document = (HeaderMap, Bytes);

/// The style of every page, which is part of it.
const STYLE: &str = include_str!("style.css");

/// What a page may load and run: nothing but its style. It may not be framed, and has no forms.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let style = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    policy.try_into().ok() // it is visible ASCII
});

/// A page of HTML.
fn html(page: &impl Template) -> Document {
    // To write into a string does not fail.
    let mut document = document("text/html; charset=utf-8", page.render().unwrap_or_default());
    document.0.extend(POLICY.clone().map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
    document
}

/// A page of plain text.
fn text(page: String) -> Document {
    document("text/plain; charset=utf-8", page)
}

fn document(content_type: &'static str, page: String) -> Document {
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(content_type))];
    (headers.into_iter().collect(), page.into())
}
