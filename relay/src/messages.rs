//! The messages of a shard's stream, as the events of the outbox that they are.

use async_nats::jetstream::Message;
use sqlx::PgConnection;

use crate::epoch::Epochs;
use crate::event::{Event, epoch_of};
use crate::outlet::Shard;
use crate::projection::ProjectorError;

/// The events of messages, but for those that a later epoch has abandoned and those that are none. The outbox then has
/// the events.
///
/// # Errors
/// [`ProjectorError::EpochBegan`] when the database has another epoch than `epochs`.
pub(crate) async fn events_of(
    messages: &[Message],
    epochs: &Epochs,
    connection: &mut PgConnection,
    shard: Shard,
) -> Result<Vec<Event>, ProjectorError> {
    let named = messages.iter().filter_map(|message| epoch_of(message.headers.as_ref()));
    // An epoch is committed before its first message is published. Anybody can write a number into a header.
    if named.max() > Some(epochs.current().epoch) && Epochs::read(connection, shard).await? != *epochs {
        return Err(ProjectorError::EpochBegan);
    }
    Ok(messages.iter().filter_map(|message| event_of(message, epochs)).collect())
}

fn event_of(message: &Message, epochs: &Epochs) -> Option<Event> {
    let sequence = message.info().map_or(0, |info| info.stream_sequence).cast_signed();
    let (epoch, position) = epochs.place_of(sequence)?;
    let event = match epoch_of(message.headers.as_ref()) {
        Some(named) if named == epoch.epoch => {
            Event::parse(position, &message.payload).map_err(|error| error.to_string())
        }
        _ => Err(format!("it does not name epoch {}", epoch.epoch)),
    };
    event.inspect_err(|why| tracing::warn!(sequence, "a message is not an event, and is skipped: {why}")).ok()
}
