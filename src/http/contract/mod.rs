//! The `OpenAPI` document. Paths, methods, ids and rights come from the table of routes, refusals from the table of
//! problems; `operations` adds what these do not say.

mod bodies;
mod coupons;
mod examples;
mod operations;
mod parameters;
mod problems;
mod schemas;

use std::collections::BTreeMap;

use axum::http::{HeaderName, header};
use serde_json::{Map, Value, json};

use self::operations::{Answer, Content, OPERATIONS, Operation};
use super::problem::PROBLEM_TYPE;
use super::problem_kind::ProblemKind;
use super::route::{Access, ForUsers, Route};
use crate::identity::{Scope, Scopes};

/// The document of these routes. A route without an entry in [`OPERATIONS`] is missing in it, which a test finds.
pub(super) fn document<'r>(routes: impl Iterator<Item = &'r Route>) -> Value {
    let mut paths = Map::new();
    for route in routes {
        let Some(operation) = OPERATIONS.iter().find(|operation| operation.id == route.operation) else {
            continue;
        };
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = described(route, operation);
    }
    let mut schemas = schemas::all();
    schemas.extend(problems::schemas());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "coupon-dispatcher",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Limited coupons, first come, first served. Every GET also answers HEAD.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": env!("CARGO_PKG_LICENSE") },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": parameters::all(),
            "headers": headers(),
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer",
                "description": "The admin token, an API token with one of the scopes of the operation, or the token of an end user." } },
        },
    })
}

/// A reference to a component.
fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

fn described(route: &Route, operation: &Operation) -> Value {
    let in_path = route.path.split(['{', '}']).skip(1).step_by(2);
    let mut names: Vec<&str> = in_path.chain(operation.query.iter().copied()).collect();
    names.extend(operation.headers);
    names.push("Request-Id");
    let mut described = json!({ "operationId": route.operation, "summary": operation.summary });
    if let Access::Needs(scopes, users) = route.access {
        names.push("traceparent");
        described["security"] = json!([{ "bearer": [] }]);
        let scopes: Vec<&str> = Scope::ALL
            .into_iter()
            .filter(|scope| Scopes::NONE.with(*scope).meets(scopes))
            .map(Scope::as_str)
            .collect();
        let or_users = match users {
            ForUsers::Nothing => "",
            ForUsers::TheirOwn => " End users may use it for themselves.",
        };
        described["description"] =
            format!("One of these scopes is enough: {}.{or_users}", scopes.join(", ")).into();
    }
    if route.writes() {
        names.push("Idempotency-Key");
    }
    described["parameters"] = names.into_iter().map(|name| reference("parameters", name)).collect();
    if let Some(schema) = operation.body {
        described["requestBody"] = json!({
            "required": schema != "Nothing",
            "content": { "application/json": media(schema) },
        });
    }
    described["responses"] = responses(route, operation).into();
    described
}

fn responses(route: &Route, operation: &Operation) -> Map<String, Value> {
    let answers = operation.answers.iter().map(|answer| (answer.0.to_string(), success(route, answer)));
    let mut responses: Map<String, Value> = answers.collect();
    let mut refusals: BTreeMap<u16, Vec<ProblemKind>> = BTreeMap::new();
    for kind in problems::of(route, operation) {
        refusals.entry(kind.about().status.as_u16()).or_default().push(kind);
    }
    for (status, kinds) in refusals {
        responses.insert(status.to_string(), refusal(&kinds));
    }
    responses
}

fn success(route: &Route, Answer(status, content): &Answer) -> Value {
    let mut names = vec!["Request-Id"];
    if *status == 201 {
        names.push("Location");
    }
    if route.writes() {
        names.push("Idempotency-Replayed");
    }
    let content: Map<String, Value> = match content {
        Content::Json(schema) => [("application/json".to_owned(), media(schema))].into_iter().collect(),
        Content::Object(member, value) => {
            let body = json!({ "schema": { "type": "object" }, "example": { *member: value } });
            [("application/json".to_owned(), body)].into_iter().collect()
        }
        Content::Text(types) => {
            let body = |example: &str| json!({ "schema": { "type": "string" }, "example": example });
            types.iter().map(|(name, example)| ((*name).to_owned(), body(example))).collect()
        }
    };
    json!({ "description": "What was asked for", "headers": headed(&names), "content": content })
}

/// The problems with one status.
fn refusal(kinds: &[ProblemKind]) -> Value {
    let schemas: Vec<Value> = kinds.iter().map(|kind| reference("schemas", &problems::name(*kind))).collect();
    let examples = kinds.iter().map(|kind| {
        (
            kind.about().slug.to_owned(),
            json!({ "summary": kind.about().title, "value": problems::example(*kind) }),
        )
    });
    let examples: Map<String, Value> = examples.collect();
    let titles: Vec<&str> = kinds.iter().map(|kind| kind.about().title).collect();
    let mut names = vec!["Request-Id"];
    for (name, word) in [(header::RETRY_AFTER, "Retry-After"), (header::WWW_AUTHENTICATE, "WWW-Authenticate")]
    {
        let has = |kind: &ProblemKind| {
            kind.about().header().is_some_and(|(given, _): (HeaderName, _)| given == name)
        };
        if kinds.iter().any(has) {
            names.push(word);
        }
    }
    if kinds.contains(&ProblemKind::TooManyRequests) {
        names.extend(["Retry-After", "RateLimit", "RateLimit-Policy"]);
    }
    json!({
        "description": titles.join("; or: "),
        "headers": headed(&names),
        "content": { PROBLEM_TYPE: { "schema": { "oneOf": schemas }, "examples": examples } },
    })
}

fn media(schema: &str) -> Value {
    json!({ "schema": reference("schemas", schema), "example": examples::of(schema) })
}

fn headed(names: &[&str]) -> Map<String, Value> {
    names.iter().map(|name| ((*name).to_owned(), reference("headers", name))).collect()
}

fn headers() -> Value {
    json!({
        "Request-Id": { "description": "That of the request, or a new ULID.", "required": true,
            "schema": { "type": "string" }, "example": examples::REQUEST_ID },
        "Location": { "description": "The path of what was created.", "required": true,
            "schema": { "type": "string" }, "example": "/v1/coupons/01M7WFKGE14NWN561KVXBYTJTY" },
        "Retry-After": { "description": "Seconds to wait before a retry, where one is of use.",
            "schema": { "type": "integer" }, "example": 1 },
        "RateLimit": { "description": "The limit that the request is beyond, what is left of it, and for how many seconds (draft-ietf-httpapi-ratelimit-headers-11).",
            "required": true, "schema": { "type": "string" }, "example": "\"principal\";r=0;t=1" },
        "RateLimit-Policy": { "description": "The limit: requests at once, and the seconds in which as many more are admitted.",
            "required": true, "schema": { "type": "string" }, "example": "\"principal\";q=2000;w=2" },
        "WWW-Authenticate": { "description": "The scheme of the token.", "required": true,
            "schema": { "type": "string" }, "example": "Bearer" },
        "Idempotency-Replayed": { "description": "This is the answer to an earlier request with the same key.",
            "schema": { "const": "true" }, "example": "true" },
    })
}

/// The schema of a text of 1 to `max` visible ASCII characters.
fn visible(max: usize) -> Value {
    json!({ "type": "string", "pattern": format!("^[!-~]{{1,{max}}}$") })
}

#[cfg(test)]
mod tests {
    use super::super::routes::routes;
    use super::*;

    #[test]
    fn every_operation_has_a_route() {
        for Operation { id, .. } in &OPERATIONS {
            assert!(routes().any(|route| route.operation == *id), "{id}");
        }
    }
}
