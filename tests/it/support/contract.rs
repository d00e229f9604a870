//! Answers against the `OpenAPI` document.

use std::sync::LazyLock;

use coupon_dispatcher::http::{Route, openapi, routes};
use hyper::Method;
use serde_json::Value;

use super::Answer;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(openapi()).unwrap());

/// The document.
pub(crate) fn document() -> Value {
    DOCUMENT.clone()
}

/// [`assert_described`], for any request: of each answer that any test gets. A path or a method that no route has is
/// none of the document's.
pub(crate) fn assert_described_if_known(method: &Method, path: &str, answer: &Answer) {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |route: &&Route| {
        let (route, path) = (route.path.split('/'), path.split('/'));
        route.clone().count() == path.clone().count()
            && route
                .zip(path)
                .all(|(part, given)| part == given || (part.starts_with('{') && !given.is_empty()))
    };
    if let Some(route) = routes().filter(|route| route.method == *method).find(fits) {
        assert_described(method.as_str(), route.path, answer);
    }
}

/// The answer of an operation is one that the document describes: status, headers, body.
pub(crate) fn assert_described(method: &str, path: &str, answer: &Answer) {
    let document = &*DOCUMENT;
    let operation = &document["paths"][path][method.to_ascii_lowercase()];
    let described = &operation["responses"][answer.status.to_string()];
    let what = format!("{method} {path}: {answer:?}");
    assert!(described.is_object(), "no such status in the document: {what}");
    for (name, header) in described["headers"].as_object().unwrap() {
        let header = resolve(document, header);
        assert!(header["required"] != true || answer.header(name).is_some(), "no header {name}: {what}");
    }
    for name in [
        "retry-after",
        "ratelimit",
        "ratelimit-policy",
        "www-authenticate",
        "location",
        "idempotency-replayed",
    ] {
        let names = described["headers"].as_object().unwrap().keys();
        let is_told = names.map(|name| name.to_ascii_lowercase()).any(|told| told == name);
        assert!(is_told || answer.header(name).is_none(), "the document tells no header {name}: {what}");
    }
    let media_type = answer.header("content-type").unwrap();
    let media = &described["content"][media_type];
    assert!(media.is_object(), "the document has no such type: {what}");
    if media_type.contains("json") {
        let problems = problems(document, &media["schema"], &answer.body);
        assert!(problems.is_empty(), "{problems:?}: {what}");
    }
}

/// A problem is as the document describes its kind.
pub(crate) fn assert_described_problem(answer: &Answer) {
    let document = document();
    let schema = &document["components"]["schemas"][format!("Problem.{}", answer.problem())];
    assert!(schema.is_object(), "the document has no such problem: {answer:?}");
    let problems = problems(&document, schema, &answer.body);
    assert!(problems.is_empty(), "{problems:?}: {answer:?}");
}

/// What is wrong with a value by a schema. A member that an object's schema does not name is wrong too.
pub(crate) fn problems(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let schema = resolve(document, schema);
    let mut found = Vec::new();
    if let Some(choices) = schema["oneOf"].as_array() {
        let fitting = choices.iter().filter(|choice| problems(document, choice, value).is_empty()).count();
        if fitting != 1 {
            found.push(format!("{fitting} of the alternatives fit {value}"));
        }
    }
    let is_allowed = match &schema["type"] {
        Value::Null => true,
        Value::String(name) => is_of(name, value),
        names => names.as_array().unwrap().iter().any(|name| is_of(name.as_str().unwrap(), value)),
    };
    let is_one = schema.get("const").is_none_or(|one| one == value)
        && schema["enum"].as_array().is_none_or(|words| words.contains(value));
    if !is_allowed || !is_one {
        found.push(format!("{value} is not {schema}"));
    }
    if let (Some(members), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        // Of an alternative without a type the other members are elsewhere.
        let is_whole = !schema["type"].is_null();
        let required = schema["required"].as_array().into_iter().flatten();
        let missing = required.filter(|name| !members.contains_key(name.as_str().unwrap()));
        found.extend(missing.map(|name| format!("{name} is missing")));
        for (name, member) in members {
            match properties.get(name) {
                Some(schema) => found.extend(problems(document, schema, member)),
                None if is_whole => found.push(format!("the document does not tell of {name}")),
                None => {}
            }
        }
    }
    for item in value.as_array().into_iter().flatten() {
        found.extend(problems(document, &schema["items"], item));
    }
    found
}

pub(crate) fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let Some(reference) = schema["$ref"].as_str() else { return schema };
    document.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        name => panic!("say here what {name} is"),
    }
}
