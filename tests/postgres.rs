//! PostgreSQL databases come back exactly, whatever they are called and whatever happens to them meanwhile; what cannot be
//! saved is told, and a restore that is killed leaves the old database usable.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::postgres::{Cluster, masked};
use crate::support::program::{House, Told, json_lines, told};
use crate::support::torture::Random;

/// Tables, a view, a function, a sequence, large objects and rows that are hard on copying.
const FILL: &str = "
CREATE TABLE \"Part \"\"ner\" (id serial PRIMARY KEY, name text UNIQUE, tags text[], extra jsonb, at timestamptz, data bytea);
INSERT INTO \"Part \"\"ner\" (name, tags, extra, at, data)
  SELECT E'n\\t\\\\\\n' || i || 'é', ARRAY['a', NULL, ''], '{\"k\": 1}', to_timestamp(i), decode(md5(i::text), 'hex') FROM generate_series(1, SIZE) i;
CREATE TABLE entry (id bigint PRIMARY KEY, partner int REFERENCES \"Part \"\"ner\", note text);
INSERT INTO entry SELECT i, 1 + i % (SIZE / 2), repeat(md5(i::text), 10) FROM generate_series(1, SIZE * 5) i;
UPDATE entry SET note = note || 'x' WHERE id % 7 = 0;
CREATE VIEW low AS SELECT lower(name) FROM \"Part \"\"ner\";
CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN
  -- STATEMENT:  DROP TABLE entry;
  RETURN $$it's$$; END $f$;
SELECT lo_from_bytea(0, decode(repeat(md5('x'), 500), 'hex'));
GRANT SELECT ON entry TO projop;
";

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[track_caller]
fn make(cluster: &Cluster, name: &str, size: usize) {
    cluster.sql("postgres", &format!("CREATE DATABASE {} TEMPLATE template0", quoted(name)));
    cluster.sql(name, &FILL.replace("SIZE", &size.to_string()));
}

fn saving(house: &House, cluster: &Cluster, words: &[&str]) -> Told {
    let mut command = house.command(["--json", "backup", "postgres"]);
    command.args(words);
    cluster.told(command)
}

fn restoring(house: &House, cluster: &Cluster, words: &[&str]) -> Told {
    let mut command = house.command(["restore", "postgres"]);
    command.args(words);
    cluster.told(command)
}

fn summary(told: &Told) -> Value {
    json_lines(&told.out).into_iter().find(|line| line["message_type"] == "summary").expect("there is no summary")
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// Datasets and whether their newest snapshot is incomplete.
fn datasets(house: &House) -> Vec<(String, bool)> {
    let lines = house.json(["snapshots"]);
    let snapshots = lines.iter().filter(|line| line["message_type"] == "snapshot");
    let mut all: Vec<(String, bool)> = snapshots
        .map(|line| (line["dataset"].as_str().unwrap().to_owned(), line["incomplete"].as_bool().unwrap()))
        .collect();
    all.reverse();
    let mut seen = BTreeSet::new();
    all.retain(|(dataset, _)| seen.insert(dataset.clone()));
    all
}

fn dataset_of(told: &Told, database: &str) -> String {
    let lines = json_lines(&told.out);
    let line =
        lines.iter().find(|line| line["database"] == database).unwrap_or_else(|| panic!("nothing about {database:?}"));
    line["dataset"].as_str().unwrap().to_owned()
}

const NAMES: [&str; 9] = [
    "projop",
    "Specibike L'été 24",
    "Specibike;$(touch pwned)`id` \"TP\"",
    "a=x user=y",
    "S/../../etc",
    "%s%n\\",
    "ligne1\nligne2",
    "-e",
    "x",
];

#[test]
fn any_name_is_saved_and_restored_equal() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    for name in NAMES {
        make(&cluster, name, 20);
    }
    cluster.sql(
        "postgres",
        "CREATE DATABASE \"LATIN\" TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' OWNER openpg",
    );
    cluster.sql("LATIN", "CREATE TABLE t AS SELECT chr(i) FROM generate_series(1, 255) i; COMMENT ON DATABASE \"LATIN\" IS 'donn\u{e9}es'");
    cluster.sql(
        "projop",
        "COMMENT ON DATABASE projop IS 'L''été \\ 1'; ALTER DATABASE projop CONNECTION LIMIT 7; \
         ALTER DATABASE projop SET search_path TO \"$user\", \"Odd one\", public; ALTER ROLE openpg IN DATABASE projop SET work_mem = '9MB'; \
         REVOKE ALL ON DATABASE projop FROM PUBLIC; GRANT CONNECT ON DATABASE projop TO openpg WITH GRANT OPTION",
    );
    let told = saving(&house, &cluster, &["--jobs", "3"]).expect(0);
    let saved = summary(&told);
    assert_eq!((saved["selected"].as_u64(), saved["saved"].as_u64()), (Some(10), Some(10)), "{saved}");
    let plain = saving(&house, &cluster, &["--format", "plain", "--dataset", "plain-*"]).expect(0);
    for (number, name) in NAMES.into_iter().chain(["LATIN"]).enumerate() {
        for (said, target) in [(&told, format!("custom {number}")), (&plain, format!("plain {number}"))] {
            restoring(&house, &cluster, &[&dataset_of(said, name), "--dbname", &target]).expect(0);
            let mut expected = cluster.fingerprint(name);
            if target.starts_with("plain") {
                // Saved without owners.
                let line =
                    |text: &str| !text.contains("OWNER TO") && !text.contains("; Owner: ") && !text.contains("REVOKE");
                expected = expected.lines().filter(|text| line(text)).collect();
                let found: String = cluster.fingerprint(&target).lines().filter(|text| line(text)).collect();
                assert!(found == expected, "{name} differs after a plain dump");
            } else {
                assert!(cluster.fingerprint(&target) == expected, "{name} differs");
            }
        }
    }
    assert!(!cluster.databases().iter().any(|name| name.starts_with("nightkeep_restore")));
    assert!(!house.path().join("pwned").exists());
    house.ok(["check", "--read-data"]);
}

#[test]
fn a_run_tells_what_it_found_and_what_is_missing() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    for name in ["Specibike1", "Specibike2", "Specibike3", "specibike4", "other"] {
        make(&cluster, name, 4);
    }
    let words = ["--match", "Specibike*", "--exclude", "*3", "--match", "postgres"];
    let told = saving(&house, &cluster, &words).expect(0);
    let first = summary(&told);
    assert_eq!(first["selected"], 3);
    assert_eq!(strings(&first["near"]), ["specibike4"]);
    let rules: Vec<&str> =
        first["excluded"].as_array().unwrap().iter().map(|one| one["rule"].as_str().unwrap()).collect();
    assert!(
        rules.contains(&"it is a template")
            && rules.contains(&"excluded by *3")
            && rules.contains(&"no pattern matches it")
    );
    assert!(datasets(&house).iter().all(|(_, incomplete)| !incomplete));
    let complete = house.snapshots();

    // One cannot be dumped; one is new; one is gone.
    cluster.sql("postgres", "ALTER DATABASE \"Specibike2\" ALLOW_CONNECTIONS false");
    cluster.sql("postgres", "DROP DATABASE \"Specibike1\"");
    make(&cluster, "Specibike5", 4);
    let told = saving(&house, &cluster, &words).expect(3);
    let second = summary(&told);
    assert_eq!(strings(&second["failed"]), ["Specibike2"]);
    assert_eq!(strings(&second["new"]), ["Specibike5"]);
    assert_eq!(strings(&second["vanished"]), ["Specibike1"]);
    assert_eq!(
        (second["selected"].as_u64(), second["saved"].as_u64(), &second["incomplete"]),
        (Some(3), Some(2), &true.into())
    );
    assert!(
        told.err.contains("Specibike2") && told.err.contains("not currently accepting connections"),
        "{}",
        told.err
    );
    let newest = datasets(&house);
    assert!(
        newest.iter().all(|(dataset, incomplete)| *incomplete == dataset.ends_with("/postgres-globals/cluster")),
        "{newest:?}"
    );
    assert!(complete.iter().all(|id| house.snapshots().contains(id)), "the last complete run stays");

    // Still reported as long as no run was complete; then no longer.
    let third = summary(&saving(&house, &cluster, &words).expect(3));
    assert_eq!(strings(&third["vanished"]), ["Specibike1"]);
    cluster.sql("postgres", "ALTER DATABASE \"Specibike2\" ALLOW_CONNECTIONS true");
    saving(&house, &cluster, &words).expect(0);
    assert!(strings(&summary(&saving(&house, &cluster, &words).expect(0))["vanished"]).is_empty());

    // A name that is asked for and is not there is a problem; nothing at all is an error.
    let told = saving(&house, &cluster, &["--match", "other", "--match", "absent"]).expect(3);
    assert!(told.err.contains("absent"), "{}", told.err);
    saving(&house, &cluster, &["--match", "absent"]).expect(1);
    saving(&house, &cluster, &["--dataset", "one"]).expect(1);
    let quiet = cluster.told(house.command(["-q", "backup", "postgres"])).expect(0);
    assert!(quiet.out.is_empty() && quiet.err.is_empty(), "{}", quiet.err);
}

