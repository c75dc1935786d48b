//! Names of datasets, `HOST/KIND/NAME`: what is allowed, and what a backup is called by default. Pure but for the host's name.

use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const NAME_BYTES_MAX: usize = 100;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Files,
    Stream,
    Postgres,
    Zodb,
    Roundup,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Files => "files",
            Kind::Stream => "stream",
            Kind::Postgres => "postgres",
            Kind::Zodb => "zodb",
            Kind::Roundup => "roundup",
        }
    }
}

/// The short name of this machine.
pub fn host() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    component(name.split('.').next().unwrap_or_default())
}

/// The dataset that was asked for (`given`: a full name or its last part), else one made of `default`.
pub fn name(host: &str, kind: Kind, given: Option<&str>, default: &str) -> Result<String> {
    let Some(given) = given else { return Ok(format!("{host}/{}/{default}", kind.word())) };
    let parts: Vec<&str> = given.split('/').collect();
    if !matches!(parts.len(), 1 | 3) {
        return Err(Error::argument(format!("dataset `{given}`"), "expected HOST/KIND/NAME or a NAME without `/`"));
    }
    if let Some(part) = parts.iter().find(|part| component(part) != **part) {
        let reason = format!(
            "`{part}` is not allowed in it: 1 to {NAME_BYTES_MAX} bytes of letters, digits and any of . _ - + = , ~ % # (no `.` or `-` first)"
        );
        return Err(Error::argument(format!("dataset `{given}`"), reason));
    }
    Ok(if parts.len() == 3 { given.to_owned() } else { format!("{host}/{}/{given}", kind.word()) })
}

/// `/etc` is `etc`, `/usr/share` is `usr-share`, `/` is `root`; several are joined by `+` in sorted order.
pub fn name_of_paths(paths: &[PathBuf]) -> String {
    let mut names: Vec<String> = paths.iter().map(|path| name_of_path(path)).collect();
    names.sort();
    names.dedup();
    component(&names.join("+"))
}

pub fn name_of_stream(file: &OsStr) -> String {
    component(&String::from_utf8_lossy(file.as_bytes()))
}

fn name_of_path(path: &Path) -> String {
    let parts: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(String::from_utf8_lossy(name.as_bytes()).into_owned()),
            _ => None,
        })
        .collect();
    if parts.is_empty() { "root".into() } else { parts.join("-") }
}

/// `text` with what is not allowed replaced by `_`; too long a text ends in a hash of all of it.
fn component(text: &str) -> String {
    let allowed = |c: char| c.is_alphanumeric() || "._-+=,~%#".contains(c);
    let mut name: String = text.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    if name.is_empty() || name.starts_with(['.', '-']) {
        name.insert(0, '_');
    }
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    let hash: String = blake3::hash(text.as_bytes()).to_hex().chars().take(8).collect();
    let mut end = NAME_BYTES_MAX - 1 - hash.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    format!("{name}~{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(paths: &[&str]) -> String {
        name_of_paths(&paths.iter().map(PathBuf::from).collect::<Vec<_>>())
    }

    #[test]
    fn paths_make_names() {
        assert_eq!(of(&["/etc"]), "etc");
        assert_eq!(of(&["/etc/"]), "etc");
        assert_eq!(of(&["/usr/share"]), "usr-share");
        assert_eq!(of(&["/"]), "root");
        assert_eq!(of(&["/srv", "/etc"]), "etc+srv");
        assert_eq!(of(&["/etc", "/etc"]), "etc");
        assert_eq!(of(&["/srv/Documents partagés"]), "srv-Documents_partagés");
        assert_eq!(of(&["/.config"]), "_.config");
        assert_eq!(of(&["/a:b@c\n"]), "a_b_c_");
    }

    #[test]
    fn long_names_are_bounded_and_stay_apart() {
        let (a, b) = (format!("/{}a", "é".repeat(90)), format!("/{}b", "é".repeat(90)));
        assert!(of(&[&a]).len() <= NAME_BYTES_MAX);
        assert_ne!(of(&[&a]), of(&[&b]));
        assert_eq!(of(&[&a]), of(&[&a]));
    }

    #[test]
    fn default_names_are_always_allowed() {
        for text in ["/", "/.x", "/-x", "/a b", "/\u{7f}", "/x/../y", "/äöü"] {
            let default = of(&[text]);
            assert_eq!(name("h", Kind::Files, Some(&default), "").unwrap(), format!("h/files/{default}"));
        }
        assert_eq!(name_of_stream(OsStr::from_bytes(b"dump\xff.sql")), "dump_.sql");
    }

    #[test]
    fn given_names() {
        assert_eq!(name("h", Kind::Files, None, "etc").unwrap(), "h/files/etc");
        assert_eq!(name("h", Kind::Stream, Some("db"), "x").unwrap(), "h/stream/db");
        assert_eq!(name("h", Kind::Files, Some("other/zodb/main"), "x").unwrap(), "other/zodb/main");
        for bad in ["", "a/b", "a/b/c/d", "a//b", "a/b/", "x:y", "x@y", "a b", ".", "..", ".x", "-x", "a/./b", "a\nb"] {
            assert!(name("h", Kind::Files, Some(bad), "x").is_err(), "{bad}");
        }
    }

    #[test]
    fn this_host_has_a_name() {
        let host = host();
        assert_eq!(component(&host), host);
        assert!(!host.contains('.') || host.starts_with("_."));
    }
}
