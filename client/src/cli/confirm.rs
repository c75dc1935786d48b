//! The question before something is replaced. Only the whole word counts.

use super::console::Console;
use crate::error::{Error, Result};
use std::io::{BufRead, Read, Write};

const ANSWER_BYTES_MAX: u64 = 1024;

/// Says what is about to happen and goes on if the answer is `yes`; `yes` is the option that gives it beforehand.
pub fn confirm(console: &Console, what: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    console.flush()?;
    let mut answer = String::new();
    let asked = write!(std::io::stderr(), "{what}\nAre you sure? (yes/No) ").and_then(|()| std::io::stderr().flush());
    let read = asked.and_then(|()| std::io::stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut answer));
    match read {
        Ok(_) if answer.trim() == "yes" => Ok(()),
        Ok(0) | Err(_) => Err(Error::refused("nothing was changed", "there was no answer; --yes gives it beforehand")),
        Ok(_) => Err(Error::refused("nothing was changed", "the answer was not `yes`")),
    }
}
