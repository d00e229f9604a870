//! Serial numbers that were seen.

/// Which numbers of a campaign were seen, a bit each.
#[derive(Debug, Default)]
pub(super) struct Serials(Vec<u64>);

impl Serials {
    /// Whether it is new.
    pub(super) fn insert(&mut self, number: i32) -> bool {
        let (word, bit) = place(number);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    fn contains(&self, number: i32) -> bool {
        let (word, bit) = place(number);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn first(&self) -> Option<i32> {
        let word = self.0.iter().position(|word| *word != 0)?;
        i32::try_from(word * 64 + self.0[word].trailing_zeros() as usize).ok()
    }

    /// The first that is missing behind `after`, up to `last`.
    pub(super) fn first_gap(&self, after: i32, last: i32) -> Option<i32> {
        (after + 1..=last).find(|number| !self.contains(*number))
    }
}

fn place(number: i32) -> (usize, u64) {
    let number = number.unsigned_abs() as usize;
    (number / 64, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_know_what_is_missing() {
        let mut serials = Serials::default();
        assert_eq!(
            (serials.first(), serials.first_gap(0, 0), serials.first_gap(0, 1)),
            (None, None, Some(1))
        );
        for number in [70, 71, 129, 72] {
            assert!(serials.insert(number));
            assert!(!serials.insert(number), "{number} again");
        }
        assert_eq!(serials.first(), Some(70));
        assert_eq!(serials.first_gap(69, 129), Some(73));
        assert_eq!(serials.first_gap(69, 72), None);
    }
}
