//! How far the auditor has compared the events of a shard: which it takes next.

/// The events behind a position, up to and including another.
pub(super) type Part = (i64, i64);

/// How far the comparison of a shard has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    /// The newest events are compared up to here.
    newest: i64,
    /// The others are compared again and again, this time up to here.
    again: i64,
    /// A part that differs. It is compared in every round, in addition, until it does not differ any more.
    pub(super) differing: Option<Part>,
}

impl Scan {
    /// Begins with the newest events of a shard, as many as the budget allows, and with the oldest.
    pub(super) fn start((begin, end): Part, budget: i64) -> Self {
        Self { newest: end - budget, again: begin, differing: None }
    }

    /// The part that differed in the last round, as far as it is still there.
    pub(super) fn suspect(&self, (begin, end): Part) -> Part {
        let (after, until) = self.differing.unwrap_or_default();
        (after.max(begin), until.min(end))
    }

    /// The events since the last round.
    pub(super) fn new_events(&mut self, (begin, end): Part, budget: &mut i64) -> Part {
        let new = part((self.newest.min(end).max(begin), end), budget);
        self.newest = new.1;
        new
    }

    /// The events that were compared longest ago, before the new ones.
    pub(super) fn old_events(&mut self, (begin, _): Part, new: Part, budget: &mut i64) -> Part {
        let again = if self.again >= new.0 { begin } else { self.again.max(begin) };
        let old = part(beside((again, new.0), self.differing), budget);
        self.again = old.1;
        old
    }
}

/// As much of a part as the budget allows.
fn part((after, end): Part, budget: &mut i64) -> Part {
    let until = end.min(after + *budget).max(after);
    *budget -= until - after;
    (after, until)
}

/// As much of a part as is before the one that differs, or else behind it.
fn beside((after, end): Part, differing: Option<Part>) -> Part {
    match differing {
        Some((begin, _)) if after < begin => (after, end.min(begin)),
        Some((_, until)) => (after.max(until), end),
        None => (after, end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_with_the_budget_or_the_events() {
        let mut budget = 10;
        assert_eq!(part((4, 7), &mut budget), (4, 7));
        assert_eq!(part((9, 8), &mut budget), (9, 9)); // the end may have gone back
        assert_eq!(part((0, 100), &mut budget), (0, 7));
        assert_eq!(part((7, 100), &mut budget), (7, 7));
    }

    #[test]
    fn what_is_compared_in_every_round_is_left_out_of_the_scan() {
        let differing = Some((10, 20));
        for (behind, rest) in [
            ((0, 30), (0, 10)),
            ((0, 5), (0, 5)),
            ((10, 30), (20, 30)),
            ((15, 30), (20, 30)),
            ((20, 30), (20, 30)),
            ((25, 30), (25, 30)),
        ] {
            assert_eq!(beside(behind, differing), rest);
        }
        assert_eq!(beside((0, 30), None), (0, 30));
        let mut budget = 10;
        assert_eq!(part(beside((0, 20), Some((0, 20))), &mut budget), (20, 20));
    }
}
