//! What is left out of a backup of files: patterns with the syntax of `.gitignore`, marked directories, large files.
//!
//! Patterns are matched against absolute paths, a leading `/` anchors at the root of the file system. Whoever asks walks from
//! above: nothing below an excluded directory is asked about, so nothing there can be included again. Given paths are
//! never asked about.

use crate::backup::FilesOptions;
use chunkstore::{Error, Result};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The name of the tag file of the Cache Directory Tagging specification.
pub const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
/// What a tag file begins with.
pub const CACHE_SIGNATURE: &[u8; 43] = b"Signature: 8a477f597d28d172789f06886806bc55";

pub struct Excludes {
    patterns: Gitignore,
    /// Directories that hold a [`CACHE_TAG`] are left out but for the tag.
    pub caches: bool,
    /// Directories that hold one of these names are left out but for that name.
    pub markers: Vec<Vec<u8>>,
    larger_than: u64,
}

impl Excludes {
    pub fn new(options: &FilesOptions) -> Result<Excludes> {
        let mut builder = GitignoreBuilder::new("/");
        for pattern in &options.excludes {
            // On the command line `#` begins no comment.
            let line = if pattern.starts_with('#') { format!("\\{pattern}") } else { pattern.clone() };
            builder.add_line(None, &line).map_err(|error| invalid(pattern, &error))?;
        }
        for file in &options.exclude_files {
            add_file(&mut builder, file)?;
        }
        let patterns = builder.build().map_err(|error| invalid("all together", &error))?;
        Ok(Excludes {
            patterns,
            caches: options.exclude_caches,
            markers: options.exclude_if_present.iter().map(|name| name.clone().into_vec()).collect(),
            larger_than: options.exclude_larger_than.unwrap_or(u64::MAX),
        })
    }

    pub fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Whether a pattern leaves out this absolute path.
    pub fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        self.patterns.matched(Path::new(OsStr::from_bytes(path)), is_directory).is_ignore()
    }

    pub fn is_too_large(&self, size: u64) -> bool {
        size > self.larger_than
    }
}

fn add_file(builder: &mut GitignoreBuilder, file: &Path) -> Result<()> {
    let name = file.to_string_lossy();
    let bytes = std::fs::read(file).map_err(|error| Error::io("read exclude file", name.clone(), error))?;
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let place = || format!("{name}, line {}", number + 1);
        let line = std::str::from_utf8(line).map_err(|_| Error::invalid(place(), "the pattern is not UTF-8"))?;
        builder.add_line(None, line).map_err(|error| Error::invalid(place(), error.to_string()))?;
    }
    Ok(())
}

fn invalid(pattern: &str, error: &ignore::Error) -> Error {
    Error::invalid(format!("exclude pattern `{pattern}`"), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excludes(patterns: &[&str]) -> Excludes {
        let options =
            FilesOptions { excludes: patterns.iter().map(ToString::to_string).collect(), ..FilesOptions::default() };
        Excludes::new(&options).unwrap()
    }

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        // patterns, path, is a directory, excluded
        let table: &[(&[&str], &[u8], bool, bool)] = &[
            (&["*.o"], b"/a/b/c.o", false, true),
            (&["*.o"], b"/a/b/c.oo", false, false),
            (&["*.o"], b"/a/b.o/c", false, false), // the directory above was excluded before
            (&["/tmp"], b"/tmp", true, true),
            (&["/tmp"], b"/var/tmp", true, false),
            (&["tmp"], b"/var/tmp", true, true),
            (&["cache/"], b"/home/cache", true, true),
            (&["cache/"], b"/home/cache", false, false),
            (&["home/*/x"], b"/home/me/x", false, true),
            (&["home/*/x"], b"/srv/home/me/x", false, false), // a slash inside anchors
            (&["home/*/x"], b"/home/me/deep/x", false, false), // a star stays in its component
            (&["/home/**/x"], b"/home/me/deep/x", false, true),
            (&["**/deep/x"], b"/home/me/deep/x", false, true),
            (&["/home/me/**"], b"/home/me", true, false),
            (&["/home/me/**"], b"/home/me/a", true, true),
            (&["*.log", "!keep.log"], b"/var/keep.log", false, false),
            (&["*.log", "!keep.log"], b"/var/other.log", false, true),
            (&["!keep.log", "*.log"], b"/var/keep.log", false, true), // the last one counts
            (&["#auto#"], b"/a/#auto#", false, true),
            (&["\\#auto#"], b"/a/#auto#", false, true),
            (&["\\!bang"], b"/a/!bang", false, true),
            (&["a?c"], b"/abc", false, true),
            (&["a?c"], b"/a\xffc", false, true),
            (&["a[bx]c"], b"/axc", false, true),
            (&["a[!bx]c"], b"/axc", false, false),
            (&["*.TMP"], b"/x.tmp", false, false),
            (&["*.tmp"], b"/\xff\xfe/\x80.tmp", false, true),
            (&["/\u{e4}"], "/\u{e4}".as_bytes(), false, true),
            (&["trailing   "], b"/trailing", false, true),
            (&["", "  "], b"/anything", false, false),
            (&["\\*"], b"/*", false, true),
            (&["\\*"], b"/x", false, false),
        ];
        for (patterns, path, is_directory, excluded) in table {
            let text = String::from_utf8_lossy(path);
            assert_eq!(excludes(patterns).matches(path, *is_directory), *excluded, "{patterns:?} on {text}");
        }
    }

    #[test]
    fn files_of_patterns_hold_comments() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("excludes");
        std::fs::write(&file, "\u{feff}# comment\r\n*.bak\r\n\n!good.bak\n").unwrap();
        let options = FilesOptions { exclude_files: vec![file.clone()], ..FilesOptions::default() };
        let excludes = Excludes::new(&options).unwrap();
        assert!(excludes.has_patterns());
        assert!(excludes.matches(b"/x/a.bak", false));
        assert!(!excludes.matches(b"/x/good.bak", false));
        assert!(!excludes.matches(b"/# comment", false));
        std::fs::write(&file, b"fine\n\xff\n").unwrap();
        let error = Excludes::new(&options).err().unwrap().to_string();
        assert!(error.contains("excludes, line 2"), "{error}");
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(Excludes::new(&options), Err(Error::Io { .. })));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let options = FilesOptions { excludes: vec!["a{b".into()], ..FilesOptions::default() };
        let error = Excludes::new(&options).err().unwrap().to_string();
        assert!(error.contains("`a{b`"), "{error}");
    }

    #[test]
    fn sizes_are_compared() {
        let options = FilesOptions { exclude_larger_than: Some(10), ..FilesOptions::default() };
        let excludes = Excludes::new(&options).unwrap();
        assert!(!excludes.has_patterns());
        assert!(excludes.is_too_large(11) && !excludes.is_too_large(10));
        assert!(!self::excludes(&[]).is_too_large(u64::MAX));
    }
}
