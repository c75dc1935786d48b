//! Where a storage and its blobs are: given by name, or found in the directory of an instance.
//!
//! All paths are resolved: none leads through a symlink.

use super::blobs::LAYOUT;
use chunkstore::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What a person says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Where {
    /// The data directory of an instance, a `var`, or the root of a buildout.
    Instance(PathBuf),
    /// A storage and, if it has any, its blobs.
    Files { data_fs: PathBuf, blobs: Option<PathBuf> },
}

/// What is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    pub data_fs: PathBuf,
    pub blobs: Option<PathBuf>,
    /// The directory that the others are told relative to.
    pub root: PathBuf,
    /// Further storages beside this one: they are not saved with it.
    pub others: Vec<PathBuf>,
}

/// Where an instance has its data, relative to what was given.
const DATA: [&str; 3] = ["", "var", "data"];

impl Where {
    pub fn find(&self) -> Result<Site> {
        match self {
            Where::Files { data_fs, blobs } => files(data_fs, blobs.as_deref()),
            Where::Instance(instance) => find_instance(instance),
        }
    }

    /// What was named, for the name of a dataset.
    pub fn given(&self) -> &Path {
        match self {
            Where::Instance(instance) => instance,
            Where::Files { data_fs, .. } => data_fs,
        }
    }
}

fn resolve(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|error| Error::io("open", path.display().to_string(), error))
}

fn files(data_fs: &Path, blobs: Option<&Path>) -> Result<Site> {
    let data_fs = resolve(data_fs)?;
    let blobs = blobs.map(resolve).transpose()?;
    if let Some(blobs) = blobs.as_ref().filter(|blobs| !blobs.is_dir()) {
        return Err(Error::invalid(blobs.display().to_string(), "it is no directory of blobs"));
    }
    let root = root_of(&data_fs, blobs.as_deref());
    let others = others(&data_fs);
    Ok(Site { data_fs, blobs, root, others })
}

/// `DIR/filestorage/Data.fs` and `DIR/blobstorage` are below `DIR`, others below what they have in common, if that is more than `/`.
fn root_of(data_fs: &Path, blobs: Option<&Path>) -> PathBuf {
    let parent = data_fs.parent().unwrap_or(Path::new("/"));
    let own = match parent.file_name() {
        Some(name) if name == "filestorage" => parent.parent().unwrap_or(parent),
        _ => parent,
    };
    let shared = blobs.and_then(|blobs| own.ancestors().find(|above| blobs.starts_with(above)));
    shared.filter(|shared| shared.parent().is_some()).unwrap_or(own).to_owned()
}

fn find_instance(instance: &Path) -> Result<Site> {
    let instance = resolve(instance)?;
    for data in DATA {
        let data = if data.is_empty() { instance.clone() } else { instance.join(data) };
        for data_fs in [data.join("filestorage/Data.fs"), data.join("Data.fs")] {
            if data_fs.is_file() {
                return with_blobs_beside(&data_fs);
            }
        }
    }
    let mut found: Vec<(PathBuf, Option<PathBuf>)> =
        configurations(&instance).iter().flat_map(|path| read_configuration(path)).collect();
    found.sort();
    found.dedup();
    // A server names the blobs; its clients name the server only.
    match found.as_slice() {
        [] => Err(Error::invalid(
            instance.display().to_string(),
            "no storage is there: neither filestorage/Data.fs, nor one that parts/*/etc/zeo.conf or zope.conf names",
        )),
        [(data_fs, Some(blobs))] => files(data_fs, Some(blobs)),
        [(data_fs, None)] => with_blobs_beside(data_fs),
        several => {
            let names: Vec<String> = several.iter().map(|(path, _)| path.display().to_string()).collect();
            let reason = format!("several storages are there, name one with --data-fs: {}", names.join(", "));
            Err(Error::invalid(instance.display().to_string(), reason))
        }
    }
}

fn with_blobs_beside(data_fs: &Path) -> Result<Site> {
    let data_fs = resolve(data_fs)?;
    let beside = data_fs.parent().unwrap_or(Path::new("/"));
    let above = beside.parent().unwrap_or(beside);
    let candidates = [above.join("blobstorage"), beside.join("blobstorage"), beside.join("blobs"), above.join("blobs")];
    let is_blobs = |path: &PathBuf| {
        path.is_dir() && (path.ends_with("blobstorage") || path.join(OsStr::from_bytes(LAYOUT)).is_file())
    };
    files(&data_fs, candidates.iter().find(|path| is_blobs(path)).map(PathBuf::as_path))
}

