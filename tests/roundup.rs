//! Real Roundup trackers, saved while they work and opened again by Roundup itself.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::support::manifest;
use crate::support::postgres::Cluster;
use crate::support::program::{House, Told, json_lines, told};
use crate::support::python::applications;
use crate::support::source::workspace;
use crate::support::torture::Random;

/// How often a tracker at work is saved and opened again.
const ROUNDS: &str = "NIGHTKEEP_TEST_TRACKER_ROUNDS";
const ROUNDS_DEFAULT: usize = 5;

/// The fixture script with its first words; none if Roundup is not here.
fn script<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Option<Command> {
    let mut command = Command::new(applications()?);
    command.arg("-B").arg(workspace().join("tests/python/tracker.py")).args(words).env("LC_ALL", "C.UTF-8");
    Some(command)
}

#[track_caller]
fn runs(mut command: Command) -> String {
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {err}", command.get_args().collect::<Vec<_>>());
    String::from_utf8(output.stdout).unwrap()
}

/// A tracker on SQLite of its own at `house/name`; none if Roundup is not here.
fn tracker(house: &House, name: &str) -> Option<PathBuf> {
    static MADE: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let temp = tempfile::tempdir().unwrap();
        runs(script([OsStr::new("up"), temp.path().join("t").as_os_str()])?);
        Some(temp)
    });
    let home = house.path().join(name);
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(made.as_ref()?.path().join("t")).arg(&home);
    runs(copy);
    Some(home)
}

/// What Roundup says of a tracker, which must be whole.
#[track_caller]
fn checked(home: &Path, log: Option<&Path>) -> Value {
    let words = [Some(OsStr::new("check")), Some(home.as_os_str()), log.map(Path::as_os_str)];
    let said = runs(script(words.into_iter().flatten()).unwrap());
    json_lines(said.as_bytes()).pop().unwrap()
}

fn save(house: &House, home: &Path) -> Told {
    house.run([OsStr::new("--json"), "backup".as_ref(), "roundup".as_ref(), home.as_os_str(), "--dataset=t".as_ref()])
}

fn restore(house: &House, target: &Path, more: &[&str]) -> Told {
    let words = ["restore", "roundup", "t", "--target", target.to_str().unwrap()];
    house.run(words.iter().chain(more))
}

fn configure(home: &Path, change: impl Fn(&str) -> String) {
    let path = home.join("config.ini");
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = change(&text);
    assert_ne!(text, changed);
    std::fs::write(path, changed).unwrap();
}

/// Paths of a snapshot, from the tracker's home on.
fn saved_paths(house: &House, home: &Path) -> Vec<String> {
    let prefix = format!("{}/", home.display());
    let listed = house.ok(["ls", "-R", "t"]);
    listed.lines().filter_map(|line| line.trim_end_matches('/').strip_prefix(&prefix).map(str::to_owned)).collect()
}

struct Writer(Child);

impl Writer {
    fn start(home: &Path, log: &Path) -> Writer {
        let mut command = script([OsStr::new("write"), home.as_os_str(), log.as_os_str()]).unwrap();
        Writer(command.stdin(Stdio::piped()).spawn().unwrap())
    }

    fn stop(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success(), "the writer failed");
    }
}

