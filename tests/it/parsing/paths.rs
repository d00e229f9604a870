//! Paths of what callers name.

use std::fmt::Write as _;

/// Whether a text is a segment that clients and proxies remove from a path.
pub(crate) fn is_dots(text: &str) -> bool {
    [".", ".."].contains(&text)
}

/// The path of what has this id in a collection: its letters, digits and other unreserved characters as they are, all
/// else percent-encoded.
pub(crate) fn path_of(collection: &str, id: &str) -> String {
    id.bytes().fold(format!("{collection}/"), |mut path, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
        path
    })
}

/// Whether a path is the same after what clients and proxies do to it (RFC 3986, 6.2.2): they remove dot segments.
pub(crate) fn leads_to(id: &str) -> bool {
    !path_of("/v1/users", id).split('/').any(is_dots)
}

/// Every byte of it, for a place in a URL.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        let _ = write!(all, "%{byte:02X}");
        all
    })
}
