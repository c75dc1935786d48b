//! `retention`, `gc`, `verify` and `status`: asked of the running server, and shown.

use super::{Cli, ask, number, print, text};
use crate::admin::Request;
use crate::error::{Error, Result};
use crate::ledger::Kind;
use rules::clock;
use rules::units::{format_elapsed, format_size, plural};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Only this one; all without it
    repository: Option<String>,
    /// Change nothing, show what would be
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub fn maintain(cli: &Cli, kind: Kind, arguments: &Arguments) -> Result<()> {
    let request = Request::Maintain { kind, repository: arguments.repository.clone(), dry_run: arguments.dry_run };
    let answer = ask(cli, &request)?;
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut wrong = false;
    let mut busy = None;
    for row in rows {
        let name = text(row, "repository");
        if let Some(failure) = row["failure"].as_str() {
            let line = if cli.json {
                json!({"message_type": "error", "item": name, "message": failure}).to_string()
            } else {
                format!("nightkeepd: {kind} of {name}: {failure}")
            };
            // There is nobody to tell if even that fails.
            let _ = writeln!(std::io::stderr(), "{line}");
            if row["busy"] == Value::Bool(true) {
                busy = Some(name)
            } else {
                wrong = true
            }
            continue;
        }
        wrong |= number(&row["told"], "lost") > 0;
        if !cli.json {
            show(kind, name, &row["told"], arguments.dry_run)?;
        }
    }
    if cli.json {
        print(
            &json!({"message_type": "summary", "kind": kind, "dry_run": arguments.dry_run, "repositories": rows})
                .to_string(),
        )?;
    }
    match busy {
        _ if wrong => Err(Error::Told),
        Some(_) => Err(Error::ToldBusy),
        None => Ok(()),
    }
}

fn show(kind: Kind, name: &str, told: &Value, dry_run: bool) -> Result<()> {
    let would = if dry_run { "would be " } else { "" };
    let count = |key: &str| number(told, key);
    match kind {
        Kind::Retention => {
            for (key, word) in [("forgotten", "forgotten"), ("restored", "taken back")] {
                for row in told[key].as_array().into_iter().flatten() {
                    let id = text(row, "snapshot").get(..8).unwrap_or_default();
                    let (dataset, received) = (text(row, "dataset"), text(row, "received"));
                    print(&format!("{name}: {would}{word}: {id} of {dataset}, received {received}"))?;
                }
            }
            let rows = |key: &str| told[key].as_array().map_or(0, Vec::len) as u64;
            print(&format!(
                "{name}: {} {would}forgotten, {} {would}taken back, {} kept, {} forgotten before.",
                plural(rows("forgotten"), "snapshot"),
                rows("restored"),
                count("kept"),
                count("forgotten_before"),
            ))
        }
        Kind::Gc => print(&format!(
            "{name}: {} {would}removed, {} in grace; {} packs {would}deleted, {} {would}rewritten; {} {would}freed.",
            plural(told["snapshots_removed"].as_array().map_or(0, Vec::len) as u64, "snapshot"),
            count("snapshots_in_grace"),
            count("packs_deleted"),
            count("packs_rewritten"),
            format_size(count("bytes_freed")),
        )),
        Kind::Verify if dry_run => {
            let bytes = format_size(count("bytes"));
            print(&format!("{name}: {} with {bytes} would be read.", plural(count("packs"), "pack")))
        }
        Kind::Verify => {
            for finding in told["findings"].as_array().into_iter().flatten() {
                let word = if finding["lost"] == Value::Bool(true) { "damaged" } else { "note" };
                print(&format!("{name}: {word}: {}: {}", text(finding, "object"), text(finding, "message")))?;
            }
            let found = match count("lost") {
                0 => "no damage found".to_owned(),
                lost => format!("{} damaged; the next backup of the same data heals it", plural(lost, "object")),
            };
            let (read, bytes) = (plural(count("packs_read"), "pack"), format_size(count("bytes_read")));
            print(&format!("{name}: {read} read ({bytes}), {}: {found}.", plural(count("snapshots"), "snapshot")))
        }
    }
}

pub fn status(cli: &Cli) -> Result<()> {
    let answer = ask(cli, &Request::Status)?;
    let lines = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    let problems = lines.last().and_then(|line| line["problems"].as_array()).map(Vec::as_slice).unwrap_or_default();
    if cli.json {
        lines.iter().try_for_each(|line| print(&line.to_string()))?;
    } else {
        let of = |kind: &'static str| lines.iter().filter(move |line| text(line, "message_type") == kind);
        server(of("server"))?;
        repositories(of("repository"))?;
        datasets(of("dataset"))?;
        sessions(of("session"))?;
        jobs(of("job"))?;
        peers(of("peer"))?;
        for problem in problems {
            print(&format!("PROBLEM: {}", problem.as_str().unwrap_or_default()))?;
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Told) }
}

fn server<'a>(rows: impl Iterator<Item = &'a Value>) -> Result<()> {
    for row in rows {
        print(&format!("nightkeepd {} on {}, {}", text(row, "version"), text(row, "listen"), text(row, "key")))?;
        let since = ago(row, "started");
        let (left, all) = (format_size(number(row, "disk_available_bytes")), format_size(number(row, "disk_bytes")));
        print(&format!("up {since}, {} connections, {left} of {all} left", number(row, "connections")))?;
    }
    Ok(())
}

