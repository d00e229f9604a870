//! The slots of a Redis Cluster, and which node serves each.

use std::fmt;
use std::sync::{Arc, LazyLock};

use redis::{ErrorKind, RedisError, Value};

use crate::ids::CampaignId;

/// Slots of every Cluster: <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.
pub(crate) const SLOTS: u16 = 16_384;
/// What an error of this program says about a slot that is nowhere.
pub(super) const NOT_SERVED: &str = "no node of the Redis Cluster serves this slot";
/// The polynomial of the checksum that makes a slot of a key (CRC-16/XMODEM), from the same source.
const POLYNOMIAL: u16 = 0x1021;

/// For each slot a number whose decimal text falls into it.
static NUMBERS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let mut numbers = vec![None; usize::from(SLOTS)];
    let mut missing = numbers.len();
    for number in 0.. {
        if missing == 0 {
            break;
        }
        let slot = &mut numbers[usize::from(slot_of_tag(&number.to_string()))];
        if slot.is_none() {
            (*slot, missing) = (Some(number), missing - 1);
        }
    }
    numbers.into_iter().flatten().collect()
});

/// The address of a node, as the Cluster announces it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
}

impl Node {
    /// The node that a redirection names as `host:port`. Without a host it is the one of the node that answered.
    pub(super) fn parse(address: &str, answered: &Self) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        Some(Self { host: named(host, answered), port: port.parse().ok()? })
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Which primary serves which slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    /// Each with the number of its replicas, and one of its slots.
    primaries: Vec<(Node, usize, u16)>,
    /// For each slot a place in `primaries`.
    owners: Vec<Option<u16>>,
}

impl Slots {
    /// What `CLUSTER SLOTS` answers, asked of `answered`: ranges of slots, each with its primary and its replicas.
    pub(super) fn parse(answer: &Value, answered: &Node) -> Result<Self, RedisError> {
        let unknown =
            || RedisError::from((ErrorKind::UnexpectedReturnType, "CLUSTER SLOTS answered something else"));
        let Value::Array(ranges) = answer else { return Err(unknown()) };
        let mut slots = Self { primaries: Vec::new(), owners: vec![None; usize::from(SLOTS)] };
        for range in ranges {
            let (first, last, node, replicas) = range_of(range, answered).ok_or_else(unknown)?;
            let place = slots.place(node, replicas, first);
            slots.owners.get_mut(first.into()..=last.into()).ok_or_else(unknown)?.fill(place);
        }
        Ok(slots)
    }

    /// The primary that serves a slot, if any does.
    pub(super) fn owner(&self, slot: u16) -> Option<&Node> {
        let place = (*self.owners.get(usize::from(slot))?)?;
        self.primaries.get(usize::from(place)).map(|(node, ..)| node)
    }

    /// Notes that a slot has moved.
    pub(super) fn moved(&mut self, slot: u16, node: &Node) {
        let place = self.place(node.clone(), 0, slot);
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = place;
        }
    }

    /// Each primary, with one of its slots.
    pub(super) fn primaries(&self) -> impl Iterator<Item = (&Node, u16)> {
        self.primaries.iter().map(|(node, _, slot)| (node, *slot))
    }

    /// Primaries without a replica.
    pub(crate) fn alone(&self) -> impl Iterator<Item = &Node> {
        self.primaries.iter().filter(|(_, replicas, _)| *replicas == 0).map(|(node, ..)| node)
    }

    /// Slots that no node serves.
    pub(crate) fn unserved(&self) -> usize {
        self.owners.iter().filter(|owner| owner.is_none()).count()
    }

    fn place(&mut self, node: Node, replicas: usize, slot: u16) -> Option<u16> {
        let known = self.primaries.iter().position(|(known, ..)| *known == node);
        let place = known.unwrap_or_else(|| {
            self.primaries.push((node, replicas, slot));
            self.primaries.len() - 1
        });
        u16::try_from(place).ok()
    }
}

