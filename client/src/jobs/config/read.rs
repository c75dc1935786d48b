//! From text to [`Config`].

use super::secret::{self, Permissions};
use super::source::{self, Machine};
use super::{COPIES_WAIT, Command, Config, Hooks, Job, Language, Reports, Retention, Retry};
use crate::backup::Compression;
use crate::dataset;
use crate::jobs::Mistake;
use crate::settings::{CredentialSource, Place};
use chunkstore::snapshot::validate_label;
use rules::keep;
use rules::mistake::Mistakes;
use rules::table::{At, Table, root};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use syslog::Facility;
use zeroize::Zeroizing;

/// What is read of a file: its place and who may read it, for what is said about secrets.
pub struct Reading<'a> {
    path: &'a Path,
    permissions: Option<Permissions>,
    machine: Machine,
}

pub fn read(text: &str, path: &Path, permissions: Option<Permissions>) -> (Config, Vec<Mistake>) {
    let mistakes = Mistakes::new(text, "nightkeep config example");
    if let Some(permissions) = permissions {
        permissions.judge(path, &mistakes);
    }
    let entries = root(text, &mistakes);
    let root = Table::new(&entries, String::new(), 0, &mistakes);
    let mut reading = Reading { path, permissions, machine: Machine::default() };
    let repository = reading.repository(&root);
    let place = repository.as_ref().and_then(|place| Place::parse(place).ok());
    if let Some(Place::Directory(path)) = place {
        reading.machine = Machine::new(Some(path));
    }
    let config = reading.config(&root, repository);
    (config, mistakes.into_list())
}

