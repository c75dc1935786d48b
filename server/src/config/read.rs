//! From text to [`Settings`].

use super::EXAMPLE_COMMAND;
use crate::access::pattern_of;
use crate::registry::validate_name;
use crate::settings::{DatasetRule, Limits, Log, LogTarget, Maintenance, Quota, Settings};
use globset::GlobMatcher;
use jiff::civil::Time;
use protocol::identity::NodeId;
use rules::keep;
use rules::mistake::{Mistake, Mistakes, Severity};
use rules::retention::Policy;
use rules::table::{At, Table, root};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tracing::Level;

pub fn read(text: &str, mode: Option<u32>) -> (Option<Settings>, Vec<Mistake>) {
    let mistakes = Mistakes::new(text, EXAMPLE_COMMAND);
    if mode.is_some_and(|mode| mode & 0o022 != 0) {
        let remedy = "chmod go-w: who writes it decides what is deleted";
        mistakes.file(Severity::Error, "others than its owner can write this file", remedy);
    }
    let entries = root(text, &mistakes);
    let settings = settings(&Table::new(&entries, String::new(), 0, &mistakes));
    (settings, mistakes.into_list())
}

/// None if nothing says where the data lies.
fn settings(table: &Table<'_>) -> Option<Settings> {
    let data = data(table);
    let listen = listen(table);
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut settings = Settings::new(data.clone().unwrap_or_default(), listen.unwrap_or(unknown));
    settings.address = address(table);
    settings.http = http(table, settings.http);
    if let Some(percent) = table.number("full_percent", 1) {
        if percent.value > 100 {
            table.mistakes.error(percent.at, &percent.place, "the number is out of range", "1 to 100");
        }
        settings.full_percent = percent.value.min(100);
    }
    settings.max_age = table.duration("max_age").map(|age| age.value);
    settings.max_lag = table.duration("max_lag").map_or(settings.max_lag, |lag| lag.value);
    settings.retention = table.table("retention").map_or_else(Policy::default, |table| retention(&table));
    settings.datasets = table.tables("datasets").iter().filter_map(dataset_rule).collect();
    settings.quotas = table.tables("quota").iter().filter_map(quota).collect();
    settings.maintenance = table.table("maintenance").map_or_else(Maintenance::default, |table| maintenance(&table));
    settings.limits = table.table("limits").map_or_else(Limits::default, |table| limits(&table));
    settings.log = table.table("log").map_or(settings.log, |table| log(&table, settings.log));
    table.finish(&[
        ("dataset", "write [[datasets]]"),
        ("quotas", "write [[quota]]"),
        ("keep_daily", "it belongs below [retention]"),
        ("keep_weekly", "it belongs below [retention]"),
        ("keep_monthly", "it belongs below [retention]"),
        ("verify_rate", "it belongs below [maintenance]"),
        ("metrics", "write `http`"),
        ("port", "it is a part of `listen`: \"0.0.0.0:4747\""),
    ]);
    data.map(|_| settings)
}

fn data(table: &Table<'_>) -> Option<PathBuf> {
    if !table.has("data") {
        table.error("`data` is missing", "say where everything is kept: data = \"/srv/nightkeep\"");
        return None;
    }
    let text = table.text("data")?;
    let path = PathBuf::from(&text.value);
    if path.is_relative() {
        table.mistakes.error(text.at, &text.place, "the path is relative", "begin it with /");
        return None;
    }
    if !path.is_dir() {
        let remedy = "`nightkeepd init` makes it; if it lies on a mount, see that it is there";
        table.mistakes.warning(text.at, &text.place, format!("there is no directory {}", text.value), remedy);
    }
    Some(path)
}

fn listen(table: &Table<'_>) -> Option<SocketAddr> {
    if !table.has("listen") {
        table.error("`listen` is missing", "write for instance listen = \"0.0.0.0:4747\"");
        return None;
    }
    socket_address(table, &table.text("listen")?)
}

