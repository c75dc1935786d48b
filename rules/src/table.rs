//! A table of the configuration file, asked for what it may hold. Whoever asks states the type; what does not fit, and at
//! the end every key that nobody asked for, becomes a mistake with its place. Pure.

use crate::mistake::{Mistakes, nearest};
use crate::units::{parse_size, parse_wait};
use std::cell::RefCell;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it stands: the key's place and an offset in the text.
#[derive(Clone, Debug)]
pub struct At<T> {
    pub value: T,
    pub place: String,
    pub at: usize,
}

impl<T> At<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> At<U> {
        At { value: f(self.value), place: self.place, at: self.at }
    }
}

pub struct Table<'a> {
    entries: &'a DeTable<'a>,
    pub place: String,
    pub at: usize,
    pub mistakes: &'a Mistakes<'a>,
    known: RefCell<Vec<&'static str>>,
}

/// The outermost table of a text; what is not TOML is a mistake, and reading goes on behind it.
pub fn root<'t>(text: &'t str, mistakes: &Mistakes<'_>) -> DeTable<'t> {
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        let what = format!("this is not TOML: {}", error.message().replace('\n', ", "));
        mistakes.error(at, "", what, remedy(error.message()));
    }
    root.into_inner()
}

fn remedy(message: &str) -> &'static str {
    if message.contains("duplicate") {
        "keep one of the two"
    } else {
        "write KEY = VALUE with texts in quotes (\"...\"), lists in [ ], and tables as a line [NAME]"
    }
}

