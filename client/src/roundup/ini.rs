//! A tracker's `config.ini`, read as Python's ConfigParser reads it: continuation lines, `=` or `:`, `%(name)s`.
//!
//! Bytes, not text: old trackers hold names in Latin-1. Two differences, both to the forgiving side as Python 2 was: of an
//! option that is there twice the last counts, and a section that is there twice is one.

use std::collections::BTreeMap;
use std::ops::Range;

/// Values that refer to others may do so through so many more.
const DEPTH_MAX: usize = 10;
/// A value never grows beyond this by what it refers to.
const VALUE_BYTES_MAX: usize = 64 << 10;
const DEFAULT: &[u8] = b"DEFAULT";
/// What some editors of Windows write first.
const BOM: &[u8] = b"\xef\xbb\xbf";

#[derive(Debug)]
pub struct Ini {
    lines: Vec<Vec<u8>>,
    sections: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Setting>>,
    /// What `%(name)s` finds when neither the section nor `[DEFAULT]` has it.
    defaults: Vec<(&'static [u8], Vec<u8>)>,
}

#[derive(Debug)]
struct Setting {
    value: Vec<u8>,
    lines: Range<usize>,
}

/// A place in the file (lines count from 1; 0 is all of it) and what is wrong there.
#[derive(PartialEq, Eq, Debug)]
pub struct Mistake {
    pub line: usize,
    pub reason: String,
}

impl Mistake {
    fn new(line: usize, reason: impl Into<String>) -> Mistake {
        Mistake { line, reason: reason.into() }
    }
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => f.write_str(&self.reason),
            line => write!(f, "line {line}: {}", self.reason),
        }
    }
}

impl Ini {
    /// `home` is what `%(TRACKER_HOME)s` and `%(HOME)s` stand for.
    pub fn parse(bytes: &[u8], home: &[u8]) -> Result<Ini, Mistake> {
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        let lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let defaults = vec![(&b"home"[..], home.to_vec()), (&b"tracker_home"[..], home.to_vec())];
        let mut ini = Ini { lines, sections: BTreeMap::new(), defaults };
        let mut section: Option<Vec<u8>> = None;
        let mut option: Option<Vec<u8>> = None;
        let mut value_indent = 0;
        for number in 0..ini.lines.len() {
            let Some(line) = ini.lines.get(number) else { break };
            let text = line.trim_ascii().to_vec();
            if !is_significant(&text) {
                continue;
            }
            let own_indent = indent(line).len();
            if let (Some(section), Some(option)) = (&section, &option)
                && own_indent > value_indent
            {
                ini.continue_value(section, option, number, &text);
                continue;
            }
            value_indent = own_indent;
            if let Some(name) = header(&text) {
                ini.sections.entry(name.to_vec()).or_default();
                (section, option) = (Some(name.to_vec()), None);
                continue;
            }
            let Some(section) = &section else {
                return Err(Mistake::new(number + 1, "expected a section such as [main] before any option"));
            };
            let (name, value) = assignment(&text)
                .ok_or_else(|| Mistake::new(number + 1, "expected an option and its value, joined by `=`"))?;
            let setting = Setting { value: value.to_vec(), lines: number..number + 1 };
            ini.sections.entry(section.clone()).or_default().insert(name.clone(), setting);
            option = Some(name);
        }
        Ok(ini)
    }

    pub fn has_section(&self, section: &str) -> bool {
        self.sections.contains_key(section.as_bytes())
    }

    /// The value with all references resolved; `None` if the option or its section is not there.
    pub fn value(&self, section: &str, option: &str) -> Result<Option<Vec<u8>>, Mistake> {
        let Some(own) = self.sections.get(section.as_bytes()) else { return Ok(None) };
        let name = option.as_bytes();
        let of_default = || self.sections.get(DEFAULT).and_then(|default| default.get(name));
        let Some(setting) = own.get(name).or_else(of_default) else { return Ok(None) };
        let line = setting.lines.start + 1;
        self.resolve(own, &setting.value, 0)
            .map(Some)
            .map_err(|reason| Mistake::new(line, format!("[{section}] {option}: {reason}")))
    }