#[test]
fn a_tracker_at_work_is_saved_and_opened_again() {
    let house = House::new();
    let Some(home) = tracker(&house, "t") else { return };
    let rounds = std::env::var(ROUNDS).ok().map_or(ROUNDS_DEFAULT, |rounds| rounds.parse().unwrap());
    let log = house.path().join("log");
    let writer = Writer::start(&home, &log);
    while std::fs::metadata(&log).map_or(0, |log| log.len()) == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut before = 0;
    for round in 0..rounds {
        let committed = std::fs::read_to_string(&log).unwrap();
        let told = save(&house, &home).expect(0);
        // Commits that are logged before the backup begins are in it.
        let known = house.path().join("known");
        std::fs::copy(&log, &known).unwrap();
        let whole: Vec<&str> = committed.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
        let text = std::fs::read_to_string(&known).unwrap();
        let end = text.rfind('\n').unwrap() + 1;
        std::fs::write(&known, &text[..end]).unwrap();
        let restored = house.fresh("restored");
        restore(&house, &restored, &[]).expect(0);
        let found = checked(&restored, Some(&known));
        let commits = usize::try_from(found["commits"].as_u64().unwrap()).unwrap();
        assert!(commits >= whole.len(), "round {round}: {commits} of {} commits", whole.len());
        assert!(commits >= before);
        before = commits;
        let summary = json_lines(&told.out).pop().unwrap();
        assert!(summary["contents"].as_u64().unwrap() > 0 && summary["problems"] == 0, "{summary}");
        std::fs::remove_dir_all(&restored).unwrap();
    }
    writer.stop();
    assert_eq!(private_files(&house), Vec::<String>::new());
    house.ok(["check", "--read-data"]);
}

/// Copies that were left in the cache directory.
fn private_files(house: &House) -> Vec<String> {
    let repositories = std::fs::read_dir(house.path().join("cache")).unwrap();
    let files = repositories.flat_map(|directory| std::fs::read_dir(directory.unwrap().path()).unwrap());
    let names = files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains("copy")).collect()
}

#[test]
fn an_unchanged_tracker_adds_nothing_and_comes_back_as_it_was() {
    let house = House::new();
    let Some(home) = tracker(&house, "t") else { return };
    for live in
        ["db/db-session", "db/db-otk-wal", "db/lock", "roundup.pid", "db/files/msg/0/msg1.tmp", "db/text-index/x"]
    {
        let path = home.join(live);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
    }
    save(&house, &home).expect(0);
    let stored = house.stored_bytes();
    let summary = json_lines(&save(&house, &home).expect(0).out).pop().unwrap();
    assert_eq!(
        (&summary["files_new"], &summary["files_changed"], &summary["backend"]),
        (&0.into(), &0.into(), &"sqlite".into())
    );
    assert!(house.stored_bytes() - stored < 4096, "{} more bytes", house.stored_bytes() - stored);
    let before = house.snapshots();
    let words = ["backup", "roundup", home.to_str().unwrap(), "--dataset=t", "-q", "--skip-if-unchanged"];
    let quiet = house.run(words);
    assert_eq!((quiet.code, quiet.out.len(), quiet.err.as_str()), (Some(0), 0, ""));
    assert_eq!(house.snapshots(), before);
    let paths = saved_paths(&house, &home);
    for wanted in ["config.ini", "schema.py", "db/db", "db/files/msg/0/msg1"] {
        assert!(paths.iter().any(|path| path == wanted), "{wanted} is not in {paths:?}");
    }
    let live =
        |path: &&String| path.contains("db-") || path.contains(".tmp") || path.contains("pyc") || path.contains("pid");
    assert_eq!(paths.iter().find(live), None);
    assert!(!paths.iter().any(|path| path.contains("text-index") || path == "db/lock"));

    let target = house.path().join("elsewhere/new");
    let said = String::from_utf8(restore(&house, &target, &[]).expect(0).out).unwrap();
    assert!(said.contains("reindex"), "{said}");
    let kept = |path: &Path| std::fs::read(path).unwrap();
    assert_eq!(kept(&target.join("config.ini")), kept(&home.join("config.ini")), "nothing was to be changed");
    for live in ["db/db-session", "db/db-otk-wal", "db/lock", "roundup.pid", "db/files/msg/0/msg1.tmp"] {
        std::fs::remove_file(home.join(live)).unwrap();
    }
    std::fs::remove_dir_all(home.join("db/text-index")).unwrap();
    assert_eq!(checked(&target, None), checked(&home, None));
    assert_eq!(target.metadata().unwrap().permissions(), home.metadata().unwrap().permissions());
}

