//! The page about the API, made of its `OpenAPI` document.

use askama::Template;
use axum::http::Method;
use serde_json::Value;

use super::super::problem_kind::{About, ProblemKind};
use super::super::route::Route;
use super::{Document, html};

#[derive(Template)]
#[template(path = "docs.html", config = "src/http/pages/askama.toml")]
struct Docs<'d> {
    title: &'static str,
    operations: Vec<Operation<'d>>,
    bodies: Vec<Body<'d>>,
    kinds: Vec<About>,
}

struct Operation<'d> {
    id: &'d str,
    method: &'d Method,
    path: &'d str,
    summary: &'d str,
    rights: &'d str,
    /// A line for a shell, in which `API` and `AUTH` are set.
    curl: String,
    parameters: Vec<Parameter<'d>>,
    /// The name of its schema.
    body: Option<&'d str>,
    answers: Vec<Answer<'d>>,
}

struct Parameter<'d> {
    name: &'d str,
    place: &'d str,
    is_required: bool,
    about: &'d str,
    value: String,
}

struct Answer<'d> {
    status: &'d str,
    bodies: Vec<Alternative<'d>>,
}

/// One of the bodies that an answer may have.
struct Alternative<'d> {
    name: &'d str,
    link: Option<String>,
}

/// The schema of a body, or of a part of one.
struct Body<'d> {
    name: &'d str,
    about: &'d str,
    /// What it is if it is no object; else empty.
    value: String,
    fields: Vec<Field<'d>>,
    example: Option<String>,
}

struct Field<'d> {
    name: &'d str,
    is_required: bool,
    value: String,
    about: &'d str,
}

/// The page about these routes, which the document describes.
pub(in crate::http) fn page(document: &Value, routes: impl Iterator<Item = &'static Route>) -> Document {
    let schemas = document["components"]["schemas"].as_object();
    let schemas = schemas.into_iter().flatten().filter(|(name, _)| !name.starts_with("Problem."));
    html(&Docs {
        title: "API",
        operations: routes.map(|route| operation(document, route)).collect(),
        bodies: schemas.map(|(name, schema)| body(document, name, schema)).collect(),
        kinds: ProblemKind::ALL.iter().map(|kind| kind.about()).collect(),
    })
}

fn operation<'d>(document: &'d Value, route: &'static Route) -> Operation<'d> {
    let described = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
    let parameters = described["parameters"].as_array().into_iter().flatten();
    let parameters: Vec<&Value> = parameters.map(|parameter| resolved(document, parameter)).collect();
    let answers = described["responses"].as_object().into_iter().flatten();
    Operation {
        id: route.operation,
        method: &route.method,
        path: route.path,
        summary: text(&described["summary"]),
        rights: described["description"].as_str().unwrap_or("It needs no token."),
        curl: curl(route, described, &parameters),
        parameters: parameters.into_iter().map(parameter).collect(),
        body: media(&described["requestBody"]).and_then(|media| name_of(&media["schema"])),
        answers: answers.map(|(status, answer)| Answer { status, bodies: alternatives(answer) }).collect(),
    }
}

fn parameter(described: &Value) -> Parameter<'_> {
    Parameter {
        name: text(&described["name"]),
        place: text(&described["in"]),
        is_required: described["required"] == true,
        about: text(&described["description"]),
        value: value(&described["schema"]),
    }
}

/// A call of an operation, with the examples of its body and of the parameters that it needs.
fn curl(route: &Route, described: &Value, parameters: &[&Value]) -> String {
    let mut path = route.path.to_owned();
    for parameter in parameters.iter().filter(|parameter| parameter["in"] == "path") {
        path = path.replace(&format!("{{{}}}", text(&parameter["name"])), text(&parameter["example"]));
    }
    let needed = |parameter: &&&Value| parameter["in"] == "query" && parameter["required"] == true;
    for parameter in parameters.iter().filter(needed) {
        path = format!("{path}?{}={}", text(&parameter["name"]), text(&parameter["example"]));
    }
    let authorization = if described["security"].is_array() { " -H \"$AUTH\"" } else { "" };
    let body = match (route.writes(), &described["requestBody"]) {
        (true, body) if body["required"] == true => {
            let example = media(body).map(|media| media["example"].to_string()).unwrap_or_default();
            let method =
                if route.method == Method::POST { String::new() } else { format!(" -X {}", route.method) };
            format!("{method} --json '{example}'")
        }
        (true, _) => format!(" -X {}", route.method),
        (false, _) => String::new(),
    };
    format!("curl -s{authorization} \"$API{path}\"{body}")
}

