//! The reason of a failure, for people.

use std::error::Error;

/// An error and its causes in one line, each said once: many errors repeat their cause in their own text.
#[must_use]
pub fn reason_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("connect: {0}")]
        Repeats(#[source] io::Error),
        #[error("read the outbox")]
        Outer(#[source] Box<Failure>),
    }

    #[test]
    fn each_cause_is_said_once() {
        let refused = || Failure::Repeats(io::Error::other("refused"));
        assert_eq!(reason_of(&refused()), "connect: refused");
        assert_eq!(reason_of(&Failure::Outer(Box::new(refused()))), "read the outbox: connect: refused");
    }
}