#[test]
fn parts_that_live_elsewhere_come_back_inside() {
    let house = House::new();
    let Some(home) = tracker(&house, "t") else { return };
    let expected = checked(&home, None);
    let base = house.path().to_owned();
    // An absolute path far away, from there on symlinks, and a templates directory by a relative path.
    std::fs::rename(home.join("db"), base.join("data")).unwrap();
    std::fs::rename(base.join("data/files"), base.join("big")).unwrap();
    std::fs::rename(base.join("big/msg"), base.join("messages")).unwrap();
    symlink(base.join("messages"), base.join("big/msg")).unwrap();
    symlink("../big", base.join("data/files")).unwrap();
    std::fs::rename(home.join("html"), base.join("looks")).unwrap();
    std::fs::create_dir(home.join("db")).unwrap();
    configure(&home, |text| {
        text.replace("database = db", &format!("database = {}\ntemplates = ../looks", base.join("data").display()))
    });
    assert_eq!(checked(&home, None), expected);
    save(&house, &home).expect(0);

    // The living one goes: what is restored must not need it.
    let target = base.join("copy/t");
    let gone = base.join("gone");
    std::fs::create_dir(&gone).unwrap();
    for part in ["t", "data", "big", "messages", "looks"] {
        std::fs::rename(base.join(part), gone.join(part)).unwrap();
    }
    let told = restore(&house, &target, &[]).expect(0);
    let said = String::from_utf8(told.out).unwrap();
    assert!(said.contains("[main] database") && said.contains("[main] templates"), "{said}");
    assert_eq!(checked(&target, None), expected);
    let config = std::fs::read_to_string(target.join("config.ini")).unwrap();
    assert!(config.contains("\ndatabase = db.1\n") && config.contains("\ntemplates = html\n"), "{config}");
    assert!(target.join("html/page.html").exists() && target.join("db.1/files/msg/0/msg1").exists());
    assert!(!target.join("db.1/files").is_symlink() && !target.join("db.1/files/msg").is_symlink());
}

#[test]
fn a_path_into_the_living_home_is_changed_and_one_from_the_home_is_not() {
    let house = House::new();
    let Some(home) = tracker(&house, "t") else { return };
    let expected = checked(&home, None);
    configure(&home, |text| text.replace("database = db", &format!("database = {}/db", home.display())));
    // Where the configuration is a symlink, it is saved all the same, and the living one is not written to.
    let living = house.path().join("tracker.ini");
    std::fs::rename(home.join("config.ini"), &living).unwrap();
    symlink(&living, home.join("config.ini")).unwrap();
    save(&house, &home).expect(0);
    let untouched = std::fs::read(&living).unwrap();
    // Over itself: it is right as it is.
    restore(&house, &home, &["--yes"]).expect(0);
    let config = || std::fs::read_to_string(home.join("config.ini")).unwrap();
    assert!(config().contains(&format!("\ndatabase = {}/db\n", home.display())));
    let other = house.path().join("other");
    restore(&house, &other, &[]).expect(0);
    let moved = std::fs::read_to_string(other.join("config.ini")).unwrap();
    assert!(moved.contains("\ndatabase = db\n"), "{moved}");
    assert_eq!(std::fs::read(&living).unwrap(), untouched);
    std::fs::rename(&home, house.path().join("gone")).unwrap();
    assert_eq!(checked(&other, None), expected);
}