/// The bodies that an answer may have: schemas, problems, or types of text.
fn alternatives(answer: &Value) -> Vec<Alternative<'_>> {
    let types = answer["content"].as_object().into_iter().flatten();
    let bodies = types.flat_map(|(media_type, media)| {
        let one = &media["schema"];
        let several = one["oneOf"].as_array().map_or(std::slice::from_ref(one), Vec::as_slice);
        several.iter().map(move |schema| match name_of(schema) {
            Some(name) => match name.strip_prefix("Problem.") {
                Some(slug) => Alternative { name: slug, link: Some(format!("/problems/{slug}")) },
                None => Alternative { name, link: Some(format!("#{name}")) },
            },
            None => Alternative { name: media_type, link: None },
        })
    });
    bodies.collect()
}

fn body<'d>(document: &'d Value, name: &'d str, schema: &'d Value) -> Body<'d> {
    let is_required = |name: &str| {
        schema["required"].as_array().is_some_and(|required| required.iter().any(|one| one == name))
    };
    let fields = schema["properties"].as_object().into_iter().flatten();
    let fields = fields.map(|(name, schema)| Field {
        name,
        is_required: is_required(name),
        value: value(schema),
        about: text(&schema["description"]),
    });
    Body {
        name,
        about: text(&schema["description"]),
        value: if schema["type"] == "object" { String::new() } else { value(schema) },
        fields: fields.collect(),
        example: example(document, name),
    }
}

/// The example of a body that a request or an answer has.
fn example(document: &Value, schema: &str) -> Option<String> {
    let paths = document["paths"].as_object()?.values();
    let operations = paths.flat_map(|path| path.as_object().into_iter().flat_map(|path| path.values()));
    let bodies = operations.flat_map(|operation| {
        let answers = operation["responses"].as_object().into_iter().flat_map(|answers| answers.values());
        answers.chain([&operation["requestBody"]])
    });
    let media = bodies.filter_map(media).find(|media| name_of(&media["schema"]) == Some(schema))?;
    Some(format!("{:#}", media["example"]))
}

/// What a value may be, in words.
fn value(schema: &Value) -> String {
    let mut words = Vec::new();
    match &schema["type"] {
        Value::String(name) => words.push(name.clone()),
        Value::Array(names) => words.push(names.iter().map(text).collect::<Vec<_>>().join(" or ")),
        _ => words.extend(name_of(schema).map(str::to_owned)),
    }
    if let Some(item) = schema.get("items") {
        words.push(format!("of {}", value(item)));
    }
    let any_of = schema["enum"].as_array().map(|all| all.iter().map(text).collect::<Vec<_>>().join(", "));
    words.extend(any_of);
    for (key, before) in [
        ("format", ""),
        ("minimum", "from "),
        ("maximum", "up to "),
        ("minLength", "characters: from "),
        ("maxLength", "up to "),
        ("pattern", ""),
        ("default", "default "),
    ] {
        let given =
            schema.get(key).map(|given| given.as_str().map_or_else(|| given.to_string(), str::to_owned));
        words.extend(given.map(|given| format!("{before}{given}")));
    }
    words.join(" ")
}

/// The media of a body in JSON.
fn media(described: &Value) -> Option<&Value> {
    described["content"].get("application/json")
}

/// The name of a schema that is a reference.
fn name_of(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

fn resolved<'d>(document: &'d Value, reference: &'d Value) -> &'d Value {
    let pointer = reference["$ref"].as_str().map(|reference| reference.trim_start_matches('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(reference)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