impl<'a> Table<'a> {
    pub fn new(entries: &'a DeTable<'a>, place: String, at: usize, mistakes: &'a Mistakes<'a>) -> Table<'a> {
        Table { entries, place, at, mistakes, known: RefCell::default() }
    }

    pub fn has(&self, key: &'static str) -> bool {
        self.known.borrow_mut().push(key);
        self.entries.get(key).is_some()
    }

    /// Where a key stands, for what is said about it.
    pub fn spot(&self, key: &str) -> (usize, String) {
        let at = self.entries.get_key_value(key).map_or(self.at, |(key, _)| key.span().start);
        (at, self.path(key))
    }

    pub fn error(&self, what: impl Into<String>, remedy: impl Into<String>) {
        self.mistakes.error(self.at, &self.place, what, remedy);
    }

    pub fn text(&self, key: &'static str) -> Option<At<String>> {
        let (value, found) = self.value(key)?;
        match value {
            DeValue::String(text) if text.trim().is_empty() => {
                self.mistakes.error(found.at, &found.place, "it is empty", "give a value or remove the line");
                None
            }
            DeValue::String(text) => Some(found.map(|()| text.clone().into_owned())),
            other => self.wrong(&found, other, "a text in quotes"),
        }
    }

    /// One text or several.
    pub fn texts(&self, key: &'static str) -> Option<Vec<At<String>>> {
        let (value, found) = self.value(key)?;
        match value {
            DeValue::String(_) => self.text(key).map(|text| vec![text]),
            DeValue::Array(items) => {
                if items.is_empty() {
                    self.mistakes.error(found.at, &found.place, "the list is empty", "fill it or remove the line");
                }
                let item = |(index, item): (usize, &Spanned<DeValue<'_>>)| {
                    let spot = At { value: (), place: format!("{}[{index}]", found.place), at: item.span().start };
                    match item.get_ref() {
                        DeValue::String(text) if text.trim().is_empty() => {
                            self.mistakes.error(spot.at, &spot.place, "it is empty", "give a value or remove it");
                            None
                        }
                        DeValue::String(text) => Some(spot.map(|()| text.clone().into_owned())),
                        other => self.wrong(&spot, other, "a text in quotes"),
                    }
                };
                Some(items.iter().enumerate().filter_map(item).collect())
            }
            other => self.wrong(&found, other, "a text in quotes, or a list of them: [\"a\", \"b\"]"),
        }
    }

    pub fn is_text(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|value| value.get_ref().is_str())
    }

    pub fn boolean(&self, key: &'static str) -> Option<At<bool>> {
        let (value, found) = self.value(key)?;
        match value {
            DeValue::Boolean(value) => Some(found.map(|()| *value)),
            other => self.wrong(&found, other, "true or false, without quotes"),
        }
    }

    /// A number of at least `min`.
    pub fn number(&self, key: &'static str, min: u64) -> Option<At<u64>> {
        let (value, found) = self.value(key)?;
        let number = match value {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            other => return self.wrong(&found, other, "a number without quotes"),
        };
        match number.filter(|number| *number >= min) {
            Some(number) => Some(found.map(|()| number)),
            None => {
                self.mistakes.error(found.at, &found.place, "the number is out of range", format!("at least {min}"));
                None
            }
        }
    }

    /// `"90s"`, `"1h30m"`
    pub fn duration(&self, key: &'static str) -> Option<At<Duration>> {
        let (value, found) = self.value(key)?;
        let text = match value {
            DeValue::String(text) => text,
            other => return self.wrong(&found, other, "a time in quotes: \"30s\", \"5m\", \"26h\", \"14d\""),
        };
        match parse_wait(text) {
            Ok(duration) => Some(found.map(|()| duration)),
            Err(_) => {
                let what = format!("`{text}` is not a time");
                self.mistakes.error(
                    found.at,
                    &found.place,
                    what,
                    "write for instance \"30s\", \"5m\", \"26h\", \"14d\"",
                );
                None
            }
        }
    }

    /// `"500M"`, `"4G"`
    pub fn size(&self, key: &'static str) -> Option<At<u64>> {
        let text = self.text(key)?;
        match parse_size(&text.value) {
            Ok(size) => Some(text.map(|_| size)),
            Err(_) => {
                let what = format!("`{}` is not a size", text.value);
                self.mistakes.error(text.at, &text.place, what, "write for instance \"500M\" or \"4G\"");
                None
            }
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, key: &'static str, words: &[(&'static str, T)]) -> Option<At<T>> {
        let text = self.text(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(text.map(|_| *value));
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let remedy = match nearest(&text.value, &names) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("it is one of \"{}\"", names.join("\", \"")),
        };
        self.mistakes.error(text.at, &text.place, format!("`{}` is not known here", text.value), remedy);
        None
    }

    pub fn table(&self, key: &'static str) -> Option<Table<'a>> {
        let (value, found) = self.value(key)?;
        match value {
            DeValue::Table(entries) => Some(Table::new(entries, found.place, found.at, self.mistakes)),
            other => self.wrong(&found, other, &format!("a table: a line [{}] with keys below it", found.place)),
        }
    }

    /// `[[PLACE]]`, or a list of inline tables.
    pub fn tables(&self, key: &'static str) -> Vec<Table<'a>> {
        let Some((value, found)) = self.value(key) else { return Vec::new() };
        let remedy = format!("tables: lines [[{}]] with keys below each", found.place);
        let DeValue::Array(items) = value else {
            self.wrong::<()>(&found, value, &remedy);
            return Vec::new();
        };
        let table = |(index, item): (usize, &'a Spanned<DeValue<'a>>)| {
            let spot = At { value: (), place: format!("{}[{index}]", found.place), at: item.span().start };
            match item.get_ref() {
                DeValue::Table(entries) => Some(Table::new(entries, spot.place, spot.at, self.mistakes)),
                other => self.wrong(&spot, other, &remedy),
            }
        };
        items.iter().enumerate().filter_map(table).collect()
    }

    /// Tables by names of the administrator's choice, in the order of the text.
    pub fn named(&self) -> Vec<(String, Table<'a>)> {
        let mut tables = Vec::new();
        for (key, value) in self.entries {
            let name = key.get_ref().to_string();
            let found = At { value: (), place: self.path(&name), at: key.span().start };
            match value.get_ref() {
                DeValue::Table(entries) => {
                    tables.push((name, Table::new(entries, found.place, found.at, self.mistakes)));
                }
                other => {
                    self.wrong::<()>(&found, other, &format!("a table: a line [{}] with keys below it", found.place));
                }
            }
        }
        tables.sort_by_key(|(_, table)| table.at);
        tables
    }

    /// Says which keys nobody asked for.
    pub fn finish(&self, hints: &[(&str, &str)]) {
        let known = self.known.borrow();
        for key in self.entries.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let remedy = match hints.iter().find(|(hint, _)| *hint == name) {
                Some((_, remedy)) => (*remedy).to_owned(),
                None => match nearest(name, &known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("remove it; `{}` shows what there is", self.mistakes.example()),
                },
            };
            self.mistakes.error(key.span().start, &self.path(name), "this key is not known here", remedy);
        }
    }

    fn path(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    fn value(&self, key: &'static str) -> Option<(&'a DeValue<'a>, At<()>)> {
        self.known.borrow_mut().push(key);
        let (name, value) = self.entries.get_key_value(key)?;
        Some((value.get_ref(), At { value: (), place: self.path(key), at: name.span().start }))
    }

    fn wrong<T>(&self, found: &At<()>, value: &DeValue<'_>, wanted: &str) -> Option<T> {
        let kind = match value {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.mistakes.error(found.at, &found.place, format!("it is {kind}"), format!("expected {wanted}"));
        None
    }
}
