//! Which databases are meant: patterns over whole names. Pure.

use super::catalogue::Database;
use crate::error::{Error, Result};
use crate::names;
use globset::{GlobBuilder, GlobMatcher};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Never saved unless a pattern selects it: it is there to connect to.
const MAINTENANCE: &[u8] = b"postgres";

#[derive(Debug)]
pub struct Patterns {
    matches: Vec<Pattern>,
    excludes: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    text: String,
    exact: GlobMatcher,
    /// The same if case makes no difference.
    loose: GlobMatcher,
}

/// What became of the databases of a server.
#[derive(Default, Debug)]
pub struct Choice {
    pub selected: Vec<Database>,
    /// With the rule that leaves each out.
    pub excluded: Vec<(Vec<u8>, String)>,
    /// Not selected, though they would be if case made no difference.
    pub near: Vec<Vec<u8>>,
    /// Patterns that no database matches. Those that are plain names ask for one that is not there.
    pub unmatched: Vec<Unmatched>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unmatched {
    pub pattern: String,
    pub is_name: bool,
}

impl Pattern {
    fn new(text: &str) -> Result<Pattern> {
        let build = |loose| GlobBuilder::new(text).backslash_escape(true).case_insensitive(loose).build();
        match (build(false), build(true)) {
            (Ok(exact), Ok(loose)) => {
                Ok(Pattern { text: text.to_owned(), exact: exact.compile_matcher(), loose: loose.compile_matcher() })
            }
            (Err(error), _) | (_, Err(error)) => {
                Err(Error::argument(format!("pattern `{text}`"), error.kind().to_string()))
            }
        }
    }

    fn matches(&self, name: &[u8]) -> bool {
        self.exact.is_match(OsStr::from_bytes(name))
    }

    fn nearly_matches(&self, name: &[u8]) -> bool {
        self.loose.is_match(OsStr::from_bytes(name))
    }

    fn is_name(&self) -> bool {
        !self.text.contains(['*', '?', '[', '{', '\\'])
    }
}

impl Patterns {
    pub fn new(matches: &[String], excludes: &[String]) -> Result<Patterns> {
        let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect::<Result<Vec<_>>>();
        Ok(Patterns { matches: patterns(matches)?, excludes: patterns(excludes)? })
    }

    pub fn choose(&self, databases: Vec<Database>) -> Choice {
        let mut choice = Choice::default();
        for pattern in &self.matches {
            if !databases.iter().any(|database| !database.is_template && pattern.matches(&database.name)) {
                choice.unmatched.push(Unmatched { pattern: pattern.text.clone(), is_name: pattern.is_name() });
            }
        }
        for database in databases {
            match self.rule(&database) {
                None => choice.selected.push(database),
                Some(rule) => {
                    let is_near =
                        |pattern: &Pattern| pattern.nearly_matches(&database.name) && !pattern.matches(&database.name);
                    if rule == UNMATCHED && self.matches.iter().any(is_near) {
                        choice.near.push(database.name.clone());
                    }
                    choice.excluded.push((database.name, rule));
                }
            }
        }
        choice
    }

    /// What leaves a database out.
    fn rule(&self, database: &Database) -> Option<String> {
        if database.is_template {
            return Some("it is a template".into());
        }
        if let Some(pattern) = self.excludes.iter().find(|pattern| pattern.matches(&database.name)) {
            return Some(format!("excluded by {}", names::shown(pattern.text.as_bytes())));
        }
        if self.matches.is_empty() {
            return (database.name == MAINTENANCE)
                .then(|| "it is there to connect to, and no pattern selects it".into());
        }
        let is_matched = self.matches.iter().any(|pattern| pattern.matches(&database.name));
        (!is_matched).then(|| UNMATCHED.into())
    }
}

const UNMATCHED: &str = "no pattern matches it";

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(matches: &[&str], excludes: &[&str], databases: &[&[u8]]) -> Choice {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let templates: [&[u8]; 2] = [b"template0", b"template1"];
        let database = |name: &&[u8]| Database {
            name: name.to_vec(),
            is_template: templates.contains(name),
            ..Database::default()
        };
        Patterns::new(&own(matches), &own(excludes)).unwrap().choose(databases.iter().map(database).collect())
    }

    fn names(choice: &Choice) -> Vec<&[u8]> {
        choice.selected.iter().map(|database| database.name.as_slice()).collect()
    }

    const ALL: [&[u8]; 9] = [
        b"postgres",
        b"template0",
        b"template1",
        b"Specibike1",
        b"Specibike\n2",
        b"Specibike/3\xff",
        b"specibike4",
        b"x",
        b"Specibike*",
    ];

    #[test]
    fn everything_but_templates_and_the_maintenance_database() {
        let choice = choose(&[], &[], &ALL);
        assert_eq!(names(&choice), ALL[3..]);
        assert_eq!(choice.excluded.len(), 3);
        assert!(choice.near.is_empty() && choice.unmatched.is_empty());
    }

    #[test]
    fn patterns_are_for_the_whole_name_and_mind_case() {
        let choice = choose(&["Specibike*"], &[], &ALL);
        let expected: [&[u8]; 4] = [b"Specibike1", b"Specibike\n2", b"Specibike/3\xff", b"Specibike*"];
        assert_eq!(names(&choice), expected);
        assert_eq!(choice.near, [b"specibike4"]);
        assert_eq!(names(&choose(&["?"], &[], &ALL)), [b"x"]);
        assert_eq!(names(&choose(&["Specibike\\*"], &[], &ALL)), [b"Specibike*"]);
        assert_eq!(
            names(&choose(&["[Ss]pecibike[14]", "{x,y}"], &[], &ALL)),
            [&b"Specibike1"[..], b"specibike4", b"x"]
        );
        assert_eq!(names(&choose(&["pecibike1"], &[], &ALL)), [] as [&[u8]; 0]);
    }

    #[test]
    fn exclusions_win_and_templates_never_match() {
        assert_eq!(names(&choose(&["*"], &["Specibike*", "specibike*"], &ALL)), [&b"postgres"[..], b"x"]);
        let choice = choose(&["template*"], &[], &ALL);
        assert!(choice.selected.is_empty() && choice.excluded.len() == ALL.len());
        assert_eq!(choice.excluded[1].1, "it is a template");
    }

    #[test]
    fn patterns_without_a_database_are_told() {
        let choice = choose(&["projop", "y*", "x"], &[], &ALL);
        let unmatched = |pattern: &str, is_name| Unmatched { pattern: pattern.into(), is_name };
        assert_eq!(choice.unmatched, [unmatched("projop", true), unmatched("y*", false)]);
        // Excluded on purpose is not missing.
        assert!(choose(&["x"], &["x"], &ALL).unmatched.is_empty());
    }

    #[test]
    fn broken_patterns_are_refused() {
        assert!(Patterns::new(&["[a".into()], &[]).is_err());
    }
}