/// The slot of all keys of a campaign: they share its hash tag.
pub(super) fn slot_of(campaign: CampaignId) -> u16 {
    slot_of_tag(&campaign.to_string())
}

/// A text whose slot, as that of a key with this hash tag, is `slot`.
pub(super) fn tag_in(slot: u16) -> String {
    NUMBERS.get(usize::from(slot)).map(u32::to_string).unwrap_or_default()
}

fn slot_of_tag(tag: &str) -> u16 {
    let shifted = |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ POLYNOMIAL };
    tag.bytes().fold(0, |crc, byte| (0..8).fold(crc ^ (u16::from(byte) << 8), shifted)) % SLOTS
}

fn range_of(range: &Value, answered: &Node) -> Option<(u16, u16, Node, usize)> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(primary), replicas @ ..] = &parts[..] else {
        return None;
    };
    let (host, port) = match &primary[..] {
        [Value::BulkString(host), Value::Int(port), ..] => (std::str::from_utf8(host).ok()?, port),
        [Value::Nil, Value::Int(port), ..] => ("", port),
        _ => return None,
    };
    let node = Node { host: named(host, answered), port: u16::try_from(*port).ok()? };
    Some((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, node, replicas.len()))
}

/// A host by its name, or the one that answered where the Cluster knows no name.
fn named(host: &str, answered: &Node) -> Arc<str> {
    if host.is_empty() || host == "?" { answered.host.clone() } else { host.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.into(), port }
    }

    fn range(first: i64, last: i64, host: Value, port: i64, replicas: usize) -> Value {
        let primary = Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())]);
        let replica = Value::Array(vec![Value::Nil, Value::Int(1)]);
        let mut parts = vec![Value::Int(first), Value::Int(last), primary];
        parts.extend(vec![replica; replicas]);
        Value::Array(parts)
    }

    #[test]
    fn the_slot_of_a_tag_is_that_of_the_specification() {
        assert_eq!(slot_of_tag("123456789"), 0x31C3);
        assert_eq!((slot_of_tag("foo"), slot_of_tag("bar")), (12_182, 5_061));
    }

    #[test]
    fn there_is_a_tag_for_every_slot() {
        assert!((0..SLOTS).all(|slot| slot_of_tag(&tag_in(slot)) == slot));
    }

    #[test]
    fn ranges_are_read_and_slots_move() -> Result<(), RedisError> {
        let asked = node("asked", 1);
        let answer = Value::Array(vec![
            range(0, 9_999, Value::BulkString(b"10.0.0.1".to_vec()), 7_000, 1),
            range(10_000, 16_382, Value::Nil, 7_001, 0),
        ]);
        let mut slots = Slots::parse(&answer, &asked)?;
        assert_eq!(slots.owner(9_999), Some(&node("10.0.0.1", 7_000)));
        assert_eq!(slots.owner(10_000), Some(&node("asked", 7_001)));
        assert_eq!(slots.owner(16_383), None);
        assert_eq!(slots.alone().collect::<Vec<_>>(), [&node("asked", 7_001)]);
        assert_eq!(slots.unserved(), 1);
        let target = Node::parse(":7002", &asked);
        assert_eq!(target, Some(node("asked", 7_002)));
        slots.moved(5, &node("asked", 7_002));
        assert_eq!(slots.owner(5), Some(&node("asked", 7_002)));
        assert_eq!(slots.owner(6), Some(&node("10.0.0.1", 7_000)));
        Ok(())
    }

    #[test]
    fn what_is_no_range_is_an_error() {
        let asked = node("asked", 1);
        for answer in [
            Value::Nil,
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![range(0, 16_384, Value::Nil, 1, 0)]),
            Value::Array(vec![range(2, 1, Value::Nil, 70_000, 0)]),
        ] {
            assert!(Slots::parse(&answer, &asked).is_err(), "{answer:?}");
        }
    }
}