#[test]
fn unchanged_databases_cost_little_and_may_make_no_snapshot() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    make(&cluster, "large", 4000);
    saving(&house, &cluster, &[]).expect(0);
    let before = house.stored_bytes();
    let again = summary(&saving(&house, &cluster, &[]).expect(0));
    let total = again["total_bytes"].as_u64().unwrap();
    assert!(again["new_bytes"].as_u64().unwrap() < total / 10 && house.stored_bytes() - before < total / 20, "{again}");
    for format in ["custom", "plain"] {
        let words = ["--skip-if-unchanged", "--format", format, "--dataset", "skip-*"];
        saving(&house, &cluster, &words).expect(0);
        let count = house.snapshots().len();
        saving(&house, &cluster, &words).expect(0);
        assert_eq!(house.snapshots().len(), count, "{format}");
    }
    cluster.sql("large", "UPDATE entry SET note = 'other' WHERE id = 3");
    let count = house.snapshots().len();
    saving(&house, &cluster, &["--skip-if-unchanged", "--format", "plain", "--dataset", "skip-*"]).expect(0);
    assert_eq!(house.snapshots().len(), count + 1);
    saving(&house, &cluster, &["--dry-run"]).expect(0);
    assert_eq!(house.snapshots().len(), count + 1);
}

