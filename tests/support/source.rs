//! Reads Rust sources just well enough to know modules, paths and traits: words and signs without comments and
//! strings, `use` trees expanded, `super` resolved. What stands from `#[cfg(test)] mod` on is no product.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The top of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

pub struct Source {
    pub path: PathBuf,
    tokens: Vec<Token>,
    product_lines: usize,
}

struct Token {
    text: String,
    line: usize,
}

/// A path into the own crate, from its root; `place` is file and line.
#[derive(Debug, PartialEq)]
pub struct Reference {
    pub path: Vec<String>,
    pub place: String,
}

impl Source {
    pub fn read(path: &Path) -> Source {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Source::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Source {
        let mut tokens = tokens(text);
        let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
        let tests = |at: &usize| {
            let ahead: Vec<&str> = tokens[*at..].iter().take(12).map(|token| token.text.as_str()).collect();
            let item = ahead
                .iter()
                .skip(attribute.len())
                .find(|word| !matches!(**word, "pub" | "(" | "crate" | "super" | ")"));
            ahead.starts_with(&attribute) && item == Some(&"mod")
        };
        // `#[cfg(test)] mod tests;` names a file of tests and ends nothing.
        let names_a_file = |at: &usize| {
            let mut ahead = tokens[*at..].iter().map(|token| token.text.as_str());
            ahead.find(|word| matches!(*word, ";" | "{")) == Some(";")
        };
        let cut = (0..tokens.len()).find(|at| tests(at) && !names_a_file(at));
        let mut product_lines = text.lines().count();
        if let Some(at) = cut {
            product_lines = tokens[at].line - 1;
            tokens.truncate(at);
        }
        Source { path: path.to_owned(), tokens, product_lines }
    }

    pub fn product_lines(&self) -> usize {
        self.product_lines
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path.display(), self.tokens[at].line)
    }

    /// Modules declared here that lie in files of their own, in order.
    pub fn modules(&self) -> Vec<String> {
        let at = |index: &usize| self.text(*index) == "mod" && self.text(index + 2) == ";";
        (0..self.tokens.len()).filter(at).map(|index| self.text(index + 1).to_owned()).collect()
    }

    /// Files declared by `#[cfg(test)] mod name;`: tests and what they need, no product.
    pub fn test_files(&self) -> Vec<PathBuf> {
        let stem = self.path.file_stem().unwrap();
        let parent = self.path.parent().unwrap();
        let below = if stem == "lib" || stem == "main" { parent.to_owned() } else { parent.join(stem) };
        let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
        let begins = |at: &usize| (0..attribute.len()).all(|index| self.text(at + index) == attribute[index]);
        let names = (0..self.tokens.len()).filter(begins).filter_map(|at| {
            let rest = at + attribute.len();
            let end = (rest..rest + 7).find(|index| self.text(*index) == ";")?;
            (self.text(end - 2) == "mod").then(|| self.text(end - 1).to_owned())
        });
        names.map(|name| below.join(format!("{name}.rs"))).collect()
    }

    /// Names that the root re-exports, and the module each comes from.
    pub fn reexports(&self) -> BTreeMap<String, String> {
        let mut names = BTreeMap::new();
        for at in (0..self.tokens.len()).filter(|at| self.text(*at) == "pub" && self.text(at + 1) == "use") {
            for path in self.use_tree(at + 2).0 {
                if let (Some(module), Some(name)) =
                    (path.iter().find(|part| !matches!(part.as_str(), "crate" | "self")), path.last())
                {
                    names.insert(name.clone(), module.clone());
                }
            }
        }
        names
    }

    /// `["backend", "directory"]` for `src/backend/directory.rs`; empty for `lib.rs` and `main.rs`.
    pub fn module_path(&self, root: &Path) -> Vec<String> {
        let relative = self.path.strip_prefix(root).unwrap().with_extension("");
        let mut parts: Vec<String> = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if matches!(parts.last().map(String::as_str), Some("mod")) {
            parts.pop();
        }
        if matches!(parts.first().map(String::as_str), Some("lib" | "main")) { Vec::new() } else { parts }
    }

    /// Every path that begins at `crate` or `super`, in `use` lines and in the code, from the crate's root.
    pub fn references(&self, module: &[String]) -> Vec<Reference> {
        let (mut found, mut at) = (Vec::new(), 0);
        while at < self.tokens.len() {
            let place = self.place(at);
            let (paths, next) = match self.text(at) {
                "use" if self.text(at + 1) != "<" => self.use_tree(at + 1),
                "crate" | "super" if self.text(at + 1) == "::" => self.path_in_code(at),
                _ => (Vec::new(), at + 1),
            };
            let resolved = paths.iter().filter_map(|path| from_root(path, module));
            found.extend(resolved.map(|path| Reference { path, place: place.clone() }));
            at = next;
        }
        found
    }

    fn path_in_code(&self, mut at: usize) -> (Vec<Vec<String>>, usize) {
        let mut path = vec![self.text(at).to_owned()];
        while self.text(at + 1) == "::" && is_word(self.text(at + 2)) {
            path.push(self.text(at + 2).to_owned());
            at += 2;
        }
        (vec![path], at + 1)
    }

