//! The data that every world's Postgres starts from: made once by this process, and gone with it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use coupon_dispatcher::servers::init_template;
use tokio::sync::OnceCell;

/// Reads a pipe whose other end only this process holds; however this process ends, the read
/// returns then, and the folder goes.
const REMOVE_AT_END: &str = r#"trap '' HUP INT TERM; while read -r _; do :; done; rm -rf "$0""#;

struct Template {
    path: PathBuf,
    _remover: Child,
}

pub(super) async fn path() -> &'static Path {
    static TEMPLATE: OnceCell<Template> = OnceCell::const_new();
    &TEMPLATE.get_or_init(make).await.path
}

async fn make() -> Template {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("postgres-{}", std::process::id()));
    let mut remover = Command::new("sh");
    remover.args(["-c", REMOVE_AT_END]).arg(&path).process_group(0);
    remover.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let remover = remover.spawn().unwrap();
    init_template(&path).await.unwrap();
    Template { path, _remover: remover }
}