fn repositories<'a>(rows: impl Iterator<Item = &'a Value>) -> Result<()> {
    let mut table = vec![row(&[
        "REPOSITORY",
        "DATASETS",
        "SNAPSHOTS",
        "STORED",
        "CONTENT",
        "SAVED",
        "QUOTA",
        "LOST",
        "RETENTION",
        "GC",
        "VERIFY",
    ])];
    for line in rows {
        let (stored, content) = (number(line, "stored_bytes"), number(line, "content_bytes"));
        let saved = if stored == 0 || content < stored {
            "-".into()
        } else {
            format!("{}.{}x", content / stored, content % stored * 10 / stored)
        };
        let last = |kind: Kind| {
            let past = line["done"].as_array().into_iter().flatten().find(|past| text(past, "kind") == kind.text());
            past.map_or("-".to_owned(), |past| {
                if past["failure"].is_null() { ago(past, "ended") } else { format!("FAILED {}", ago(past, "ended")) }
            })
        };
        let forgotten = number(line, "forgotten_snapshots");
        let snapshots = number(line, "snapshots");
        table.push(vec![
            text(line, "name").to_owned(),
            number(line, "datasets").to_string(),
            if forgotten == 0 { snapshots.to_string() } else { format!("{snapshots}+{forgotten}") },
            format_size(stored),
            format_size(content),
            saved,
            line["quota_bytes"].as_u64().map_or("-".into(), format_size),
            number(line, "lost_blobs").to_string(),
            last(Kind::Retention),
            last(Kind::Gc),
            last(Kind::Verify),
        ]);
    }
    show_table(&table)
}

fn datasets<'a>(rows: impl Iterator<Item = &'a Value>) -> Result<()> {
    let mut table = vec![row(&["DATASET", "REPOSITORY", "LAST BACKUP", "AGE", "MAX", "SNAPSHOTS", "SIZE", ""])];
    let zone = clock::zone();
    for line in rows {
        let span = |key: &str| line[key].as_u64().map_or("-".to_owned(), span);
        table.push(vec![
            text(line, "dataset").to_owned(),
            text(line, "repository").to_owned(),
            line["last"].as_i64().map_or("-".into(), |last| clock::local(last.saturating_mul(1_000_000_000), &zone)),
            span("age_seconds"),
            span("max_age_seconds"),
            number(line, "snapshots").to_string(),
            format_size(number(line, "content_bytes")),
            if line["overdue"] == Value::Bool(true) { "OVERDUE".into() } else { String::new() },
        ]);
    }
    show_table(&table)
}

fn sessions<'a>(rows: impl Iterator<Item = &'a Value>) -> Result<()> {
    let mut table = vec![row(&["SESSION", "ADDRESS", "REPOSITORY", "FOR", "RECEIVED"])];
    for line in rows {
        table.push(vec![
            text(line, "client").to_owned(),
            text(line, "address").to_owned(),
            text(line, "repository").to_owned(),
            ago(line, "since"),
            format_size(number(line, "received_bytes")),
        ]);
    }
    show_table(&table)
}

fn jobs<'a>(rows: impl Iterator<Item = &'a Value>) -> Result<()> {
    let mut table = vec![row(&["JOB", "REPOSITORY", "FOR", "DONE"])];
    for line in rows {
        let (done, total) = (number(line, "done_bytes"), number(line, "total_bytes"));
        let done = if total == 0 { "-".into() } else { format!("{} %", u128::from(done) * 100 / u128::from(total)) };
        table.push(vec![text(line, "kind").to_owned(), text(line, "repository").to_owned(), ago(line, "since"), done]);
    }
    show_table(&table)
}

fn peers<'a>(rows: impl Iterator<Item = &'a Value>) -> Result<()> {
    let mut table =
        vec![row(&["PEER", "REPOSITORY", "STATE", "LAG", "SNAPSHOTS", "BYTES", "RATE", "LEFT", "HEARD", ""])];
    for line in rows {
        table.push(vec![
            text(line, "address").to_owned(),
            text(line, "repository").to_owned(),
            text(line, "state").to_owned(),
            span(number(line, "lag_seconds")),
            number(line, "lag_snapshots").to_string(),
            format_size(number(line, "lag_bytes")),
            format!("{}/s", format_size(number(line, "bytes_per_second"))),
            line["seconds_left"].as_u64().map_or("-".into(), span),
            line["last_contact"].as_i64().map_or("-".into(), |_| ago(line, "last_contact")),
            [if line["overdue"] == Value::Bool(true) { "BEHIND " } else { "" }, text(line, "problem")].concat(),
        ]);
    }
    show_table(&table)
}

fn row(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Nothing without rows; the first line has the heads.
fn show_table(rows: &[Vec<String>]) -> Result<()> {
    if rows.len() < 2 {
        return Ok(());
    }
    print("")?;
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..).map_while(width).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        print(cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// How long ago it was, in seconds since 1970.
fn ago(row: &Value, key: &str) -> String {
    let then = row[key].as_i64().unwrap_or_default();
    span(clock::seconds().saturating_sub(then).max(0).unsigned_abs())
}

fn span(seconds: u64) -> String {
    match seconds {
        0..3600 => format_elapsed(Duration::from_secs(seconds)),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}
