//! The question before something is replaced. Only the whole word is an answer.

use super::console::Console;
use crate::error::{Error, Result};
use crate::names;
use std::io::{BufRead, Write};

/// Asks on standard error, where it is seen even if the output goes elsewhere, and reads a line of standard input. `what`
/// is being decided; `consequence` says what happens.
pub fn confirm(console: &Console, what: &str, consequence: &str) -> Result<()> {
    console.flush()?;
    let mut stderr = std::io::stderr().lock();
    // Without a question there is no answer to it.
    let asked = writeln!(stderr, "{}", names::printable(consequence))
        .and_then(|()| write!(stderr, "Are you sure? (yes/No) "))
        .and_then(|()| stderr.flush());
    asked.map_err(|error| Error::io("write to", "standard error", error))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|error| Error::io("read", "the answer", error))?;
    console.interrupts.check()?;
    if is_yes(&answer) { Ok(()) } else { Err(Error::refused(what, "nothing was done: the answer was not `yes`")) }
}

fn is_yes(answer: &str) -> bool {
    answer.trim_end_matches(['\n', '\r']) == "yes"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_counts() {
        assert!(is_yes("yes\n") && is_yes("yes\r\n") && is_yes("yes"));
        for answer in ["", "\n", "y\n", "Yes\n", "YES\n", "yes please\n", " yes\n", "no\n", "yes \n"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}