fn socket_address(table: &Table<'_>, text: &At<String>) -> Option<SocketAddr> {
    let parsed = text.value.parse().ok();
    if parsed.is_none() {
        let what = format!("`{}` is not an address with a port", text.value);
        table.mistakes.error(text.at, &text.place, what, "write for instance \"0.0.0.0:4747\" or \"[::]:4747\"");
    }
    parsed
}

fn address(table: &Table<'_>) -> Option<String> {
    let text = table.text("address")?;
    let is_plain = |host: &str| !host.is_empty() && !host.contains(char::is_whitespace);
    match text.value.rsplit_once(':') {
        Some((host, port)) if is_plain(host) && port.parse::<u16>().is_ok_and(|port| port > 0) => Some(text.value),
        _ => {
            let what = format!("`{}` is not HOST:PORT", text.value);
            table.mistakes.error(text.at, &text.place, what, "write for instance \"backup.example.org:4747\"");
            None
        }
    }
}

fn http(table: &Table<'_>, default: Option<SocketAddr>) -> Option<SocketAddr> {
    let Some(text) = table.text("http") else { return default };
    if text.value == "off" {
        return None;
    }
    let address = socket_address(table, &text)?;
    if !address.ip().is_loopback() {
        let what = "whoever reaches this address sees names and sizes of all datasets";
        table.mistakes.warning(text.at, &text.place, what, "a loopback address, or a firewall before it");
    }
    Some(address)
}

fn retention(table: &Table<'_>) -> Policy {
    let policy = keep::policy(table);
    table.finish(&[&keep::HINTS[..], &[("prune", "gc is a part of the maintenance; leave this out")]].concat());
    policy
}

fn pattern(table: &Table<'_>, text: &At<String>) -> Option<GlobMatcher> {
    match pattern_of(&text.value) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let what = format!("`{}` is not a pattern: {}", text.value, error.kind());
            table.mistakes.error(text.at, &text.place, what, "write for instance \"www/*\" or \"*/postgres/*\"");
            None
        }
    }
}

fn dataset_rule(table: &Table<'_>) -> Option<DatasetRule> {
    if !table.has("match") {
        table.error("`match` is missing", "say which datasets this is about: match = [\"www/*\"]");
    }
    let patterns = table.texts("match").unwrap_or_default();
    let rule = DatasetRule {
        patterns: patterns.iter().filter_map(|text| pattern(table, text)).collect(),
        repository: repository(table),
        max_age: table.duration("max_age").map(|age| age.value),
        retention: table.table("retention").map(|table| retention(&table)),
    };
    if rule.max_age.is_none() && rule.retention.is_none() {
        table.error("it says nothing of these datasets", "give it a `max_age` or a [datasets.retention]");
    }
    table.finish(&[
        ("pattern", "write `match`"),
        ("patterns", "write `match`"),
        ("dataset", "write `match`"),
        ("keep_daily", "it belongs below [datasets.retention]"),
        ("keep_weekly", "it belongs below [datasets.retention]"),
        ("keep_monthly", "it belongs below [datasets.retention]"),
    ]);
    Some(rule)
}

/// A name, or a pattern of names.
fn repository(table: &Table<'_>) -> Option<GlobMatcher> {
    let text = table.text("repository")?;
    let is_pattern = text.value.contains(['*', '?', '[', '{']);
    if !is_pattern && let Err(error) = validate_name(&text.value) {
        table.mistakes.error(text.at, &text.place, error.to_string(), "`nightkeepd repository list` shows them");
        return None;
    }
    pattern(table, &text)
}

