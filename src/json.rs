//! Objects of JSON in the bodies of requests. All that is wrong with one is found at once, and said in terms of JSON.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Deserializer;
use serde_json::error::Category;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ids::FieldProblem;

/// Unknown fields of a body, or parameters of a query, that a refusal names, at most: a request of 16 KiB may have
/// thousands.
pub const UNKNOWN_NAMED_MAX: usize = 16;

/// Why a body is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Whether the body is no object, or one of its fields is missing, unknown, given twice or of another type. If not,
    /// only values are wrong.
    pub malformed: bool,
    /// Every field that is wrong.
    pub problems: Vec<FieldProblem>,
}

impl From<FieldProblem> for Rejected {
    /// The body cannot be read.
    fn from(problem: FieldProblem) -> Self {
        Self { malformed: true, problems: vec![problem] }
    }
}

/// An object with `N` fields, which are taken by their names.
#[derive(Debug)]
pub struct Object<'a, const N: usize> {
    /// Names, and the values of the fields that are there.
    fields: [(&'static str, Option<&'a RawValue>); N],
    problems: Vec<FieldProblem>,
}

impl<'a, const N: usize> Object<'a, N> {
    /// Reads an object whose fields have these names. Unknown fields, and fields that are given twice, are among
    /// [`Object::into_problems`].
    ///
    /// # Errors
    /// When the bytes are not JSON: names the field at which they stop being it. When they are another value of JSON:
    /// names `body`.
    pub fn read(bytes: &'a [u8], names: [&'static str; N]) -> Result<Self, FieldProblem> {
        let body = |reason| Err(FieldProblem::new("body", reason));
        match bytes.trim_ascii_start().first() {
            Some(b'{') => {}
            Some(first) if kind_of(*first).is_some() => return body("must be an object"),
            Some(_) => return body("must be JSON"),
            None => return body("is missing: it must be an object of JSON"),
        }
        let mut object = Self { fields: names.map(|name| (name, None)), problems: Vec::new() };
        let mut stopped_at = None;
        let mut parser = Deserializer::from_slice(bytes);
        let read = parser.deserialize_map(Fields { object: &mut object, stopped_at: &mut stopped_at });
        match read.and_then(|()| parser.end()) {
            Ok(()) => Ok(object),
            Err(error) => Err(FieldProblem::new(stopped_at.as_deref().unwrap_or("body"), reason_of(&error))),
        }
    }

    /// The value of a field that must be there; nothing if it is missing or of another type, which is noted.
    pub fn required<T: Value>(&mut self, name: &'static str) -> Option<T> {
        let value = self.value(name);
        if value.is_none() {
            self.problems.push(FieldProblem::new(name, "is missing"));
        }
        self.read_value(name, value?)
    }

    /// The value of a field, or `absent` if it is missing; nothing if it is of another type, which is noted.
    pub fn optional<T: Value>(&mut self, name: &'static str, absent: T) -> Option<T> {
        match self.value(name) {
            Some(value) => self.read_value(name, value),
            None => Some(absent),
        }
    }

    /// The names of the fields that have a value other than null.
    #[must_use]
    pub fn given(&self) -> Vec<&'static str> {
        let given = self.fields.iter().filter(|(_, value)| value.is_some_and(|value| value.get() != "null"));
        given.map(|(name, _)| *name).collect()
    }

    /// What is wrong with the object, and with the fields that were taken.
    #[must_use]
    pub fn into_problems(self) -> Vec<FieldProblem> {
        self.problems
    }

    fn value(&self, name: &str) -> Option<&'a RawValue> {
        self.fields.iter().find(|(known, _)| *known == name).and_then(|(_, value)| *value)
    }

    fn read_value<T: Value>(&mut self, name: &str, value: &RawValue) -> Option<T> {
        let json = value.get();
        let read = T::read(json);
        if read.is_none() {
            let kind = json.bytes().next().and_then(kind_of).unwrap_or_default();
            let reason =
                if kind == T::KIND { T::FORM.to_owned() } else { format!("{}, not {kind}", T::TYPE) };
            self.problems.push(FieldProblem::new(name, reason));
        }
        read
    }

    /// Keeps the value of a field, or notes why there is no place for it.
    fn keep(&mut self, name: &str, value: &'a RawValue) {
        match self.fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, place @ None)) => *place = Some(value),
            Some(_) => self.note(name, "must be given once".to_owned()),
            None => {
                let reason = match self.fields.map(|(known, _)| known).as_slice() {
                    [] => "is unknown: this body has no fields".to_owned(),
                    known => format!("is unknown: the fields are {}", known.join(", ")),
                };
                self.note(name, reason);
            }
        }
    }

    /// Notes a problem with the name of a field, once and while there is room for it.
    fn note(&mut self, name: &str, reason: String) {
        let is_new = self.problems.iter().all(|problem| problem.field != name);
        if is_new && self.problems.len() < UNKNOWN_NAMED_MAX {
            self.problems.push(FieldProblem::new(name, reason));
        }
    }
}

