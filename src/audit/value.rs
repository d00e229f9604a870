//! A value of a difference or of the sheet.

use std::fmt;

use serde::{Serialize, Serializer};

/// A figure or a word. In JSON a number, or a string if it is a word or a number outside 64 bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    Number(i128),
    Text(String),
}

impl<N: Into<i128>> From<N> for Value {
    fn from(number: N) -> Self {
        Self::Number(number.into())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => match i64::try_from(*number) {
                Ok(number) => serializer.serialize_i64(number),
                Err(_) => serializer.collect_str(number),
            },
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}
