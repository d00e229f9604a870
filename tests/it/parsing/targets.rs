//! Any bytes in each parser of outside bytes: what is taken prints as it was and keeps its limits.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use coupon_dispatcher::campaign::Expiry;
use coupon_dispatcher::campaign::draft::{Draft, DraftBody};
use coupon_dispatcher::campaign::duration::{format_duration, parse_duration};
use coupon_dispatcher::cause::{IdempotencyKey, Traceparent};
use coupon_dispatcher::cli::replay::ReplayArgs;
use coupon_dispatcher::config::{Config, Secret, ServerUrl, login};
use coupon_dispatcher::coupon::Refusal;
use coupon_dispatcher::coupon::code::Code;
use coupon_dispatcher::event::Issued;
use coupon_dispatcher::gate::seat::{Admission, Denial, Seat};
use coupon_dispatcher::http::parsers::{ListQuery, Uri, claimant, is_authorized};
use coupon_dispatcher::ids::{CampaignId, MerchantId, UserId};
use coupon_dispatcher::money::Money;
use outbox_relay::Event;
use outbox_relay::event::{EPOCH_HEADER, POSITION_HEADER, epoch_of};
use outbox_relay::parsers::stored;
use outbox_relay::replay::{RunId, Selection};
use outbox_relay::strict::{from_object, number};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::paths::{encoded, is_dots, leads_to};

/// A parser. Answers whether the bytes were taken.
type Target = fn(&[u8]) -> bool;

/// All of them: `tests/fuzz/seeds/<name>` has seeds of each, one a line, and `make fuzz` attacks one after the other.
pub(crate) const TARGETS: [(&str, Target); 19] = [
    ("acknowledgement", acknowledgement),
    ("admission", admission),
    ("bearer", bearer),
    ("claim", claim),
    ("code", code),
    ("config", config),
    ("draft", draft),
    ("duration", duration),
    ("event", event),
    ("forwarded", super::forwarded::forwarded),
    ("headers", headers),
    ("idempotency_key", idempotency_key),
    ("outside_id", outside_id),
    ("page", page),
    ("replay", replay),
    ("run_id", run_id),
    ("seat", seat),
    ("traceparent", traceparent),
    ("ulid", ulid),
];

/// What nobody could read as text never reaches a parser of texts.
fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap_or_default()
}

