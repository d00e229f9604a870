//! Bugs that others have had, planted one at a time: a test finds each. `make zoo`.

use std::process::Stdio;
use std::time::Duration;

use outbox_relay::zoo;
use sqlx::PgPool;
use tokio::process::Command;
use tokio::time::timeout;

/// A bug, and the test that finds it.
const ZOO: [(&str, &str); 52] = [
    // Gate and writer.
    ("postgres-does-not-cap", "faults::gate::a_gate_with_too_high_a_quantity_oversells_nothing"),
    ("postgres-forgets-the-limit", "faults::gate::a_gate_that_forgot_a_winner_gives_him_no_second_coupon"),
    ("coupon-without-event", "issuing::every_user_gets_his_coupon_when_there_is_one_for_each"),
    ("not-durable", "faults::postgres::a_postgres_that_is_killed_in_a_rush_has_every_promised_coupon"),
    ("unknown-is-taken-for-failed", "faults::seats::a_seat_whose_commit_is_unknown_and_failed_is_sold_again"),
    ("seats-of-the-failed-are-kept", "faults::storage::while_the_coupons_are_locked_claims_are_refused"),
    ("sweeper-does-not-ask", "faults::seats::a_seat_whose_commit_is_unknown_and_done_stays_with_its_holder"),
    ("gate-fields-are-not-compared", "faults::strict::a_field_that_is_changed_lost_or_garbage_is_repaired"),
    ("audit-compares-no-gate-field", "faults::strict::a_database_restored_to_before_the_close_is_open_again"),
    (
        "one-campaign-loses-the-gate",
        "faults::apart::a_key_of_another_type_breaks_one_campaign_until_it_is_repaired",
    ),
    ("one-failure-ends-the-round", "faults::apart::a_row_that_stays_locked_holds_up_no_other_campaign"),
    ("refusals-outlive-their-reason", "refusals::a_process_that_was_frozen_asks_before_it_refuses"),
    ("readers-get-the-answers-of-others", "lookups::each_of_many_readers_gets_their_own_answer"),
    ("refusal-of-the-campaign-before", "issuing::batches::each_campaign_of_a_batch_is_judged_by_itself"),
    ("unready-without-nats", "faults::nats::without_nats_claims_go_on_and_the_backlog_drains_afterwards"),
    // Outbox and relay.
    ("positions-without-a-lock", "outbox::positions_are_the_order_of_commit_without_a_gap"),
    ("no-expected-sequence", "relay::a_relay_that_wakes_up_behind_another_adds_nothing"),
    ("duplicate-is-trusted", "situations::what_was_seen_elsewhere_does_not_count_as_published::packaged"),
    ("stored-when-sent", "situations::a_strangers_message_in_the_midst_stops_the_relay::packaged"),
    (
        "only-the-last-message-is-compared",
        "situations::a_strangers_message_in_the_midst_stops_the_relay::packaged",
    ),
    (
        "memory-outlives-the-session",
        "situations::losses::a_database_that_is_restored_under_a_running_relay_needs_an_epoch",
    ),
    (
        "another-message-id-at-each-try",
        "relay::a_relay_that_is_killed_again_and_again_leaves_no_hole_and_no_copy",
    ),
    ("partitions-go-unconfirmed", "retention::partitions_go_when_they_are_old_and_confirmed"),
    ("no-limit-on-a-statement", "faults::silence::a_postgres_that_falls_silent_is_left_and_reached_again"),
    // Projector.
    ("acknowledged-before-commit", "projections::what_fails_leaves_neither_effect_nor_position"),
    ("position-in-another-transaction", "projections::what_fails_leaves_neither_effect_nor_position"),
    (
        "applied-however-often",
        "projections::each_event_is_applied_once_however_often_and_in_whatever_order_it_comes",
    ),
    ("gaps-are-skipped", "projections::a_gap_is_filled_from_the_outbox_or_stops_the_projection"),
    ("poison-is-dropped", "dead::a_poison_event_is_parked_and_can_be_redriven"),
    ("poison-blocks", "dead::a_poison_event_is_parked_and_can_be_redriven"),
    ("rebuild-appends", "reactions::a_rebuild_appends_nothing"),
    (
        "settlement-is-a-cent-off",
        "projections::each_event_is_applied_once_however_often_and_in_whatever_order_it_comes",
    ),
    // Changes of campaigns.
    ("budget-off-by-one", "editing::the_smaller_of_quantity_and_budget_is_the_limit"),
    ("edit-counts-without-the-lock", "editing::an_edit_counts_the_coupons_that_were_asked_for_before_it"),
    (
        "edits-are-lost-at-the-gate",
        "campaigns::a_raised_quantity_and_a_later_end_reach_a_gate_that_was_not_notified",
    ),
    // Changes of coupons.
    ("double-use", "lifecycle::tills::a_coupon_is_redeemed_once_however_many_tills_want_it"),
    ("expiry-beats-redemption", "lifecycle::expiry::of_a_redemption_and_an_expiry_one_wins"),
    ("cancelled-coupons-can-be-used", "lifecycle::a_cancelled_coupon_is_cancelled_for_ever"),
    ("accrual-without-reversal", "lifecycle::a_coupon_is_redeemed_restored_and_redeemed_again"),
    (
        "restock-twice",
        "lifecycle::restock::a_seat_that_is_put_back_is_sold_once_by_whichever_process_is_asked",
    ),
    ("expiry-by-the-wrong-clock", "lifecycle::expiry::a_process_whose_clock_is_ahead_expires_nothing_early"),
    ("orders-are-not-compared", "lifecycle::tills::an_order_redeems_one_coupon_of_its_merchant"),
    ("change-without-event", "lifecycle::a_coupon_is_redeemed_restored_and_redeemed_again"),
    ("trials-are-written", "lifecycle::refused::what_the_request_supposes_must_be_so"),
    // Callers.
    (
        "idempotency-keys-are-not-written",
        "idempotency::a_claim_that_is_repeated_gets_the_answer_of_the_first",
    ),
    (
        "revoked-tokens-are-served",
        "tokens::a_token_works_at_once_everywhere_and_is_refused_everywhere_when_it_is_revoked",
    ),
    ("coupons-of-others-are-shown", "users::a_user_sees_what_is_theirs_and_nothing_else"),
    // What is told of it, and to whom.
    ("unknown-is-zero", "readiness::what_is_not_known_is_not_said"),
    ("audit-has-no-cut", "audit::rush::a_rush_is_balanced_whenever_it_is_audited"),
    ("subscriber-sees-no-gap", "python::a_subscriber_stops_at_a_gap_and_follows_an_epoch"),
    // Replay.
    ("replay-mints-event-ids", "replay::a_replay_reaches_who_asked_for_it_and_disturbs_nobody"),
    ("replay-starts-over", "replay::runs::a_run_that_is_killed_again_and_again_is_whole_in_the_end"),
];

