//! The configuration as an example, and as it was understood: presets spelled out, defaults filled in, secrets left out. Pure.

use super::config::{Command, Config, Files, Hooks, Job, Language, Retention, Retry, Source, What, Zodb, has_secret};
use crate::backup::Compression;
use crate::retention::Count;
use crate::settings::{CredentialSource, Settings};
use crate::units::Stretch;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// A commented configuration for all kinds of sources.
pub const EXAMPLE: &str = include_str!("../../../deploy/client.toml");

/// What stands for a secret.
const HIDDEN: &str = "(hidden)";

/// As one object: what the file means together with flags and environment.
pub fn object(config: &Config, settings: &Settings) -> Value {
    let mut root = Map::new();
    put(&mut root, "repository", settings.is_placed().then(|| hide_url(&settings.place_shown())));
    match &settings.credential {
        CredentialSource::File(path) => put(&mut root, "password_file", Some(text(path))),
        // Its arguments may hold a secret.
        CredentialSource::Command(command) => {
            let command = command.to_string_lossy();
            let program = command.split_whitespace().next().unwrap_or_default().to_owned();
            let is_bare = command.trim() == program;
            put(&mut root, "password_command", Some(if is_bare { program } else { format!("{program} {HIDDEN}") }));
        }
        CredentialSource::Text(_) => put(&mut root, "password", Some(HIDDEN)),
        CredentialSource::Prompt => {}
    }
    put(&mut root, "lock_wait", Some(wait(settings.lock_wait)));
    let reports = &config.reports;
    put(&mut root, "log", reports.log.as_ref().map(text));
    put(&mut root, "error_log", reports.error_log.as_ref().map(text));
    put(&mut root, "keep_empty_error_log", reports.keep_empty_error_log.then_some(true));
    let language = if reports.language == Language::French { "fr" } else { "en" };
    put(&mut root, "log_language", Some(language));
    put(&mut root, "syslog", reports.syslog.map(|facility| format!("{facility:?}").to_lowercase().replace("log_", "")));
    put(&mut root, "syslog_socket", reports.syslog_socket.as_ref().map(text));
    root.insert("retry".into(), retry(config.retry));
    put_hooks(&mut root, &config.hooks);
    let mut jobs = Map::new();
    for job in &config.jobs {
        jobs.insert(job.name.clone(), self::job(job));
    }
    root.insert("jobs".into(), jobs.into());
    root.into()
}

/// The object as a configuration file, which means the same but for what is hidden.
pub fn text_of(object: &Value, config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let mut root = object.as_object().cloned().unwrap_or_default();
    let jobs = root.remove("jobs");
    table(&root, "", &mut lines);
    // Their order is that in which they are carried out.
    for job in &config.jobs {
        let entries = jobs.as_ref().and_then(|jobs| jobs.get(&job.name)).and_then(Value::as_object);
        let place = format!("jobs.{}", quoted(&job.name));
        lines.extend([String::new(), format!("[{place}]")]);
        entries.into_iter().for_each(|entries| table(entries, &place, &mut lines));
    }
    lines
}

fn table(entries: &Map<String, Value>, place: &str, lines: &mut Vec<String>) {
    let below = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{}", quoted(key)) };
    let is_table =
        |value: &Value| value.is_object() || value.as_array().is_some_and(|a| a.iter().any(Value::is_object));
    lines.extend(entries.iter().filter(|(_, value)| !is_table(value)).map(|(key, value)| format!("{key} = {value}")));
    for (key, value) in entries.iter().filter(|(_, value)| is_table(value)) {
        let place = below(key);
        match value {
            Value::Object(inner) => {
                if inner.values().any(|value| !is_table(value)) {
                    lines.extend([String::new(), format!("[{place}]")]);
                }
                table(inner, &place, lines);
            }
            Value::Array(items) => {
                for inner in items.iter().filter_map(Value::as_object) {
                    lines.extend([String::new(), format!("[[{place}]]")]);
                    table(inner, &place, lines);
                }
            }
            _ => {}
        }
    }
}

/// A key, in quotes if it needs them.
fn quoted(key: &str) -> String {
    let is_bare = key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if is_bare { key.to_owned() } else { json!(key).to_string() }
}

fn job(job: &Job) -> Value {
    let mut object = Map::new();
    put(&mut object, "tags", (!job.tags.is_empty()).then_some(&job.tags));
    put(&mut object, "max_age", job.max_age.map(wait));
    put(&mut object, "skip_if_unchanged", job.skip_if_unchanged.then_some(true));
    put(&mut object, "copies", (job.copies > 1).then_some(job.copies));
    put(&mut object, "copies_wait", (job.copies > 1).then(|| wait(job.copies_wait)));
    put(&mut object, "limit_upload", job.upload_bytes_per_second.map(|bytes| bytes / 1024));
    put(&mut object, "compression", (job.compression != Compression::Auto).then(|| job.compression.to_string()));
    object.insert("sources".into(), job.sources.iter().map(source).collect());
    put_hooks(&mut object, &job.hooks);
    object.insert("retry".into(), retry(job.retry));
    let retention = retention(&job.retention);
    if !retention.is_empty() {
        object.insert("retention".into(), retention.into());
    }
    object.into()
}