fn quota(table: &Table<'_>) -> Option<Quota> {
    let client = table.text("client");
    if let Some(text) = client.as_ref().filter(|text| text.value.starts_with("nkn1-"))
        && NodeId::from_text(&text.value).is_err()
    {
        table.mistakes.error(
            text.at,
            &text.place,
            "this is not a client's key",
            "`nightkeepd clients list` shows them",
        );
    }
    let (has_repository, repository) = (table.has("repository"), repository(table));
    if !has_repository && client.is_none() {
        table.error("it is nobody's", "give it a `repository`, a `client`, or both");
    }
    if !table.has("size") {
        table.error("`size` is missing", "write for instance size = \"500G\"");
    }
    let size = table.size("size");
    table.finish(&[("bytes", "write `size`"), ("limit", "write `size`"), ("clients", "write `client`, one a table")]);
    Some(Quota { repository, client: client.map(|text| text.value), bytes: size?.value })
}

fn maintenance(table: &Table<'_>) -> Maintenance {
    let default = Maintenance::default();
    let at_least = |key: &'static str, default: Duration, min: Duration, remedy: &str| {
        let Some(time) = table.duration(key) else { return default };
        if time.value < min {
            table.mistakes.error(time.at, &time.place, "the time is too short", remedy);
        }
        time.value.max(min)
    };
    let every = at_least("every", default.every, Duration::from_secs(1), "at least \"1s\"");
    let period = at_least("verify_period", default.verify_period, Duration::from_secs(1), "at least \"1s\"");
    let grace = table.duration("grace").map(|grace| grace.value);
    let rate = table.size("verify_rate");
    if let Some(rate) = rate.as_ref().filter(|rate| rate.value == 0) {
        table.mistakes.error(rate.at, &rate.place, "nothing could be read", "bytes a second: \"20M\"");
    }
    let time = table.text("at");
    let at = time.as_ref().and_then(|text| Time::strptime("%H:%M", &text.value).ok());
    if let (Some(text), None) = (&time, at) {
        let what = format!("`{}` is not a time of day", text.value);
        table.mistakes.error(text.at, &text.place, what, "write for instance \"02:30\"");
    }
    if let Some(text) = time.filter(|_| every < Duration::from_secs(3600)) {
        table.mistakes.error(text.at, &text.place, "it does not go with so short an `every`", "remove one of the two");
    }
    table.finish(&[("interval", "write `every`"), ("time", "write `at`"), ("rate", "write `verify_rate`")]);
    let rate = rate.map_or(default.verify_bytes_per_second, |rate| rate.value.max(1));
    Maintenance { every, at, grace, verify_period: period, verify_bytes_per_second: rate }
}

fn limits(table: &Table<'_>) -> Limits {
    let default = Limits::default();
    let count = |key: &'static str, default: usize| {
        table.number(key, 1).map_or(default, |number| usize::try_from(number.value).unwrap_or(usize::MAX))
    };
    let size = |key: &'static str, default: u64, min: u64| {
        let Some(size) = table.size(key) else { return default };
        if size.value < min {
            let remedy = format!("at least \"{}M\"", min >> 20);
            table.mistakes.error(size.at, &size.place, "the size is out of range", remedy);
        }
        size.value.max(min)
    };
    let limits = Limits {
        connections: count("connections", default.connections),
        connections_per_client: count("connections_per_client", default.connections_per_client),
        push_bytes: size("push", default.push_bytes, 24 << 20),
        waiting_bytes: size("waiting", default.waiting_bytes, 64 << 20),
    };
    table.finish(&[("push_bytes", "write `push`"), ("waiting_bytes", "write `waiting`")]);
    limits
}

fn log(table: &Table<'_>, default: Log) -> Log {
    let targets = [("stderr", LogTarget::StandardError), ("syslog", LogTarget::Syslog)];
    let levels = [("error", Level::ERROR), ("warn", Level::WARN), ("info", Level::INFO), ("debug", Level::DEBUG)];
    let log = Log {
        to: table.word("to", &targets).map_or(default.to, |to| to.value),
        level: table.word("level", &levels).map_or(default.level, |level| level.value),
    };
    table.finish(&[("target", "write `to`"), ("file", "standard error goes where the service manager says")]);
    log
}
