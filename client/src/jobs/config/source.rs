//! One `[[jobs.NAME.sources]]`, and the presets that stand for several: what is to be saved, checked against this machine.

use super::read::{Reading, claim};
use super::{Files, Postgres, Source, What, Zodb};
use crate::dataset::{self, Kind};
use globset::Glob;
use ignore::gitignore::GitignoreBuilder;
use rules::mistake::Mistakes;
use rules::table::{At, Table};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const KINDS: [&str; 6] = ["files", "command", "postgres", "zodb", "data_fs", "roundup"];
const WEB: &str = "/web";

type Datasets = BTreeMap<String, String>;

/// Which presets there are.
#[derive(Clone, Copy)]
enum Preset {
    ProjectOpen,
}

/// The sources of the job's preset, if it names one.
pub fn preset(_: &Reading<'_>, job: &str, table: &Table<'_>) -> Vec<Source> {
    if !table.has("preset") {
        return Vec::new();
    }
    match table.word("preset", &[("project-open", Preset::ProjectOpen)]).map(|preset| preset.value) {
        Some(Preset::ProjectOpen) => project_open(job, table),
        None => Vec::new(),
    }
}

/// A ]project-open[ server: its database, then its web directory, whose filestorage the database names.
fn project_open(job: &str, table: &Table<'_>) -> Vec<Source> {
    let name = table.text("name");
    let web = path(table, "web").unwrap_or_else(|| PathBuf::from(WEB));
    let connection = connection(table);
    let is_elsewhere = connection.host.is_some() || connection.username.is_some();
    if let Some(name) = name.as_ref().filter(|name| name.value.contains('/') || name.value.starts_with('.')) {
        let what = format!("`{}` is not the name of a server", name.value);
        table.mistakes.error(name.at, &name.place, what, "it is the NAME of /web/NAME and of the database");
        return Vec::new();
    }
    let server = name.map_or_else(|| job.to_owned(), |name| name.value);
    let home = web.join(&server);
    if !home.is_dir() {
        let remedy = "`name` is the server's name, `web` the directory of all servers";
        table.mistakes.warning(table.at, &table.place, format!("there is no {}", home.display()), remedy);
    }
    let excluded =
        |below: &str| escape(&format!("/{}", home.join(below).display().to_string().trim_start_matches('/')));
    let database = Postgres {
        matches: vec![escape(&server)],
        // The server's own user of the database is reached through the system's user of that name.
        run_as: connection.run_as.clone().or_else(|| (!is_elsewhere).then(|| "postgres".to_owned())),
        ..connection
    };
    let files = Files {
        excludes: vec![excluded("log"), excluded("filestorage/backup")],
        referenced: vec![home.join("filestorage")],
        paths: vec![home],
        ..Files::default()
    };
    [What::Postgres(database), What::Files(files)].map(|what| Source { dataset: None, what }).into()
}

/// None if it is not said well enough what is to be saved.
pub fn source(reading: &Reading<'_>, table: &Table<'_>, datasets: &mut Datasets) -> Option<Source> {
    let named: Vec<&str> = KINDS.into_iter().filter(|kind| table.has(kind)).collect();
    let dataset = table.text("dataset").map(|dataset| dataset.value);
    let what = match named.as_slice() {
        ["files"] => files(reading, table),
        ["command"] => command(reading, table),
        ["postgres"] => postgres(reading, table),
        ["zodb"] | ["data_fs"] => zodb(table),
        ["roundup"] => roundup(table),
        [] => {
            let remedy = "say what to save: files, command, postgres, zodb or roundup";
            table.error("this source saves nothing", remedy);
            None
        }
        several => {
            let what = format!("this is several sources in one: {}", several.join(", "));
            table.error(what, "give each a [[...sources]] of its own");
            return None;
        }
    };
    table.finish(&[
        ("path", "write `files`"),
        ("paths", "write `files`"),
        ("excludes", "write `exclude`"),
        ("match", "the patterns stand in `postgres`"),
        ("databases", "the patterns stand in `postgres`"),
        ("database", "the patterns stand in `postgres`"),
        ("user", "write `username` (in the database) or `run_as` (of the system)"),
        ("password", "it belongs into ~/.pgpass of the user that runs pg_dump, mode 0600"),
        ("kind", "what a source is, is told by its key: files, command, postgres, zodb or roundup"),
        ("type", "what a source is, is told by its key: files, command, postgres, zodb or roundup"),
        ("hooks", "they belong to the job: [jobs.NAME.hooks]"),
        ("tags", "they belong to the job, below [jobs.NAME]"),
    ]);
    let what = what?;
    let given = dataset.as_deref();
    match &what {
        What::Files(files) => claim(table, Kind::Files, given, &dataset::name_of_paths(&files.paths), datasets),
        What::Command { name, .. } => {
            claim(table, Kind::Stream, given, &dataset::name_of_stream(OsStr::new(name)), datasets);
        }
        What::Postgres(_) if given.is_some_and(|given| !given.contains('*')) => {
            let (at, place) = table.spot("dataset");
            let what = "each database needs a dataset of its own";
            table.mistakes.error(at, &place, what, "remove the line, or put * where the database's name belongs");
        }
        What::Roundup { home, .. } => {
            claim(table, Kind::Roundup, given, &dataset::name_of_paths(std::slice::from_ref(home)), datasets);
        }
        _ => {}
    }
    Some(Source { dataset, what })
}