fn source(source: &Source) -> Value {
    let mut object = Map::new();
    match &source.what {
        What::Files(files) => put_files(&mut object, files),
        What::Command { name, command } => {
            put(&mut object, "command", Some(shown(command)));
            put(&mut object, "name", Some(name));
        }
        What::Postgres(postgres) => {
            put(&mut object, "postgres", Some(&postgres.matches));
            put(&mut object, "exclude", (!postgres.excludes.is_empty()).then_some(&postgres.excludes));
            put(&mut object, "format", Some(if postgres.plain { "plain" } else { "custom" }));
            put(&mut object, "host", postgres.host.as_ref());
            put(&mut object, "port", postgres.port);
            put(&mut object, "username", postgres.username.as_ref());
            put(&mut object, "service", postgres.service.as_ref());
            put(&mut object, "programs", postgres.programs.as_ref().map(text));
            put(&mut object, "run_as", postgres.run_as.as_ref());
            put(&mut object, "jobs", postgres.jobs);
        }
        What::Zodb(Zodb::Instance(path)) => put(&mut object, "zodb", Some(text(path))),
        What::Zodb(Zodb::Storage { data_fs, blobs }) => {
            put(&mut object, "data_fs", Some(text(data_fs)));
            put(&mut object, "blobs", blobs.as_ref().map(text));
        }
        What::Roundup { home, excludes, server } => {
            put(&mut object, "roundup", Some(text(home)));
            put(&mut object, "exclude", (!excludes.is_empty()).then_some(excludes));
            put(&mut object, "programs", server.programs.as_ref().map(text));
            put(&mut object, "run_as", server.run_as.as_ref());
        }
    }
    put(&mut object, "dataset", source.dataset.as_ref());
    object.into()
}

fn put_files(object: &mut Map<String, Value>, files: &Files) {
    let texts = |paths: &[PathBuf]| (!paths.is_empty()).then(|| paths.iter().map(text).collect::<Vec<_>>());
    put(object, "files", texts(&files.paths));
    put(object, "exclude", (!files.excludes.is_empty()).then_some(&files.excludes));
    put(object, "exclude_files", texts(&files.exclude_files));
    put(object, "exclude_caches", files.exclude_caches.then_some(true));
    put(object, "exclude_if_present", (!files.exclude_if_present.is_empty()).then_some(&files.exclude_if_present));
    put(object, "one_file_system", files.one_file_system.then_some(true));
    put(object, "exclude_larger_than", files.exclude_larger_than.map(|bytes| bytes.to_string()));
    put(object, "referenced", texts(&files.referenced));
}

fn put_hooks(object: &mut Map<String, Value>, hooks: &Hooks) {
    if hooks.before.is_none() && hooks.after.is_none() && hooks.on_failure.is_none() {
        return;
    }
    let mut inner = Map::new();
    for (key, command) in [("before", &hooks.before), ("after", &hooks.after), ("on_failure", &hooks.on_failure)] {
        put(&mut inner, key, command.as_ref().map(shown));
    }
    put(&mut inner, "timeout", Some(wait(hooks.timeout)));
    object.insert("hooks".into(), inner.into());
}

fn retry(retry: Retry) -> Value {
    json!({"tries": retry.tries, "wait": wait(retry.wait), "wait_max": wait(retry.wait_max)})
}

fn retention(retention: &Retention) -> Map<String, Value> {
    let policy = &retention.policy;
    let mut object = Map::new();
    let counts = [
        ("keep_last", policy.last),
        ("keep_hourly", policy.hourly),
        ("keep_daily", policy.daily),
        ("keep_weekly", policy.weekly),
        ("keep_monthly", policy.monthly),
        ("keep_yearly", policy.yearly),
    ];
    for (key, count) in counts {
        put(
            &mut object,
            key,
            count.map(|count| match count {
                Count::Of(number) => json!(number),
                Count::Unlimited => json!("unlimited"),
            }),
        );
    }
    put(&mut object, "keep_within", policy.within.map(stretch));
    put(&mut object, "keep_tags", (!policy.labels.is_empty()).then_some(&policy.labels));
    put(&mut object, "prune", retention.prune.then_some(true));
    object
}

fn put(object: &mut Map<String, Value>, key: &str, value: Option<impl serde::Serialize>) {
    if let Some(value) = value.and_then(|value| serde_json::to_value(value).ok()) {
        object.insert(key.to_owned(), value);
    }
}

fn shown(command: &Command) -> Value {
    if has_secret(command) {
        let program = match command {
            Command::Shell(_) => "",
            Command::Words(words) => words.first().map_or("", String::as_str),
        };
        return json!(format!("{program} {HIDDEN}").trim());
    }
    match command {
        Command::Shell(script) => json!(script),
        Command::Words(words) => json!(words),
    }
}

/// Without what stands between `//` and `@`.
fn hide_url(place: &str) -> String {
    match place.split_once("://").map(|(scheme, rest)| (scheme, rest.split_once('@'))) {
        Some((scheme, Some((user, rest)))) if user.contains(':') => format!("{scheme}://{HIDDEN}@{rest}"),
        _ => place.to_owned(),
    }
}

#[expect(clippy::ptr_arg, reason = "it is mapped over references to optional paths")]
fn text(path: &PathBuf) -> String {
    path.display().to_string()
}

/// As `parse_wait` reads it.
fn wait(time: Duration) -> String {
    let seconds = time.as_secs();
    for (unit, length) in [("d", 86_400), ("h", 3600), ("m", 60)] {
        // 26h rather than 1d2h: hours are counted up to two days.
        if seconds >= length && seconds.is_multiple_of(length) && (unit != "d" || seconds > 172_800) {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}

fn stretch(stretch: Stretch) -> String {
    let parts =
        [(stretch.years, 'y'), (stretch.months, 'm'), (stretch.weeks, 'w'), (stretch.days, 'd'), (stretch.hours, 'h')];
    let text: String = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0d".into() } else { text }
}
