//! Seeded data sets: the same size and seed give the same bytes on every machine.
//!
//! The shapes are those of the figures that the project aims at: an ERP's database dump with its nights, an object storage that grows and
//! is packed, and a source tree with its next version.

pub mod pages;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// SplitMix64: small, fast, good enough for corpora, and ours to keep stable.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n.max(1)
    }

    /// Small numbers far more often than large ones, as words in a text.
    fn skewed(&mut self, n: u64) -> u64 {
        let (a, b) = (self.below(n), self.below(n));
        self.below(a.min(b).max(1))
    }
}

/// Two thousand words made of syllables.
struct Words(Vec<String>);

impl Words {
    pub fn new() -> Self {
        let mut random = Random::new(11);
        let syllables = [
            "ba", "cor", "de", "fin", "gra", "hel", "in", "ju", "kal", "lo", "mer", "nos", "or", "pre", "qui", "ras",
            "sta", "ter", "un", "vel",
        ];
        let word = |random: &mut Random| {
            (0..2 + random.below(3))
                .filter_map(|_| syllables.get(usize::try_from(random.below(20)).ok()?))
                .copied()
                .collect()
        };
        Words((0..2000).map(|_| word(&mut random)).collect())
    }

    fn pick(&self, random: &mut Random) -> &str {
        usize::try_from(random.skewed(2000)).ok().and_then(|at| self.0.get(at)).map_or("", String::as_str)
    }
}

/// A plain SQL dump of about `bytes`. `night` 0 is the first; each later night has 2 % more rows, and 1 % of rows updated,
/// most of them among the newest.
pub fn dump(path: &Path, bytes: u64, night: u64) -> io::Result<()> {
    let words = Words::new();
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let rows_first = bytes / 190;
    writeln!(out, "--\n-- PostgreSQL database dump\n--\n\nSET client_encoding = 'UTF8';\n")?;
    for (table, share) in [("res_partner", 10), ("account_move_line", 50), ("mail_message", 25), ("stock_move", 15)] {
        writeln!(out, "COPY public.{table} (id, create_uid, create_date, name, ref, amount, note) FROM stdin;")?;
        let first = rows_first * share / 100;
        let rows = first + first * 2 * night / 100;
        for id in 0..rows {
            let row = row(&words, table, id, last_update(id, rows, night));
            out.write_all(row.as_bytes())?;
        }
        writeln!(out, "\\.\n")?;
    }
    out.flush()
}

/// The last night on which a row was updated.
fn last_update(id: u64, rows: u64, night: u64) -> u64 {
    let newest = id * 10 > rows * 9;
    let chance = |night: u64| Random::new(id * 131 + night).below(1000);
    (1..=night).rev().find(|night| chance(*night) < if newest { 55 } else { 5 }).unwrap_or(0)
}

fn row(words: &Words, table: &str, id: u64, version: u64) -> String {
    let mut random = Random::new(id ^ version << 48 ^ u64::from(table.as_bytes().first().copied().unwrap_or(0)) << 40);
    let mut note = String::new();
    for _ in 0..4 + random.below(14) {
        note.push_str(words.pick(&mut random));
        note.push(' ');
    }
    let (day, second) = (random.below(28) + 1, random.below(86_400));
    format!(
        "{id}\t{}\t2026-{:02}-{day:02} {:02}:{:02}:{:02}.{:06}\t{} {}\tREF/{:08x}\t{}.{:02}\t{note}\n",
        random.below(40),
        1 + id % 12,
        second / 3600,
        second / 60 % 60,
        second % 60,
        random.below(1_000_000),
        words.pick(&mut random),
        words.pick(&mut random),
        random.draw() >> 32,
        random.below(100_000),
        random.below(100)
    )
}

/// Time, length, status, and no user, description or extension.
const TRANSACTION_HEAD_LEN: u64 = 23;

