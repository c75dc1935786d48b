//! The command line of `nightkeepd`: arguments, what is printed, exit codes. Only this file and `main` print.

mod config;

mod work;

use crate::admin::{self, Request};
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::ledger::Kind;
use crate::listener;
use crate::log;
use crate::maintenance;
use crate::metrics;
use crate::notify::Notify;
use crate::registry::Registry;
use crate::reload;
use crate::replica;
use crate::settings::{DEFAULT_FILE, Settings};
use crate::storage::blocking;
use clap::{Parser, Subcommand};
use protocol::identity::NodeKey;
use rules::units::{format_size, plural};
use serde_json::{Value, json};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long jobs have to notice that the server stops.
const JOBS_STOP_MAX: Duration = Duration::from_secs(2);

const ABOUT: &str = "Keep backups for other machines, without being able to read them";

const AFTER: &str = "\
EXIT CODES
  0 done   1 failed, or `status` found something wrong   10 no server is running   11 busy

EXAMPLES
  nightkeepd init --data /srv/nightkeep --listen 0.0.0.0:4747
  nightkeepd serve
  nightkeepd repository create office
  nightkeepd invite --repository office --role backup --datasets 'www/*'";

#[derive(Parser, Debug)]
#[command(name = "nightkeepd", version, about = ABOUT, after_help = AFTER, subcommand_required = true)]
#[command(max_term_width = 120)]
pub struct Cli {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_FILE)]
    pub config: PathBuf,
    /// Print JSON lines instead of text
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make the data directory, the server's key and the configuration file
    #[command(after_help = "EXAMPLES\n  nightkeepd init --data /srv/nightkeep --listen 0.0.0.0:4747")]
    Init(Init),
    /// Serve until told to stop (SIGTERM)
    #[command(after_help = "EXAMPLES\n  nightkeepd serve\n  nightkeepd --config /etc/nightkeep/server.toml serve")]
    Serve,
    /// The repositories of this server
    #[command(subcommand)]
    Repository(RepositoryVerb),
    /// Print a token that lets one machine in
    #[command(
        after_help = "EXAMPLES\n  nightkeepd invite --repository office --role backup --datasets 'www/*' --expires 1h\n  \
        nightkeepd invite --repository office --role admin\n  nightkeepd invite --repository office --role replica"
    )]
    Invite(Invite),
    /// How things stand: repositories, datasets, sessions, jobs, damage
    #[command(
        after_help = "Ends with 1 if anything is wrong or overdue.\n\nEXAMPLES\n  nightkeepd status\n  nightkeepd status --json"
    )]
    Status,
    /// Forget the snapshots that the configured rules do not keep; nothing is removed before their grace has passed
    #[command(after_help = "EXAMPLES\n  nightkeepd retention --dry-run\n  nightkeepd retention office")]
    Retention(work::Arguments),
    /// Remove what was forgotten long enough ago, and free its space
    #[command(after_help = "EXAMPLES\n  nightkeepd gc\n  nightkeepd gc office --dry-run")]
    Gc(work::Arguments),
    /// Read back and check all that is stored; what is lost is stored again by the next backup
    #[command(after_help = "EXAMPLES\n  nightkeepd verify\n  nightkeepd verify office")]
    Verify(work::Arguments),
    /// The configuration file
    #[command(subcommand)]
    Config(config::Verb),
    /// Make the running server read its configuration file again
    #[command(after_help = "EXAMPLES\n  nightkeepd reload")]
    Reload,
    /// The machines that may come in
    #[command(subcommand)]
    Clients(ClientsVerb),
    /// Other sites that keep the same repositories
    #[command(subcommand)]
    Peer(PeerVerb),
}

#[derive(Subcommand, Debug)]
pub enum PeerVerb {
    /// Keep a repository equal with another site, which invited with --role replica
    #[command(
        after_help = "EXAMPLES\n  nightkeepd peer join nk1aeaq...\n  nightkeepd peer join nk1aeaq... --limit 08:00-18:00=500K\n  \
        nightkeepd peer join nk1aeaq... --delay 7d"
    )]
    Join(Join),
    /// Show them, and how far they are behind
    #[command(after_help = "EXAMPLES\n  nightkeepd peer list\n  nightkeepd --json peer list")]
    List,
    /// Leave one; what it brought stays
    #[command(after_help = "EXAMPLES\n  nightkeepd peer remove b.example.org:4747")]
    Remove {
        /// Its address, the beginning of its key, or the repository
        peer: String,
    },
    /// Leave one alone for now
    #[command(after_help = "EXAMPLES\n  nightkeepd peer pause b.example.org:4747")]
    Pause { peer: String },
    /// Go on
    #[command(after_help = "EXAMPLES\n  nightkeepd peer resume b.example.org:4747")]
    Resume { peer: String },
    /// Compare both catalogues; ends with 1 if they are not equal
    #[command(after_help = "EXAMPLES\n  nightkeepd peer compare\n  nightkeepd peer compare b.example.org:4747")]
    Compare { peer: Option<String> },
}

