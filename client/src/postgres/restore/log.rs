//! Judges what `psql` says while it loads a plain dump: errors that are expected apart from those that are not.
//!
//! Needs `--echo-errors`, `VERBOSITY=verbose` and a script from `-f -`, so that every message begins with its line, names its
//! SQLSTATE and shows the statement. Judged are states and statements, never texts, which depend on the server's language.

use crate::names;

/// What may go wrong without being wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tolerance {
    /// Of a dump with `DROP` commands in a new database: what is to be dropped is not there.
    Drops,
    /// Roles that are missing, too.
    DropsAndRoles,
    /// Of roles and tablespaces: that they exist.
    Existing,
}

/// Errors that are kept to be told; the others are counted.
const KEPT_MAX: usize = 10;
/// Of a line; the rest is of no account.
const LINE_BYTES_MAX: usize = 8 << 10;

const PREFIX: &[u8] = b"psql:<stdin>:";
const STATEMENT: &str = "STATEMENT:  ";

pub struct Log {
    tolerance: Tolerance,
    line: Vec<u8>,
    pending: Option<Message>,
    pub expected: u64,
    pub errors: u64,
    /// The first ones.
    pub kept: Vec<String>,
}

struct Message {
    /// `12: 42P01: table "x" does not exist`
    text: String,
    /// None if psql itself complains.
    state: Option<String>,
    statement: Statement,
}

enum Statement {
    None,
    /// Its beginning is still to come: comments may stand before it.
    Begun,
    /// Its first line.
    Known(String),
}

impl Log {
    pub fn new(tolerance: Tolerance) -> Log {
        Log { tolerance, line: Vec::new(), pending: None, expected: 0, errors: 0, kept: Vec::new() }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.take(line.strip_suffix(b"\n").unwrap_or(&line));
            }
        }
    }

    /// Nothing more comes.
    pub fn end(&mut self) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.take(&line);
        }
        self.settle();
    }

    fn take(&mut self, line: &[u8]) {
        if let Some(rest) = line.strip_prefix(PREFIX) {
            let text = String::from_utf8_lossy(rest);
            let said = text.split_once(": ").map_or("", |(_, said)| said);
            if let (Some(message), true) = (&mut self.pending, said.starts_with(STATEMENT)) {
                return message.statement.take(said);
            }
            self.settle();
            self.pending = message(&text);
        } else if line.starts_with(b"psql: ") {
            self.settle();
            let text = String::from_utf8_lossy(line).into_owned();
            self.pending = Some(Message { text, state: None, statement: Statement::None });
        } else if let Some(message) = &mut self.pending {
            message.statement.take(&String::from_utf8_lossy(line));
        }
    }

    fn settle(&mut self) {
        let Some(message) = self.pending.take() else { return };
        if message.is_expected(self.tolerance) {
            self.expected += 1;
            return;
        }
        self.errors += 1;
        if self.kept.len() < KEPT_MAX {
            let statement = match &message.statement {
                Statement::Known(line) => format!(" ({})", line.chars().take(200).collect::<String>()),
                _ => String::new(),
            };
            self.kept.push(names::printable(&format!("line {}{statement}", message.text)));
        }
    }

    /// What is wrong, if anything is.
    pub fn verdict(&self) -> Option<String> {
        let first = self.kept.first()?;
        Some(match self.errors {
            1 => first.clone(),
            errors => format!("{errors} errors, the first: {first}"),
        })
    }
}

/// None if it is no error.
fn message(rest: &str) -> Option<Message> {
    let (_, said) = rest.split_once(": ")?;
    let state = said.split_once(':').and_then(|(_, rest)| {
        let rest = rest.trim_start();
        let (state, after) = rest.split_at_checked(5)?;
        let is_state = state.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        (is_state && after.starts_with(':')).then(|| state.to_owned())
    });
    let is_harmless = match &state {
        // Success, warning, no data.
        Some(state) => state.starts_with("00") || state.starts_with("01") || state.starts_with("02"),
        None => said.starts_with("warning: ") || said.starts_with("hint: "),
    };
    (!is_harmless).then(|| Message { text: rest.to_owned(), state, statement: Statement::None })
}

impl Statement {
    fn take(&mut self, line: &str) {
        let line = match self {
            Statement::None => match line.strip_prefix(STATEMENT) {
                Some(first) => first,
                None => return,
            },
            Statement::Begun => line,
            Statement::Known(_) => return,
        };
        let line = line.trim_start();
        *self = if line.is_empty() || line.starts_with("--") {
            Statement::Begun
        } else {
            Statement::Known(line.to_owned())
        };
    }
}