/// An object storage as ZODB keeps it, of about `bytes`: transactions one after the other, each record with the place of its transaction and of the
/// object's record before. Night 1 appends 2.5 %; from night 2 on it is packed: only last records are left, all at other places.
pub fn storage(path: &Path, bytes: u64, night: u64) -> io::Result<()> {
    let words = Words::new();
    let records_first = bytes / 730;
    let records = records_first + if night > 0 { records_first / 40 } else { 0 };
    let transactions = transactions(records_first, records);
    let mut last = HashMap::new();
    for (tid, oids) in (1u64..).zip(&transactions) {
        last.extend(oids.iter().map(|oid| (*oid, tid)));
    }
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(b"FS30")?;
    let mut at = 4;
    let mut places: HashMap<u64, u64> = HashMap::new();
    for (tid, oids) in (1u64..).zip(&transactions) {
        let is_left = |oid: &&u64| night < 2 || last.get(*oid) == Some(&tid);
        let mut body = Vec::new();
        for oid in oids.iter().filter(is_left) {
            let data = pickle(&words, *oid, tid);
            let before = places.insert(*oid, at + TRANSACTION_HEAD_LEN + body.len() as u64).unwrap_or(0);
            for field in [*oid, time(tid), before, at] {
                body.extend(field.to_be_bytes());
            }
            body.extend([0, 0]);
            body.extend((data.len() as u64).to_be_bytes());
            body.extend(data);
        }
        if !body.is_empty() {
            let len = body.len() as u64 + TRANSACTION_HEAD_LEN;
            let head = [&time(tid).to_be_bytes()[..], &len.to_be_bytes(), b" ", &[0; 6]].concat();
            out.write_all(&[&head[..], &body, &len.to_be_bytes()].concat())?;
            at += len + 8;
        }
    }
    out.flush()
}

/// When a transaction was, as the storage counts time.
fn time(tid: u64) -> u64 {
    0x0400_0000_0000_0000 + tid * 0x0444_4445
}

/// Which objects each transaction writes. Some are written often, a fifth of the first records replace older ones.
fn transactions(records_first: u64, records: u64) -> Vec<Vec<u64>> {
    let mut random = Random::new(77);
    let (mut written, mut objects) = (0, 0);
    let mut transactions = Vec::new();
    while written < records {
        let mut oids: Vec<u64> = Vec::new();
        for _ in 0..1 + random.below(30) {
            let is_old = objects > 0 && random.below(5) == 0;
            let oid = if is_old { random.below(records_first / 50).min(objects - 1) } else { objects };
            objects += u64::from(!is_old);
            if !oids.contains(&oid) {
                oids.push(oid);
            }
        }
        written += oids.len() as u64;
        transactions.push(oids);
    }
    transactions
}

/// An object's state: most of it stays from one revision to the next.
fn pickle(words: &Words, oid: u64, tid: u64) -> Vec<u8> {
    let mut stable = Random::new(oid * 31 + 7);
    let mut changing = Random::new(oid ^ tid << 32);
    let mut data = b"\x80\x03cproduct.content.document\nDocument\nq\x01.\x80\x03}q\x02(X\x05\0\0\0titleq\x03X".to_vec();
    for _ in 0..10 + stable.below(130) {
        data.extend(words.pick(&mut stable).bytes());
        data.push(b' ');
    }
    data.extend(b"q\x04X\x08\0\0\0modifiedq\x05");
    data.extend(changing.draw().to_be_bytes());
    data.extend(b"u.");
    data
}

/// A tree of about `entries` files in directories, 14 kB each on average, one in sixteen of them not compressible.
pub fn tree(root: &Path, entries: u64) -> io::Result<()> {
    let words = Words::new();
    for n in 0..entries {
        if n % 30 == 0 || n % 5000 == 0 {
            fs::create_dir_all(root.join(directory(n)))?;
        }
        file(&words, &root.join(name(&words, n)), n, 0)?;
    }
    Ok(())
}

/// The next version: one file in 36 changed.
pub fn tree_next(root: &Path, entries: u64) -> io::Result<()> {
    let words = Words::new();
    (0..entries).step_by(36).try_for_each(|n| file(&words, &root.join(name(&words, n)), n, 1))
}

/// So many files of a line or two in directories of a hundred, as of a mail or session store.
pub fn tiny(root: &Path, entries: u64) -> io::Result<()> {
    (0..entries).step_by(100).try_for_each(|n| fs::create_dir_all(tiny_directory(root, n)))?;
    (0..entries).try_for_each(|n| tiny_file(root, n, 0))
}