    /// All paths of the `use` tree that begins at `at`, groups expanded, and where it ends.
    fn use_tree(&self, mut at: usize) -> (Vec<Vec<String>>, usize) {
        let (mut paths, mut prefix) = (Vec::new(), Vec::new());
        loop {
            match self.text(at) {
                "::" => at += 1,
                "{" => {
                    at += 1;
                    while !matches!(self.text(at), "}" | "") {
                        let (inner, next) = self.use_tree(at);
                        paths.extend(inner.into_iter().map(|path| [&prefix[..], &path[..]].concat()));
                        at = if self.text(next) == "," { next + 1 } else { next };
                    }
                    return (paths, at + 1);
                }
                "as" => at += 2,
                "*" => {
                    prefix.push("*".to_owned());
                    at += 1;
                }
                word if is_word(word) => {
                    prefix.push(word.to_owned());
                    at += 1;
                }
                _ => {
                    paths.push(prefix);
                    return (paths, at);
                }
            }
        }
    }

    /// Where a path stands that holds these words one after another, in `use` lines or in the code.
    pub fn names_path(&self, words: &[&str]) -> Vec<String> {
        let mut places = Vec::new();
        for at in 0..self.tokens.len() {
            let paths = match self.text(at) {
                "use" => self.use_tree(at + 1).0,
                word if word == words[0] && (at == 0 || self.text(at - 1) != "::") => self.path_in_code(at).0,
                _ => continue,
            };
            if paths.iter().any(|path| path.len() >= words.len() && path.iter().zip(words).all(|(a, b)| a == b)) {
                places.push(self.place(at));
            }
        }
        places
    }

    pub fn traits(&self) -> Vec<String> {
        let at = |index: &usize| self.text(*index) == "trait" && is_word(self.text(index + 1));
        (0..self.tokens.len()).filter(at).map(|index| self.text(index + 1).to_owned()).collect()
    }
}

fn from_root(path: &[String], module: &[String]) -> Option<Vec<String>> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    let rest = path[ups.max(1).min(path.len())..].to_vec();
    match path.first().map(String::as_str) {
        Some("crate") => Some(rest),
        Some("super") if ups <= module.len() => Some([&module[..module.len() - ups], &rest[..]].concat()),
        _ => None,
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Words, `::` and single signs; no comments, no strings, no character literals, no lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let bytes: Vec<char> = text.chars().collect();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let begin = at;
        let rest = &bytes[at..];
        match rest {
            ['/', '/', ..] => at += rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => at += block_comment(rest),
            ['r', '"', ..] | ['r', '#', '"' | '#', ..] => at += raw_string(rest),
            ['b', 'r', '"' | '#', ..] | ['c', 'r', '"' | '#', ..] => at += 1 + raw_string(&rest[1..]),
            ['"', ..] => at += string(rest, '"'),
            ['\'', '\\', ..] | ['\'', _, '\'', ..] => at += string(rest, '\''),
            ['\'', ..] => at += 1 + rest[1..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count(),
            [':', ':', ..] => {
                tokens.push(Token { text: "::".to_owned(), line });
                at += 2;
            }
            [c, ..] if c.is_alphanumeric() || *c == '_' => {
                at += rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
                let word: String = bytes[begin..at].iter().collect();
                // The prefix of b"…" and c"…" is no word.
                if !(matches!(word.as_str(), "b" | "c") && matches!(bytes.get(at), Some('"' | '\''))) {
                    tokens.push(Token { text: word, line });
                }
            }
            [c, ..] => {
                if !c.is_whitespace() {
                    tokens.push(Token { text: c.to_string(), line });
                }
                at += 1;
            }
            [] => {}
        }
        line += bytes[begin..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] if depth == 1 => return at + 2,
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

fn raw_string(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 1 + hashes; // r#word
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = 2 + hashes;
    rest[body..].windows(end.len()).position(|window| window == end).map_or(rest.len(), |at| body + at + end.len())
}

fn string(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

#[test]
fn groups_are_expanded_and_super_is_resolved() {
    let source = Source::parse(
        Path::new("/c/src/writer/queue.rs"),
        "use crate::{error::{Error, Result}, id::*, pack::writer as w};\n// use crate::comment;\nuse super::super::tree::Entry;\n\
         use std::fmt;\nfn f<'a>(x: &'a str) -> crate::codec::Sealed { let c = '{'; super::local(\"crate::text\", r#\"crate::raw\"#) }\n\
         pub(crate) fn g() {}\n#[cfg(test)]\npub(crate) mod tests {\n use crate::reader::Reader;\n}\n",
    );
    let module = source.module_path(Path::new("/c/src"));
    assert_eq!(module, ["writer", "queue"]);
    let found: Vec<String> = source.references(&module).into_iter().map(|r| r.path.join("::")).collect();
    let expected =
        ["error::Error", "error::Result", "id::*", "pack::writer", "tree::Entry", "codec::Sealed", "writer::local"];
    assert_eq!(found, expected);
    assert_eq!(source.product_lines(), 6);
}

#[test]
fn modules_traits_and_reexports_are_read() {
    let text = "//! Root.\npub mod error;\n\nmod id;\n\npub use error::{Error, Result};\npub trait Store: Send {}\nmod inline { }\n\
                #[cfg(test)]\nmod cases;\nfn f() { std::net::lookup() }\n";
    let source = Source::parse(Path::new("/c/src/lib.rs"), text);
    assert_eq!(source.modules(), ["error", "id", "cases"]);
    assert_eq!(source.test_files(), [Path::new("/c/src/cases.rs")]);
    assert_eq!(source.traits(), ["Store"]);
    assert_eq!(source.reexports().get("Result").map(String::as_str), Some("error"));
    assert_eq!(source.names_path(&["std", "net"]).len(), 1);
    assert!(source.names_path(&["std", "env"]).is_empty());
}