#[derive(clap::Args, Debug)]
pub struct Join {
    /// What `nightkeepd invite --role replica` printed at the other site
    token: String,
    /// The repository here, if it is not to have the same name
    #[arg(long = "as", value_name = "NAME")]
    own: Option<String>,
    /// Datasets to keep equal, HOST/KIND/NAME with * and ?; all without it
    #[arg(long, value_name = "GLOB")]
    datasets: Vec<String>,
    /// Bytes a second, always or in these hours of local time; of several the first that fits
    #[arg(long, value_name = "[HH:MM-HH:MM=]RATE")]
    limit: Vec<String>,
    /// Only take, and apply deletions so much later: 7d
    #[arg(long, value_name = "TIME", value_parser = span)]
    delay: Option<u64>,
}

#[derive(clap::Args, Debug)]
pub struct Init {
    /// Where everything is kept: a new or empty directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address and UDP port to listen on
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:4747")]
    listen: SocketAddr,
    /// HOST:PORT under which clients reach it, if that is another one
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
}

#[derive(Subcommand, Debug)]
pub enum RepositoryVerb {
    /// Make an empty one; its first client creates its keys with `nightkeep init`
    #[command(after_help = "EXAMPLES\n  nightkeepd repository create office")]
    Create { name: String },
    /// Show them
    #[command(after_help = "EXAMPLES\n  nightkeepd repository list")]
    List,
}

#[derive(clap::Args, Debug)]
pub struct Invite {
    #[arg(long, value_name = "NAME")]
    repository: String,
    /// backup: new snapshots, reads and deletes nothing. restore: reads. admin: both, and forget, tags, keys. replica: another site
    #[arg(long, value_name = "ROLE")]
    role: String,
    /// Datasets that this is about, HOST/KIND/NAME with * and ?; all without it
    #[arg(long, value_name = "GLOB")]
    datasets: Vec<String>,
    /// How long the token is good: 30m, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = span)]
    expires: u64,
    /// HOST:PORT that the token names, instead of the configured one
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
}

#[derive(Subcommand, Debug)]
pub enum ClientsVerb {
    /// Show them
    #[command(after_help = "EXAMPLES\n  nightkeepd clients list")]
    List,
    /// Shut one out, at once
    #[command(after_help = "EXAMPLES\n  nightkeepd clients revoke www")]
    Revoke {
        /// Its key, the beginning of it, or its name
        client: String,
    },
}

/// Says how it ended and gives the exit code.
pub fn conclude(result: Result<()>, json: bool) -> u8 {
    let Err(error) = result else { return 0 };
    match error {
        Error::Told => return 1,
        Error::ToldBusy => return 11,
        _ => {}
    }
    let (code, hint) = match &error {
        Error::NotRunning { .. } => (10, Some("`nightkeepd serve` starts it")),
        Error::NoConfiguration { .. } => (1, Some("`nightkeepd init` writes one; `--config` names another")),
        Error::Configuration { .. } => (1, Some("`nightkeepd config check` names all mistakes")),
        Error::Busy { .. } => (11, None),
        Error::Store(chunkstore::Error::Locked { .. }) => (11, None),
        _ => (1, None),
    };
    let line = if json {
        json!({"message_type": "exit_error", "code": code, "message": error.to_string(), "hint": hint}).to_string()
    } else {
        format!("nightkeepd: {error}{}", hint.map(|hint| format!("\n  {hint}")).unwrap_or_default())
    };
    // There is nobody to tell if even that fails.
    let _ = writeln!(std::io::stderr(), "{line}");
    code
}