/// Other storages in the same directory.
fn others(data_fs: &Path) -> Vec<PathBuf> {
    let entries = data_fs.parent().and_then(|parent| std::fs::read_dir(parent).ok());
    let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let mut others: Vec<PathBuf> =
        paths.filter(|path| path.extension() == Some(OsStr::new("fs")) && path != data_fs && path.is_file()).collect();
    others.sort();
    others
}

/// The configuration files of servers and instances below the root of a buildout.
fn configurations(root: &Path) -> Vec<PathBuf> {
    let mut directories = vec![root.join("etc")];
    let parts = std::fs::read_dir(root.join("parts")).into_iter().flatten().flatten();
    directories.extend(parts.map(|part| part.path().join("etc")));
    directories.sort();
    let files = directories.iter().flat_map(|directory| ["zeo.conf", "zope.conf"].map(|name| directory.join(name)));
    files.filter(|path| path.is_file()).collect()
}

/// The file storages that a ZConfig file names: `path` and `blob-dir` within `<filestorage>`, `blob-dir` of a `<blobstorage>`
/// around it. Lines are taken as they are, but for `%define` names.
fn read_configuration(path: &Path) -> Vec<(PathBuf, Option<PathBuf>)> {
    let Ok(text) = std::fs::read(path) else { return Vec::new() };
    let text = String::from_utf8_lossy(&text);
    let mut defined: Vec<(String, String)> = Vec::new();
    let mut sections: Vec<(String, Option<String>, Option<String>)> = Vec::new();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let (word, rest) = line.split_once(char::is_whitespace).map_or((line, ""), |(word, rest)| (word, rest.trim()));
        if word == "%define" {
            if let Some((name, value)) = rest.split_once(char::is_whitespace) {
                defined.push((name.to_lowercase(), substitute(value.trim(), &defined)));
            }
        } else if line.starts_with("</") {
            let Some((kind, storage, blobs)) = sections.pop() else { continue };
            let outer = sections.last_mut().filter(|outer| outer.0 == "blobstorage");
            match (kind.as_str(), storage, outer) {
                ("filestorage", Some(storage), Some(outer)) => outer.1 = Some(storage),
                ("filestorage" | "blobstorage", Some(storage), _) => {
                    found.push((PathBuf::from(storage), blobs.map(PathBuf::from)));
                }
                _ => (),
            }
        } else if let Some(section) = line.strip_prefix('<') {
            let kind: String = section.chars().take_while(|c| c.is_alphanumeric() || *c == '-').collect();
            if !section.ends_with("/>") {
                sections.push((kind.to_lowercase(), None, None));
            }
        } else if let Some(section) = sections.last_mut() {
            match word.to_lowercase().as_str() {
                "path" => section.1 = Some(substitute(rest, &defined)),
                "blob-dir" => section.2 = Some(substitute(rest, &defined)),
                _ => (),
            }
        }
    }
    found.retain(|(data_fs, _)| data_fs.is_file());
    found
}

/// `$name` and `${name}` replaced by what was defined.
fn substitute(text: &str, defined: &[(String, String)]) -> String {
    let mut text = text.to_owned();
    let mut longest_first: Vec<_> = defined.iter().collect();
    longest_first.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    for (name, value) in longest_first {
        for reference in [
            format!("${{{name}}}"),
            format!("${{{}}}", name.to_uppercase()),
            format!("${name}"),
            format!("${}", name.to_uppercase()),
        ] {
            text = text.replace(&reference, value);
        }
    }
    text
}

/// The index beside a storage.
pub fn index_of(data_fs: &Path) -> PathBuf {
    let mut name = OsString::from(data_fs);
    name.push(".index");
    PathBuf::from(name)
}

