//! How a job and a run ended, and which exit code that is. Pure.
//!
//! Of a run: interrupted beats all (130). If all jobs did all, 0. If none saved anything, the code that all of them failed
//! with, or 1 if they differ. Otherwise something was saved and something is missing: 3.

use serde::{Deserialize, Serialize};

pub const DONE: u8 = 0;
pub const FAILED: u8 = 1;
pub const INCOMPLETE: u8 = 3;
pub const INTERRUPTED: u8 = 130;

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Done,
    /// Something was saved, something is missing.
    Incomplete,
    /// Nothing was saved.
    Failed,
    Interrupted,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Done => "done",
            Verdict::Incomplete => "incomplete",
            Verdict::Failed => "failed",
            Verdict::Interrupted => "interrupted",
        }
    }
}

/// A verdict and the exit code of what failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ending {
    pub verdict: Verdict,
    pub code: u8,
}

impl Ending {
    pub const DONE: Ending = Ending { verdict: Verdict::Done, code: DONE };
    pub const INCOMPLETE: Ending = Ending { verdict: Verdict::Incomplete, code: INCOMPLETE };
    pub const INTERRUPTED: Ending = Ending { verdict: Verdict::Interrupted, code: INTERRUPTED };

    pub fn failed(code: u8) -> Ending {
        match code {
            INTERRUPTED => Ending::INTERRUPTED,
            code => Ending { verdict: Verdict::Failed, code },
        }
    }

    /// Of a whole whose parts ended so. Without parts there was nothing to do.
    pub fn of(parts: &[Ending]) -> Ending {
        let has = |verdict: Verdict| parts.iter().any(|part| part.verdict == verdict);
        if has(Verdict::Interrupted) {
            return Ending::INTERRUPTED;
        }
        if !has(Verdict::Failed) && !has(Verdict::Incomplete) {
            return Ending::DONE;
        }
        if has(Verdict::Done) || has(Verdict::Incomplete) {
            return Ending::INCOMPLETE;
        }
        let first = parts.first().map_or(FAILED, |part| part.code);
        Ending::failed(if parts.iter().all(|part| part.code == first) { first } else { FAILED })
    }

    /// The same, with something amiss beside it that took nothing away.
    pub fn marred(self) -> Ending {
        if self.verdict == Verdict::Done { Ending::INCOMPLETE } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_code_wins() {
        let code = |parts: &[u8]| {
            let part = |code: &u8| match code {
                0 => Ending::DONE,
                3 => Ending::INCOMPLETE,
                code => Ending::failed(*code),
            };
            Ending::of(&parts.iter().map(part).collect::<Vec<_>>()).code
        };
        for (parts, expected) in [
            (&[][..], 0),
            (&[0, 0], 0),
            (&[1], 1),
            (&[10, 10], 10),
            (&[12, 12, 12], 12),
            (&[11], 11),
            (&[10, 12], 1),
            (&[1, 10], 1),
            (&[0, 1], 3),
            (&[0, 10], 3),
            (&[3, 12], 3),
            (&[0, 3], 3),
            (&[0, 130], 130),
            (&[1, 3, 130, 0], 130),
        ] {
            assert_eq!(code(parts), expected, "{parts:?}");
            let mut backwards = parts.to_vec();
            backwards.reverse();
            assert_eq!(code(&backwards), expected, "{backwards:?}");
        }
        assert_eq!(Ending::DONE.marred(), Ending::INCOMPLETE);
        assert_eq!(Ending::failed(12).marred().code, 12);
    }
}