pub fn run(cli: &Cli) -> Result<()> {
    match &cli.verb {
        Verb::Init(arguments) => init(cli, arguments),
        Verb::Serve => serve(cli),
        Verb::Status => work::status(cli),
        Verb::Retention(arguments) => work::maintain(cli, Kind::Retention, arguments),
        Verb::Gc(arguments) => work::maintain(cli, Kind::Gc, arguments),
        Verb::Verify(arguments) => work::maintain(cli, Kind::Verify, arguments),
        Verb::Config(verb) => config::run(cli, verb),
        Verb::Reload => ask(cli, &Request::Reload)
            .and_then(|answer| tell(cli, &answer, &["The configuration was read again.".into()])),
        Verb::Repository(RepositoryVerb::Create { name }) => {
            let answer = ask(cli, &Request::RepositoryCreate { name: name.clone() })?;
            tell(
                cli,
                &answer,
                &[format!("Made repository {name}. Its first client creates its keys with `nightkeep init`.")],
            )
        }
        Verb::Repository(RepositoryVerb::List) => {
            let answer = ask(cli, &Request::RepositoryList)?;
            let line = |row: &Value| {
                let state = if row.get("created") == Some(&Value::Bool(true)) { "in use" } else { "empty" };
                format!("{:<24} {state:<8} {} clients", text(row, "name"), number(row, "clients"))
            };
            tell_rows(cli, &answer, &line)
        }
        Verb::Invite(arguments) => invite(cli, arguments),
        Verb::Clients(ClientsVerb::List) => {
            let answer = ask(cli, &Request::ClientsList)?;
            let line = |row: &Value| {
                let datasets: Vec<&str> =
                    row["datasets"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let datasets = if datasets.is_empty() { "all datasets".to_owned() } else { datasets.join(" ") };
                let (name, role) = (text(row, "name"), text(row, "role"));
                format!("{}  {name:<16} {role:<8} {}  {datasets}", text(row, "key"), text(row, "repository"))
            };
            tell_rows(cli, &answer, &line)
        }
        Verb::Clients(ClientsVerb::Revoke { client }) => {
            let answer = ask(cli, &Request::ClientsRevoke { client: client.clone() })?;
            let closed = number(&answer, "connections_closed");
            let line =
                format!("Revoked {} ({}); {closed} connections closed.", text(&answer, "name"), text(&answer, "key"));
            tell(cli, &answer, &[line])
        }
        Verb::Peer(verb) => peer(cli, verb),
    }
}

fn peer(cli: &Cli, verb: &PeerVerb) -> Result<()> {
    let named = |answer: &Value| format!("{} ({})", text(answer, "address"), text(answer, "repository"));
    match verb {
        PeerVerb::Join(arguments) => {
            let request = Request::PeerJoin {
                token: arguments.token.clone(),
                own: arguments.own.clone(),
                datasets: arguments.datasets.clone(),
                limits: arguments.limit.clone(),
                delay_seconds: arguments.delay.unwrap_or(0),
            };
            let answer = ask(cli, &request)?;
            let keys = format!("Its key: {}\nOurs:    {}", text(&answer, "key"), text(&answer, "own_key"));
            tell(cli, &answer, &[format!("Joined {}.", named(&answer)), keys])
        }
        PeerVerb::List => tell_rows(cli, &ask(cli, &Request::PeerList)?, &peer_line),
        PeerVerb::Remove { peer } => {
            let answer = ask(cli, &Request::PeerRemove { peer: peer.clone() })?;
            tell(
                cli,
                &answer,
                &[format!("Left {}. There, `nightkeepd clients revoke` shuts this site out.", named(&answer))],
            )
        }
        PeerVerb::Pause { peer } | PeerVerb::Resume { peer } => {
            let paused = matches!(verb, PeerVerb::Pause { .. });
            let answer = ask(cli, &Request::PeerPause { peer: peer.clone(), paused })?;
            tell(cli, &answer, &[format!("{} {}.", if paused { "Paused" } else { "Resumed" }, named(&answer))])
        }
        PeerVerb::Compare { peer } => {
            let answer = ask(cli, &Request::PeerCompare { peer: peer.clone() })?;
            tell_rows(cli, &answer, &comparison_lines)?;
            let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
            match rows.iter().find(|row| row.get("equal") != Some(&Value::Bool(true))) {
                None => Ok(()),
                Some(row) => Err(Error::argument(named(row), "the catalogues differ")),
            }
        }
    }
}

fn peer_line(row: &Value) -> String {
    let (lag, age) = (number(row, "lag_snapshots"), number(row, "lag_seconds"));
    let mut line = format!(
        "{}  {}  {:<10} {lag} snapshots, {}, {age} s behind; {}/s",
        text(row, "address"),
        text(row, "repository"),
        text(row, "state"),
        format_size(number(row, "lag_bytes")),
        format_size(number(row, "bytes_per_second"))
    );
    if let Some(left) = row.get("seconds_left").and_then(Value::as_u64).filter(|_| lag > 0) {
        line.push_str(&format!(", {left} s to go"));
    }
    let problem = text(row, "problem");
    if problem.is_empty() { line } else { format!("{line}\n  {problem}") }
}

fn comparison_lines(row: &Value) -> String {
    let mut lines = vec![format!("{}  {}", text(row, "address"), text(row, "repository"))];
    let common = number(row, "snapshots");
    if row.get("equal") == Some(&Value::Bool(true)) {
        lines.push(format!("  equal: {common} snapshots"));
    } else {
        lines.push(format!("  {common} snapshots at both"));
    }
    for (key, one, other) in [("not_kept_here", "there", "here"), ("not_kept_there", "here", "there")] {
        let count = row.get(key).and_then(Value::as_array).map_or(0, Vec::len) as u64;
        if count > 0 {
            lines.push(format!("  only {one}, not to be kept {other}: {}", plural(count, "snapshot")));
        }
    }
    for (key, place) in [("missing_here", "here"), ("missing_there", "there")] {
        let missing = row.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        lines.extend(missing.map(|id| format!("  missing {place}: snapshot {id}")));
    }
    for (what, key) in [("marks", "marks"), ("key slots", "key_slots")] {
        for place in ["here", "there"] {
            let count = number(row, &format!("{key}_missing_{place}"));
            if count > 0 {
                lines.push(format!("  missing {place}: {count} {what}"));
            }
        }
    }
    lines.join("\n")
}

fn ask(cli: &Cli, request: &Request) -> Result<Value> {
    let loaded = crate::config::load(&cli.config)?;
    // Mistakes elsewhere do not keep from finding the server.
    let settings = match loaded.settings {
        Some(settings) => settings,
        None => loaded.require()?,
    };
    admin::call(&settings, request)
}

fn invite(cli: &Cli, arguments: &Invite) -> Result<()> {
    let request = Request::Invite {
        repository: arguments.repository.clone(),
        role: arguments.role.clone(),
        datasets: arguments.datasets.clone(),
        expires_seconds: arguments.expires,
        address: arguments.address.clone(),
    };
    let answer = ask(cli, &request)?;
    if !cli.json && std::io::stderr().is_terminal() {
        let key = text(&answer, "server_key");
        let _ = writeln!(std::io::stderr(), "This server is {key}. On the client: nightkeep join TOKEN");
    }
    tell(cli, &answer, &[text(&answer, "token").to_owned()])
}

fn init(cli: &Cli, arguments: &Init) -> Result<()> {
    let data = std::path::absolute(&arguments.data).map_err(|error| Error::io("cannot resolve", "--data", error))?;
    let settings = Settings::new(data.clone(), arguments.listen);
    let config = &cli.config;
    if config.exists() {
        return Err(Error::argument(config.display().to_string(), "it is there already; name another with --config"));
    }
    directory(&data)?;
    if settings.key_file().exists() {
        return Err(Error::argument(data.display().to_string(), "a server's data is there already"));
    }
    directory(&settings.repositories())?;
    let key = NodeKey::generate()?;
    Registry::open(&settings.registry_file())?;
    write_private(&settings.key_file(), key.to_pkcs8())?;
    if let Some(parent) = config.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)
            .map_err(|error| Error::io("cannot create", parent.display().to_string(), error))?;
    }
    let quoted = |text: &str| toml_string(text);
    let mut content = "# `nightkeepd config example` shows all there is.\n".to_owned();
    content.push_str(&format!("data = {}\nlisten = \"{}\"\n", quoted(&data.to_string_lossy()), arguments.listen));
    if let Some(address) = &arguments.address {
        content.push_str(&format!("address = {}\n", quoted(address)));
    }
    write_private(config, content.as_bytes())?;
    let lines = [
        format!("Made a server in {}; its configuration is {}.", data.display(), config.display()),
        format!("Its key: {}", key.id()),
    ];
    tell(
        cli,
        &json!({"data": data.display().to_string(), "config": config.display().to_string(), "key": key.id().to_string()}),
        &lines,
    )
}

