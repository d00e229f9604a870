//! Deployments of one service, and what tells them apart when they share a database or a NATS server.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Characters of a name, at most: with a class of locks or the name of a projection before it, it fits into the 63
/// bytes of an identifier of Postgres.
const NAME_LENGTH_MAX: usize = 32;

/// The name of a deployment: 1 to 32 lower-case letters, digits and hyphens.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeploymentName {
    bytes: [u8; NAME_LENGTH_MAX],
    length: usize,
}

impl DeploymentName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

/// A text is no name of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {NAME_LENGTH_MAX} lower-case letters, digits or hyphens")]
pub struct DeploymentNameError;

impl FromStr for DeploymentName {
    type Err = DeploymentNameError;

    fn from_str(text: &str) -> Result<Self, DeploymentNameError> {
        let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let mut bytes = [0; NAME_LENGTH_MAX];
        let target = bytes.get_mut(..text.len()).filter(|target| !target.is_empty());
        let target = target.filter(|_| text.bytes().all(is_known)).ok_or(DeploymentNameError)?;
        target.copy_from_slice(text.as_bytes());
        Ok(Self { bytes, length: text.len() })
    }
}

impl fmt::Display for DeploymentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DeploymentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// One deployment of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Different for two deployments that share a database.
    pub name: DeploymentName,
    /// The id of its database: it tells apart two databases to which an operator gave the same name.
    pub id: Uuid,
    /// Whether its locks and consumers have the plain names, as those of a service whose
    /// [`Outlet`](crate::Outlet) has no deployment. Of the deployments in one database, one may.
    pub is_plain: bool,
}

impl Deployment {
    /// A name with that of the deployment behind it, unless this deployment has the plain names.
    pub(crate) fn qualify(&self, name: &str, separator: char) -> String {
        if self.is_plain { name.to_owned() } else { format!("{name}{separator}{}", self.name) }
    }
}

/// For messages: the name and the id.
impl fmt::Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (id {})", self.name, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_has_no_other_characters() {
        for name in ["a", "blue-2", "-", &"x".repeat(32)] {
            let read: Result<DeploymentName, _> = name.parse();
            assert_eq!(read.map(|read| read.to_string()), Ok(name.to_owned()));
        }
        for text in ["", "Blue", "blue_2", "blue 2", "blau-ä", "a.b", &"x".repeat(33)] {
            assert_eq!(text.parse::<DeploymentName>(), Err(DeploymentNameError), "{text}");
        }
    }
}
