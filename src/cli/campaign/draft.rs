//! What `coupon campaign create` sends: fields from a document, and from options, which replace its fields.

use std::fs::File;
use std::io::{self, Read};
use std::str::FromStr;

use clap::Args;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Bytes of a document, at most, as the API takes them.
const DOCUMENT_BYTES_MAX: u64 = 16 * 1024;

/// The end of `coupon campaign create --help`.
pub(super) const EXAMPLES: &str = r#"Examples:
  From options, with all fields:
    coupon campaign create --name Friday --merchant shop-7 --face-value 500 --currency EUR --quantity 100 \
        --per-user-limit 1 --opens-at 2026-11-27T18:00:00Z --closes-at 2099-11-28T00:00:00Z \
        --coupon-valid-for P30D --settle-on redeem

  From a file, with another quantity:
    coupon campaign create @friday.json --quantity 500

  From standard input:
    echo '{"name": "Friday", "merchant_id": "shop-7", "face_value": 500, "currency": "EUR", "quantity": 100,
           "opens_at": "2026-11-27T18:00:00Z", "closes_at": "2099-11-28T00:00:00Z", "coupon_valid_for": "P30D"}' |
        coupon campaign create -

A draft gives no coupons: coupon campaign open <ID> opens it."#;

/// The fields of a campaign.
#[derive(Debug, Args)]
pub(super) struct DraftArgs {
    /// Its fields as JSON: @FILE, - for standard input, or the text itself. Options replace fields of the same name.
    #[arg(value_name = "JSON", value_parser = Document::from_str)]
    document: Option<Document>,
    /// Name, 1 to 200 bytes.
    #[arg(long)]
    name: Option<String>,
    /// Merchant that pays for the coupons: 1 to 64 visible ASCII characters.
    #[arg(long, value_name = "ID")]
    merchant: Option<String>,
    /// Value of a coupon in minor units of the currency: 500 is 5.00 EUR.
    #[arg(long, value_name = "MINOR_UNITS", allow_negative_numbers = true)]
    face_value: Option<i64>,
    /// Currency of ISO 4217, such as EUR.
    #[arg(long)]
    currency: Option<String>,
    /// Coupons in all, up to 10,000,000.
    #[arg(long, allow_negative_numbers = true)]
    quantity: Option<i64>,
    /// What all coupons may be worth together, in minor units; without it the quantity alone is the limit.
    #[arg(long, value_name = "MINOR_UNITS", allow_negative_numbers = true)]
    budget: Option<i64>,
    /// Coupons of one user, 1 to 10; in a new campaign 1 if not given.
    #[arg(long, allow_negative_numbers = true)]
    per_user_limit: Option<i64>,
    /// Claims are taken from this time on, such as 2026-11-27T18:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = is_time)]
    opens_at: Option<String>,
    /// Claims are taken up to this time.
    #[arg(long, value_name = "TIME", value_parser = is_time)]
    closes_at: Option<String>,
    /// All coupons expire at this time. Give this or --coupon-valid-for.
    #[arg(long, value_name = "TIME", value_parser = is_time, conflicts_with = "coupon_valid_for")]
    coupon_expires_at: Option<String>,
    /// Each coupon expires after this time, as ISO 8601 duration such as P30D.
    #[arg(long, value_name = "DURATION")]
    coupon_valid_for: Option<String>,
    /// The event that counts for the merchant: issue or redeem; in a new campaign redeem if not given.
    #[arg(long, value_parser = ["issue", "redeem"])]
    settle_on: Option<String>,
    /// Refuse claims without an idempotency key: sensible where --per-user-limit is above 1.
    #[arg(long, value_name = "BOOLEAN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    require_idempotency_key: Option<bool>,
    /// Put the seat of a cancelled coupon back on sale.
    #[arg(long, value_name = "BOOLEAN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    restock_on_cancel: Option<bool>,
}

impl DraftArgs {
    /// The body of `POST /v1/campaigns`, which the API judges. The error says why there is none.
    pub(super) fn body(self) -> Result<Value, String> {
        let is_document = self.document.is_some();
        let fields = self.fields()?;
        if fields.is_empty() {
            return Err(
                "the campaign has no fields: give them as options, as JSON, as @FILE, or as - for standard \
                        input; `coupon campaign create --help` has examples"
                    .to_owned(),
            );
        }
        let missing = missing(&fields);
        if !is_document && !missing.is_empty() {
            return Err(format!("these options are needed: {}", missing.join(", ")));
        }
        Ok(fields.into())
    }

