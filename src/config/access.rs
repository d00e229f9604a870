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
        Some(Ok(token)) => Some(token),
        Some(Err(problem)) => {
            reader.problems.push(format!("--token-file {problem}"));
            None
        }
        None => from_variable(&mut reader),
    };
    match (token, authorities) {
        (Some(token), Some(authorities)) if reader.problems.is_empty() => {
            Ok(Access { url, token, authorities })
        }
        _ => Err(reader.problems),
    }
}

fn from_file(path: &str) -> Result<Secret, String> {
    let text = String::from_utf8(contents(path, TOKEN_FILE_BYTES_MAX)?).unwrap_or_default();
    token_of(text.trim().to_owned()).map_err(|problem| format!("names {path}, whose text {problem}"))
}

/// `COUPON_TOKEN` or, if that is not set, `ADMIN_TOKEN`.
fn from_variable(reader: &mut Reader<impl Fn(&str) -> Option<String>>) -> Option<Secret> {
    for variable in [COUPON_TOKEN, ADMIN_TOKEN] {
        if let Some(token) = reader.token(variable)? {
            return Some(token);
        }
    }
    reader.problems.push("COUPON_TOKEN, --token-file or ADMIN_TOKEN is needed".to_owned());
    None
}