impl Message {
    fn is_expected(&self, tolerance: Tolerance) -> bool {
        let (Some(state), Statement::Known(statement)) = (&self.state, &self.statement) else { return false };
        let begins = |words: &[&str]| words.iter().any(|word| statement.starts_with(word));
        let drops =
            begins(&["DROP ", "SELECT pg_catalog.lo_unlink("]) || (begins(&["ALTER "]) && statement.contains(" DROP "));
        // Undefined table, function, object, schema, column.
        let is_missing = matches!(state.as_str(), "42P01" | "42883" | "42704" | "3F000" | "42703");
        let about_roles = begins(&["GRANT ", "REVOKE ", "ALTER DEFAULT PRIVILEGES "]);
        match tolerance {
            Tolerance::Drops => drops && is_missing,
            Tolerance::DropsAndRoles => (drops && is_missing) || (about_roles && state == "42704"),
            Tolerance::Existing => state == "42710" && begins(&["CREATE ROLE ", "CREATE TABLESPACE "]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(tolerance: Tolerance, text: &str) -> Log {
        let mut log = Log::new(tolerance);
        text.as_bytes().chunks(7).for_each(|part| log.feed(part));
        log.end();
        log
    }

    fn drops() -> String {
        (0..2500)
            .map(|n| {
                let (what, state) = match n % 5 {
                    4 => (format!("SELECT pg_catalog.lo_unlink('{n}');"), "42704"),
                    0 => (format!("DROP TABLE public.t{n};"), "42P01"),
                    1 => (format!("-- Name: f{n}\n\nDROP FUNCTION public.f{n}(integer);"), "42883"),
                    2 => (format!("ALTER TABLE ONLY public.t{n} DROP CONSTRAINT t{n}_pkey;"), "42P01"),
                    _ => (format!("DROP TYPE public.y{n};"), "42704"),
                };
                format!("psql:<stdin>:{n}: ERROR:  {state}: it \"{n}\" does not exist\nLOCATION:  f, a.c:1\npsql:<stdin>:{n}: STATEMENT:  {what}\n")
            })
            .collect()
    }

    const REAL: &str = "psql:<stdin>:3000: FEHLER:  23505: doppelter Schluessel\nDETAIL:  x\nCONTEXT:  COPY t, line 7\n\
        LOCATION:  f, a.c:1\npsql:<stdin>:3000: STATEMENT:  COPY public.t (id) FROM stdin;\n";

    #[test]
    fn expected_drops_are_told_apart_from_one_real_error() {
        let log = judged(Tolerance::Drops, &drops());
        assert_eq!((log.expected, log.errors, log.verdict()), (2500, 0, None));
        for text in [drops() + REAL, REAL.to_owned() + &drops()] {
            let log = judged(Tolerance::Drops, &text);
            assert_eq!((log.expected, log.errors), (2500, 1));
            let verdict = log.verdict().unwrap();
            assert!(
                verdict.contains("line 3000") && verdict.contains("23505") && verdict.contains("COPY public.t"),
                "{verdict}"
            );
        }
    }

    #[test]
    fn the_same_state_elsewhere_is_an_error() {
        for statement in
            ["COPY public.t FROM stdin;", "ALTER TABLE public.t OWNER TO x;", "CREATE VIEW a AS SELECT;", ""]
        {
            let text = format!("psql:<stdin>:3: ERROR:  42P01: no\nSTATEMENT:  {statement}\n");
            assert_eq!(judged(Tolerance::DropsAndRoles, &text).errors, 1, "{statement}");
        }
        let other = "psql:<stdin>:3: ERROR:  2BP01: others depend on it\nSTATEMENT:  DROP SCHEMA public;\n";
        assert_eq!(judged(Tolerance::Drops, other).errors, 1);
        assert_eq!(judged(Tolerance::Drops, "psql:<stdin>:3: ERROR:  42P01: no statement follows\n").errors, 1);
    }

    #[test]
    fn psql_itself_may_complain() {
        for text in [
            "psql:<stdin>:8: error: invalid command \\.\n",
            "psql: error: connection to server was lost",
            "psql:<stdin>:9: odd\n",
        ] {
            assert_eq!(judged(Tolerance::Drops, text).errors, 1, "{text}");
        }
    }

    #[test]
    fn what_is_no_error_is_none() {
        let text = "psql:<stdin>:1: NOTICE:  00000: x\nLOCATION:  y\npsql:<stdin>:2: WARNUNG:  01000: x\nbla\n";
        let log = judged(Tolerance::Drops, text);
        assert_eq!((log.expected, log.errors), (0, 0));
    }

    #[test]
    fn roles_may_be_missing_or_exist() {
        let missing = "psql:<stdin>:1: ERROR:  42704: role \"x\" does not exist\nSTATEMENT:  GRANT SELECT ON TABLE public.a TO x;\n";
        assert_eq!(judged(Tolerance::Drops, missing).errors, 1);
        assert_eq!(judged(Tolerance::DropsAndRoles, missing).errors, 0);
        let exists = "psql:<stdin>:1: ERROR:  42710: role \"x\" already exists\nSTATEMENT:  CREATE ROLE x;\n";
        assert_eq!(judged(Tolerance::Existing, exists).errors, 0);
        assert_eq!(judged(Tolerance::Drops, exists).errors, 1);
    }

    #[test]
    fn memory_is_bounded() {
        let mut log = Log::new(Tolerance::Drops);
        for _ in 0..1000 {
            log.feed(&[b'x'; 1000]);
        }
        assert!(log.line.capacity() <= 4 * LINE_BYTES_MAX);
        let log = judged(Tolerance::Drops, &REAL.repeat(500));
        assert_eq!((log.errors, log.kept.len()), (500, KEPT_MAX));
    }
}
