//! What cannot be undone is asked for at a terminal, and needs `--yes` elsewhere.

use serde_json::{Value, json};

use super::{assert_ended, json_of};
use crate::support::{SOON, World, wait_until};

/// A world with something for every command that asks: the commands.
async fn scene() -> (World, Vec<Vec<String>>) {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "name": "Friday" })).await;
    world.execute("ALTER TABLE wallet ADD CONSTRAINT poison CHECK (user_id <> 'mallory')").await;
    world.claim(campaign, "mallory").await;
    wait_until("the event is parked", SOON, async || world.dead_letters().await.len() == 1).await;
    world.execute("ALTER TABLE wallet DROP CONSTRAINT poison").await;
    let replayed = world.coupon(&["replay", "--all", "--run", "over"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    let token = world.token(&["--scope", "read"]).await;
    let position = world.dead_letters().await[0]["position"].to_string();
    let commands = [
        format!("campaign close {campaign}"),
        format!("dead drop wallet {position}"),
        format!("token revoke {}", token.split('_').nth(1).unwrap()),
        "replay --cancel over".to_owned(),
        "relay epoch new".to_owned(),
    ];
    (world, commands.map(|command| command.split(' ').map(str::to_owned).collect()).into())
}

/// What these commands change.
async fn state(world: &World) -> [Value; 5] {
    let commands: [&[&str]; 5] = [
        &["campaign", "list"],
        &["dead", "list"],
        &["token", "list"],
        &["replay", "--list"],
        &["relay", "epoch", "list"],
    ];
    let mut state = Vec::new();
    for command in commands {
        state.push(json_of(&world.coupon(&[command, &["--json"]].concat()).await));
    }
    state.try_into().unwrap()
}

#[tokio::test]
async fn nothing_is_changed_without_a_yes() {
    let (world, commands) = scene().await;
    let before = state(&world).await;
    for command in &commands {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let refused = world.coupon(&command).await;
        assert_ended(&refused, 2, &["no terminal", "--yes", "--dry-run"]);
        assert!(refused.out.is_empty(), "{refused:?}");
        let shown = world.coupon(&[&command[..], &["--dry-run"]].concat()).await;
        assert_eq!(shown.code, Some(0), "{shown:?}");
        assert_eq!(shown.out.lines().last(), Some("dry run: nothing is changed"), "{shown:?}");
        let shown = json_of(&world.coupon(&[&command[..], &["--dry-run", "--json"]].concat()).await);
        assert_eq!(shown["dry_run"], true, "{shown}");
        // --dry-run goes before --yes.
        json_of(&world.coupon(&[&command[..], &["--dry-run", "--yes", "--json"]].concat()).await);

        for answer in ["n", "", "yep"] {
            let mut terminal = world.at_terminal(&command);
            terminal.shows("for ever").await;
            terminal.shows("[y/N]").await;
            terminal.types(answer).await;
            let (code, shown) = terminal.finished().await;
            assert_eq!(code, Some(2), "{shown}");
            assert!(shown.contains("nothing is changed"), "{shown}");
        }
    }
    assert_eq!(state(&world).await, before);
    let position = before[1]["items"][0]["position"].clone();
    world.letter("redrive", &position).await;
    world.close().await;
}

#[tokio::test]
async fn a_question_names_what_will_be_changed_and_a_yes_changes_it() {
    let (world, commands) = scene().await;
    // An epoch begins only where a relay is halted.
    let words: [&[&str]; 4] =
        [&["Friday", "open", "1 of"], &["wallet", "poison"], &["shop", "read"], &["over", "its 2 messages"]];
    for (command, words) in commands.iter().zip(words) {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut terminal = world.at_terminal(&command);
        terminal.shows("[y/N]").await;
        terminal.types("y").await;
        let (code, shown) = terminal.finished().await;
        assert_eq!(code, Some(0), "{shown}");
        let question = shown.lines().find(|line| line.contains("[y/N]")).unwrap();
        assert!(words.iter().all(|word| question.contains(word)), "{question}");
    }
    let [campaigns, parked, tokens, runs, _] = state(&world).await;
    assert_eq!(campaigns["items"][0]["state"], "closed");
    assert_eq!(parked["items"], json!([]));
    assert_eq!(tokens["items"][0]["state"], "revoked");
    assert_eq!(runs["items"][0]["state"], "cancelled");
    // The event that was dropped is in no wallet: the projection is right again when it is rebuilt.
    let rebuilt = world.coupon(&["rebuild", "wallet"]).await;
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    world.close().await;
}

/// Without a selection a replay shows its plan and asks.
#[tokio::test]
async fn a_replay_of_everything_is_asked_for() {
    let world = World::start().await;
    world.claim(world.open_campaign(json!({})).await, "alice").await;
    let runs = async || json_of(&world.coupon(&["replay", "--list", "--json"]).await)["items"].clone();
    let refused = world.coupon(&["replay"]).await;
    assert_ended(&refused, 2, &["--campaign", "--all", "--yes"]);
    for interrupted in [false, true] {
        let mut terminal = world.at_terminal(&["replay", "--run", "everything"]);
        terminal.shows("run everything: to replay.everything.> in stream COUPONS-REPLAY").await;
        terminal.shows("Publish all 2 again? [y/N]").await;
        if interrupted {
            terminal.interrupt();
        } else {
            terminal.types("n").await;
        }
        let (code, shown) = terminal.finished().await;
        assert_eq!(code, if interrupted { None } else { Some(2) }, "{shown}");
    }
    assert_eq!(runs().await, json!([]));
    let mut terminal = world.at_terminal(&["replay", "--run", "everything"]);
    terminal.shows("[y/N]").await;
    terminal.types("yes").await;
    let (code, shown) = terminal.finished().await;
    assert!(code == Some(0) && shown.contains("done: 2 messages"), "{shown}");
    assert_eq!(world.coupon(&["replay", "--run", "confirmed", "--yes"]).await.code, Some(0));
    // What is selected needs no question.
    assert_eq!(world.coupon(&["replay", "--type", "issued"]).await.code, Some(0));
    assert_eq!(runs().await.as_array().unwrap().len(), 3);
    world.close().await;
}