#[test]
fn what_is_in_the_target_is_kept_and_only_a_whole_word_replaces_it() {
    let house = House::new();
    let Some(home) = tracker(&house, "t") else { return };
    save(&house, &home).expect(0);
    std::fs::write(home.join("mine"), b"since then").unwrap();
    let before = manifest::of(&home);
    let answered = |answer: &str| {
        let mut command = house.command(["restore", "roundup", "t", "--target", home.to_str().unwrap()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for answer in ["", "\n", "y\n", "no\n", "YES\n", "yes please\n"] {
        let (code, err) = answered(answer);
        assert_eq!(code, Some(1), "{answer:?}: {err}");
        assert!(err.contains("Are you sure? (yes/No)") && err.contains(home.to_str().unwrap()), "{err}");
        assert_eq!(manifest::of(&home), before);
    }
    assert_eq!(answered("yes\n").0, Some(0));
    assert!(!home.join("mine").exists());
    let mut names: Vec<String> =
        house.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("t.before-") || name.starts_with(".t"));
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(manifest::of(&house.path().join(&names[0])), before);
    checked(&home, None);
}

#[test]
fn what_cannot_be_saved_is_refused_with_its_reason() {
    let house = House::new();
    let Some(home) = tracker(&house, "t") else { return };
    let path = home.join("config.ini");
    let config = std::fs::read_to_string(&path).unwrap();
    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let told = save(&house, &home).expect(1);
        let line = json_lines(told.err.as_bytes()).pop().unwrap();
        assert!(line["hint"].is_string(), "{line}");
        line["message"].as_str().unwrap().to_owned()
    };
    assert!(refused(config.split("[rdbms]").next().unwrap()).contains("no section [rdbms]"));
    assert!(refused(&config.replace("sqlite", "mysql")).contains("`mysql`"));
    assert!(refused(&config.replace("sqlite", "anydbm")).contains("`anydbm`"));
    assert!(refused(&format!("{config}nonsense\n")).contains("line 11: "));
    std::fs::write(&path, config.replace("database = db", "database = nowhere")).unwrap();
    assert!(save(&house, &home).expect(1).err.contains("t/nowhere"));
    std::fs::remove_file(&path).unwrap();
    assert!(save(&house, &home).expect(1).err.contains("config.ini"));
    assert!(save(&house, &house.path().join("none")).expect(1).err.contains("none"));
    assert!(house.snapshots().is_empty());

    std::fs::write(&path, format!("{config}sqlite_timeout = 1\n")).unwrap();
    let holder = rusqlite::Connection::open(home.join("db/db")).unwrap();
    holder.execute_batch("pragma journal_mode = delete; begin exclusive").unwrap();
    let locked = save(&house, &home).expect(1).err;
    assert!(locked.contains("db/db") && locked.contains("locked") && locked.contains("fuser"), "{locked}");
    drop(holder);
    std::fs::write(home.join("db/db"), b"a letter, not a database, but long enough to look at").unwrap();
    assert!(save(&house, &home).expect(1).err.contains("db/db"));
    assert!(house.snapshots().is_empty());
    assert_eq!(private_files(&house), Vec::<String>::new());
}

#[test]
fn lost_content_is_named_and_a_crash_between_commit_and_rename_is_none() {
    let house = House::new();
    let Some(home) = tracker(&house, "t") else { return };
    let content = |name: &str| home.join("db/files/msg/0").join(name);
    std::fs::remove_file(content("msg3")).unwrap();
    std::fs::remove_file(content("msg5")).unwrap();
    let told = save(&house, &home).expect(3);
    let problems: Vec<Value> =
        json_lines(told.err.as_bytes()).into_iter().filter(|line| line["message_type"] == "error").collect();
    let items: Vec<&str> = problems.iter().map(|line| line["item"].as_str().unwrap()).collect();
    assert_eq!(items, [content("msg3").to_str().unwrap(), content("msg5").to_str().unwrap()]);
    let summary = json_lines(&told.out).pop().unwrap();
    assert_eq!((&summary["incomplete"], &summary["problems"]), (&true.into(), &2.into()));

    // Roundup takes what is not renamed yet for the content, if there is nothing else.
    std::fs::write(content("msg3.tmp"), b"three").unwrap();
    std::fs::write(content("msg5"), b"five").unwrap();
    std::fs::write(content("msg5.tmp"), b"never committed").unwrap();
    save(&house, &home).expect(0);
    let target = house.path().join("restored");
    restore(&house, &target, &[]).expect(0);
    let names = |name: &str| target.join("db/files/msg/0").join(name).exists();
    assert!(names("msg3.tmp") && names("msg5") && !names("msg5.tmp"));
    checked(&target, None);
    assert_eq!(std::fs::read(target.join("db/files/msg/0/msg3")).unwrap(), b"three");
}

#[test]
fn a_row_that_is_destroyed_meanwhile_is_not_missed() {
    let house = House::new();
    let Some(home) = tracker(&house, "t") else { return };
    let database = rusqlite::Connection::open(home.join("db/db")).unwrap();
    let file = home.join("db/files/msg/0/msg3");
    std::fs::remove_file(&file).unwrap();
    // Gone from the database while the first attempt waits for whether a commit brings the file: it has only a `.tmp`
    // of another row to wait for.
    std::fs::rename(home.join("db/files/msg/0/msg5"), home.join("db/files/msg/0/msg5.tmp")).unwrap();
    let destroyer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        database.execute("delete from _msg where id = 3", []).unwrap();
    });
    let told = save(&house, &home).expect(0);
    destroyer.join().unwrap();
    assert_eq!(json_lines(&told.out).pop().unwrap()["problems"], 0);
}