fn files(reading: &Reading<'_>, table: &Table<'_>) -> Option<What> {
    let given = table.texts("files")?;
    let paths: Vec<PathBuf> = given.into_iter().filter_map(|text| absolute(table.mistakes, text)).collect();
    let excludes = table.texts("exclude").unwrap_or_default();
    excludes.iter().for_each(|glob| check_exclude(table, glob));
    let list = |key| -> Vec<PathBuf> {
        table.texts(key).unwrap_or_default().into_iter().filter_map(|text| absolute(table.mistakes, text)).collect()
    };
    let files = Files {
        excludes: excludes.into_iter().map(|glob| glob.value).collect(),
        exclude_files: list("exclude_files"),
        exclude_caches: table.boolean("exclude_caches").is_some_and(|on| on.value),
        exclude_if_present: table
            .texts("exclude_if_present")
            .unwrap_or_default()
            .into_iter()
            .map(|t| t.value)
            .collect(),
        one_file_system: table.boolean("one_file_system").is_some_and(|on| on.value),
        exclude_larger_than: table.size("exclude_larger_than").map(|size| size.value),
        referenced: list("referenced"),
        paths,
    };
    let repository = reading.repository_dir();
    if let Some(own) = repository.filter(|own| files.paths.iter().any(|path| path.starts_with(own))) {
        let (at, place) = table.spot("files");
        table.mistakes.error(
            at,
            &place,
            format!("{} is the repository itself", own.display()),
            "name what it keeps safe",
        );
    }
    (!files.paths.is_empty()).then_some(What::Files(files))
}

fn command(reading: &Reading<'_>, table: &Table<'_>) -> Option<What> {
    let command = reading.command(table, "command");
    let Some(name) = table.text("name") else {
        if !table.has("name") {
            table.error("the output needs a file name", "add for instance: name = \"all.sql\"");
        }
        return None;
    };
    if name.value.len() > 255 || name.value.contains(['/', '\0']) || matches!(name.value.as_str(), "." | "..") {
        let what = format!("`{}` is not a file name", name.value);
        table.mistakes.error(name.at, &name.place, what, "1 to 255 bytes without /");
    }
    Some(What::Command { name: name.value, command: command? })
}

fn postgres(reading: &Reading<'_>, table: &Table<'_>) -> Option<What> {
    let globs = |key| -> Vec<String> {
        let globs = table.texts(key).unwrap_or_default();
        globs.iter().for_each(|glob| check_glob(table, glob));
        globs.into_iter().map(|glob| glob.value).collect()
    };
    let (matches, excludes) = (globs("postgres"), globs("exclude"));
    let connection = connection(table);
    if let Some(user) = &connection.run_as {
        reading.machine().user(table, user);
    }
    if matches.is_empty() {
        return None;
    }
    let plain = table.word("format", &[("custom", false), ("plain", true)]).is_some_and(|plain| plain.value);
    let jobs = table.number("jobs", 1).and_then(|jobs| usize::try_from(jobs.value).ok());
    Some(What::Postgres(Postgres { matches, excludes, plain, jobs, ..connection }))
}

/// How to reach the server; what is not said, libpq's own variables and files say.
fn connection(table: &Table<'_>) -> Postgres {
    let port = table.number("port", 1);
    if let Some(port) = port.as_ref().filter(|port| port.value > 65_535) {
        table.mistakes.error(port.at, &port.place, format!("{} is not a port", port.value), "1 to 65535, usually 5432");
    }
    Postgres {
        host: table.text("host").map(|host| host.value),
        port: port.and_then(|port| u16::try_from(port.value).ok()),
        username: table.text("username").map(|user| user.value),
        service: table.text("service").map(|service| service.value),
        programs: path(table, "programs"),
        run_as: table.text("run_as").map(|user| user.value),
        ..Postgres::default()
    }
}

fn zodb(table: &Table<'_>) -> Option<What> {
    if table.has("zodb") {
        let instance = path(table, "zodb")?;
        expect_directory(table, "zodb", &instance, "filestorage/Data.fs");
        return Some(What::Zodb(Zodb::Instance(instance)));
    }
    let data_fs = path(table, "data_fs")?;
    if !data_fs.is_file() {
        let (at, place) = table.spot("data_fs");
        let what = format!("there is no file {}", data_fs.display());
        table.mistakes.warning(at, &place, what, "name the storage's Data.fs");
    }
    Some(What::Zodb(Zodb::Storage { data_fs, blobs: path(table, "blobs") }))
}

