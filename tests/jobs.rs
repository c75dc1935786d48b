//! Unattended runs from outside: configuration, order, hooks, failures with their messages, exit codes and error files,
//! overlapping, signals, what `status` says afterwards.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::postgres::Cluster;
use crate::support::program::{House, PASSWORD, Told, json_lines, told};

/// A house with a configuration, a source tree, and logs.
struct Site {
    house: House,
    source: PathBuf,
}

impl Site {
    fn new() -> Site {
        Site::around(House::new())
    }

    fn around(house: House) -> Site {
        let source = house.directory("source");
        std::fs::write(source.join("letter"), b"Dear reader\n").unwrap();
        Site { house, source }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.house.path().join(name)
    }

    /// `@` stands for the directory of the house.
    fn configure(&self, text: &str) -> &Site {
        let text = text.replace('@', self.house.path().to_str().unwrap());
        let secret = self.path("password");
        std::fs::write(&secret, PASSWORD).unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        let text = format!(
            "repository = '{}'\npassword_file = '{}'\n{text}",
            self.house.repository().display(),
            secret.display()
        );
        std::fs::write(self.path("client.toml"), text).unwrap();
        self
    }

    /// With nothing but the configuration to go by.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.house.command(words);
        command.env("NIGHTKEEP_CONFIG", self.path("client.toml"));
        command.env_remove("NIGHTKEEP_REPOSITORY").env_remove("NIGHTKEEP_PASSWORD");
        command
    }

    fn nightkeep(&self, words: &[&str]) -> Told {
        told(&mut self.command(words))
    }

    /// `run` with both log files.
    fn run(&self, words: &[&str]) -> Told {
        let (log, errors) = (self.path("log"), self.path("errors"));
        let files = ["--log", log.to_str().unwrap(), "--error-log", errors.to_str().unwrap()];
        self.nightkeep(&[&["run"], words, &files].concat())
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The run must end with `code`; every word is on standard error and in the error file.
    #[track_caller]
    fn fails(&self, code: i32, words: &[&str]) -> Told {
        let told = self.run(&["-q"]).expect(code);
        let errors = self.read("errors");
        for word in words {
            assert!(told.err.contains(word), "`{word}` is not said: {}", told.err);
            assert!(errors.contains(word), "`{word}` is not in the error file: {errors}");
        }
        told
    }

    fn status(&self, code: i32) -> Vec<Value> {
        json_lines(&self.nightkeep(&["--json", "status"]).expect(code).out)
    }

    fn job(&self, code: i32, name: &str) -> Value {
        self.status(code).into_iter().find(|line| line["job"] == name).unwrap()
    }
}

const FILES: &str = "[jobs.web]\n[[jobs.web.sources]]\nfiles = '@/source'\ndataset = 'web'\n";

