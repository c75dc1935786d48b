//! Files whose pages change in place: an SQLite database, and the image of a disk with a file system on it.

use super::{Random, Words, directory, file, name, tree};
use rusqlite::{Connection, params};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// A tracker's database of about `bytes`, with two indexes. The next night has 2 % more rows, and 1 % changed, most of them among the newest;
/// the file is the one of before, written to as SQLite does.
pub fn sqlite(path: &Path, bytes: u64, night: u64) -> io::Result<()> {
    let rows = bytes / 1529;
    if night == 0 {
        let _ = fs::remove_file(path);
    }
    change(path, rows, night).map_err(io::Error::other)
}

fn change(path: &Path, rows: u64, night: u64) -> rusqlite::Result<()> {
    let words = Words::new();
    let mut database = Connection::open(path)?;
    database.pragma_update(None, "synchronous", "OFF")?;
    let transaction = database.transaction()?;
    if night == 0 {
        transaction.execute_batch(
            "CREATE TABLE issue(id INTEGER PRIMARY KEY, title TEXT, status INTEGER, changed INTEGER, body TEXT);
             CREATE INDEX by_title ON issue(title);
             CREATE INDEX by_change ON issue(status, changed);",
        )?;
    }
    let first = if night == 0 { 0 } else { rows + rows * 2 * (night - 1) / 100 };
    let end = rows + rows * 2 * night / 100;
    let mut insert = transaction.prepare("INSERT INTO issue VALUES(?1, ?2, ?3, ?4, ?5)")?;
    for id in first..end {
        let mut random = Random::new(id * 13 + 3);
        let title = text(&words, &mut random, 5);
        let len = 20 + random.below(220);
        insert.execute(params![
            number(id),
            title,
            number(random.below(8)),
            number(id),
            text(&words, &mut random, len)
        ])?;
    }
    drop(insert);
    let mut random = Random::new(night);
    let mut update =
        transaction.prepare("UPDATE issue SET status = ?2, changed = ?3, body = body || ?4 WHERE id = ?1")?;
    for n in 0..if night == 0 { 0 } else { rows / 100 } {
        let id = first.saturating_sub(1 + random.skewed(first));
        let more = text(&words, &mut random, 12);
        update.execute(params![number(id), number(random.below(8)), number(end + n), more])?;
    }
    drop(update);
    transaction.commit()
}

fn text(words: &Words, random: &mut Random, len: u64) -> String {
    (0..len).map(|_| words.pick(random)).collect::<Vec<_>>().join(" ")
}

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

const MKE2FS: &str = "/sbin/mke2fs";

/// Whether there is what [`image`] takes.
pub fn can_make_images() -> bool {
    Path::new(MKE2FS).exists()
}

/// An ext4 file system in a file, with the tree of [`tree`] on it; the next night one file in 36 was replaced, within it. Times of change are
/// those of its making. Takes e2fsprogs; `scratch` is any directory.
pub fn image(path: &Path, scratch: &Path, entries: u64, night: u64) -> io::Result<()> {
    let files = tempfile::tempdir_in(scratch)?;
    if night == 0 {
        tree(files.path(), entries)?;
        let _ = fs::remove_file(path);
        let seed = "8a5b6c1e-3f0d-4b7a-9c2e-5d1f0a7b3c4d";
        let mut mke2fs = Command::new(MKE2FS);
        mke2fs.args(["-q", "-F", "-t", "ext4", "-U", seed, "-E", &format!("hash_seed={seed},root_owner=0:0"), "-d"]);
        mke2fs.arg(files.path()).arg(path).arg(format!("{}k", entries * 20 + 65_536));
        return run(&mut mke2fs, "");
    }
    let words = Words::new();
    let mut commands = String::new();
    for n in (0..entries).step_by(36) {
        let path = files.path().join(n.to_string());
        file(&words, &path, n, night)?;
        let (directory, name) = (directory(n), name(&words, n));
        let name = name.rsplit('/').next().unwrap_or_default();
        commands.push_str(&format!("cd /{directory}\nrm {name}\nwrite {} {name}\n", path.display()));
    }
    run(Command::new("/sbin/debugfs").arg("-w").arg(path), &commands)
}

fn run(command: &mut Command, input: &str) -> io::Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    if child.wait()?.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?} failed"))) }
}
