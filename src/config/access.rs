//! How a command reaches the API: where it is, with which token, and whom to trust.

use super::files::{Authorities, contents};
use super::reader::{Reader, token_of};
use super::url::Secret;
use super::variable::{ADMIN_TOKEN, COUPON_CA, COUPON_TOKEN, COUPON_URL, HTTP_ADDR};

/// Bytes of a file with a token, at most: an API token has about 80, and a JWT may have some thousand.
const TOKEN_FILE_BYTES_MAX: u64 = 1 << 14;

/// What a client of the API needs, which needs no other variable.
#[derive(Clone, Debug)]
pub struct Access {
    /// With its scheme. The client judges it.
    pub url: String,
    pub token: Secret,
    /// Where the token comes from, for messages; nothing if a program gave it.
    pub token_from: String,
    /// In place of the system's.
    pub authorities: Option<Authorities>,
}

/// Options take precedence over variables. The error has every problem.
pub(super) fn read(
    url: Option<&str>,
    token_file: Option<&str>,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Access, Vec<String>> {
    let given = |url: &String| !url.is_empty();
    let url = url.map(str::to_owned).or_else(|| COUPON_URL.value(&lookup).filter(given));
    let url = url.unwrap_or_else(|| format!("http://{}", HTTP_ADDR.value(&lookup).unwrap_or_default()));
    let mut reader = Reader { lookup, problems: Vec::new() };
    let authorities = reader.file(COUPON_CA, Authorities::read);
    if authorities.as_ref().is_some_and(Option::is_some) && !url.starts_with("https://") {
        reader.problems.push("COUPON_CA needs a URL of the API that starts with https://".to_owned());
    }
    let token = match token_file.map(from_file) {
        Some(Ok(token)) => Some((token, format!("--token-file {}", token_file.unwrap_or_default()))),
        Some(Err(problem)) => {
            reader.problems.push(format!("--token-file {problem}"));
            None
        }
        None => from_variable(&mut reader),
    };
    match (token, authorities) {
        (Some((token, token_from)), Some(authorities)) if reader.problems.is_empty() => {
            Ok(Access { url, token, token_from, authorities })
        }
        _ => Err(reader.problems),
    }
}

fn from_file(path: &str) -> Result<Secret, String> {
    let text = String::from_utf8(contents(path, TOKEN_FILE_BYTES_MAX)?).unwrap_or_default();
    token_of(text.trim().to_owned()).map_err(|problem| format!("names {path}, whose text {problem}"))
}

/// `COUPON_TOKEN` or, if that is not set, `ADMIN_TOKEN`; with the name of the variable.
fn from_variable(reader: &mut Reader<impl Fn(&str) -> Option<String>>) -> Option<(Secret, String)> {
    if let Some(token) = reader.token(COUPON_TOKEN)? {
        let hidden =
            if reader.is_set(ADMIN_TOKEN) { ", which takes precedence over ADMIN_TOKEN" } else { "" };
        return Some((token, format!("{}{hidden}", COUPON_TOKEN.name)));
    }
    if let Some(token) = reader.token(ADMIN_TOKEN)? {
        return Some((token, ADMIN_TOKEN.name.to_owned()));
    }
    reader.problems.push("COUPON_TOKEN, --token-file or ADMIN_TOKEN is needed".to_owned());
    None
}