#[test]
fn what_is_saved_is_what_pg_dump_writes() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    make(&cluster, "projop", 50);
    let dir = house.directory("exported");
    saving(&house, &cluster, &["--format", "plain", "--dataset", "plain-*"]).expect(0);
    saving(&house, &cluster, &[]).expect(0);
    house.ok(["dump", "plain-projop", "--export", dir.to_str().unwrap()]);
    house.ok(["dump", "postgres/projop", "--export", dir.to_str().unwrap()]);
    let mut names: Vec<String> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_by_key(|name| name.ends_with(".sql"));
    let [archive, plain] = names.as_slice() else { panic!("{names:?}") };
    let is_traditional = |name: &str, extension: &str| {
        let parts: Vec<&str> = name.split('.').collect();
        let digits = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
        matches!(parts.as_slice(), ["pg_dump", _, "projop", date, time, end] if digits(date, 8) && digits(time, 6) && *end == extension)
    };
    assert!(is_traditional(archive, "dump") && is_traditional(plain, "sql"), "{names:?}");
    let mut expected = cluster.client("pg_dump", "projop");
    let expected = told(expected.env_remove("PGTZ").args(["-c", "-O", "-F", "p"])).expect(0);
    assert!(masked(&std::fs::read(dir.join(plain)).unwrap()) == masked(&expected.out));
    let mut list = cluster.client("pg_restore", "");
    let list = told(list.arg("--list").arg(dir.join(archive))).expect(0);
    assert!(String::from_utf8_lossy(&list.out).contains("TABLE DATA public entry"));
    // It is not written over, and nothing else has such a name.
    house.fails(1, ["dump", "plain-projop", "--export", dir.to_str().unwrap()]);
    let source = house.directory("source");
    let files = house.backup(&source);
    house.fails(1, ["dump", &files, "--export", dir.to_str().unwrap()]);
    house.fails(1, ["restore", "postgres", &files]);
}