fn roundup(table: &Table<'_>) -> Option<What> {
    let excludes = table.texts("exclude").unwrap_or_default();
    excludes.iter().for_each(|glob| check_exclude(table, glob));
    let home = path(table, "roundup")?;
    expect_directory(table, "roundup", &home, "config.ini");
    let server = Postgres {
        run_as: table.text("run_as").map(|user| user.value),
        programs: path(table, "programs"),
        ..Postgres::default()
    };
    Some(What::Roundup { home, excludes: excludes.into_iter().map(|glob| glob.value).collect(), server })
}

fn expect_directory(table: &Table<'_>, key: &'static str, path: &Path, holds: &str) {
    let (at, place) = table.spot(key);
    if !path.is_dir() {
        let remedy = "name the directory; it may be that it is not mounted";
        table.mistakes.warning(at, &place, format!("there is no {}", path.display()), remedy);
    } else if !path.join(holds).exists() {
        let what = format!("{} holds no {holds}", path.display());
        table.mistakes.warning(at, &place, what, "name the directory that holds it");
    }
}

fn path(table: &Table<'_>, key: &'static str) -> Option<PathBuf> {
    let text = table.text(key)?;
    if Path::new(&text.value).is_relative() {
        relative(table.mistakes, &text);
        return None;
    }
    Some(PathBuf::from(text.value))
}

fn absolute(mistakes: &Mistakes<'_>, text: At<String>) -> Option<PathBuf> {
    let path = PathBuf::from(&text.value);
    if path.is_relative() {
        relative(mistakes, &text);
        return None;
    }
    if path.symlink_metadata().is_err() {
        let what = format!("there is no {}", text.value);
        mistakes.warning(text.at, &text.place, what, "mend the path, or remove it; it may be that it is not mounted");
    }
    Some(path)
}

pub fn relative(mistakes: &Mistakes<'_>, text: &At<String>) {
    let remedy = if text.value.starts_with(['~', '$']) {
        "write the path out: neither ~ nor variables are replaced here"
    } else {
        "write the path from the root: /..."
    };
    mistakes.error(text.at, &text.place, format!("`{}` is not an absolute path", text.value), remedy);
}

fn check_exclude(table: &Table<'_>, glob: &At<String>) {
    let line = if glob.value.starts_with('#') { format!("\\{}", glob.value) } else { glob.value.clone() };
    if let Err(error) = GitignoreBuilder::new("/").add_line(None, &line) {
        let remedy = "a pattern is like one of .gitignore; put \\ before * ? [ ] { } that are meant as they are";
        table.mistakes.error(glob.at, &glob.place, format!("`{}` is not a pattern: {error}", glob.value), remedy);
    }
    if matches!(glob.value.as_str(), "*" | "**" | "/" | "/*" | "/**") {
        let what = format!("`{}` leaves out everything", glob.value);
        table.mistakes.error(glob.at, &glob.place, what, "remove it, or name what is to be left out");
    }
}

fn check_glob(table: &Table<'_>, glob: &At<String>) {
    if let Err(error) = Glob::new(&glob.value) {
        let remedy = "put \\ before * ? [ ] { } that are meant as they are";
        table.mistakes.error(glob.at, &glob.place, format!("`{}` is not a pattern: {error}", glob.value), remedy);
    }
}

/// A pattern that matches `text` alone.
fn escape(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// What this machine has, asked for once.
#[derive(Default)]
pub struct Machine {
    repository_dir: Option<PathBuf>,
}

impl Machine {
    pub fn new(repository_dir: Option<PathBuf>) -> Machine {
        Machine { repository_dir }
    }

    pub fn repository_dir(&self) -> Option<&Path> {
        self.repository_dir.as_deref()
    }

    /// The program of a command is there and may be run.
    pub fn program(&self, table: &Table<'_>, key: &str, words: &[String]) {
        let Some(program) = words.first() else { return };
        let runs =
            |path: &Path| path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
        let is_there = if program.contains('/') {
            runs(Path::new(program))
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|dir| runs(&dir.join(program)))
        };
        if !is_there {
            let (at, place) = table.spot(key);
            let remedy = "install it, or write its whole path; cron and systemd look in few directories";
            table.mistakes.warning(at, &place, format!("there is no program `{program}`"), remedy);
        }
    }

    /// Users may also come from elsewhere than the file, so this is no error.
    pub fn user(&self, table: &Table<'_>, name: &str) {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let is_there = users.lines().any(|line| line.split(':').next() == Some(name));
        if !is_there {
            let (at, place) = table.spot("run_as");
            table.mistakes.warning(at, &place, format!("/etc/passwd has no user `{name}`"), "mend the name");
        }
    }
}