#[test]
fn a_restore_that_is_killed_leaves_a_tracker_in_its_place() {
    let house = House::new();
    let Some(home) = tracker(&house, "t") else { return };
    save(&house, &home).expect(0);
    let expected = checked(&home, None);
    let mut random = Random(11);
    let mut killed = 0;
    for _ in 0..12 {
        let words = ["restore", "roundup", "t", "--yes", "--target", home.to_str().unwrap()];
        let mut child = house.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(1000 + random.below(60_000)));
        killed += u32::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        child.wait().unwrap();
        assert!(home.join("config.ini").exists() && home.join("db/db").exists());
        let database = rusqlite::Connection::open(home.join("db/db")).unwrap();
        let state: String = database.pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap();
        assert_eq!(state, "ok");
    }
    assert!(killed > 0, "none was killed in time");
    assert_eq!(checked(&home, None), expected);
    restore(&house, &home, &["--yes"]).expect(0);
}

#[test]
fn only_whole_snapshots_of_trackers_are_restored() {
    let house = House::new();
    let Some(home) = tracker(&house, "t") else { return };
    save(&house, &home).expect(0);
    let files = house.backup(&home);
    let target = house.path().join("target");
    let said = house.fails(1, ["restore", "roundup", &files, "--target", target.to_str().unwrap()]);
    assert!(said.contains("not one of a Roundup tracker"), "{said}");
    house.fails(1, ["restore", "roundup", "t:/db", "--target", target.to_str().unwrap()]);
    assert!(!target.exists());
    let told = told(&mut house.command(["restore", "roundup", "t", "--target", "/"]));
    assert_eq!(told.code, Some(1), "{}", told.err);
}

/// A tracker on PostgreSQL of the role `openpg`, which must give its password; none if Roundup is not here.
fn tracker_on(cluster: &Cluster, house: &House, database: &str) -> Option<PathBuf> {
    let home = house.path().join("t");
    let mut up = script([OsStr::new("up"), home.as_os_str(), "--database".as_ref(), database.as_ref()])?;
    up.env("PGHOST", cluster.path()).env("PGPORT", "5432").env("PGUSER", "openpg").env("PGPASSWORD", "right");
    runs(up);
    Some(home)
}

