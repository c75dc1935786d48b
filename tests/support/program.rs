//! The built `nightkeep`, run as people and scripts run it, in a house of its own: repository, state, cache and
//! sources in one temporary directory, nothing taken from the environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use super::python::Reader;
use super::source::workspace;
use super::torture::Place;

pub const PASSWORD: &str = "the night is long";

/// Where the program lies. It is built first, in the profile of these tests, since nothing else makes sure that it is.
pub fn nightkeep() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let profile = std::env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(workspace()).args(["build", "--quiet", "--workspace", "--bins", "--offline"]);
        if profile.file_name() == Some(OsStr::new("release")) {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "the program does not build");
        profile.join("nightkeep")
    })
}

pub struct House {
    place: Place,
    pub password: String,
    /// Instead of the repository in this house.
    url: Option<String>,
}

/// How a run ended and what it said.
pub struct Told {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
    shown: String,
}

impl House {
    /// With an empty repository.
    pub fn new() -> House {
        let house = House::bare();
        house.ok(["init"]);
        house
    }

    /// Without a repository.
    pub fn bare() -> House {
        House { place: Place::new(), password: PASSWORD.to_owned(), url: None }
    }

    /// Around a repository that is there already, in `repository`.
    pub fn at(place: Place, password: &str) -> House {
        House { place, password: password.to_owned(), url: None }
    }

    /// Without a repository of its own: it is at `url`.
    pub fn with_url(url: String) -> House {
        House { url: Some(url), ..House::bare() }
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }

    pub fn directory(&self, name: &str) -> PathBuf {
        self.place.directory(name)
    }

    pub fn repository(&self) -> PathBuf {
        self.path().join("repository")
    }

    /// A name in this house that nothing has yet.
    pub fn fresh(&self, stem: &str) -> PathBuf {
        (0..).map(|number| self.path().join(format!("{stem}-{number}"))).find(|path| !path.exists()).unwrap()
    }

    /// The program under `wrapper` (a tracer, another user), or by itself if that is empty.
    pub fn wrapped<S: AsRef<OsStr>>(&self, wrapper: &[&str], arguments: impl IntoIterator<Item = S>) -> Command {
        let mut words: Vec<&OsStr> = wrapper.iter().map(OsStr::new).collect();
        words.push(nightkeep().as_os_str());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("NIGHTKEEP_")) {
                command.env_remove(name);
            }
        }
        command
            .env("NIGHTKEEP_REPOSITORY", self.url.clone().map_or(self.repository().into(), OsString::from))
            .env("NIGHTKEEP_PASSWORD", &self.password)
            .env("NIGHTKEEP_TEST_CHEAP_KDF", "1")
            .env("NIGHTKEEP_STATE_DIR", self.path().join("state"))
            .env("NIGHTKEEP_CACHE_DIR", self.path().join("cache"))
            .env("LC_ALL", "C")
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.wrapped(&[], arguments)
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Told {
        told(&mut self.command(arguments))
    }

    /// What it prints; it must end with 0.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        String::from_utf8(self.run(arguments).expect(0).out).unwrap()
    }

    /// What it complains of; it must end with `code`.
    #[track_caller]
    pub fn fails<S: AsRef<OsStr>>(&self, code: i32, arguments: impl IntoIterator<Item = S>) -> String {
        let told = self.run(arguments).expect(code);
        assert!(!told.err.is_empty(), "{} says nothing on standard error", told.shown);
        told.err
    }

    /// Its JSON lines; it must end with 0.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Vec<Value> {
        let arguments = arguments.into_iter().map(|word| word.as_ref().to_owned());
        let told = self.run(std::iter::once("--json".into()).chain(arguments)).expect(0);
        json_lines(&told.out)
    }

    /// Ids of the snapshots that are listed, oldest first.
    #[track_caller]
    pub fn snapshots(&self) -> Vec<String> {
        let lines = self.json(["snapshots"]);
        let snapshots = lines.iter().filter(|line| line["message_type"] == "snapshot");
        snapshots.map(|line| line["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Saves a directory; the id of the new snapshot.
    #[track_caller]
    pub fn backup(&self, source: &Path) -> String {
        let before = self.snapshots();
        self.run([OsStr::new("backup"), OsStr::new("files"), source.as_os_str()]).expect(0);
        let after = self.snapshots();
        let mut new = after.into_iter().filter(|id| !before.contains(id));
        new.next().expect("the backup made no snapshot")
    }

    /// Restores what lies at `source` in a snapshot to a fresh directory.
    #[track_caller]
    pub fn restore(&self, snapshot: &str, source: &Path) -> PathBuf {
        let target = self.fresh("restored");
        let what = format!("{snapshot}:{}", source.display());
        self.run([OsStr::new("restore"), "files".as_ref(), what.as_ref(), "--target".as_ref(), target.as_os_str()])
            .expect(0);
        target
    }

    /// Bytes of all packs.
    pub fn stored_bytes(&self) -> u64 {
        let packs = std::fs::read_dir(self.repository().join("packs")).unwrap();
        let files = packs.flat_map(|directory| std::fs::read_dir(directory.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    }

    pub fn reader<'a>(&'a self, repository: &'a Path) -> Reader<'a> {
        Reader { repository, password: Some(&self.password), recovery_key: None }
    }
}

impl Told {
    #[track_caller]
    pub fn expect(self, code: i32) -> Told {
        let out = String::from_utf8_lossy(&self.out);
        let out = if out.len() < 4000 { &out } else { "(long)" };
        assert_eq!(self.code, Some(code), "{} (signal {:?})\nout: {out}\nerr: {}", self.shown, self.signal, self.err);
        self
    }
}

pub fn told(command: &mut Command) -> Told {
    let shown = format!("{:?}", command.get_args().collect::<Vec<_>>());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let err = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!err.contains("panicked at"), "{shown} panics: {err}");
    Told { code: status.code(), signal: status.signal(), out: stdout, err, shown }
}

pub fn json_lines(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
    text.lines().map(parse).collect()
}