impl Reading<'_> {
    fn config(&self, root: &Table<'_>, repository: Option<OsString>) -> Config {
        let retry = root.table("retry").map_or(Retry::default(), |table| self.retry(&table, Retry::default()));
        let hooks = root.table("hooks").map_or(Hooks::default(), |table| self.hooks(&table));
        let retention = root.table("retention").map_or(Retention::default(), |table| self.retention(&table));
        let upload = root.number("limit_upload", 1);
        let defaults = Job {
            name: String::new(),
            sources: Vec::new(),
            tags: Vec::new(),
            max_age: root.duration("max_age").map(|age| age.value),
            skip_if_unchanged: false,
            copies: root.number("copies", 1).map_or(1, |copies| copies.value),
            copies_wait: root.duration("copies_wait").map_or(COPIES_WAIT, |wait| wait.value),
            upload_bytes_per_second: upload.map(|kib| kib.value.saturating_mul(1024)),
            compression: compression(root).unwrap_or_default(),
            hooks: Hooks { timeout: hooks.timeout, ..Hooks::default() },
            retry,
            retention,
        };
        let config = Config {
            repository,
            credential: self.credential(root),
            lock_wait: root.duration("lock_wait").map(|wait| wait.value),
            reports: self.reports(root),
            hooks,
            retry,
            jobs: self.jobs(root, &defaults),
        };
        root.finish(&[
            ("source", "write [[jobs.NAME.sources]]"),
            ("sources", "sources belong to a job: [[jobs.NAME.sources]]"),
            ("job", "write [jobs.NAME]"),
            ("exclude", "it belongs to a source, below [[jobs.NAME.sources]]"),
            ("tags", "they belong to a job, below [jobs.NAME]"),
            ("keep_daily", "it belongs below [retention]"),
        ]);
        config
    }

    fn repository(&self, root: &Table<'_>) -> Option<OsString> {
        let texts = root.texts("repository")?;
        let first = texts.first()?;
        // Of several places each is a server; one text says them all.
        let joined = texts.iter().map(|text| text.value.trim()).collect::<Vec<_>>().join(",");
        let text = At { value: joined, place: first.place.clone(), at: first.at };
        if texts.iter().any(|text| secret::is_in_url(&text.value)) {
            let better = "leave the password out of it; it is not how a repository is opened";
            secret::report(root.mistakes, root.spot("repository"), self.path, self.permissions, better);
        }
        let place = OsString::from(&text.value);
        match Place::parse(&place) {
            Err(error) => root.mistakes.error(text.at, &text.place, error.to_string(), "give one of these"),
            Ok(Place::Directory(path)) if path.is_relative() => source::relative(root.mistakes, &text),
            Ok(Place::Directory(path)) if !path.is_dir() => {
                let remedy = "`nightkeep init` makes it; if it lies on a disk or a mount, see that it is there";
                root.mistakes.warning(text.at, &text.place, format!("there is no {}", text.value), remedy);
            }
            Ok(_) => {}
        }
        Some(place)
    }

    fn credential(&self, root: &Table<'_>) -> Option<CredentialSource> {
        let file = root.text("password_file");
        let command = self.command(root, "password_command");
        let text = root.text("password");
        let given =
            [("password_file", file.is_some()), ("password_command", command.is_some()), ("password", text.is_some())];
        let mut given = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            let (at, place) = root.spot(second);
            let remedy = "keep one of password_file, password_command and password";
            root.mistakes.error(at, &place, format!("there is {first} already"), remedy);
        }
        if text.is_some() {
            let better = "put it into a file of its own and name that: password_file = \"/etc/nightkeep/password\"";
            secret::report(root.mistakes, root.spot("password"), self.path, self.permissions, better);
        }
        if let Some(file) = file {
            self.password_file(root.mistakes, &file);
            return Some(CredentialSource::File(PathBuf::from(file.value)));
        }
        match command {
            Some(Command::Shell(script)) => return Some(CredentialSource::Command(script.into())),
            Some(Command::Words(words)) => {
                return Some(CredentialSource::Command(
                    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ").into(),
                ));
            }
            None => {}
        }
        text.map(|text| CredentialSource::Text(Zeroizing::new(text.value.into_bytes())))
    }

    fn password_file(&self, mistakes: &Mistakes<'_>, file: &At<String>) {
        if Path::new(&file.value).is_relative() {
            return source::relative(mistakes, file);
        }
        match std::fs::metadata(&file.value) {
            Err(error) => {
                let remedy = "write the passphrase or an exported key into it, readable by its owner only (mode 0600)";
                mistakes.warning(file.at, &file.place, format!("cannot find {}: {error}", file.value), remedy);
            }
            Ok(metadata) if metadata.is_dir() => {
                mistakes.error(file.at, &file.place, format!("{} is a directory", file.value), "name a file");
            }
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o044 != 0 => {
                let mode = metadata.permissions().mode() & 0o7777;
                let what = format!("others can read {} (mode {mode:04o})", file.value);
                mistakes.error(file.at, &file.place, what, format!("chmod 600 {}", file.value));
            }
            Ok(_) => {}
        }
    }

    fn reports(&self, root: &Table<'_>) -> Reports {
        let path = |key| {
            let text: At<String> = root.text(key)?;
            if Path::new(&text.value).is_relative() {
                source::relative(root.mistakes, &text);
                return None;
            }
            let parent = Path::new(&text.value).parent().filter(|parent| !parent.is_dir());
            if let Some(parent) = parent {
                let what = format!("there is no directory {}", parent.display());
                root.mistakes.warning(text.at, &text.place, what, format!("mkdir {}", parent.display()));
            }
            Some(PathBuf::from(text.value))
        };
        let languages = [("en", Language::English), ("fr", Language::French)];
        Reports {
            log: path("log"),
            error_log: path("error_log"),
            keep_empty_error_log: root.boolean("keep_empty_error_log").is_some_and(|keep| keep.value),
            language: root.word("log_language", &languages).map_or(Language::default(), |word| word.value),
            syslog: self.syslog(root),
            syslog_socket: path("syslog_socket"),
        }
    }

    /// `true`, or the name of a facility.
    fn syslog(&self, root: &Table<'_>) -> Option<Facility> {
        if !root.is_text("syslog") {
            return root.boolean("syslog").filter(|on| on.value).map(|_| Facility::LOG_DAEMON);
        }
        let names = [
            ("daemon", Facility::LOG_DAEMON),
            ("user", Facility::LOG_USER),
            ("cron", Facility::LOG_CRON),
            ("syslog", Facility::LOG_SYSLOG),
            ("local0", Facility::LOG_LOCAL0),
            ("local1", Facility::LOG_LOCAL1),
            ("local2", Facility::LOG_LOCAL2),
            ("local3", Facility::LOG_LOCAL3),
            ("local4", Facility::LOG_LOCAL4),
            ("local5", Facility::LOG_LOCAL5),
            ("local6", Facility::LOG_LOCAL6),
            ("local7", Facility::LOG_LOCAL7),
        ];
        root.word("syslog", &names).map(|facility| facility.value)
    }

    fn jobs(&self, root: &Table<'_>, defaults: &Job) -> Vec<Job> {
        let Some(table) = root.table("jobs") else {
            root.mistakes.warning(0, "jobs", "there are no jobs", "add one: a line [jobs.NAME] with sources below it");
            return Vec::new();
        };
        let named = table.named();
        if named.is_empty() {
            table.error("there are no jobs", "add one: a line [jobs.NAME] with sources below it");
        }
        let mut datasets = BTreeMap::new();
        named.iter().filter_map(|(name, table)| self.job(name, table, defaults, &mut datasets)).collect()
    }

    /// A job without a usable source is none.
    fn job(
        &self,
        name: &str,
        table: &Table<'_>,
        defaults: &Job,
        datasets: &mut BTreeMap<String, String>,
    ) -> Option<Job> {
        let allowed = |c: char| c.is_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > 100 || name.starts_with('-') || !name.chars().all(allowed) {
            table.error("this name is not allowed", "1 to 100 bytes of letters, digits and . _ - (no - first)");
        }
        let mut sources = source::preset(self, name, table);
        let has_preset = table.has("preset");
        let tables = table.tables("sources");
        if tables.is_empty() && !has_preset && !table.has("sources") {
            table.error(
                "this job saves nothing",
                format!("add [[{}.sources]] with files, command, postgres, zodb or roundup", table.place),
            );
        }
        for source in &tables {
            sources.extend(source::source(self, source, datasets));
        }
        let hooks = table.table("hooks").map(|hooks| self.hooks_after(&hooks, &defaults.hooks));
        let job = Job {
            name: name.to_owned(),
            tags: self.tags(table),
            max_age: table.duration("max_age").map(|age| age.value).or(defaults.max_age),
            skip_if_unchanged: table.boolean("skip_if_unchanged").is_some_and(|skip| skip.value),
            copies: table.number("copies", 1).map_or(defaults.copies, |copies| copies.value),
            copies_wait: table.duration("copies_wait").map_or(defaults.copies_wait, |wait| wait.value),
            upload_bytes_per_second: match table.number("limit_upload", 1) {
                Some(kib) => Some(kib.value.saturating_mul(1024)),
                None => defaults.upload_bytes_per_second,
            },
            compression: compression(table).unwrap_or(defaults.compression),
            hooks: hooks.unwrap_or_else(|| defaults.hooks.clone()),
            retry: table.table("retry").map_or(defaults.retry, |retry| self.retry(&retry, defaults.retry)),
            retention: match table.table("retention") {
                Some(retention) => self.retention(&retention),
                None => defaults.retention.clone(),
            },
            sources,
        };
        table.finish(&[
            ("source", "write `sources`"),
            ("files", "it belongs to a source, below [[jobs.NAME.sources]]"),
            ("command", "it belongs to a source, below [[jobs.NAME.sources]]"),
            ("postgres", "it belongs to a source, below [[jobs.NAME.sources]]"),
            ("zodb", "it belongs to a source, below [[jobs.NAME.sources]]"),
            ("roundup", "it belongs to a source, below [[jobs.NAME.sources]]"),
            ("exclude", "it belongs to a source, below [[jobs.NAME.sources]]"),
            ("dataset", "it belongs to a source, below [[jobs.NAME.sources]]"),
            ("run_as", "it belongs to a source with `postgres`, or to a preset"),
            ("before", "it belongs below [jobs.NAME.hooks]"),
            ("after", "it belongs below [jobs.NAME.hooks]"),
            ("on_failure", "it belongs below [jobs.NAME.hooks]"),
            ("keep_daily", "it belongs below [jobs.NAME.retention]"),
            ("keep_weekly", "it belongs below [jobs.NAME.retention]"),
            ("keep_monthly", "it belongs below [jobs.NAME.retention]"),
            ("schedule", "the time is set by the systemd timer or by cron"),
        ]);
        (!job.sources.is_empty()).then_some(job)
    }

    fn tags(&self, table: &Table<'_>) -> Vec<String> {
        let tags = table.texts("tags").unwrap_or_default();
        for tag in &tags {
            if validate_label(&tag.value).is_err() || tag.value.starts_with(['+', '-']) || tag.value.len() > 1024 {
                let remedy = "a tag has 1 to 1024 bytes and does not begin with + or -";
                table.mistakes.error(tag.at, &tag.place, format!("`{}` is not a tag", tag.value), remedy);
            }
        }
        tags.into_iter().map(|tag| tag.value).collect()
    }

    fn hooks(&self, table: &Table<'_>) -> Hooks {
        self.hooks_after(table, &Hooks::default())
    }

    fn hooks_after(&self, table: &Table<'_>, defaults: &Hooks) -> Hooks {
        let timeout = table.duration("timeout");
        if let Some(timeout) = timeout.as_ref().filter(|timeout| timeout.value.is_zero()) {
            table.mistakes.error(timeout.at, &timeout.place, "no time at all", "write for instance \"10m\"");
        }
        let hooks = Hooks {
            before: self.command(table, "before"),
            after: self.command(table, "after"),
            on_failure: self.command(table, "on_failure"),
            timeout: timeout.map_or(defaults.timeout, |timeout| timeout.value),
        };
        table.finish(&[
            ("failure", "write `on_failure`"),
            ("on_success", "`after` runs always: NIGHTKEEP_VERDICT tells how it ended"),
        ]);
        hooks
    }

    /// A text for the shell, or a list of words.
    pub fn command(&self, table: &Table<'_>, key: &'static str) -> Option<Command> {
        let command = if table.is_text(key) {
            Command::Shell(table.text(key)?.value)
        } else {
            Command::Words(
                table.texts(key).filter(|words| !words.is_empty())?.into_iter().map(|word| word.value).collect(),
            )
        };
        let whole = match &command {
            Command::Shell(script) => script.clone(),
            Command::Words(words) => words.join(" "),
        };
        if secret::is_in(&whole) {
            let better = "let the command read it from a file that only its owner can read (PGPASSFILE for PostgreSQL)";
            secret::report(table.mistakes, table.spot(key), self.path, self.permissions, better);
        }
        if let Command::Words(words) = &command {
            self.machine.program(table, key, words);
        }
        Some(command)
    }

    fn retry(&self, table: &Table<'_>, defaults: Retry) -> Retry {
        let retry = Retry {
            tries: table.number("tries", 1).map_or(defaults.tries, |tries| tries.value),
            wait: table.duration("wait").map_or(defaults.wait, |wait| wait.value),
            wait_max: table.duration("wait_max").map_or(defaults.wait_max, |wait| wait.value),
        };
        table.finish(&[("attempts", "write `tries`"), ("delay", "write `wait`")]);
        retry
    }

    fn retention(&self, table: &Table<'_>) -> Retention {
        let policy = keep::policy(table);
        let prune = table.boolean("prune");
        table.finish(&keep::HINTS);
        Retention { policy, prune: prune.is_some_and(|prune| prune.value) }
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    pub fn repository_dir(&self) -> Option<&Path> {
        self.machine.repository_dir()
    }
}

