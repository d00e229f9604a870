//! Every history of a small service, two users and one seat, with every order of its steps and some
//! faults: what is promised holds in every state, and whatever has happened, a service that is left
//! alone sells its seats and its gate says what Postgres says. And every mistake is found out.

mod promises;
mod search;
mod service;
mod state;
mod steps;

use self::search::{Explored, explore};
use self::steps::{Mistake, Rules, Step};

/// Faults in a history, at the most. `FAULTS=3` takes minutes and some gigabytes.
fn faults_max() -> u8 {
    std::env::var("FAULTS").map_or(2, |faults| faults.parse().expect("FAULTS is a number"))
}

/// Explores a service that makes no mistake.
fn explored(rules: Rules) -> Explored {
    let explored = explore(rules);
    println!("{} states, {} transitions: {rules:?}", explored.states, explored.transitions);
    if let Some(violation) = explored.violation {
        panic!("{}:\n{}", violation.what, violation.trace);
    }
    explored
}

#[test]
fn no_history_breaks_a_promise() {
    let explored = explored(Rules { quantity: 1, faults_max: faults_max(), calm: false, mistakes: &[] });
    assert!(explored.states > 400_000, "{} states only", explored.states);
    assert_eq!(explored.kinds, Step::KINDS, "kinds of steps");
}

#[test]
fn no_history_with_a_seat_for_each_breaks_a_promise() {
    let Explored { states, .. } = explored(Rules { quantity: 2, faults_max: 1, calm: false, mistakes: &[] });
    assert!(states > 20_000, "{states} states only");
}

/// Redis keeps its memory, and no commit comes after its lease: then a claim that fails costs no load.
#[test]
fn in_calm_times_the_gate_forgets_no_coupon() {
    let Explored { states, .. } = explored(Rules { quantity: 1, faults_max: 1, calm: true, mistakes: &[] });
    assert!(states > 10_000, "{states} states only");
}

/// Services that make a mistake, and what the shortest history to that effect comes to.
macro_rules! mistakes {
    ($($(#[$doc:meta])* $name:ident: $times:ident, $quantity:literal, [$($mistake:ident),+] => $what:literal;)+) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            const MISTAKES: &[Mistake] = &[$(Mistake::$mistake),+];
            let calm = stringify!($times) == "calm";
            let explored = explore(Rules { quantity: $quantity, faults_max: 1, calm, mistakes: MISTAKES });
            let found = explored.violation.unwrap_or_else(|| panic!("not found in {} states", explored.states));
            assert_eq!(found.what, $what, "after\n{}", found.trace);
        }
    )+};
}

mistakes! {
    if_postgres_does_not_cap: stormy, 1, [PostgresDoesNotCap] => "more coupons than the quantity";
    if_only_the_gate_limits: stormy, 2, [PostgresDoesNotLimit] => "more coupons for a user than the limit";
    if_an_unknown_commit_is_released: calm, 1, [UnknownIsReleased]
        => "the gate has forgotten a coupon in calm times";
    if_an_unknown_commit_is_released_and_postgres_does_not_cap:
        stormy, 1, [UnknownIsReleased, PostgresDoesNotCap] => "more coupons than the quantity";
    if_a_missing_gate_has_all_seats: calm, 1, [MissingKeyIsFullStock]
        => "the gate has forgotten what it was told";
    if_a_missing_gate_has_all_seats_and_postgres_does_not_cap:
        stormy, 1, [MissingKeyIsFullStock, PostgresDoesNotCap] => "more coupons than the quantity";
    /// As long as Postgres caps and the sweeper compares, it breaks no promise: seats of those who have
    /// a coupon are offered again and again, and the gate is loaded again and again.
    if_the_sweeper_does_not_ask: calm, 1, [SweeperDoesNotAsk]
        => "the gate has forgotten a coupon in calm times";
    if_the_sweeper_does_not_ask_and_postgres_does_not_cap:
        stormy, 1, [SweeperDoesNotAsk, PostgresDoesNotCap] => "more coupons than the quantity";
    if_the_sweeper_does_not_compare: stormy, 1, [SweeperDoesNotCompare]
        => "the gate does not equal Postgres in the end";
    if_nobody_sweeps: stormy, 1, [SweeperSleeps] => "it does not come to rest";
    if_a_load_misses_confirmations: calm, 1, [LoadMissesConfirmations]
        => "the gate has forgotten what it was told";
    if_a_load_drops_pending_seats: stormy, 1, [LoadDropsPending] => "a pending seat is not taken";
    if_a_superseded_loader_goes_on: calm, 1, [LoadIsNotFenced]
        => "the gate has forgotten what it was told";
    if_a_full_gate_with_pending_seats_is_sold_out: stormy, 1, [TakenIsSoldOut]
        => "a holder is told that it is sold out";
    if_sold_out_is_tested_before_the_duplicate: calm, 1, [SoldOutBeforeDuplicate]
        => "a holder is told that it is sold out";
    if_the_answer_comes_before_the_commit: calm, 1, [AnsweredBeforeCommit]
        => "a coupon is promised and not there";
}
