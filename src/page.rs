//! Pages of lists: where one starts, how long it is, and where the next one starts.

use ulid::Ulid;

/// Items on one page of a list, at most: more would be a long answer, and a long statement.
pub const PAGE_MAX: i64 = 200;

/// Items on one page of a list, 1 to [`PAGE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageLimit(i64);

impl PageLimit {
    /// Nothing when there can be no page of `items`.
    #[must_use]
    pub fn new(items: i64) -> Option<Self> {
        (1..=PAGE_MAX).contains(&items).then_some(Self(items))
    }

    /// The number of items.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }
}

/// Fifty items, when the caller does not say how many.
impl Default for PageLimit {
    fn default() -> Self {
        Self(50)
    }
}

/// Which page of a list: the newest items that are older than `before`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PageRequest {
    pub before: Option<Ulid>,
    pub limit: PageLimit,
}

/// A page of a list, the newest item first.
#[derive(Debug)]
pub struct Page<T, I> {
    pub items: Vec<T>,
    /// The cursor of the next page. A full page has one, even if no item follows.
    pub next: Option<I>,
    /// Items that belong here and are left out, because what is stored of them cannot be read.
    pub unreadable: Vec<I>,
}

impl<T, I> Page<T, I> {
    /// The page that `items` make, which were read with this limit; `id` is what a cursor is made of.
    #[must_use]
    pub fn new(items: Vec<T>, limit: PageLimit, id: impl FnOnce(&T) -> I) -> Self {
        let is_full = items.len() as i64 == limit.get();
        let next = items.last().filter(|_| is_full).map(id);
        Self { items, next, unreadable: Vec::new() }
    }
}