/// JSON as `serde_json` alone reads it. Of fields that come twice it keeps the last.
fn value(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

/// Reads an answer to a publish at sequence 7 of stream COUPONS-0. It returns false unless the stream acknowledges.
fn acknowledgement(bytes: &[u8]) -> bool {
    let read = |bytes: &[u8]| stored(bytes, "COUPONS-0", 7);
    let answer = read(bytes);
    let is_stored = answer == Some(Ok(()));
    let Some(said) = value(bytes) else { return is_stored };
    let ours = said["stream"] == "COUPONS-0";
    let meant = ours
        && said["seq"].as_i64() == Some(7)
        && [None, Some(&json!(false))].contains(&said.get("duplicate"))
        && said["error"].is_null();
    assert!(meant || !is_stored, "taken as stored: {said}");
    let names_none = said.get("stream").is_none_or(Value::is_null);
    let is_answer = ours || names_none && said["error"]["err_code"].is_u64();
    assert!(answer.is_none() || is_answer, "taken as an answer: {said}");
    assert_eq!(read(said.to_string().as_bytes()) == Some(Ok(())), meant, "{said}");
    is_stored
}

/// A word of the gate to one user.
fn admission(bytes: &[u8]) -> bool {
    let Some(said) = Admission::parse(text(bytes), &UserId::parse("alice").unwrap()) else { return false };
    let word = match &said {
        Admission::Admitted(seat) => match seat.parts() {
            ("alice", 1) => "admitted".to_owned(),
            ("alice", nth @ 2..) => format!("admitted {nth}"),
            other => panic!("{other:?}"),
        },
        Admission::Denied(Denial::Already) => "already".to_owned(),
        Admission::Denied(Denial::Full(0)) => "full".to_owned(),
        Admission::Denied(Denial::Full(n)) => format!("full held {n}"),
        Admission::Denied(Denial::Refused(Refusal::SoldOut)) => "sold_out".to_owned(),
        Admission::Denied(Denial::Refused(Refusal::NotOpen)) => "not_open".to_owned(),
        Admission::Denied(Denial::Refused(Refusal::Closed)) => "closed".to_owned(),
        Admission::Denied(Denial::RefusedMore(Refusal::SoldOut, n)) => format!("sold_out held {n}"),
        Admission::Denied(Denial::RefusedMore(Refusal::NotOpen, n)) => format!("not_open held {n}"),
        Admission::Denied(Denial::RefusedMore(Refusal::Closed, n)) => format!("closed held {n}"),
        Admission::Denied(Denial::Unloaded) => "unloaded".to_owned(),
    };
    assert_eq!(word.as_bytes(), bytes);
    true
}

fn bearer(bytes: &[u8]) -> bool {
    let token = Secret::from("0123456789abcdef".to_owned());
    let authorized = is_authorized(Some(bytes), Some(&token));
    let (scheme, rest) = text(bytes).split_once(' ').unwrap_or_default();
    let meant = scheme.to_lowercase() == "bearer" && rest.trim_start_matches(' ') == "0123456789abcdef";
    assert_eq!(authorized, meant);
    assert!(!is_authorized(Some(bytes), None) && !is_authorized(None, Some(&token)));
    authorized
}

/// The body of a claim.
fn claim(bytes: &[u8]) -> bool {
    let taken = claimant(bytes);
    if let Err(rejected) = &taken {
        assert!(!rejected.problems.is_empty());
        assert!(rejected.problems.iter().all(|told| !told.field.is_empty() && !told.reason.is_empty()));
    }
    let Some(said) = value(bytes) else {
        assert!(taken.is_err());
        return false;
    };
    let user = said.as_object().filter(|body| body.len() == 1).and_then(|body| body.get("user_id")?.as_str());
    let visible = |user: &&str| (1..=64).contains(&user.len()) && user.bytes().all(|b| b.is_ascii_graphic());
    let meant = user.filter(visible).filter(|user| !is_dots(user));
    assert!(taken.is_err() || taken.as_ref().ok().map(UserId::as_str) == meant, "{said}");
    assert_eq!(claimant(said.to_string().as_bytes()).is_ok(), meant.is_some(), "{said}");
    taken.is_ok()
}

/// The code of a coupon: of all texts that differ from it in a single character, none is another one.
fn code(bytes: &[u8]) -> bool {
    let parse = |text: &str| text.parse().map(|code: Code| code.text());
    let Ok(known) = parse(text(bytes)) else { return false };
    assert!(known.len() == 24 && parse(&known).as_ref() == Ok(&known));
    for at in (0..known.len()).filter(|at| known.as_bytes()[*at] != b'-') {
        for other in "0123456789ABCDEFGHJKMNPQRSTVWXYZILOU*".chars() {
            let misread = format!("{}{other}{}", &known[..at], &known[at + 1..]);
            assert!(parse(&misread).map_or(true, |code| code == known), "{misread} for {known}");
        }
    }
    true
}

/// Variables of the environment, `<name>=<value>` with blanks between.
fn config(bytes: &[u8]) -> bool {
    let variables = text(bytes);
    for url in variables.split(' ').filter_map(|variable| Some(variable.split_once('=')?.1)) {
        let (user, password) = url.split_once(':').unwrap_or((url, ""));
        let read = login(&format!("nats://{}:{}@bus/?{url}", encoded(user), encoded(password)));
        assert_eq!(read, Some((user.to_owned(), Some(password.to_owned()))));
        let _ = login(url);
    }
    let of =
        |name: &str| variables.split(' ').find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='));
    let Ok(config) = Config::read(|name| of(name).map(ToOwned::to_owned)) else { return false };
    let Config { database, redis, nats, shards, replicas, batch_rows, outbox_retention, .. } = &config;
    for url in [database].into_iter().chain(redis.iter()).chain(nats.iter()) {
        shows_no_login(url);
    }
    assert!((1..=64).contains(shards) && [1, 3, 5].contains(replicas) && (1..=500).contains(batch_rows));
    assert!(outbox_retention.is_none_or(|time| (1..=36_500).contains(&(time.as_secs() / 86_400))));
    assert!(config.admin_token.as_ref().is_none_or(|token| token.reveal().len() >= 16));
    true
}

/// Nothing before the last `@`, and no parameters.
fn shows_no_login(url: &ServerUrl) {
    let (shown, whole) = (url.to_string(), url.reveal());
    let (scheme, shown) = shown.split_once("://").unwrap();
    let rest = whole.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")).unwrap();
    let place = &rest[rest.rfind('@').map_or(0, |at| at + 1)..];
    assert!(place.starts_with(shown) && !shown.contains(['?', '#']), "{whole} is shown as {shown}");
}

/// The body of a new campaign.
fn draft(bytes: &[u8]) -> bool {
    let Ok(body) = DraftBody::read(bytes) else { return false };
    // A campaign may end later than this.
    let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(365 * 86_400);
    let Ok(draft) = body.parse(now) else { return false };
    assert!(draft.closes_at > now);
    keeps_limits(&draft);
    let printed = printed(&draft);
    let again = DraftBody::read(printed.to_string().as_bytes()).map(|body| body.parse(now));
    assert_eq!(again, Ok(Ok(draft)), "{printed}");
    let said = value(bytes).expect("it is JSON");
    for field in ["name", "merchant_id", "face_value", "currency", "quantity", "per_user_limit", "settle_on"]
    {
        let defaults = json!({ "per_user_limit": 1, "settle_on": "redeem" });
        let (meant, shown) = (said.get(field).unwrap_or(&defaults[field]), &printed[field]);
        assert!(meant == shown || meant.is_number() && meant.as_f64() == shown.as_f64(), "{field}: {said}");
    }
    true
}

fn keeps_limits(draft: &Draft) {
    let Draft { name, face_value, quantity, per_user_limit, opens_at, closes_at, .. } = draft;
    let Money { minor, currency } = face_value;
    assert!((1..=200).contains(&name.len()) && !name.contains(char::is_control));
    assert!(currency.code().len() == 3 && currency.code().bytes().all(|byte| byte.is_ascii_uppercase()));
    assert!((1..=1_000_000_000_000).contains(minor));
    assert!((1..=10_000_000).contains(quantity) && (1..=10.min(*quantity)).contains(per_user_limit));
    assert!(minor.checked_mul((*quantity).into()).is_some_and(|total| total <= 1_000_000_000_000_000_000));
    // As Postgres keeps times, in microseconds, and compares them.
    assert!(opens_at.unix_timestamp_nanos() / 1_000 < closes_at.unix_timestamp_nanos() / 1_000);
    assert!(opens_at.unix_timestamp() >= 0 && closes_at.year() <= 9000);
    match draft.expiry {
        Expiry::At(time) => assert!(time >= *closes_at && time.year() <= 9000),
        Expiry::After(time) => assert!((1..=3_650 * 86_400).contains(&time.as_secs())),
    }
}

fn printed(draft: &Draft) -> Value {
    let mut body = json!({
        "name": draft.name, "merchant_id": draft.merchant_id, "face_value": draft.face_value.minor,
        "currency": draft.face_value.currency, "quantity": draft.quantity, "per_user_limit": draft.per_user_limit,
        "opens_at": draft.opens_at.format(&Rfc3339).unwrap(), "closes_at": draft.closes_at.format(&Rfc3339).unwrap(),
        "settle_on": draft.settle_on,
    });
    match draft.expiry {
        Expiry::At(time) => body["coupon_expires_at"] = time.format(&Rfc3339).unwrap().into(),
        Expiry::After(time) => body["coupon_valid_for"] = format_duration(time).into(),
    }
    body
}

fn duration(bytes: &[u8]) -> bool {
    let Some(read) = parse_duration(text(bytes)) else { return false };
    assert!((1..=3_650 * 86_400).contains(&read.as_secs()) && read.subsec_nanos() == 0);
    assert_eq!(parse_duration(&format_duration(read)), Some(read));
    // Every number counts with the unit that follows it.
    let (mut sum, mut number) = (0, 0);
    for byte in bytes {
        match byte {
            b'0'..=b'9' => number = number * 10 + u64::from(byte - b'0'),
            unit => {
                let lengths = [(b'W', 604_800), (b'D', 86_400), (b'H', 3_600), (b'M', 60), (b'S', 1)];
                let length = lengths.iter().find_map(|(letter, length)| (letter == unit).then_some(length));
                sum += number * length.unwrap_or(&0);
                number = 0;
            }
        }
    }
    assert_eq!(sum, read.as_secs());
    true
}

/// The body of a message, and the data in it.
fn event(bytes: &[u8]) -> bool {
    let body = Bytes::copy_from_slice(bytes);
    let Ok(event) = Event::parse(7, &body) else { return false };
    assert_eq!((event.position, &event.body), (7, &body));
    // Half of a surrogate pair is JSON, but no text: who reads the data finds out.
    let Some(whole) = value(bytes) else { return true };
    assert_eq!(whole["type"], event.kind);
    assert_eq!(whole["id"].as_str().unwrap().to_uppercase(), event.id.to_string());
    let data = value(&event.data).unwrap();
    assert_eq!(whole["data"], data);
    if let Ok(issued) = from_object::<Issued<'_>>(&event.data) {
        for (field, text) in [
            ("user_id", &*issued.user_id),
            ("merchant_id", &*issued.merchant_id),
            ("currency", issued.currency.code()),
        ] {
            assert_eq!(data[field], *text, "{field}");
        }
        for (field, id) in [("coupon_id", issued.coupon_id.0), ("campaign_id", issued.campaign_id.0)] {
            assert_eq!(data[field].as_str().unwrap().to_uppercase(), id.to_string(), "{field}");
        }
        assert_eq!(
            (&data["number"], &data["face_value"]),
            (&json!(issued.number), &json!(issued.face_value))
        );
    }
    true
}

