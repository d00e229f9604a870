//! Gaps of a stream: how many messages it lacks or holds, by its state.

use async_nats::jetstream::stream::{State, Stream};

use crate::stream::StreamError;

/// The number of messages that a stream lacks from sequence `first` up to its end.
pub(crate) async fn missing(stream: &Stream, first: i64) -> Result<i64, StreamError> {
    let state = &stream.cached_info().state;
    let behind = signed(state.last_sequence) + 1;
    let whole = state.messages == 0 || signed(state.first_sequence + state.messages) == behind;
    let state = if whole { state.clone() } else { detailed(stream).await? };
    Ok((behind - first).max(0) - held(&state, first - 1, behind - 1))
}

/// The state of a stream as its leader has it, with the list of deleted sequences.
pub(super) async fn detailed(stream: &Stream) -> Result<State, StreamError> {
    let asked = stream.info_builder().with_deleted(true).fetch().await;
    let detailed = asked.map_err(|error| StreamError::new(&stream.cached_info().config.name, &error))?;
    Ok(detailed.info.state)
}

/// The number of messages that a stream holds after sequence `after`, up to `until`. `state` must list the deleted sequences.
pub(super) fn held(state: &State, after: i64, until: i64) -> i64 {
    if state.messages == 0 {
        return 0;
    }
    let places = (after + 1).max(signed(state.first_sequence))..=until.min(signed(state.last_sequence));
    let deleted = state.deleted.iter().flatten().filter(|sequence| places.contains(&signed(**sequence)));
    (places.end() - places.start() + 1).max(0) - deleted.count() as i64
}

pub(super) fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(first: u64, last: u64, deleted: &[u64]) -> State {
        serde_json::from_value(serde_json::json!({
            "messages": last + 1 - first - deleted.len() as u64, "bytes": 0, "first_seq": first, "last_seq": last,
            "first_ts": "2026-11-20T00:00:00Z", "last_ts": "2026-11-20T00:00:00Z", "consumer_count": 0,
            "deleted": deleted,
        }))
        .unwrap()
    }

    #[test]
    fn what_a_stream_holds_is_counted_between_two_sequences() {
        let holes = state(4, 10, &[5, 9]);
        for (after, until, holds) in
            [(0, 20, 5), (3, 10, 5), (4, 9, 3), (5, 8, 3), (4, 5, 0), (8, 9, 0), (10, 20, 0), (0, 3, 0)]
        {
            assert_eq!(held(&holes, after, until), holds, "{after}, {until}");
        }
        let purged = state(11, 10, &[]);
        assert_eq!(held(&purged, 0, 20), 0);
        let new: State = serde_json::from_value(serde_json::json!({
            "messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0, "consumer_count": 0,
            "first_ts": "2026-11-20T00:00:00Z", "last_ts": "2026-11-20T00:00:00Z",
        }))
        .unwrap();
        assert_eq!(held(&new, 0, 20), 0);
    }
}