fn serve(cli: &Cli) -> Result<()> {
    let loaded = crate::config::load(&cli.config)?;
    config::show_mistakes(cli, &loaded);
    let settings = &loaded.require()?;
    let notify = Notify::new(std::env::var_os("NOTIFY_SOCKET").as_deref());
    log::begin(settings.log, std::env::var_os("JOURNAL_STREAM").is_some())?;
    let pkcs8 = std::fs::read(settings.key_file())
        .map_err(|error| Error::io("cannot read", settings.key_file().display().to_string(), error))?;
    let key = NodeKey::from_pkcs8(Zeroizing::new(pkcs8))?;
    let _lock = crate::storage::lock_data(&settings.data)?;
    let hub = Hub::new(cli.config.clone(), settings.clone(), &key, Registry::open(&settings.registry_file())?, notify)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::io("cannot start", "threads", error))?;
    let outcome = runtime.block_on(async {
        let listener = listener::bind(&hub, &key)?;
        let socket = admin::bind(settings)?;
        let address = listener.address().map_or_else(String::new, |address| address.to_string());
        tracing::info!(%address, key = %key.id(), "serving");
        let administration = tokio::spawn(admin::serve(Arc::clone(&hub), socket));
        let hangups = tokio::spawn(reload_signal(Arc::clone(&hub)));
        let maintenance = tokio::spawn(maintenance::run(Arc::clone(&hub)));
        if let Some(metrics) = metrics::bind(settings).await {
            tokio::spawn(metrics::serve(Arc::clone(&hub), metrics));
        }
        let replication = tokio::spawn(replica::run(Arc::clone(&hub), Arc::new(key)));
        hub.notify.ready();
        listener::run(Arc::clone(&hub), listener, stop_signal(Arc::clone(&hub))).await;
        administration.abort();
        replication.abort();
        maintenance.abort();
        hangups.abort();
        Ok(())
    });
    let _ = std::fs::remove_file(settings.socket());
    // A job at work is left where it is: it is made to be stopped anywhere.
    runtime.shutdown_timeout(JOBS_STOP_MAX);
    outcome
}