/// A value that a field may have.
pub trait Value: Sized {
    /// The kind of JSON, such as "a string".
    const KIND: &'static str;
    /// What is said of a value of another kind, such as "must be a string".
    const TYPE: &'static str;
    /// What is said of a value of this kind that cannot be read.
    const FORM: &'static str = Self::TYPE;

    /// Reads the text of a value of JSON.
    fn read(json: &str) -> Option<Self>;
}

impl Value for String {
    const KIND: &'static str = "a string";
    const TYPE: &'static str = "must be a string";
    const FORM: &'static str = "must have no half of a surrogate pair, such as \\ud800";

    fn read(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}

/// As JSON Schema has it, an integer is a number without a fraction, however it is written: `5.0` and `5e2` are integers
/// too. One beyond 64 bits is read as the largest or the smallest there is: no field has one, and its limits are said.
impl Value for i64 {
    const KIND: &'static str = "a number";
    const TYPE: &'static str = "must be an integer";

    fn read(json: &str) -> Option<Self> {
        let (sign, number) = json.strip_prefix('-').map_or(("", json), |number| ("-", number));
        let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = [whole, fraction].concat();
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None; // another kind of value
        }
        // The number is `digits` times a power of ten, exactly: nothing is rounded.
        let digits = digits.trim_start_matches('0');
        let significant = digits.trim_end_matches('0');
        if significant.is_empty() {
            return Some(0);
        }
        let last = if sign.is_empty() { Self::MAX } else { Self::MIN };
        let point = fraction.len().cast_signed() - (digits.len() - significant.len()).cast_signed();
        let Ok(exponent) = exponent.parse::<i32>() else {
            return (!exponent.starts_with('-')).then_some(last); // no body has as many digits
        };
        let zeros = usize::try_from(exponent as isize - point).ok()?;
        if significant.len() + zeros > Self::MAX.ilog10() as usize + 1 {
            return Some(last);
        }
        Some(format!("{sign}{significant}{}", "0".repeat(zeros)).parse().unwrap_or(last))
    }
}

impl Value for bool {
    const KIND: &'static str = "a boolean";
    const TYPE: &'static str = "must be true or false";

    fn read(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}

impl Value for OffsetDateTime {
    const KIND: &'static str = "a string";
    const TYPE: &'static str = "must be a time of RFC 3339, such as 2026-11-20T18:00:00Z";

    fn read(json: &str) -> Option<Self> {
        Self::parse(&String::read(json)?, &Rfc3339).ok()
    }
}

/// Null is as good as no value.
impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;
    const TYPE: &'static str = T::TYPE;
    const FORM: &'static str = T::FORM;

    fn read(json: &str) -> Option<Self> {
        if json == "null" { Some(None) } else { T::read(json).map(Some) }
    }
}

/// The kind of a value of JSON that begins with this byte.
fn kind_of(first: u8) -> Option<&'static str> {
    match first {
        b'"' => Some("a string"),
        b'-' | b'0'..=b'9' => Some("a number"),
        b't' | b'f' => Some("a boolean"),
        b'n' => Some("null"),
        b'[' => Some("an array"),
        b'{' => Some("an object"),
        _ => None,
    }
}

/// Why bytes are not JSON.
fn reason_of(error: &serde_json::Error) -> String {
    let place = format!("line {}, column {}", error.line(), error.column());
    match error.classify() {
        Category::Eof => format!("ends before its JSON does, at {place}"),
        Category::Syntax | Category::Data | Category::Io => format!("is not JSON at {place}"),
    }
}

/// Reads the fields of an object. `stopped_at` becomes the field whose value cannot be read.
struct Fields<'o, 'a, const N: usize> {
    object: &'o mut Object<'a, N>,
    stopped_at: &'o mut Option<String>,
}

impl<'a, const N: usize> Visitor<'a> for Fields<'_, 'a, N> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(Name(name)) = map.next_key()? {
            let value = map.next_value().inspect_err(|_| *self.stopped_at = Some(name.to_string()))?;
            self.object.keep(&name, value);
        }
        Ok(())
    }
}

/// The name of a field, without a copy of it unless it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