/// `"auto"`, `"none"`, or a number.
fn compression(table: &Table<'_>) -> Option<Compression> {
    let found = match table.is_text("compression") {
        true => table.text("compression")?,
        false => table.number("compression", 1)?.map(|level| level.to_string()),
    };
    let compression = Compression::parse(&found.value);
    if compression.is_none() {
        let what = format!("`{}` is no way to compress", found.value);
        table.mistakes.error(found.at, &found.place, what, "write \"auto\", \"none\" or a level from 1 to 19");
    }
    compression
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The dataset that a source will be saved as; each may be named once.
pub fn claim(
    table: &Table<'_>,
    kind: dataset::Kind,
    given: Option<&str>,
    default: &str,
    datasets: &mut BTreeMap<String, String>,
) {
    let key = if given.is_some() { "dataset" } else { "" };
    let (at, place) = if key.is_empty() { (table.at, table.place.clone()) } else { table.spot(key) };
    match dataset::name(&dataset::host(), kind, given, default) {
        Err(error) => table.mistakes.error(at, &place, error.to_string(), "choose another name"),
        Ok(name) => {
            if let Some(other) = datasets.insert(name.clone(), table.place.clone()) {
                let what = format!("its snapshots would be mixed with those of {other}: both are {name}");
                table.mistakes.error(at, &place, what, "give each a name of its own: dataset = \"NAME\"");
            }
        }
    }
}