    /// Gives an option another value, written so that it is read back as it is; the old lines stay as comments.
    pub fn replace(&mut self, section: &str, option: &str, value: &[u8]) {
        let setting = self.sections.get(section.as_bytes()).and_then(|own| own.get(option.as_bytes()));
        let mut line = [option.as_bytes(), b" = "].concat();
        for byte in value {
            line.extend_from_slice(if *byte == b'%' { b"%%" } else { std::slice::from_ref(byte) });
        }
        line.push(b'\n');
        match setting.map(|setting| setting.lines.clone()) {
            Some(lines) => self.replace_lines(lines, line),
            None => self.add_line(section, line),
        }
        // Places have moved.
        let home = self.defaults.first().map(|(_, home)| home.clone()).unwrap_or_default();
        if let Ok(again) = Ini::parse(&self.bytes(), &home) {
            *self = again;
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.lines.concat()
    }

    fn continue_value(&mut self, section: &[u8], option: &[u8], number: usize, text: &[u8]) {
        let setting = self.sections.get_mut(section).and_then(|own| own.get_mut(option));
        let Some(setting) = setting else { return };
        // Blank lines and comments in between are no part of what we read: paths and names have one line.
        setting.value.push(b'\n');
        setting.value.extend_from_slice(text);
        setting.lines.end = number + 1;
    }

    fn replace_lines(&mut self, range: Range<usize>, line: Vec<u8>) {
        let mut lines = vec![b"# Before it was restored elsewhere:\n".to_vec()];
        let old = self.lines.get(range.clone()).unwrap_or_default();
        let indent = old.first().map(|line| indent(line).to_vec()).unwrap_or_default();
        for old in old {
            let end = if old.ends_with(b"\n") { &b""[..] } else { b"\n" };
            lines.push([b"# ", old.trim_ascii_start(), end].concat());
        }
        lines.push([indent, line].concat());
        self.lines.splice(range, lines);
    }

    fn add_line(&mut self, section: &str, line: Vec<u8>) {
        let at = self.lines.iter().position(|line| header(line.trim_ascii()) == Some(section.as_bytes()));
        if let Some(last) = self.lines.last_mut().filter(|last| !last.ends_with(b"\n")) {
            last.push(b'\n');
        }
        match at {
            Some(at) => {
                // What follows must not become a part of the value by standing further to the right.
                let below = self.lines.iter().skip(at + 1).find(|line| is_significant(line));
                let indent = below.map(|line| indent(line).to_vec()).unwrap_or_default();
                self.lines.insert(at + 1, [indent, line].concat());
            }
            None => self.lines.extend([format!("[{section}]\n").into_bytes(), line]),
        }
    }

    fn resolve(&self, own: &BTreeMap<Vec<u8>, Setting>, raw: &[u8], depth: usize) -> Result<Vec<u8>, String> {
        if depth > DEPTH_MAX {
            return Err("its references go too deep".into());
        }
        let mut value = Vec::new();
        let mut rest = raw;
        while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
            let (before, after) = rest.split_at(at);
            value.extend_from_slice(before);
            if let Some(after) = after.strip_prefix(b"%%") {
                value.push(b'%');
                rest = after;
                continue;
            }
            let reference = after.strip_prefix(b"%(").and_then(|name| split_once(name, b")s"));
            let (name, after) = reference.ok_or("a `%` in it is neither doubled nor begins a reference %(name)s")?;
            value.extend(self.referred(own, &name.to_ascii_lowercase(), depth)?);
            if value.len() > VALUE_BYTES_MAX {
                return Err("its references make it too long".into());
            }
            rest = after;
        }
        value.extend_from_slice(rest);
        Ok(value)
    }

    fn referred(&self, own: &BTreeMap<Vec<u8>, Setting>, name: &[u8], depth: usize) -> Result<Vec<u8>, String> {
        let setting = own.get(name).or_else(|| self.sections.get(DEFAULT)?.get(name));
        match setting {
            Some(setting) => self.resolve(own, &setting.value, depth + 1),
            None => {
                let default = self.defaults.iter().find(|(default, _)| *default == name);
                let (_, value) = default.ok_or_else(|| format!("there is no `{}` to refer to", name.escape_ascii()))?;
                Ok(value.clone())
            }
        }
    }
}

/// Neither blank nor a comment.
fn is_significant(line: &[u8]) -> bool {
    !matches!(line.trim_ascii_start().first(), None | Some(b'#' | b';'))
}

fn indent(line: &[u8]) -> &[u8] {
    let end = line.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
    line.get(..end).unwrap_or_default()
}

fn header(text: &[u8]) -> Option<&[u8]> {
    let inner = text.strip_prefix(b"[")?;
    let end = inner.iter().rposition(|byte| *byte == b']')?;
    inner.get(..end).filter(|name| !name.is_empty())
}

/// `name = value` or `name: value`, the name in lower case.
fn assignment(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let at = text.iter().position(|byte| matches!(byte, b'=' | b':'))?;
    let (name, value) = text.split_at(at);
    let name = name.trim_ascii_end();
    (!name.is_empty()).then(|| (name.to_ascii_lowercase(), value.get(1..).unwrap_or_default().trim_ascii()))
}