async fn reload_signal(hub: Arc<Hub>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return tracing::error!("SIGHUP cannot be watched") };
    while hangup.recv().await.is_some() {
        let hub = Arc::clone(&hub);
        // The log has told of what went wrong.
        let _ = blocking(move || reload::reload(&hub)).await;
    }
}

async fn stop_signal(hub: Arc<Hub>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be watched");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    hub.stopping.store(true, Ordering::Relaxed);
    hub.notify.stopping();
}

fn directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Error::io("cannot create", path.display().to_string(), error))
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|error| Error::io("cannot create", path.display().to_string(), error))
}

/// A basic string of TOML; JSON's is one.
fn toml_string(text: &str) -> String {
    Value::from(text).to_string()
}

fn tell(cli: &Cli, answer: &Value, lines: &[String]) -> Result<()> {
    if cli.json {
        let mut answer = answer.clone();
        if let Some(object) = answer.as_object_mut() {
            object.insert("message_type".into(), "summary".into());
        }
        return print(&answer.to_string());
    }
    lines.iter().try_for_each(|line| print(line))
}

fn tell_rows(cli: &Cli, answer: &Value, line: &dyn Fn(&Value) -> String) -> Result<()> {
    for row in answer.as_array().into_iter().flatten() {
        print(&if cli.json { row.to_string() } else { line(row) })?;
    }
    Ok(())
}

fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| Error::io("cannot write to", "standard output", error))
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(row: &Value, key: &str) -> u64 {
    row.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// `30m`, `24h`, `7d`, in seconds.
fn span(text: &str) -> std::result::Result<u64, String> {
    let bad = || "expected a number and s, m, h or d: 30m, 24h, 7d".to_owned();
    let unit = text.chars().last().ok_or_else(bad)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = text.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or_else(bad)?;
    number.checked_mul(factor).filter(|seconds| (1..=366 * 86_400).contains(seconds)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Every verb's help shows examples, and they are understood.
    #[test]
    fn every_verb_shows_examples_that_parse() {
        let mut shown = 0;
        let mut open = vec![Cli::command()];
        while let Some(command) = open.pop() {
            let verbs: Vec<_> = command.get_subcommands().filter(|verb| verb.get_name() != "help").cloned().collect();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(!verbs.is_empty() || help.contains("EXAMPLES"), "{} has no examples", command.get_name());
            for line in help.lines().filter_map(|line| line.trim().strip_prefix("nightkeepd ")) {
                let line = line.split(" > ").next().unwrap_or(line).replace('\'', "");
                let words = std::iter::once("nightkeepd").chain(line.split_whitespace());
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("{line}: {error}");
                }
                shown += 1;
            }
            open.extend(verbs);
        }
        assert!(shown > 15, "{shown}");
    }
}
