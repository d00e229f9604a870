//! Lines of the log as objects of JSON, flat: `timestamp` (RFC 3339, UTC), `level`, `target`, `message`, the fields of the
//! event, and the fields of the spans around it, the outermost first. A field of an event hides one of a span with the same
//! name.

use std::error::Error;
use std::fmt;

use outbox_relay::reason::reason_of;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::{LookupSpan, Scope};

/// Keeps the fields of spans, for [`Lines`].
pub(super) struct Spans;

/// The fields of a span.
struct Kept(Map<String, Value>);

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(Kept(fields.0));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(Kept(kept)) = span.extensions_mut().get_mut::<Kept>()
        {
            let mut fields = Fields::default();
            values.record(&mut fields);
            kept.extend(fields.0);
        }
    }
}

/// Writes an event as one line.
pub(super) struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            if let Some(Kept(kept)) = span.extensions().get::<Kept>() {
                fields.0.extend(kept.clone());
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        let timestamp = OffsetDateTime::now_utc().format(&Rfc3339).map_err(|_| fmt::Error)?;
        let about = [
            ("timestamp", timestamp),
            ("level", metadata.level().to_string()),
            ("target", metadata.target().to_owned()),
        ];
        fields.0.extend(about.map(|(name, value)| (name.to_owned(), value.into())));
        writeln!(writer, "{}", Value::Object(fields.0))
    }
}

/// The formatter that the layer wants for spans, which [`Spans`] keeps.
pub(super) struct NoText;

impl<'writer> FormatFields<'writer> for NoText {
    fn format_fields<R: RecordFields>(&self, _: Writer<'writer>, _: R) -> fmt::Result {
        Ok(())
    }
}

/// Fields as values of JSON.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        self.add(field, reason_of(error));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}