/// Headers of a message: what is no number tells nothing, least of all an epoch.
fn headers(bytes: &[u8]) -> bool {
    let Ok(value) = text(bytes).parse::<async_nats::HeaderValue>() else { return false };
    let mut headers = async_nats::HeaderMap::new();
    assert_eq!((epoch_of(None), epoch_of(Some(&headers))), (Some(0), Some(0)));
    headers.insert(POSITION_HEADER, value.clone());
    headers.insert(EPOCH_HEADER, value);
    let position: Option<i64> = number(&headers, POSITION_HEADER);
    let epoch = epoch_of(Some(&headers));
    assert!(position.is_none_or(|position| position.to_string().as_bytes() == bytes));
    assert_eq!(epoch.map(i64::from), position.filter(|number| (0..=i64::from(i32::MAX)).contains(number)));
    epoch.is_some()
}

fn idempotency_key(bytes: &[u8]) -> bool {
    let taken = IdempotencyKey::parse(text(bytes));
    let meant = (1..=255).contains(&bytes.len()) && bytes.iter().all(|byte| (b'!'..=b'~').contains(byte));
    assert_eq!(taken.as_ref().map(IdempotencyKey::as_str), meant.then_some(text(bytes)));
    meant
}

/// Of users and merchants.
fn outside_id(bytes: &[u8]) -> bool {
    let (user, merchant) = (UserId::parse(text(bytes)), MerchantId::parse(text(bytes)));
    let visible = (1..=64).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    assert_eq!(user.is_ok(), visible && !is_dots(text(bytes)));
    assert_eq!(user.as_ref().map(UserId::as_str), merchant.as_ref().map(MerchantId::as_str));
    user.is_ok_and(|id| id.as_str().as_bytes() == bytes && leads_to(id.as_str()))
}