fn split_once<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(separator.len()).position(|window| window == separator)?;
    Some((bytes.get(..at)?, bytes.get(at + separator.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ini(text: &str) -> Ini {
        Ini::parse(text.as_bytes(), b"/srv/100%").unwrap()
    }

    fn value(text: &str, section: &str, option: &str) -> Option<String> {
        ini(text).value(section, option).unwrap().map(|value| String::from_utf8(value).unwrap())
    }

    #[test]
    fn options_are_read_as_python_reads_them() {
        let text = "# about\n[main]\nDatabase = db \n; other\nTemplates:html\nempty =\n\
                    \n[rdbms]\n backend = sqlite\n name = a\n   b\n# c\n   c\n[web]\nx = y = z\nurl = http://h:1/\n";
        assert_eq!(value(text, "main", "database").as_deref(), Some("db"));
        assert_eq!(value(text, "main", "templates").as_deref(), Some("html"));
        assert_eq!(value(text, "main", "empty").as_deref(), Some(""));
        assert_eq!(value(text, "main", "nothing"), None);
        assert_eq!(value(text, "nothing", "database"), None);
        assert_eq!(value(text, "rdbms", "backend").as_deref(), Some("sqlite"));
        assert_eq!(value(text, "rdbms", "name").as_deref(), Some("a\nb\nc"));
        assert_eq!(value(text, "web", "x").as_deref(), Some("y = z"));
        assert_eq!(value(text, "web", "url").as_deref(), Some("http://h:1/"));
        assert_eq!(value("[a]\nx=1\n[b]\ny=1\n[a]\nx=2\n", "a", "x").as_deref(), Some("2"));
        assert_eq!(value("\u{feff}[a]\r\nx = 1\r\n", "a", "x").as_deref(), Some("1"));
    }

    #[test]
    fn references_are_resolved() {
        let text = "[DEFAULT]\nbase = /data\n[main]\ndatabase = %(base)s/%(Name)s\nname = %%t\npercent = 5%%\n";
        assert_eq!(value(text, "main", "database").as_deref(), Some("/data/%t"));
        assert_eq!(value(text, "main", "base").as_deref(), Some("/data"));
        assert_eq!(value("[main]\nd = %(TRACKER_HOME)s/db\n", "main", "d").as_deref(), Some("/srv/100%/db"));
    }

    #[test]
    fn mistakes_have_their_line() {
        let mistake = |text: &str| Ini::parse(text.as_bytes(), b"/h").unwrap_err().to_string();
        assert!(mistake("# c\nx = 1\n").starts_with("line 2: expected a section"));
        assert!(mistake("[main]\nx = 1\nwhat is this\n").starts_with("line 3: expected an option"));
        assert!(mistake("[main]\n= 1\n").starts_with("line 2: "));
        let bad = |text: &str| ini(text).value("a", "x").unwrap_err().to_string();
        assert!(bad("[a]\nx = %(y)s\n").starts_with("line 2: [a] x: there is no `y`"));
        assert!(bad("[a]\nx = 5%\n").contains("neither doubled"));
        assert!(bad("[a]\nx = %(x)s\n").contains("too deep"));
        assert!(bad("[a]\nx = %(y\n").contains("neither doubled"));
    }

    #[test]
    fn references_cannot_explode() {
        let mut text = format!("[a]\nz = {}\n", "z".repeat(1000));
        for (name, next) in ["x", "b", "c", "d", "e", "f", "z"].windows(2).map(|pair| (pair[0], pair[1])) {
            text += &format!("{name} = {}\n", format!("%({next})s").repeat(100));
        }
        assert!(ini(&text).value("a", "x").unwrap_err().reason.contains("too long"));
    }

    #[test]
    fn a_value_is_replaced_and_the_rest_stays() {
        let mut ini = ini("# é\n[main]\ndatabase = /data/t\n  more\n# about\ntemplates = html\n[rdbms]\nname = x");
        ini.replace("main", "database", b"db");
        ini.replace("rdbms", "name", b"100%");
        ini.replace("rdbms", "host", b"h");
        let text = String::from_utf8(ini.bytes()).unwrap();
        assert!(text.starts_with(
            "# é\n[main]\n# Before it was restored elsewhere:\n# database = /data/t\n# more\ndatabase = db\n# about\n"
        ));
        let read = |section, option| ini.value(section, option).unwrap();
        assert_eq!(read("main", "database").unwrap(), b"db");
        assert_eq!(read("main", "templates").unwrap(), b"html");
        assert_eq!(read("rdbms", "name").unwrap(), b"100%");
        assert_eq!(read("rdbms", "host").unwrap(), b"h");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = [b"[main]\n", &bytes[..]].concat();
            for text in [&bytes, &text] {
                if let Ok(mut ini) = Ini::parse(text, b"/h") {
                    let _ = ini.value("main", "database");
                    prop_assert!(ini.bytes() == *text || text.starts_with(BOM));
                    ini.replace("main", "database", b"a%b");
                    prop_assert_eq!(ini.value("main", "database").unwrap().unwrap(), b"a%b");
                }
            }
        }

        #[test]
        fn what_is_written_is_read(value in "[!-~]{0,20}", key in "[a-z]{1,8}") {
            let mut ini = ini("[main]\nkey = 1\n");
            ini.replace("main", &key, value.as_bytes());
            prop_assert_eq!(ini.value("main", &key).unwrap().unwrap(), value.as_bytes());
        }
    }
}