/// Writes go on while the dump is made; what is restored is the moment that the dump saw.
#[test]
fn a_database_under_change_is_saved_as_of_one_moment() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    make(&cluster, "busy", 400);
    cluster.sql("busy", "CREATE TABLE night (at timestamptz)");
    let script =
        "[ \"$1\" = --version ] && exec REAL/pg_dump --version; exec REAL/pg_dump --snapshot=\"$NK_SNAPSHOT\" \"$@\"";
    let programs = cluster.programs(house.directory("programs"), &[("pg_dump", script)]);
    let change = "BEGIN; UPDATE entry SET note = note || 'y' WHERE id % 13 = 1; DELETE FROM entry WHERE id % 101 = 5; \
        INSERT INTO entry SELECT max(id) + 1, 1, 'new' FROM entry; INSERT INTO night SELECT now(); COMMIT;\n";
    for round in 0..rounds(2) {
        let mut holder = cluster.client("psql", "busy");
        let mut holder = holder.args(["-XqAt"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ask = holder.stdin.take().unwrap();
        ask.write_all(b"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_export_snapshot();\n").unwrap();
        let mut line = String::new();
        let mut answer = std::io::BufReader::new(holder.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut answer, &mut line).unwrap();
        let mut writer = cluster.client("psql", "busy");
        let mut writer = writer.args(["-Xq"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut feed = writer.stdin.take().unwrap();
        let feeder = std::thread::spawn(move || while feed.write_all(change.as_bytes()).is_ok() {});
        let mut command = house.command(["backup", "postgres", "--match", "busy", "--programs"]);
        command.arg(&programs).env("NK_SNAPSHOT", line.trim());
        cluster.told(command).expect(0);
        let expected = masked(&cluster.dump("busy", &["-Fp", &format!("--snapshot={}", line.trim())]));
        // It is killed in the middle of writing.
        writer.kill().unwrap();
        writer.wait().unwrap();
        feeder.join().unwrap();
        drop(ask);
        holder.wait().unwrap();
        let target = format!("moment{round}");
        restoring(&house, &cluster, &["busy", "--dbname", &target]).expect(0);
        assert!(masked(&cluster.dump(&target, &["-Fp"])) == expected, "round {round}");
        assert!(masked(&cluster.dump("busy", &["-Fp"])) != expected, "nothing went on");
    }
}

/// How many rounds of what is repeated: more by `NIGHTKEEP_TEST_ROUNDS`.
fn rounds(usual: usize) -> usize {
    std::env::var("NIGHTKEEP_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn each_failure_says_what_it_is() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    make(&cluster, "one", 400);
    make(&cluster, "two", 400);
    let version = "[ \"$1\" = --version ] && exec REAL/pg_dump --version; ";
    for (case, script, code, expected) in [
        ("missing", "", 1, "pg_dump of version 1"),
        ("too old", "echo 'pg_dump (PostgreSQL) 9.4.1'", 1, "too old"),
        ("killed at half", "REAL/pg_dump \"$@\" | head -c 100000; kill -9 $$", 1, "signal 9"),
        ("ends too early", "REAL/pg_dump \"$@\" | head -c 100000", 1, "not whole"),
        (
            "fails at half",
            "REAL/pg_dump \"$@\" | head -c 100000; echo 'the disk is on fire' >&2; exit 1",
            1,
            "the disk is on fire",
        ),
        (
            "fails for one",
            "case \"$*\" in *one*) echo 'no such luck' >&2; exit 1;; esac; exec REAL/pg_dump \"$@\"",
            3,
            "no such luck",
        ),
    ] {
        let script =
            if case == "missing" || case == "too old" { script.to_owned() } else { format!("{version}{script}") };
        let programs = cluster.programs(house.directory(case), &[("pg_dump", &script)]);
        let before = house.snapshots().len();
        let mut command = house.command(["backup", "postgres", "--jobs", "2", "--programs"]);
        command.arg(&programs);
        let globals = !matches!(case, "missing" | "too old");
        let told = cluster.told(command);
        // With the globals at least something was saved.
        let told = told.expect(if globals { 3 } else { code });
        assert!(told.err.contains(expected), "{case}: {}", told.err);
        let saved = if case == "fails for one" { 1 } else { 0 };
        assert_eq!(house.snapshots().len() - before, saved + usize::from(globals), "{case}");
    }
    let mut wrong = house.command(["backup", "postgres", "--username", "openpg"]);
    wrong.env("PGPASSWORD", "wrong");
    let before = house.snapshots().len();
    let told = cluster.told(wrong).expect(1);
    assert!(told.err.contains("password authentication failed") && !told.err.contains("wrong\""), "{}", told.err);
    let told = cluster.told(house.command(["backup", "postgres", "--username", "openpg"])).expect(1);
    assert!(told.err.contains("no password supplied"), "never asked for: {}", told.err);
    cluster.stop();
    let told = cluster.told(house.command(["backup", "postgres"])).expect(1);
    assert!(told.err.contains("cannot connect") && told.err.contains("No such file"), "{}", told.err);
    assert_eq!(house.snapshots().len(), before);
    house.ok(["check", "--read-data"]);
}

/// One role without great powers can save what it owns.
#[test]
fn an_ordinary_role_saves_and_restores_its_own() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    cluster.sql("postgres", "CREATE DATABASE mine OWNER openpg TEMPLATE template0");
    cluster.sql("mine", "SET SESSION AUTHORIZATION openpg; CREATE TABLE t AS SELECT generate_series(1, 100)");
    let pass = house.path().join("pgpass");
    std::fs::write(&pass, "*:*:*:openpg:right\n").unwrap();
    std::fs::set_permissions(&pass, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut command = house.command(["backup", "postgres", "--match", "mine", "--username", "openpg"]);
    command.env("PGPASSFILE", &pass);
    let told = cluster.told(command).expect(0);
    assert!(told.err.contains("without their passwords"), "{}", told.err);
    let mut command = house.command(["restore", "postgres", "mine", "--dbname", "copy", "--username", "openpg"]);
    command.env("PGPASSFILE", &pass);
    cluster.told(command).expect(0);
    assert!(cluster.fingerprint("copy") == cluster.fingerprint("mine"));
}

#[test]
fn a_replaced_database_is_kept() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    make(&cluster, "projop", 30);
    saving(&house, &cluster, &[]).expect(0);
    let saved = cluster.fingerprint("projop");
    cluster.sql("projop", "DELETE FROM entry");
    let changed = cluster.fingerprint("projop");

    restoring(&house, &cluster, &["projop"]).expect(1);
    for answer in ["", "y\n", "Yes\n", "no\n"] {
        assert!(answered(&house, &cluster, &["projop", "--replace"], answer).expect(1).err.contains("(yes/No)"));
        assert_eq!(cluster.databases(), ["postgres", "projop"]);
    }
    // Somebody is connected, and comes back as soon as he is thrown out.
    let mut guest = Command::new("sh");
    guest
        .args(["-c", "while :; do \"$0\" -Xq -c 'SELECT pg_sleep(100)' 2>/dev/null; done"])
        .arg(cluster.bin().join("psql"));
    let mut guest =
        cluster.on(&mut guest).env("PGDATABASE", "projop").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let told = answered(&house, &cluster, &["projop", "--replace"], "yes\n");
    guest.kill().unwrap();
    guest.wait().unwrap();
    let out = String::from_utf8(told.expect(0).out).unwrap();
    let kept = cluster.databases().into_iter().find(|name| name.starts_with("projop_before_")).unwrap();
    assert!(out.contains(&kept), "its name is told: {out}");
    cluster.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'projop%'");
    assert!(cluster.fingerprint("projop") == saved);
    assert!(cluster.fingerprint(&kept) == changed);
    assert_eq!(cluster.databases().len(), 3);
}

fn answered(house: &House, cluster: &Cluster, words: &[&str], answer: &str) -> Told {
    let file = house.fresh("answer");
    std::fs::write(&file, answer).unwrap();
    let mut command = house.command(["restore", "postgres"]);
    command.args(words).stdin(std::fs::File::open(file).unwrap());
    cluster.told(command)
}

#[test]
fn what_stands_in_the_way_is_told_before_anything_is_touched() {
    let (Some(cluster), Some(other)) = (Cluster::start(), Cluster::start()) else { return };
    let house = House::new();
    cluster.sql("postgres", "CREATE ROLE \"Owner é\"");
    make(&cluster, "projop", 10);
    cluster.sql("projop", "ALTER TABLE entry OWNER TO \"Owner é\"; GRANT SELECT ON entry TO openpg");
    saving(&house, &cluster, &[]).expect(0);
    saving(&house, &cluster, &["--format", "plain", "--dataset", "plain-*"]).expect(0);
    other.sql("postgres", "ALTER SYSTEM SET timezone = 'Asia/Tokyo'");
    other.sql("postgres", "SELECT pg_reload_conf()");
    std::thread::sleep(Duration::from_millis(500));
    let told = restoring(&house, &other, &["postgres/projop"]).expect(1);
    assert!(
        told.err.contains("Asia/Tokyo") && told.err.contains("Owner é") && told.err.contains("2 obstacles"),
        "{}",
        told.err
    );
    let told = restoring(&house, &other, &["postgres/projop", "--force-tz"]).expect(1);
    assert!(told.err.contains("Owner é") && told.err.contains("1 obstacle "), "{}", told.err);
    assert_eq!(other.databases(), ["postgres"]);

    // Without owners at once; with them once the roles are there.
    for (snapshot, target) in [("postgres/projop", "custom"), ("plain-projop", "plain")] {
        restoring(&house, &other, &[snapshot, "--force-tz", "--no-owner", "--dbname", target]).expect(0);
        assert_eq!(other.sql(target, "SELECT count(*) FROM entry"), "50");
    }
    answered(&house, &other, &["postgres-globals/cluster"], "n\n").expect(1);
    answered(&house, &other, &["postgres-globals/cluster"], "yes\n").expect(0);
    restoring(&house, &other, &["postgres/projop", "--force-tz"]).expect(0);
    assert_eq!(
        other.sql("projop", "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'entry'"),
        "Owner é"
    );
    assert!(other.fingerprint("projop") == cluster.fingerprint("projop"));
}

#[test]
fn a_load_that_fails_leaves_nothing() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    make(&cluster, "projop", 30);
    for (format, program, script) in [
        ("custom", "pg_restore", "head -c 5000 >/dev/null; echo 'pg_restore: error: out of luck' >&2; exit 1"),
        (
            "plain",
            "psql",
            "REAL/psql \"$@\"; case \"$*\" in *file=-*) echo 'psql:<stdin>:9: ERROR:  53100: out of luck' >&2;; esac",
        ),
    ] {
        saving(&house, &cluster, &["--format", format]).expect(0);
        let script = format!("[ \"$1\" = --version ] && exec REAL/{program} --version; {script}");
        let programs = cluster.programs(house.directory(format), &[(program, &script)]);
        let before = cluster.fingerprint("projop");
        let words = ["projop", "--replace", "--yes", "--programs", programs.to_str().unwrap()];
        let told = restoring(&house, &cluster, &words).expect(1);
        assert!(told.err.contains("out of luck"), "{format}: {}", told.err);
        assert_eq!(cluster.databases(), ["postgres", "projop"], "{format}");
        assert!(cluster.fingerprint("projop") == before);
    }
}

/// Scripts that stand for a program and kill the restore that runs them, before or after what they do, at one kind of call.
const DEATHS: [(&str, &str); 9] = [
    ("psql", "case \"$*\" in *'CREATE DATABASE'*) kill -9 $PPID; exit 1;; esac; exec REAL/psql \"$@\""),
    ("psql", "REAL/psql \"$@\"; code=$?; case \"$*\" in *'CREATE DATABASE'*) kill -9 $PPID;; esac; exit $code"),
    ("pg_restore", "kill -9 $PPID; cat >/dev/null"),
    ("pg_restore", "{ head -c 9000; kill -9 $PPID; } | REAL/pg_restore \"$@\""),
    ("pg_restore", "REAL/pg_restore \"$@\"; kill -9 $PPID"),
    ("psql", "case \"$*\" in *'COMMENT ON'*) kill -9 $PPID;; esac; exec REAL/psql \"$@\""),
    ("psql", "case \"$*\" in *'RENAME TO'*) kill -9 $PPID; exit 1;; esac; exec REAL/psql \"$@\""),
    ("psql", "case \"$*\" in *'RENAME TO'*) kill -9 $PPID;; esac; exec REAL/psql \"$@\""),
    ("psql", "REAL/psql \"$@\"; code=$?; case \"$*\" in *'RENAME TO'*) kill -9 $PPID;; esac; exit $code"),
];

#[test]
fn killed_at_any_step_the_old_database_is_there() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    make(&cluster, "projop", 60);
    cluster.sql("postgres", "COMMENT ON DATABASE projop IS 'mine'");
    saving(&house, &cluster, &[]).expect(0);
    let saved = cluster.fingerprint("projop");
    let mut renamed = 0;
    for (number, (program, script)) in DEATHS.into_iter().enumerate() {
        let script = tracked(&house, program, script);
        let programs = cluster.programs(house.directory(&format!("death {number}")), &[(program, &script)]);
        cluster.sql("projop", &format!("DELETE FROM entry WHERE id % 11 = {number}"));
        let old = cluster.fingerprint("projop");
        let words = ["projop", "--replace", "--yes", "--programs", programs.to_str().unwrap()];
        let told = restoring(&house, &cluster, &words);
        assert_eq!(told.signal, Some(9), "{script}: {}", told.err);
        settle(&house, &cluster);
        renamed += usize::from(is_there_after(&cluster, &told, &old, &saved));
        // What it leaves is told by the next one.
        let left: Vec<String> =
            cluster.databases().into_iter().filter(|name| name.starts_with("nightkeep_restore_")).collect();
        assert!(left.len() <= 1);
        if let Some(left) = left.first() {
            let next =
                restoring(&house, &cluster, &["projop", "--dbname", "projop", "--replace", "--force-tz"]).expect(1);
            assert!(String::from_utf8_lossy(&next.out).contains(left.as_str()));
            cluster.sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", quoted(left)));
        }
    }
    assert_eq!(renamed, 2, "the last two come to their end");
    restoring(&house, &cluster, &["projop", "--replace", "--yes"]).expect(0);
    assert!(cluster.fingerprint("projop") == saved);
}

/// The same at moments that nobody chose; more of them by `NIGHTKEEP_TEST_ROUNDS`.
#[test]
fn killed_at_any_moment_the_old_database_is_there() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    make(&cluster, "projop", 60);
    saving(&house, &cluster, &[]).expect(0);
    let saved = cluster.fingerprint("projop");
    let mut random = Random(11);
    let mut renamed = 0;
    let exec = ["psql", "pg_restore"]
        .map(|program| (program, tracked(&house, program, &format!("exec REAL/{program} \"$@\""))));
    let replaced: Vec<(&str, &str)> = exec.iter().map(|(program, script)| (*program, script.as_str())).collect();
    let programs = cluster.programs(house.directory("programs"), &replaced);
    for round in 0..rounds(3) {
        cluster.sql("projop", &format!("DELETE FROM entry WHERE id % 11 = {}", round % 11));
        let old = cluster.fingerprint("projop");
        let mut command = house.command(["restore", "postgres", "projop", "--replace", "--yes", "--programs"]);
        command.arg(&programs);
        let out = house.fresh("out");
        cluster.on(&mut command).stdout(std::fs::File::create(&out).unwrap()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100 + random.below(900)));
        child.kill().unwrap();
        child.wait().unwrap();
        settle(&house, &cluster);
        let mut told = told(&mut Command::new("true"));
        told.out = std::fs::read(&out).unwrap();
        renamed += usize::from(is_there_after(&cluster, &told, &old, &saved));
        for name in cluster.databases().iter().filter(|name| name.starts_with("nightkeep_restore_")) {
            cluster.sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", quoted(name)));
        }
    }
    eprintln!("{renamed} of {} were killed after the end", rounds(3));
}