/// The query of a list.
fn page(bytes: &[u8]) -> bool {
    let uri = |query: &str| format!("/v1/campaigns?{query}").parse::<Uri>().ok();
    let read = |query: &str| ListQuery::<String>::parse(&uri(query)?, "status").ok();
    let Some(list) = read(text(bytes)) else { return false };
    assert!((1..=200).contains(&list.page.limit.get()));
    let mut query = format!("limit={}", list.page.limit.get());
    if let Some(id) = list.page.before {
        let _ = write!(query, "&cursor={id}");
    }
    if let Some(status) = &list.filter {
        let _ = write!(query, "&status={}", encoded(status));
    }
    assert_eq!(read(&query), Some(list), "{query}");
    true
}

/// The words of a replay command: what it selects is kept as JSON until it is resumed.
fn replay(bytes: &[u8]) -> bool {
    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: ReplayArgs,
    }
    let words = ["replay"].into_iter().chain(text(bytes).split(' '));
    let Ok(Command { args }) = Command::try_parse_from(words.clone()) else { return false };
    let selection = args.selection();
    let kept = serde_json::to_vec(&selection).unwrap();
    assert_eq!(serde_json::from_slice::<Selection>(&kept).unwrap(), selection);
    let said: Vec<String> = words.map(str::to_uppercase).collect();
    for key in &selection.keys {
        assert!(
            said.iter().any(|word| word.trim_start_matches("--CAMPAIGN=") == key),
            "{key} is not in {said:?}"
        );
    }
    true
}

