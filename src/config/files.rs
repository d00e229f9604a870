//! Files that variables name, read before anything connects.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::url::Secret;
use crate::jwk::KeySet;

/// Bytes of a file of certificates, at most: several times those that a system trusts.
const AUTHORITIES_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a file of credentials, at most: a token of some kilobytes, and a key.
const CREDENTIALS_BYTES_MAX: u64 = 1 << 16;

/// Bytes of a file of public keys, at most: hundreds of times what an issuer has.
const KEYS_BYTES_MAX: u64 = 1 << 20;

/// Certificate authorities to trust in place of the system's.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorities {
    path: PathBuf,
    pem: Vec<u8>,
}

impl Authorities {
    /// Their file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Their certificates.
    #[must_use]
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }

    /// Reads a file of at least one certificate.
    pub(super) fn read(path: &str) -> Result<Self, String> {
        let pem = contents(path, AUTHORITIES_BYTES_MAX)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let added = certificate
                .map_err(|error| format!("{error:?}"))
                .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
            added.map_err(|error| {
                format!("names {path}, which holds a certificate that cannot be read: {error}")
            })?;
        }
        if roots.is_empty() {
            return Err(format!("names {path}, which holds no certificate in PEM"));
        }
        Ok(Self { path: path.into(), pem })
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.path, f)
    }
}

/// Reads a file of credentials of NATS: a token (JWT) and the key that signs for it.
pub(super) fn credentials(path: &str) -> Result<Secret, String> {
    let text = String::from_utf8(contents(path, CREDENTIALS_BYTES_MAX)?).unwrap_or_default();
    match async_nats::ConnectOptions::new().credentials(&text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!("names {path}, which holds no credentials of NATS: {error}")),
    }
}

/// Reads a file of public keys: a JWKS, or one key in PEM.
pub(super) fn keys(path: &str) -> Result<KeySet, String> {
    let text = contents(path, KEYS_BYTES_MAX)?;
    KeySet::parse(&text).map_err(|problem| format!("names {path}, which {problem}"))
}

pub(super) fn contents(path: &str, bytes_max: u64) -> Result<Vec<u8>, String> {
    let read = || {
        // Whatever else has a path may never end.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(io::Error::other(format!("it is larger than {bytes_max} bytes")));
        }
        Ok(bytes)
    };
    read().map_err(|error| format!("names {path}, which cannot be read: {error}"))
}
