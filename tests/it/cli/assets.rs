//! Completions and man pages.

use std::fs;

use crate::docs::names::helped;
use crate::support::{World, coupon};

#[tokio::test]
async fn there_is_a_man_page_for_each_command_and_a_completion_for_each_shell() {
    let world = World::bare(1).await;
    world.migrate().await;
    let folder = world.folder().join("a/b");
    for _ in 0..2 {
        let finished = coupon(&["assets", folder.to_str().unwrap()], &[]).await;
        assert_eq!((finished.code, &*finished.out, &*finished.err), (Some(0), "", ""), "{finished:?}");
    }
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    for (words, options) in helped() {
        let page = read(&format!("man/man1/{}.1", [&["coupon".to_owned()], &words[..]].concat().join("-")));
        assert!(page.contains(".SH SYNOPSIS"), "{words:?}");
        for option in options {
            assert!(page.contains(&option.replace('-', "\\-")), "{words:?} {option}");
        }
    }
    let pages = fs::read_dir(folder.join("man/man1")).unwrap().count();
    assert_eq!(pages, helped().len(), "a page of no command");
    for name in ["coupon.bash", "coupon.fish", "_coupon"] {
        let completion = read(&format!("completions/{name}"));
        for word in ["campaign", "per-user-limit", "epoch"] {
            assert!(completion.contains(word), "{name} has no {word}");
        }
    }
    let refused = coupon(&["assets", "/dev/null/x"], &[]).await;
    assert!(refused.code == Some(1) && refused.err.contains("/dev/null/x"), "{refused:?}");
    world.close().await;
}