fn run_id(bytes: &[u8]) -> bool {
    let taken = text(bytes).parse::<RunId>();
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    assert_eq!(taken.is_ok(), (1..=48).contains(&bytes.len()) && bytes.iter().all(fits));
    taken.is_ok_and(|id| {
        let name = id.to_string();
        name.as_bytes() == bytes && id.subjects().split('.').count() == 3 && leads_to(&name)
    })
}

/// Names of seats, as a set in Redis may hold them, whoever put them there: two are never one.
fn seat(bytes: &[u8]) -> bool {
    let name = text(bytes);
    let seat = Seat::parse(name);
    assert_eq!(seat.to_string(), name);
    let (user, nth) = seat.parts();
    assert_eq!(Seat::new(user, nth), seat);
    if UserId::parse(user).is_ok() {
        assert_eq!(name, if nth == 1 { user.to_owned() } else { format!("{user} {nth}") });
    }
    nth > 1
}

fn traceparent(bytes: &[u8]) -> bool {
    let taken = Traceparent::parse(text(bytes));
    let parts = || {
        let parts = text(bytes).split('-').collect::<Vec<_>>();
        let &["00", trace, span, flags] = &*parts else { return None };
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace > 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|span| *span > 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(format!("00-{trace:032x}-{span:016x}-{flags:02x}"))
    };
    let meant = parts().is_some_and(|printed| printed.as_bytes() == bytes);
    assert_eq!(taken.as_ref().map(Traceparent::as_str), meant.then_some(text(bytes)));
    meant
}

/// In a path, a cursor or a command.
fn ulid(bytes: &[u8]) -> bool {
    let Ok(id) = text(bytes).parse::<CampaignId>() else { return false };
    assert_eq!(id.to_string(), text(bytes).to_uppercase());
    true
}