/// Waits for a file that a hook or a producer makes.
fn wait_for(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

#[test]
fn from_nothing_to_a_nightly_run() {
    let site = Site::around(House::bare());
    let example = site.nightkeep(&["config", "example"]).expect(0);
    std::fs::write(site.path("client.toml"), &example.out).unwrap();
    site.nightkeep(&["config", "check"]).expect(0);
    site.configure(FILES);
    assert!(site.nightkeep(&["config", "check"]).expect(0).err.contains("nightkeep init"));
    site.nightkeep(&["init"]).expect(0);
    let told = site.nightkeep(&["-q", "run"]).expect(0);
    assert!(told.out.is_empty() && told.err.is_empty(), "{}", told.err);
    // The other verbs go by the configuration too, and a flag beats it.
    let listed = site.nightkeep(&["snapshots"]).expect(0);
    assert!(String::from_utf8_lossy(&listed.out).contains("/files/web"));
    site.nightkeep(&["snapshots", "-r", "/no/such/place"]).expect(10);
    site.nightkeep(&["status"]).expect(0);
}

#[test]
fn one_run_saves_its_jobs_in_order_under_one_id() {
    let site = Site::new();
    site.configure(
        "[jobs.late]\ntags = ['nightly']\n[[jobs.late.sources]]\ncommand = 'cat @/stamp; touch @/stamp2'\nname = 'first'\n\
         [[jobs.late.sources]]\ncommand = ['cat', '@/stamp2']\nname = 'second'\n\
         [jobs.early]\n[[jobs.early.sources]]\nfiles = '@/source'\n[jobs.early.hooks]\nbefore = 'test -e @/stamp2'\n",
    );
    std::fs::write(site.path("stamp"), "x").unwrap();
    let told = site.run(&["--json"]).expect(0);
    let lines = json_lines(&told.out);
    let summary = lines.iter().find(|line| line["message_type"] == "summary").unwrap();
    assert_eq!((&summary["verdict"], summary["jobs"].as_array().unwrap().len()), (&Value::from("done"), 2));
    let snapshots = site.house.json(["snapshots"]);
    let snapshots: Vec<&Value> = snapshots.iter().filter(|line| line["message_type"] == "snapshot").collect();
    assert_eq!(snapshots.len(), 3);
    assert!(snapshots.iter().all(|snapshot| snapshot["run"] == summary["run"]), "{snapshots:?}");
    assert_eq!(snapshots.iter().filter(|snapshot| snapshot["tags"][0] == "nightly").count(), 2);
    // One job alone.
    site.run(&["early"]).expect(0);
    assert_eq!(site.house.snapshots().len(), 4);
    let err = site.fails_to_select();
    assert!(err.contains("late early"), "{err}");
}

impl Site {
    fn fails_to_select(&self) -> String {
        self.run(&["nobody"]).expect(1).err
    }
}

#[test]
fn the_log_tells_the_run_and_the_error_file_only_errors() {
    let site = Site::new();
    site.configure(FILES);
    std::fs::write(site.path("errors"), "of an older run\n").unwrap();
    site.run(&["-q"]).expect(0);
    assert!(!site.path("errors").exists());
    let log = site.read("log");
    let expected = [
        "begin of run",
        "web: begin",
        "/files/web finished: 12 bytes in",
        "web: end, done after",
        "transfer to",
        "no error: the error file",
        "end of run",
    ];
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{log}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "{expected} is not in: {line}");
        assert_eq!((line.as_bytes()[4], line.as_bytes()[13]), (b'-', b':'), "a time begins the line: {line}");
    }
    site.configure(&format!("{FILES}[[jobs.web.sources]]\ncommand = 'exit 7'\nname = 'x'\n"));
    let told = site.fails(3, &["exit status 7"]);
    assert!(told.out.is_empty());
    assert!(site.read("log").contains("there were errors: see"));
    site.configure(&format!("log_language = 'fr'\nkeep_empty_error_log = true\n{FILES}"));
    site.run(&["-q"]).expect(0);
    assert!(site.read("log").contains("début de la sauvegarde") && site.read("log").contains("est fini : 12 octets"));
    assert!(site.path("errors").exists() && site.read("errors").is_empty());
    // A name of the item's own cannot forge lines.
    std::fs::write(site.source.join("a\n2026-11-21 00:00:00 end of run"), b"x").unwrap();
    site.configure("[jobs.a]\n[[jobs.a.sources]]\ncommand = 'printf \"x\\ny\\033[2J\" >&2; exit 1'\nname = 'x'\n[jobs.a.hooks]\nafter = \"printf 'a\\\\033[2Jb'\"\n");
    site.run(&["-q"]).expect(1);
    assert!(!site.read("log").contains('\u{1b}'));
}