/// Longer than any of these tests takes.
const LIMIT: Duration = Duration::from_secs(120);

/// How a test ends whose bug has no place in the program any more.
const CANNOT_BE_PLANTED: i32 = 70;

/// Those of Postgres: what is changed in a function.
#[expect(clippy::disallowed_methods, reason = "a test whose bug is not there has not found it")]
pub(crate) async fn plant(pool: &PgPool) {
    for (bug, function, from, to) in [
        ("postgres-does-not-cap", "issue_batch_2", "WHERE number <= quantity", ""),
        ("budget-off-by-one", "issue_batch_2", "budget / face_value", "budget / face_value + 1"),
        ("postgres-forgets-the-limit", "issue_batch_2", "coalesce(held.nth, 0) < per_user_limit", "true"),
        (
            "refusal-of-the-campaign-before",
            "issue_batch_2",
            "coalesce(refusals[c], 'sold_out')",
            "coalesce(refusals[greatest(c - 1, 1)], 'sold_out')",
        ),
        (
            "coupon-without-event",
            "issue_batch_2",
            "won_count > 0 THEN",
            "won_count > 0 AND 1 <> ALL (won_numbers) THEN",
        ),
        (
            "idempotency-keys-are-not-written",
            "issue_batch_2",
            "keys_in[i]\n                FROM winners",
            "NULL\n                FROM winners",
        ),
        ("double-use", "change_coupons", "WHEN last.kind = 'redeemed' THEN", "WHEN false THEN"),
        (
            "expiry-beats-redemption",
            "change_coupons",
            "WHEN last.kind = 'redeemed' THEN",
            "WHEN last.kind = 'redeemed' AND kinds[i] <> 'expired' THEN",
        ),
        (
            "cancelled-coupons-can-be-used",
            "change_coupons",
            "last.kind IN ('cancelled', 'expired')",
            "last.kind IN ('expired')",
        ),
        ("restock-twice", "change_coupons", "THEN row_number()", "THEN 1 + row_number()"),
        ("orders-are-not-compared", "change_coupons", "used.coupon_id IS NOT NULL THEN", "false THEN"),
        ("change-without-event", "change_coupons", "IF ids IS NOT NULL THEN", "IF false THEN"),
        (
            "trials-are-written",
            "change_coupons",
            "AND whys = '{}' AND NOT tried[i]\n            ), made",
            "AND whys = '{}'\n            ), made",
        ),
        ("positions-without-a-lock", "outbox_lock", "PERFORM pg_advisory_xact_lock", "PERFORM concat"),
    ] {
        if zoo::has(bug) {
            let definition: String = sqlx::query_scalar("SELECT pg_get_functiondef($1::text::regproc)")
                .bind(function)
                .fetch_one(pool)
                .await
                .unwrap();
            if !definition.contains(from) {
                eprintln!("{function} has no {from}");
                std::process::exit(CANNOT_BE_PLANTED);
            }
            sqlx::raw_sql(&definition.replace(from, to)).execute(pool).await.unwrap();
        }
    }
}

#[tokio::test]
async fn each_bug_is_found() {
    let mut escaped = Vec::new();
    for (bug, test) in ZOO {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test]).env("BUG", bug).kill_on_drop(true);
        let run = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let ended = timeout(LIMIT, run).await.map(|status| status.unwrap().code());
        assert_ne!(ended, Ok(Some(CANNOT_BE_PLANTED)), "{bug} cannot be planted");
        let found = ended != Ok(Some(0));
        println!("{bug}: {} {test}", if found { "found by" } else { "ESCAPES" });
        if !found {
            escaped.push(bug);
        }
    }
    assert!(escaped.is_empty(), "{escaped:?}");
}
