//! How to reach a demo that is kept, as lines for another terminal.

use std::env;
use std::fmt::Display;
use std::io;

use super::super::print::say;
use crate::config::{Config, Secret};
use crate::ids::CampaignId;

/// Prints what sets the variables of every command, with the folder of this program, and a first request.
pub(super) fn print(config: &Config, campaign: CampaignId) -> io::Result<()> {
    say("\nserving until Ctrl-C. Paste these lines into another terminal:\n")?;
    let program = env::current_exe()?;
    if let Some(folder) = program.parent() {
        // Quoted apart from the variable, as the name of a folder may hold anything.
        say(format_args!("export PATH={}:\"$PATH\"", quoted(&folder.to_string_lossy())))?;
    }
    export("DATABASE_URL", config.database.reveal())?;
    export("REDIS_URL", config.redis.reveal().collect::<Vec<_>>().join(","))?;
    export("NATS_URL", config.nats.reveal().collect::<Vec<_>>().join(","))?;
    export("HTTP_ADDR", config.http)?;
    export("ADMIN_TOKEN", config.admin_token.as_ref().map(Secret::reveal).unwrap_or_default())?;
    // What an earlier command of that terminal may have set, which would take precedence.
    say("export COUPON_TOKEN= COUPON_URL= COUPON_CA=")?;
    export("API", format_args!("http://{}", config.http))?;
    export("ID", campaign)?;
    say("export AUTH=\"Authorization: Bearer $ADMIN_TOKEN\"")?;
    say("curl -s -H \"$AUTH\" $API/v1/campaigns/$ID")
}

fn export(name: &str, value: impl Display) -> io::Result<()> {
    say(format_args!("export {name}={}", quoted(&value.to_string())))
}

/// A word of the shell: in single quotes, unless it has nothing that a shell reads otherwise.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-:@".contains(letter);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_when_a_shell_would_read_it_otherwise() {
        for (word, quoted_word) in [
            ("/usr/bin", "/usr/bin"),
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("/my folder", "'/my folder'"),
            ("it's", r"'it'\''s'"),
            ("$HOME;`x`", "'$HOME;`x`'"),
        ] {
            assert_eq!(quoted(word), quoted_word);
        }
    }
}