#[test]
fn a_failure_stops_nothing_else_and_the_verdict_counts_all() {
    let site = Site::new();
    site.configure(&format!(
        "[jobs.bad]\n[[jobs.bad.sources]]\ncommand = 'exit 1'\nname = 'x'\n{FILES}\
         [jobs.partly]\n[[jobs.partly.sources]]\nfiles = '@/absent'\n[[jobs.partly.sources]]\ncommand = 'echo y'\nname = 'y'\n"
    ));
    let told = site.run(&["--json"]).expect(3);
    let summary = json_lines(&told.out).pop().unwrap();
    let verdicts: Vec<&str> =
        summary["jobs"].as_array().unwrap().iter().map(|job| job["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["failed", "done", "incomplete"]);
    assert_eq!(site.house.snapshots().len(), 2);
    site.run(&["bad"]).expect(1);
    site.run(&["web"]).expect(0);
    assert_eq!(site.job(1, "bad")["verdict"], "failed");
    assert_eq!(site.job(1, "web")["healthy"], true);
    let partly = site.job(1, "partly");
    assert_eq!((&partly["healthy"], &partly["last_success"]), (&Value::from(false), &Value::Null));
}

#[test]
fn hooks_are_told_how_it_went_and_after_always_runs() {
    let site = Site::new();
    let hooks = "[jobs.web.hooks]\nafter = 'echo after $NIGHTKEEP_VERDICT $NIGHTKEEP_EXIT_CODE >> @/told'\n\
                 on_failure = 'echo failure $NIGHTKEEP_JOB $NIGHTKEEP_CAUSE >> @/told'\ntimeout = '300ms'\n";
    let hooks = hooks.replace("300ms", "1s");
    let with = |before: &str| site.configure(&format!("{FILES}{hooks}before = '{before}'\n"));
    with("echo before >> @/told");
    site.run(&["-q"]).expect(0);
    assert_eq!(site.read("told"), "before\nafter done 0\n");

    std::fs::remove_file(site.path("told")).unwrap();
    with("echo no mount; exit 4");
    site.fails(1, &["hook before", "exit status 4", "no mount"]);
    assert_eq!(site.house.snapshots().len(), 1, "nothing is saved if `before` fails");
    assert!(site.read("told").starts_with("after failed 1\nfailure web hook before: it failed with exit status 4"));

    with("sleep 60");
    let begun = Instant::now();
    site.fails(1, &["hook before", "timeout"]);
    assert!(begun.elapsed() < Duration::from_secs(50));

    // What is saved is saved, but that the service may not be up again must be known.
    site.configure(&format!("{FILES}[jobs.web.hooks]\nafter = 'echo still down; exit 1'\n"));
    site.fails(3, &["hook after", "still down"]);
    assert_eq!(site.house.snapshots().len(), 2);

    // Around the whole run: the repository comes and goes with it.
    std::fs::rename(site.house.repository(), site.path("unmounted")).unwrap();
    site.configure(&format!(
        "retry = {{ tries = 1 }}\n[hooks]\nbefore = 'mv @/unmounted @/repository'\nafter = 'mv @/repository @/unmounted'\n{FILES}"
    ));
    site.run(&["-q"]).expect(0);
    assert!(site.path("unmounted/REPO").exists());
    std::fs::rename(site.path("unmounted"), site.path("elsewhere")).unwrap();
    site.fails(1, &["hook before"]);
}

#[test]
fn the_repository_away_is_waited_for_and_a_wrong_password_is_not() {
    let site = Site::new();
    let away = site.path("away");
    let retry = "retry = { tries = 30, wait = '1s', wait_max = '1s' }\n";
    site.configure(&format!("{retry}{FILES}[jobs.web.hooks]\non_failure = 'echo $NIGHTKEEP_EXIT_CODE > @/told'\n"));
    std::fs::rename(site.house.repository(), &away).unwrap();
    let mut child = site.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 1];
    child.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    std::fs::rename(&away, site.house.repository()).unwrap();
    assert!(child.wait().unwrap().success(), "it waits until the repository is back");
    assert_eq!(site.house.snapshots().len(), 1);

    std::fs::rename(site.house.repository(), &away).unwrap();
    site.configure(&format!("retry = {{ tries = 2, wait = '1s' }}\n{FILES}[jobs.web.hooks]\non_failure = 'echo $NIGHTKEEP_EXIT_CODE > @/told'\n"));
    site.fails(10, &["there is no repository at"]);
    assert_eq!(site.read("told"), "10\n");
    std::fs::rename(&away, site.house.repository()).unwrap();

    // Nobody waits for a wrong password to become right.
    site.configure(&format!("retry = {{ tries = 1000, wait = '1h' }}\n{FILES}"));
    std::fs::write(site.path("password"), "another").unwrap();
    site.fails(12, &["wrong passphrase or key"]);
    std::fs::remove_file(site.path("password")).unwrap();
    site.fails(1, &["password", "No such file"]);
}

#[test]
fn away_in_the_middle_is_waited_for_too() {
    let site = Site::new();
    site.configure(
        "retry = { tries = 60, wait = '1s', wait_max = '1s' }\n[jobs.a]\n[[jobs.a.sources]]\nname = 'x'\n\
         command = 'test -e @/again || mv @/repository @/away; touch @/again; head -c 300000 /dev/urandom'\n",
    );
    let mut child = site.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for(&site.path("again"));
    std::thread::sleep(Duration::from_millis(1500));
    std::fs::rename(site.path("away"), site.house.repository()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(site.house.snapshots().len(), 1);
    site.house.ok(["check", "--read-data"]);
}

#[test]
fn broken_configurations_are_refused_with_every_mistake() {
    let site = Site::new();
    site.configure(&format!("max_age = 26h\n{FILES}exclud = 'x'\n"));
    let told = site.fails(1, &["client.toml:3:", "not TOML", "exclud", "did you mean `exclude`?"]);
    assert!(told.err.contains("config check"));
    let check = site.nightkeep(&["config", "check"]).expect(1);
    assert!(check.err.contains("client.toml:3:") && check.err.contains("did you mean `exclude`?"), "{}", check.err);
    let lines = json_lines(site.nightkeep(&["--json", "config", "check"]).expect(1).err.as_bytes());
    assert!(lines.iter().all(|line| line["message_type"] == "error" && line["remedy"].is_string()), "{lines:?}");
    site.nightkeep(&["config", "show"]).expect(1);
    assert!(site.house.snapshots().is_empty());
    // Mistakes in a job are none of the other verbs' business.
    site.configure(&format!("{FILES}exclud = 'x'\n"));
    site.nightkeep(&["snapshots"]).expect(0);
    std::fs::remove_file(site.path("client.toml")).unwrap();
    site.fails(1, &["there is no configuration file"]);
    site.nightkeep(&["status"]).expect(1);
}

#[test]
fn secrets_readable_by_others_are_refused() {
    let site = Site::new();
    site.configure(FILES);
    let clear = site.read("client.toml").replace("password_file = ", "password = ");
    std::fs::write(site.path("client.toml"), clear).unwrap();
    std::fs::set_permissions(site.path("client.toml"), PermissionsExt::from_mode(0o644)).unwrap();
    let told = site.fails(1, &["secret in clear text", "chmod 600", "password_file"]);
    assert!(!told.err.contains(PASSWORD));
    site.nightkeep(&["snapshots"]).expect(1);
    std::fs::set_permissions(site.path("client.toml"), PermissionsExt::from_mode(0o600)).unwrap();
    // The file now holds the path of the password file as its password: read, and wrong.
    site.fails(12, &["wrong passphrase"]);
    let shown = site.nightkeep(&["config", "show"]).expect(0);
    assert!(!String::from_utf8_lossy(&shown.out).contains("/password"));
}

#[test]
fn runs_do_not_overlap_and_the_second_names_the_first() {
    let site = Site::new();
    site.configure("[jobs.slow]\n[[jobs.slow.sources]]\ncommand = 'touch @/started; cat @/gate'\nname = 'x'\n");
    told(Command::new("mkfifo").arg(site.path("gate"))).expect(0);
    let mut first = site.command(&["-q", "run"]).spawn().unwrap();
    wait_for(&site.path("started"));
    let process = format!("process {}", first.id());
    site.fails(11, &["another run is going on", &process, "slow"]);
    assert!(!site.path("log").exists(), "the log is the first one's");
    assert!(String::from_utf8_lossy(&site.nightkeep(&["status"]).expect(1).out).contains("A run is going on"));
    std::fs::write(site.path("gate"), b"x").unwrap();
    assert!(first.wait().unwrap().success());
    // Another writer is waited for, then named.
    let mut writer = site.command(&["backup", "command", "--name", "y", "--", "sh", "-c", "touch held; cat gate"]);
    let mut writer = writer.stdout(Stdio::null()).spawn().unwrap();
    wait_for(&site.path("held"));
    let holder = format!("process {}", writer.id());
    let told = site.nightkeep(&["-q", "run", "--lock-wait", "1s"]).expect(11);
    assert!(told.err.contains(&holder), "{}", told.err);
    std::fs::write(site.path("gate"), b"x").unwrap();
    assert!(writer.wait().unwrap().success());
}

#[test]
fn a_signal_ends_the_run_but_not_the_hook_after_it() {
    for sent in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let site = Site::new();
        site.configure(&format!(
            "[jobs.slow]\n[[jobs.slow.sources]]\ncommand = 'touch @/started; exec sleep 600'\nname = 'x'\n\
             [jobs.slow.hooks]\nafter = 'sleep 0.3; echo after $NIGHTKEEP_VERDICT >> @/told'\non_failure = 'echo failed >> @/told'\n{FILES}"
        ));
        let mut child = site.command(&["run"]).stdout(Stdio::null()).spawn().unwrap();
        wait_for(&site.path("started"));
        signal(&child, sent);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert_eq!(site.read("told"), "after interrupted\nfailed\n");
        assert!(site.house.snapshots().is_empty());
        assert_eq!(site.job(1, "slow")["verdict"], "interrupted");
        assert_eq!(site.job(1, "web")["verdict"], "never run");
        site.house.ok(["check"]);
    }
}

#[test]
fn a_killed_run_is_told_of_and_the_next_one_finishes() {
    let site = Site::new();
    site.configure("[jobs.slow]\n[[jobs.slow.sources]]\ncommand = 'touch @/started; cat @/gate'\nname = 'x'\n");
    told(Command::new("mkfifo").arg(site.path("gate"))).expect(0);
    let mut child = site.command(&["run"]).stdout(Stdio::null()).spawn().unwrap();
    wait_for(&site.path("started"));
    child.kill().unwrap();
    child.wait().unwrap();
    // The producer is still there, and goes.
    std::fs::write(site.path("gate"), b"x").unwrap();
    assert!(String::from_utf8_lossy(&site.nightkeep(&["status"]).expect(1).out).contains("never ended"));
    std::fs::remove_file(site.path("gate")).unwrap();
    std::fs::write(site.path("gate"), b"x").unwrap();
    site.run(&["-q"]).expect(0);
    let status = site.nightkeep(&["status"]).expect(0);
    assert!(!String::from_utf8_lossy(&status.out).contains("never ended"));
}

#[test]
fn retention_is_applied_after_success_only() {
    let site = Site::new();
    site.configure(
        &format!("{FILES}retention = {{}}\n")
            .replace("retention = {}\n", "[jobs.web.retention]\nkeep_last = 2\nprune = true\n"),
    );
    for night in 0..4 {
        std::fs::write(site.source.join("letter"), format!("night {night}")).unwrap();
        site.run(&["-q"]).expect(0);
    }
    assert_eq!(site.house.snapshots().len(), 2);
    assert!(site.read("log").contains("snapshots forgotten: 1, kept: 2"));
    assert!(site.read("log").contains("pruned"));
    site.configure(&format!(
        "{FILES}[[jobs.web.sources]]\ncommand = 'false'\nname = 'x'\n[jobs.web.retention]\nkeep_last = 1\n"
    ));
    site.run(&["-q"]).expect(3);
    assert_eq!(site.house.snapshots().len(), 3);
}

#[test]
fn status_judges_age_and_shows_size_and_trend() {
    let site = Site::new();
    site.configure(&format!("max_age = '1h'\n{FILES}"));
    assert_eq!(site.job(1, "web")["verdict"], "never run");
    site.run(&["-q"]).expect(0);
    std::fs::write(site.source.join("letter"), vec![b'x'; 24]).unwrap();
    site.run(&["-q"]).expect(0);
    let job = site.job(0, "web");
    assert_eq!((&job["last_success"]["total_bytes"], &job["trend"]), (&Value::from(24), &Value::from(1.0)));
    assert_eq!(job["runs"].as_array().unwrap().len(), 2);
    let text = site.nightkeep(&["status"]).expect(0);
    assert!(String::from_utf8_lossy(&text.out).contains("+100.0 %"));
    assert!(site.nightkeep(&["-q", "status"]).expect(0).out.is_empty());
    // Two hours later: set back what was noted.
    let state = site.read("state/jobs.json");
    let aged = state
        .lines()
        .map(|line| match line.trim().strip_prefix("\"started\": ") {
            Some(time) => {
                let time: i64 = time.trim_end_matches(',').parse().unwrap();
                format!("\"started\": {},", time - 7_200_000_000_000)
            }
            None => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n");
    std::fs::write(site.path("state/jobs.json"), aged).unwrap();
    let job = site.job(1, "web");
    assert_eq!((&job["verdict"], &job["over_age"]), (&Value::from("over age"), &Value::from(true)));
    // What cannot be read is set aside, and the run goes on.
    std::fs::write(site.path("state/jobs.json"), "{").unwrap();
    site.fails(3, &["jobs.json is damaged"]);
    site.run(&["-q"]).expect(0);
    assert_eq!(site.job(0, "web")["verdict"], "done");
}

#[test]
fn syslog_hears_of_it() {
    let site = Site::new();
    let daemon = UnixDatagram::bind(site.path("syslog")).unwrap();
    daemon.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    site.configure(&format!(
        "syslog = 'local3'\nsyslog_socket = '@/syslog'\n{FILES}[[jobs.web.sources]]\ncommand = 'exit 9'\nname = 'x'\n"
    ));
    site.run(&["-q"]).expect(3);
    let mut lines = Vec::new();
    let mut buffer = [0; 4096];
    while !lines.last().is_some_and(|line: &String| line.contains("end of run")) {
        let len = daemon.recv(&mut buffer).unwrap();
        lines.push(String::from_utf8(buffer[..len].to_vec()).unwrap());
    }
    assert!(lines.iter().all(|line| line.contains(" nightkeep[")), "{lines:?}");
    // local3 is 19 * 8; 3 is an error.
    assert!(lines.iter().any(|line| line.starts_with("<155>") && line.contains("exit status 9")), "{lines:?}");
}

#[test]
fn a_full_disk_is_named_and_a_log_that_cannot_be_written_too() {
    let site = Site::new();
    site.configure(FILES);
    let told = site.nightkeep(&["-q", "run", "--log", "/dev/full"]).expect(3);
    assert!(told.err.contains("cannot write the log"), "{}", told.err);
    assert_eq!(site.house.snapshots().len(), 1, "the backup is made all the same");
    let told = site.nightkeep(&["-q", "run", "--error-log", "/no/such/directory/errors"]).expect(0);
    assert!(told.err.is_empty());

    // A repository of its own small file system.
    let disk = site.house.directory("disk");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "none"]).arg(&disk).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("SKIPPED: no file system can be mounted here, so none can be filled");
        return;
    }
    let place = disk.join("repository");
    let password = site.path("password");
    let init = ["-r", place.to_str().unwrap(), "--password-file", password.to_str().unwrap(), "init"];
    site.house.run(init).expect(0);
    let text = site.read("client.toml").replace(site.house.repository().to_str().unwrap(), place.to_str().unwrap());
    let more = "[[jobs.web.sources]]\ncommand = 'head -c 9000000 /dev/urandom'\nname = 'x'\n[jobs.small]\n[[jobs.small.sources]]\ncommand = 'echo x'\nname = 'y'\n";
    std::fs::write(site.path("client.toml"), format!("{text}{more}")).unwrap();
    let told = site.run(&["-q"]);
    let errors = site.read("errors");
    told_and_unmounted(&disk);
    assert_eq!(told.code, Some(3), "{}", told.err);
    assert!(errors.contains("no space left") && told.err.contains("make space"), "{errors}");
}