    /// The body of `PATCH /v1/campaigns/{id}`. The error says why there is none.
    pub(super) fn edit(self) -> Result<Value, String> {
        let fields = self.fields()?;
        if fields.is_empty() {
            return Err("there is nothing to change: give fields as options, as JSON, as @FILE, or as - for standard input"
                .to_owned());
        }
        Ok(fields.into())
    }

    fn fields(self) -> Result<Map<String, Value>, String> {
        let given = [
            ("name", self.name.map(Value::from)),
            ("merchant_id", self.merchant.map(Value::from)),
            ("face_value", self.face_value.map(Value::from)),
            ("currency", self.currency.map(Value::from)),
            ("quantity", self.quantity.map(Value::from)),
            ("budget", self.budget.map(Value::from)),
            ("per_user_limit", self.per_user_limit.map(Value::from)),
            ("opens_at", self.opens_at.map(Value::from)),
            ("closes_at", self.closes_at.map(Value::from)),
            ("coupon_expires_at", self.coupon_expires_at.map(Value::from)),
            ("coupon_valid_for", self.coupon_valid_for.map(Value::from)),
            ("settle_on", self.settle_on.map(Value::from)),
            ("require_idempotency_key", self.require_idempotency_key.map(Value::from)),
            ("restock_on_cancel", self.restock_on_cancel.map(Value::from)),
        ];
        let given = given.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?)));
        let mut fields = self.document.map_or_else(|| Ok(Map::new()), Document::read)?;
        for (field, value) in given {
            // Only one of the two may be there.
            match field.as_str() {
                "coupon_expires_at" => drop(fields.remove("coupon_valid_for")),
                "coupon_valid_for" => drop(fields.remove("coupon_expires_at")),
                _ => {}
            }
            fields.insert(field, value);
        }
        Ok(fields)
    }
}

/// The options without which the fields are no campaign.
fn missing(fields: &Map<String, Value>) -> Vec<&'static str> {
    let needed = [
        ("name", "--name"),
        ("merchant_id", "--merchant"),
        ("face_value", "--face-value"),
        ("currency", "--currency"),
        ("quantity", "--quantity"),
        ("opens_at", "--opens-at"),
        ("closes_at", "--closes-at"),
    ];
    let missing = needed.into_iter().filter(|(field, _)| !fields.contains_key(*field));
    let mut missing: Vec<&str> = missing.map(|(_, option)| option).collect();
    if !fields.contains_key("coupon_valid_for") && !fields.contains_key("coupon_expires_at") {
        missing.push("--coupon-valid-for or --coupon-expires-at");
    }
    missing
}

/// Where the fields are.
#[derive(Clone, Debug)]
enum Document {
    Text(Map<String, Value>),
    File(String),
    StandardInput,
}

impl FromStr for Document {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix('@')) {
            ("-", _) => Ok(Self::StandardInput),
            (_, Some(path)) => Ok(Self::File(path.to_owned())),
            (text, None) => object_of(text.as_bytes()).map(Self::Text),
        }
    }
}

impl Document {
    fn read(self) -> Result<Map<String, Value>, String> {
        let (name, read) = match self {
            Self::Text(fields) => return Ok(fields),
            Self::StandardInput => ("standard input".to_owned(), bounded(io::stdin())),
            Self::File(path) => {
                let read = File::open(&path).and_then(bounded);
                (path, read)
            }
        };
        let text = read.map_err(|error| format!("{name} cannot be read: {error}"))?;
        object_of(&text).map_err(|problem| format!("{name} {problem}"))
    }
}

/// The members of an object. The error continues a sentence that starts with where the text is.
fn object_of(text: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err("must be an object of JSON".to_owned()),
        Err(error) => Err(format!("is not JSON: {error}")),
    }
}

fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {DOCUMENT_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// The text of a time of RFC 3339.
fn is_time(text: &str) -> Result<String, &'static str> {
    let is_time = OffsetDateTime::parse(text, &Rfc3339).is_ok();
    is_time.then(|| text.to_owned()).ok_or("must be a time such as 2026-11-27T18:00:00Z")
}