#[test]
fn a_tracker_on_postgresql_comes_back_in_a_database_of_its_own() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    let Some(home) = tracker_on(&cluster, &house, "support") else { return };
    let expected = checked(&home, None);
    // What pg_dump is given, and what of the password can be seen.
    let programs = cluster
        .programs(house.directory("programs"), &[("pg_dump", "echo \"$@\" >>\"$0.seen\"; exec REAL/pg_dump \"$@\"")]);
    let path = std::env::join_paths(
        std::iter::once(programs.clone()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let words = ["--json", "backup", "roundup", home.to_str().unwrap(), "--dataset=t", "-vv"];
    let first = told(house.command(words).env("PATH", path.unwrap())).expect(0);
    let seen = std::fs::read_to_string(programs.join("pg_dump.seen")).unwrap();
    assert!(seen.contains("dbname='support'") && !seen.contains("right"), "{seen}");
    assert!(!first.err.contains("right") && !String::from_utf8_lossy(&first.out).contains("right"));
    let summary = json_lines(&first.out).pop().unwrap();
    assert_eq!(summary["backend"], "postgresql");
    assert!(summary["contents"].as_u64().unwrap() > 20, "{summary}");

    // The server may put something of its own between two dumps, but not always.
    let is_skipped = || {
        let again = house.run(words.iter().chain(&["--skip-if-unchanged"])).expect(0);
        json_lines(&again.out).pop().unwrap()["snapshot"].is_null()
    };
    assert!((0..3).any(|_| is_skipped()), "only the time in the dump differs");
    let stored = house.stored_bytes();
    save(&house, &home).expect(0);
    // The beginning of a dump, which has its time.
    let more = house.stored_bytes() - stored;
    assert!(more < 40_000, "{more} more bytes");

    // The name is taken, and the living database is not touched.
    let target = house.path().join("restored");
    let before = cluster.fingerprint("support");
    let taken = restore(&house, &target, &[]).expect(1).err;
    assert!(taken.contains("support") && taken.contains("--dbname"), "{taken}");
    assert!(!target.exists());
    restore(&house, &target, &["--dbname", "support 2"]).expect(0);
    let config = std::fs::read_to_string(target.join("config.ini")).unwrap();
    assert!(config.contains("\nname = support 2\n"), "{config}");
    assert!(!target.join("db/postgresql.dump").exists());
    assert_eq!(cluster.databases(), ["postgres", "support", "support 2"]);
    assert_eq!(cluster.fingerprint("support 2"), before);
    cluster.sql("postgres", "DROP DATABASE support");
    assert_eq!(checked(&target, None), expected);
    // Without the old one the name is free, and nothing has to be changed.
    restore(&house, &target, &["--yes"]).expect(0);
    let config = std::fs::read(target.join("config.ini")).unwrap();
    assert_eq!(config, std::fs::read(home.join("config.ini")).unwrap());
    assert_eq!(checked(&target, None), expected);
    let left: Vec<_> = house.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("restoring")), "{left:?}");
}

#[test]
fn what_goes_wrong_with_postgresql_is_said() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::new();
    let Some(home) = tracker_on(&cluster, &house, "support") else { return };
    std::fs::remove_file(home.join("db/files/msg/0/msg3")).unwrap();
    let lost = save(&house, &home).expect(3).err;
    assert!(lost.contains("msg3") && lost.lines().count() == 1, "{lost}");
    let snapshots = house.snapshots();

    configure(&home, |text| text.replace("password = right", "password = wrong"));
    let refused = save(&house, &home).expect(1).err;
    assert!(refused.contains("openpg") && !refused.contains("wrong"), "{refused}");
    // Out of a file beside the configuration, as Roundup allows it.
    std::fs::write(home.join("secret"), "right\n").unwrap();
    configure(&home, |text| text.replace("password = wrong", "password = file://secret"));
    save(&house, &home).expect(3);
    let target = house.path().join("restored");
    restore(&house, &target, &["--dbname", "second"]).expect(0);
    configure(&home, |text| text.replace("name = support", "name = nowhere"));
    assert!(save(&house, &home).expect(1).err.contains("nowhere"));
    configure(&home, |text| text.replace("port = 5432", "port = 1"));
    save(&house, &home).expect(1);
    assert_eq!(house.snapshots().len(), snapshots.len() + 1);
}