/// The old database has its name, or the one that was told, and then the new one has its own. Answers which; the old one
/// is dropped then.
fn is_there_after(cluster: &Cluster, told: &Told, old: &str, saved: &str) -> bool {
    let kept: Vec<String> = cluster.databases().into_iter().filter(|name| name.starts_with("projop_before_")).collect();
    match kept.as_slice() {
        [] => assert!(cluster.fingerprint("projop") == old),
        [kept] => {
            let said = String::from_utf8_lossy(&told.out);
            assert!(said.contains(kept.as_str()), "its name was told before: {said}");
            assert!(cluster.fingerprint(kept) == old);
            assert!(cluster.fingerprint("projop") == saved);
            cluster.sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", quoted(kept)));
        }
        _ => panic!("{kept:?}"),
    }
    !kept.is_empty()
}

/// A script that stands for a program and can be waited for although its parent is gone.
fn tracked(house: &House, program: &str, script: &str) -> String {
    let lock = house.path().join("running");
    format!("[ \"$1\" = --version ] && exec REAL/{program} --version; exec 9>>{}; flock -s 9; {script}", lock.display())
}

/// What a killed restore had begun comes to its end: its programs, and what they asked of the server.
fn settle(house: &House, cluster: &Cluster) {
    told(Command::new("flock").arg(house.path().join("running")).arg("true")).expect(0);
    let busy =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    while cluster.sql("postgres", busy) != "0" {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_full_disk_ends_the_run_and_the_repository_stays_whole() {
    let Some(cluster) = Cluster::start() else { return };
    let mut random = Random(5);
    let house = House::bare();
    let small = house.directory("repository");
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&small).status();
    if !mount.is_ok_and(|status| status.success()) {
        eprintln!("skipped: a small file system cannot be mounted here");
        return;
    }
    let _mounted = Mounted(&small);
    house.ok(["init"]);
    make(&cluster, "a", 4);
    saving(&house, &cluster, &[]).expect(0);
    let before = house.snapshots();
    let noise: String = random.bytes(6 << 20).iter().map(|byte| format!("{byte:02x}")).collect();
    cluster.sql("postgres", "CREATE DATABASE b");
    let mut load = cluster.client("psql", "b");
    let mut load = load
        .args(["-Xq", "-c", "CREATE TABLE t (d text)", "-c", "COPY t FROM stdin"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut feed = load.stdin.take().unwrap();
    for line in noise.as_bytes().chunks(4000) {
        feed.write_all(line).and_then(|()| feed.write_all(b"\n")).unwrap();
    }
    drop(feed);
    assert!(load.wait().unwrap().success());
    let told = saving(&house, &cluster, &["--match", "b"]);
    assert_eq!(told.code, Some(1), "{}", told.err);
    assert!(told.err.contains("no space left"), "{}", told.err);
    assert_eq!(house.snapshots(), before);
    house.ok(["check", "--read-data"]);
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn interrupted_it_ends_with_130_and_leaves_nothing_half() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    make(&cluster, "projop", 30);
    let gate = house.path().join("gate");
    let script =
        format!("[ \"$1\" = --version ] && exec REAL/pg_dump --version; echo > {}; sleep 1000", gate.display());
    let programs = cluster.programs(house.directory("programs"), &[("pg_dump", &script)]);
    let mut command = house.command(["backup", "postgres", "--programs"]);
    let mut child = cluster.on(command.arg(programs)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !gate.exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(house.snapshots().is_empty());
}