fn told_and_unmounted(disk: &Path) {
    told(Command::new("umount").arg("-l").arg(disk)).expect(0);
}

#[test]
fn files_that_the_database_names_must_not_vanish_before_they_are_saved() {
    let site = Site::new();
    let store = site.source.join("filestorage");
    std::fs::create_dir_all(store.join("backup")).unwrap();
    for name in ["kept", "gone", "backup/old"] {
        std::fs::write(store.join(name), name).unwrap();
    }
    site.configure(
        "[jobs.a]\n[[jobs.a.sources]]\nname = 'database.sql'\n\
         command = 'rm -f @/source/filestorage/gone @/source/filestorage/backup/old; echo dump'\n\
         [[jobs.a.sources]]\nfiles = '@/source'\nexclude = '@/source/filestorage/backup'\nreferenced = '@/source/filestorage'\n",
    );
    let told = site.fails(3, &["filestorage/gone", "gone before it was saved"]);
    assert!(!told.err.contains("filestorage/backup"), "{}", told.err);
    assert_eq!(site.house.snapshots().len(), 2);
    site.run(&["-q"]).expect(0);
}

#[test]
fn the_units_of_systemd_are_sound() {
    let deploy = crate::support::source::workspace().join("deploy");
    let verify = Command::new("systemd-analyze").arg("--version").output();
    if !verify.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: no systemd-analyze here to verify the units with");
        return;
    }
    for unit in ["nightkeep.service", "nightkeep.timer"] {
        // The program need not be installed for this.
        let dir = tempfile::tempdir().unwrap();
        for unit in ["nightkeep.service", "nightkeep.timer"] {
            let text = std::fs::read_to_string(deploy.join(unit)).unwrap();
            std::fs::write(dir.path().join(unit), text.replace("/usr/local/bin/nightkeep", "/bin/true")).unwrap();
        }
        let output =
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(dir.path().join(unit)).output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{unit}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn a_project_open_server_is_saved_as_one_with_each_step_in_the_log() {
    let Some(cluster) = Cluster::start() else { return };
    for name in ["projop", "Specibike Dupont", "specibike_old"] {
        cluster.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
        cluster.sql(name, "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
    }
    let site = Site::new();
    for (name, content) in [("www/index.adp", "x"), ("log/error.log", "x"), ("filestorage/backup/old.sql", "x")] {
        let path = site.path("web/projop").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let socket = cluster.path().display().to_string();
    let preset =
        format!("[jobs.projop]\npreset = 'project-open'\nweb = '@/web'\nhost = '{socket}'\nusername = 'postgres'\n");
    let schools = format!(
        "[jobs.schools]\n[[jobs.schools.sources]]\npostgres = 'Specibike*'\nhost = '{socket}'\nusername = 'postgres'\n"
    );
    site.configure(&format!("{preset}{schools}"));
    let told = site.run(&["--json"]).expect(0);
    let summary = json_lines(&told.out).pop().unwrap();
    let log = site.read("log");
    for line in [
        "projop: database found: projop",
        "projop: databases found: 1",
        "projop: dump of projop finished:",
        "projop: databases found: 1, saved: 1; no error in the dumps",
        "schools: database found: Specibike Dupont",
        "schools: dump of Specibike Dupont finished:",
        "it matches a pattern but for its case",
    ] {
        assert!(log.contains(line), "{line} is not in the log:\n{log}");
    }
    let web = site.house.json(["snapshots"]);
    let web = web.iter().find(|line| line["dataset"].as_str().is_some_and(|name| name.contains("/files/"))).unwrap();
    assert_eq!(web["run"], summary["run"]);
    let listed = site.house.ok(["ls", "--recursive", web["id"].as_str().unwrap()]);
    assert!(listed.contains("index.adp") && !listed.contains("error.log") && !listed.contains("old.sql"), "{listed}");

    // Every cause in the error file, the files saved all the same.
    cluster.stop();
    site.fails(3, &["cannot connect to PostgreSQL"]);
    assert!(site.read("log").contains("/files/"));
    site.configure(&schools.replace("[[", "[jobs.schools.retry]\ntries = 1\n[["));
    site.fails(1, &["cannot connect to PostgreSQL"]);
    site.configure(&schools.replace("username", "programs = '/no/such/directory'\nusername"));
    site.fails(1, &["schools", "psql"]);
}