/// The lock beside a storage.
pub fn lock_of(data_fs: &Path) -> PathBuf {
    let mut name = OsString::from(data_fs);
    name.push(".lock");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};

    fn make(top: &Path, files: &[&str], directories: &[&str]) {
        for directory in directories {
            create_dir_all(top.join(directory)).unwrap();
        }
        for file in files {
            create_dir_all(top.join(file).parent().unwrap()).unwrap();
            write(top.join(file), b"").unwrap();
        }
    }

    fn find(top: &Path, instance: &str) -> (PathBuf, Option<PathBuf>, PathBuf) {
        let site = Where::Instance(top.join(instance)).find().unwrap();
        let below = |path: PathBuf| path.strip_prefix(top).unwrap().to_owned();
        (below(site.data_fs), site.blobs.map(below), below(site.root))
    }

    #[test]
    fn instances_have_known_places() {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().canonicalize().unwrap();
        make(
            &top,
            &["a/filestorage/Data.fs", "b/var/filestorage/Data.fs", "c/Data.fs"],
            &["a/blobstorage", "b/var/blobstorage"],
        );
        assert_eq!(find(&top, "a"), ("a/filestorage/Data.fs".into(), Some("a/blobstorage".into()), "a".into()));
        assert_eq!(
            find(&top, "b"),
            ("b/var/filestorage/Data.fs".into(), Some("b/var/blobstorage".into()), "b/var".into())
        );
        assert_eq!(find(&top, "c"), ("c/Data.fs".into(), None, "c".into()));
        std::os::unix::fs::symlink("a", top.join("link")).unwrap();
        assert_eq!(find(&top, "link"), find(&top, "a"));
        make(&top, &["a/filestorage/other.fs", "a/filestorage/Data.fs.old"], &["empty"]);
        assert_eq!(Where::Instance(top.join("a")).find().unwrap().others, [top.join("a/filestorage/other.fs")]);
        let none = Where::Instance(top.join("empty")).find().unwrap_err().to_string();
        assert!(none.contains("no storage is there"), "{none}");
        assert!(Where::Instance(top.join("absent")).find().is_err());
    }

    #[test]
    fn a_buildout_names_its_storage() {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().canonicalize().unwrap();
        make(
            &top,
            &["data/main/filestorage/Data.fs"],
            &["data/main/blobstorage", "bo/parts/zeoserver/etc", "bo/parts/client1/etc"],
        );
        let conf = "%define DATA TOP/data/main\n<zeo>\n  address 8100\n</zeo>\n# x\n<filestorage 1>\n  path $DATA/filestorage/Data.fs\n  blob-dir ${data}/blobstorage\n</filestorage>\n";
        write(top.join("bo/parts/zeoserver/etc/zeo.conf"), conf.replace("TOP", top.to_str().unwrap())).unwrap();
        write(
            top.join("bo/parts/client1/etc/zope.conf"),
            "<zodb_db main>\n <zeoclient>\n server 8100\n blob-dir /x\n </zeoclient>\n</zodb_db>\n",
        )
        .unwrap();
        let expected =
            ("data/main/filestorage/Data.fs".into(), Some("data/main/blobstorage".into()), "data/main".into());
        assert_eq!(find(&top, "bo"), expected);
        let conf = "<blobstorage 1>\n blob-dir TOP/data/main/blobstorage\n <filestorage>\n path TOP/data/main/filestorage/Data.fs\n </filestorage>\n</blobstorage>";
        write(top.join("bo/parts/zeoserver/etc/zeo.conf"), conf.replace("TOP", top.to_str().unwrap())).unwrap();
        assert_eq!(find(&top, "bo"), expected);
    }

    #[test]
    fn files_are_told_relative_to_what_they_share() {
        let root = |data_fs: &str, blobs: Option<&str>| root_of(Path::new(data_fs), blobs.map(Path::new));
        assert_eq!(root("/a/filestorage/Data.fs", Some("/a/blobstorage")), Path::new("/a"));
        assert_eq!(root("/a/filestorage/Data.fs", None), Path::new("/a"));
        assert_eq!(root("/a/Data.fs", None), Path::new("/a"));
        assert_eq!(root("/a/b/Data.fs", Some("/c/d")), Path::new("/a/b"));
        assert_eq!(root("/a/b/Data.fs", Some("/a/d")), Path::new("/a"));
        assert_eq!(root("/a/Data.fs", Some("/a/blobs")), Path::new("/a"));
    }
}