/// One file in 50 changed, one in 50 more.
pub fn tiny_next(root: &Path, entries: u64) -> io::Result<()> {
    (entries..entries + entries / 50).step_by(100).try_for_each(|n| fs::create_dir_all(tiny_directory(root, n)))?;
    (0..entries).step_by(50).chain(entries..entries + entries / 50).try_for_each(|n| tiny_file(root, n, 1))
}

fn tiny_directory(root: &Path, n: u64) -> PathBuf {
    root.join(format!("{:03}/{:02}", n / 10_000, n / 100 % 100))
}

fn tiny_file(root: &Path, n: u64, version: u64) -> io::Result<()> {
    let mut random = Random::new(n ^ version << 40);
    let mut text = format!("session {n:08x} {:016x}\n", random.draw());
    for _ in 0..random.below(40) {
        text.push_str(&format!("{:x} ", random.draw() >> 40));
    }
    fs::create_dir_all(tiny_directory(root, n))?;
    fs::write(tiny_directory(root, n).join(format!("{n:08}.txt")), text)
}

/// A web server's log of about `bytes`, which compresses well; each later night has 5 % more lines.
pub fn logs(path: &Path, bytes: u64, night: u64) -> io::Result<()> {
    let words = Words::new();
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut random = Random::new(21);
    let lines = bytes / 165;
    for n in 0..lines + lines * 5 * night / 100 {
        let (address, agent) = (random.skewed(2000), random.skewed(6));
        writeln!(
            out,
            "10.0.{}.{} - - [21/Nov/2026:{:02}:{:02}:{:02} +0100] \"GET /shop/{}/{} HTTP/1.1\" 200 {} \"https://www.example.org/shop/\" \
             \"Mozilla/5.0 (X11; Linux x86_64; rv:{}.0) Gecko/20100101 Firefox/{}.0\"",
            address / 250,
            address % 250,
            n / 36_000 % 24,
            n / 600 % 60,
            n / 10 % 60,
            words.pick(&mut random),
            words.pick(&mut random),
            random.skewed(400) * 31,
            140 + agent,
            140 + agent,
        )?;
    }
    out.flush()
}

/// What cannot be compressed, as media or encrypted images; each later night, one megabyte in twenty is another.
pub fn noise(path: &Path, bytes: u64, night: u64) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for megabyte in 0..bytes / 1_000_000 {
        let version = if megabyte % 20 == 7 { night } else { 0 };
        let mut random = Random::new(megabyte | version << 32);
        for _ in 0..1_000_000 / 8 {
            out.write_all(&random.draw().to_le_bytes())?;
        }
    }
    out.flush()
}

fn directory(n: u64) -> String {
    format!("part{:02}/mod{:03}", n / 5000, n / 30 % 170)
}

fn name(words: &Words, n: u64) -> String {
    let word = usize::try_from(n % 2000).ok().and_then(|at| words.0.get(at)).map_or("x", String::as_str);
    format!("{}/{word}_{n}.c", directory(n))
}

fn file(words: &Words, path: &Path, n: u64, version: u64) -> io::Result<()> {
    let mut random = Random::new(n * 77 + 5);
    let size = 200 + random.below(9_000) + if random.below(8) == 0 { random.below(150_000) } else { 0 };
    let mut out = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 100);
    let changed_at = if version > 0 { size / 2 } else { u64::MAX };
    while (out.len() as u64) < size {
        if out.len() as u64 >= changed_at && out.len() as u64 <= changed_at + 60 {
            out.extend_from_slice(format!("    changed_in_version_{version}();\n").as_bytes());
        }
        if n.is_multiple_of(16) {
            out.extend_from_slice(&random.draw().to_le_bytes());
        } else {
            let line = format!(
                "    {}_{}({}, 0x{:x});\n",
                words.pick(&mut random),
                words.pick(&mut random),
                words.pick(&mut random),
                random.below(4096)
            );
            out.extend_from_slice(line.as_bytes());
        }
    }
    fs::write(path, out)
}
