//! What is wrong with a configuration file: where, what, and what to do about it. Never the value of a secret. Pure.

use std::cell::RefCell;
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Nothing runs until it is mended.
    Error,
    /// It may be meant.
    Warning,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    pub severity: Severity,
    /// From 1; 0 if it concerns the file as a whole.
    pub line: usize,
    pub column: usize,
    /// `jobs.web.sources[1].exclude`; empty for the file as a whole.
    pub place: String,
    pub what: String,
    pub remedy: String,
}

impl Mistake {
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Whether it keeps other verbs from trusting what the file says of repository and credential.
    pub fn is_general(&self) -> bool {
        self.is_error() && !["jobs", "hooks", "retry", "retention"].iter().any(|part| self.place.starts_with(part))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// All mistakes of one text, found in any order.
pub struct Mistakes<'t> {
    text: &'t str,
    example: &'static str,
    found: RefCell<Vec<Mistake>>,
}

impl<'t> Mistakes<'t> {
    /// `example` is the command that shows what there is.
    pub fn new(text: &'t str, example: &'static str) -> Mistakes<'t> {
        Mistakes { text, example, found: RefCell::default() }
    }

    pub fn example(&self) -> &'static str {
        self.example
    }

    /// `at` is an offset in the text.
    pub fn error(&self, at: usize, place: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Error, Some(at), place, what.into(), remedy.into());
    }

    pub fn warning(&self, at: usize, place: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, Some(at), place, what.into(), remedy.into());
    }

    /// Of the file as a whole.
    pub fn file(&self, severity: Severity, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(severity, None, "", what.into(), remedy.into());
    }

    /// In the order of the text.
    pub fn into_list(self) -> Vec<Mistake> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|mistake| (mistake.line, mistake.column, mistake.severity));
        found.dedup();
        found
    }

    fn add(&self, severity: Severity, at: Option<usize>, place: &str, what: String, remedy: String) {
        let (line, column) = at.map_or((0, 0), |at| position(self.text, at));
        self.found.borrow_mut().push(Mistake { severity, line, column, place: place.to_owned(), what, remedy });
    }
}

/// Line and column of an offset, both from 1, in characters.
fn position(text: &str, at: usize) -> (usize, usize) {
    let mut end = at.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.get(..end).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// The word of `known` that was probably meant.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word.to_lowercase().replace('-', "_");
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    let near = known.iter().map(|&candidate| (distance(&word, candidate), candidate));
    near.filter(|(distance, _)| *distance <= allowed).min().map(|(_, candidate)| candidate)
}

/// How many letters to change, add, leave out or swap with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (row, letter) in a.iter().enumerate() {
        let mut line = vec![row + 1];
        for (column, other) in b.iter().enumerate() {
            let at = |cells: &[usize], column: usize| cells.get(column).copied().unwrap_or(usize::MAX / 2);
            let mut cost = (at(&above, column) + usize::from(letter != other))
                .min(at(&above, column + 1) + 1)
                .min(at(&line, column) + 1);
            let swapped = column > 0 && row > 0 && b.get(column - 1) == Some(letter) && a.get(row - 1) == Some(other);
            if swapped {
                cost = cost.min(at(&before, column - 1) + 1);
            }
            line.push(cost);
        }
        before = std::mem::replace(&mut above, line);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_and_columns() {
        let text = "a\nété = 1\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 2), (2, 1));
        assert_eq!(position(text, text.find('=').unwrap()), (2, 5));
        assert_eq!(position(text, 3), (2, 1));
        assert_eq!(position(text, 999), (3, 1));
    }

    #[test]
    fn what_was_meant_is_guessed() {
        let known = ["exclude", "exclude_file", "timeout", "tags"];
        for (word, meant) in [
            ("exlude", Some("exclude")),
            ("exclued", Some("exclude")),
            ("Exclude", Some("exclude")),
            ("exclude-file", Some("exclude_file")),
            ("tag", Some("tags")),
            ("time_out", Some("timeout")),
            ("password", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, &known), meant, "{word}");
        }
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn mistakes_come_in_the_order_of_the_text() {
        let mistakes = Mistakes::new("a\nb\nc", "x");
        mistakes.warning(4, "c", "third", "mend it");
        mistakes.error(2, "jobs.b", "second", "mend it");
        mistakes.file(Severity::Error, "first", "mend it");
        let list = mistakes.into_list();
        assert_eq!(list.iter().map(|m| m.line).collect::<Vec<_>>(), [0, 2, 3]);
        assert!(list[0].is_general() && !list[1].is_general() && !list[2].is_general());
        assert_eq!(list[1].to_string(), "jobs.b: second; mend it");
    }
}
