//! The command line as people and scripts meet it: every verb, exit codes, JSON lines, silence. What the verbs do in
//! depth is proven elsewhere.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::manifest;
use crate::support::program::{House, json_lines, told};

/// A house with one snapshot of two small files.
fn furnished() -> (House, PathBuf, String) {
    let house = House::new();
    let source = house.directory("source");
    std::fs::write(source.join("letter"), b"Dear reader\n").unwrap();
    std::fs::create_dir(source.join("below")).unwrap();
    std::fs::write(source.join("below/number"), b"42\n").unwrap();
    let snapshot = house.backup(&source);
    (house, source, snapshot)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn init_makes_one_repository_and_prints_its_recovery_key() {
    let house = House::bare();
    let said = house.ok(["init"]);
    let key = said.split_whitespace().find(|word| word.starts_with("nkr1-")).expect("no recovery key");
    assert_eq!(key.split('-').count(), 15, "{key}");
    house.fails(1, ["init"]);
    house.ok(["snapshots"]);

    let mut by_recovery_key = house.command(["snapshots"]);
    told(by_recovery_key.env("NIGHTKEEP_PASSWORD", key)).expect(0);
}

#[test]
fn no_repository_is_10_and_a_wrong_credential_12() {
    let mut house = House::bare();
    let source = house.directory("source");
    for verb in
        [&["snapshots"][..], &["check"], &["prune"], &["stats"], &["ls", "x"], &["backup", "files", text(&source)]]
    {
        house.fails(10, verb);
    }
    std::fs::create_dir(house.repository()).unwrap();
    house.fails(10, ["snapshots"]);
    house.ok(["init"]);
    house.password = "another".into();
    for verb in [&["snapshots"][..], &["check"], &["backup", "files", text(&source)]] {
        house.fails(12, verb);
    }
    house.password = String::new();
    assert_ne!(house.run(["snapshots"]).code, Some(0));
}

#[test]
fn wrong_usage_is_1_and_help_is_0() {
    let house = House::new();
    for words in [&["frobnicate"][..], &["backup"], &["restore", "files"], &["snapshots", "--latest", "x"]] {
        house.fails(1, words);
    }
    for level in ["0", "20", "fast", "-1", ""] {
        house.fails(1, ["backup", "files", "/etc/hostname", &format!("--compression={level}")]);
    }
    house.fails(1, ["ls", "no-such-snapshot"]);
    house.fails(1, ["backup", "files", "/no/such/path"]);
    assert!(house.snapshots().is_empty());
    assert!(house.ok(["--help"]).contains("130"));
    assert!(house.ok(["--version"]).contains(env!("CARGO_PKG_VERSION")));
    assert!(house.ok(["completions", "bash"]).contains("nightkeep"));
}

#[test]
fn busy_is_11_and_waiting_helps() {
    let (house, source, first) = furnished();
    let gate = house.path().join("gate");
    told(Command::new("mkfifo").arg(&gate)).expect(0);
    let script = format!("echo started >&2; cat {}", gate.display());
    let mut holder = house.command(["backup", "command", "--name", "slow", "--", "sh", "-c", &script]);
    let mut child = holder.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // The producer runs only once the lock is held.
    let mut line = [0; 7];
    std::io::Read::read_exact(child.stderr.as_mut().unwrap(), &mut line).unwrap();
    house.fails(11, ["backup", "files", text(&source), "--lock-wait", "0s"]);
    house.fails(11, ["prune", "--lock-wait", "0s"]);
    // Readers never wait.
    assert_eq!(house.snapshots().len(), 1);
    house.ok(["ls", &first]);
    house.ok(["restore", "files", &first, "--target", text(&house.fresh("target"))]);
    let mut waiting =
        house.command(["backup", "files", text(&source), "--lock-wait", "5m"]).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    std::fs::write(&gate, b"go on\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert!(waiting.wait().unwrap().success());
    assert_eq!(house.snapshots().len(), 3);
}

#[test]
fn interrupted_is_130_and_commits_nothing() {
    let (house, _, _) = furnished();
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut command = house.command([
            "backup",
            "command",
            "--name",
            "slow",
            "--",
            "sh",
            "-c",
            "echo started >&2; exec sleep 600",
        ]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 7];
        std::io::Read::read_exact(child.stderr.as_mut().unwrap(), &mut line).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal:?}");
        assert_eq!(house.snapshots().len(), 1);
    }
    house.ok(["check", "--read-data"]);
}

#[test]
fn what_cannot_be_read_is_named_and_the_run_is_3() {
    let house = House::bare();
    let source = house.directory("source");
    std::fs::write(source.join("readable"), b"yes").unwrap();
    std::fs::write(source.join("secret"), b"no").unwrap();
    std::fs::set_permissions(source.join("secret"), PermissionsExt::from_mode(0o000)).unwrap();
    std::fs::set_permissions(house.path(), PermissionsExt::from_mode(0o777)).unwrap();
    // Root reads everything: be somebody else.
    let root = rustix::process::geteuid().is_root();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let wrapper: &[&str] = if root { &nobody } else { &[] };
    let program = crate::support::program::nightkeep();
    let can_run = || told(Command::new(nobody[0]).args(&nobody[1..]).arg(program).arg("--version")).code == Some(0);
    if root && !can_run() {
        println!("SKIPPED: user 65534 cannot run {}", program.display());
        return;
    }
    told(&mut house.wrapped(wrapper, ["init"])).expect(0);
    let run = told(&mut house.wrapped(wrapper, ["backup", "files", text(&source), "--dataset", "ours"])).expect(3);
    assert!(run.err.contains("secret"), "{}", run.err);
    let run = told(&mut house.wrapped(wrapper, ["backup", "files", text(&source), "--json"])).expect(3);
    let lines = json_lines(&[&run.out[..], run.err.as_bytes()].concat());
    assert!(
        lines.iter().any(|line| line["message_type"] == "error" && line.to_string().contains("secret")),
        "{lines:?}"
    );
    let listed = told(&mut house.wrapped(wrapper, ["ls", &format!("ours:{}", source.display())])).expect(0);
    assert!(String::from_utf8_lossy(&listed.out).contains("readable"));
}

#[test]
fn quiet_runs_say_nothing() {
    let (house, source, snapshot) = furnished();
    let target = house.fresh("target");
    let selection = format!("{snapshot}:{}", source.display());
    for words in [
        &["backup", "files", text(&source)][..],
        &["backup", "command", "--name", "x", "--", "echo", "x"],
        &["restore", "files", &selection, "--target", text(&target)],
        &["check", "--read-data"],
        &["tag", &snapshot, "+kept"],
        &["pin", &snapshot],
        &["unpin", &snapshot],
        &["forget", "--keep-last", "5"],
        &["prune"],
    ] {
        let told = house.run([&["-q"], words].concat()).expect(0);
        assert!(
            told.out.is_empty() && told.err.is_empty(),
            "{words:?}: {}{}",
            String::from_utf8_lossy(&told.out),
            told.err
        );
    }
}

#[test]
fn every_verb_speaks_json_lines() {
    let (house, source, snapshot) = furnished();
    std::fs::write(source.join("later"), b"later").unwrap();
    let second = house.backup(&source);
    let target = house.fresh("target");
    for words in [
        &["backup", "files", text(&source)][..],
        &["backup", "command", "--name", "x", "--", "echo", "x"],
        &["snapshots"],
        &["ls", &snapshot],
        &["find", "*e*"],
        &["diff", &snapshot, &second],
        &["stats"],
        &["restore", "files", &snapshot, "--target", text(&target)],
        &["check"],
        &["tag", &snapshot, "+kept"],
        &["pin", &snapshot],
        &["unpin", &snapshot],
        &["forget", &second],
        &["undelete", &second],
        &["prune"],
        &["key", "list"],
    ] {
        let lines = house.json(words);
        assert!(!lines.is_empty(), "{words:?} prints no line");
        for line in &lines {
            let kind = line["message_type"].as_str().unwrap_or_else(|| panic!("{words:?}: {line}"));
            assert!(!kind.is_empty() && kind != "exit_error", "{words:?}: {line}");
        }
    }
    let told = house.run(["ls", "no-such-snapshot", "--json"]).expect(1);
    let lines = json_lines(&[&told.out[..], told.err.as_bytes()].concat());
    let last = lines.last().expect("a failure without a line");
    assert_eq!((&last["message_type"], &last["code"]), (&Value::from("exit_error"), &Value::from(1)), "{last}");
}

#[test]
fn a_snapshot_line_says_what_it_should() {
    let (house, source, _) = furnished();
    house.ok(["backup", "files", text(&source), "--tag", "weekly", "--tag", "önce"]);
    let lines = house.json(["snapshots"]);
    let line = lines.iter().rfind(|line| line["message_type"] == "snapshot").unwrap();
    for field in ["id", "dataset", "run", "time", "host", "tags", "pinned", "totals"] {
        assert!(line.get(field).is_some(), "no {field}: {line}");
    }
    assert_eq!(line["tags"], serde_json::json!(["weekly", "önce"]));
    assert_eq!(line["pinned"], false);
    let time = line["time"].as_str().unwrap();
    assert!(time.len() >= 20 && &time[10..11] == "T", "{time} is not RFC 3339");
}

#[test]
fn forget_keeps_pins_and_undelete_brings_back() {
    let (house, source, first) = furnished();
    let listing = manifest::of(&source);
    house.ok(["pin", &first]);
    std::fs::write(source.join("letter"), b"Dear other reader\n").unwrap();
    let second = house.backup(&source);
    std::fs::write(source.join("letter"), b"Dear third reader\n").unwrap();
    let third = house.backup(&source);
    house.ok(["forget", "--keep-last", "1"]);
    assert_eq!(house.snapshots(), [first.clone(), third.clone()]);
    house.ok(["prune"]);
    house.ok(["undelete", &second]);
    assert_eq!(house.snapshots().len(), 3);
    house.ok(["unpin", &first]);
    house.ok(["forget", &second, "--prune"]);
    house.ok(["prune", "--grace", "0"]);
    house.fails(1, ["undelete", &second]);
    assert_eq!(house.snapshots(), [first.clone(), third]);
    manifest::assert_same(&listing, &manifest::of(&house.restore(&first, &source)));
    house.ok(["check", "--read-data"]);
}

#[test]
fn prune_gives_space_back() {
    let (house, source, _) = furnished();
    let mut random = crate::support::torture::Random(77);
    std::fs::write(source.join("large"), random.bytes(4_000_000)).unwrap();
    let large = house.backup(&source);
    std::fs::remove_file(source.join("large")).unwrap();
    house.backup(&source);
    let full = house.stored_bytes();
    house.ok(["forget", &large]);
    house.ok(["prune", "--dry-run", "--grace", "0"]);
    assert_eq!(house.stored_bytes(), full, "a dry run frees space");
    house.ok(["prune", "--grace", "0"]);
    assert!(house.stored_bytes() < full / 2, "{} of {full} bytes are left", house.stored_bytes());
    house.ok(["check", "--read-data"]);
}

#[test]
fn dump_gives_a_file_or_a_tar() {
    let (house, source, snapshot) = furnished();
    let file = house.run(["dump", &format!("{snapshot}:{}/letter", source.display())]).expect(0).out;
    assert_eq!(file, b"Dear reader\n");
    let tar = house.run(["dump", &format!("{snapshot}:{}", source.display())]).expect(0).out;
    let archive = house.path().join("archive.tar");
    std::fs::write(&archive, tar).unwrap();
    let target = house.directory("untarred");
    told(Command::new("tar").args(["-xpf", text(&archive), "-C", text(&target)])).expect(0);
    let names = manifest::of(&target).join("\n");
    assert!(names.contains("letter") && names.contains("below/number"), "{names}");
}

#[test]
fn ls_find_and_diff_name_things() {
    let (house, source, first) = furnished();
    assert!(house.ok(["ls", &format!("{first}:{}", source.display())]).contains("letter"));
    assert!(house.ok(["find", "numb*"]).contains("below/number"));
    std::fs::write(source.join("letter"), b"changed\n").unwrap();
    std::fs::write(source.join("added"), b"added\n").unwrap();
    std::fs::remove_file(source.join("below/number")).unwrap();
    let second = house.backup(&source);
    let said = house.ok(["diff", &first, &second]);
    for name in ["letter", "added", "number"] {
        assert!(said.contains(name), "no {name}: {said}");
    }
}

#[test]
fn a_write_only_key_saves_and_opens_nothing() {
    let (house, source, snapshot) = furnished();
    let key = house.path().join("write-only");
    house.ok(["key", "export", text(&key)]);
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o077, 0, "others may read the key");
    let with_key = |words: &[&str]| {
        let mut command = house.command([words, &["--password-file", text(&key)]].concat());
        told(command.env_remove("NIGHTKEEP_PASSWORD"))
    };
    with_key(&["backup", "files", text(&source)]).expect(0);
    assert_eq!(house.snapshots().len(), 2);
    let target = house.fresh("target");
    for words in
        [&["ls", &snapshot][..], &["dump", &snapshot], &["restore", "files", &snapshot, "--target", text(&target)]]
    {
        let told = with_key(words);
        assert!(told.code != Some(0) && !told.err.is_empty(), "{words:?} succeeds with a write-only key");
    }
    assert!(!target.exists() || manifest::of(&target).is_empty());
    house.ok(["check", "--read-data"]);
}

#[test]
fn passwords_change_and_recover() {
    let mut house = House::bare();
    let said = house.ok(["init"]);
    let recovery = said.split_whitespace().find(|word| word.starts_with("nkr1-")).unwrap().to_owned();
    let file = |house: &House, name: &str, content: &str| -> String {
        let path = house.path().join(name);
        std::fs::write(&path, content).unwrap();
        text(&path).to_owned()
    };
    let second = file(&house, "second", "second\n");
    house.ok(["key", "passwd", "--new-password-file", &second]);
    house.fails(12, ["snapshots"]);
    house.password = "second".into();
    house.ok(["snapshots"]);
    let (third, recovery) = (file(&house, "third", "third"), file(&house, "recovery", &recovery));
    house.password = "forgotten".into();
    house.ok(["key", "recover", "--recovery-key-file", &recovery, "--new-password-file", &third]);
    house.password = "third".into();
    house.ok(["snapshots"]);
    assert!(house.json(["key", "list"]).len() >= 2);
}

#[test]
fn dry_runs_and_unchanged_runs_commit_nothing() {
    let (house, source, _) = furnished();
    house.backup(&source);
    let saved = house.snapshots();
    house.ok(["backup", "files", text(&source), "--skip-if-unchanged"]);
    assert_eq!(house.snapshots(), saved);
    std::fs::write(source.join("letter"), b"changed\n").unwrap();
    house.ok(["backup", "files", text(&source), "--dry-run"]);
    assert_eq!(house.snapshots(), saved);
    house.ok(["backup", "files", text(&source), "--skip-if-unchanged"]);
    assert_eq!(house.snapshots().len(), saved.len() + 1);
}

#[test]
fn commands_of_the_readme_are_accepted() {
    let house = House::bare();
    let readme = std::fs::read_to_string(crate::support::source::workspace().join("README.md")).unwrap();
    let mut seen = 0;
    for line in readme.lines().filter(|line| line.starts_with("    ")) {
        // Of several programs in a line, `nightkeep` itself as a word.
        let Some(command) = line.match_indices("nightkeep ").find_map(|(at, name)| {
            let (before, from) = (line.get(..at)?, line.get(at + name.len()..)?);
            (before.is_empty() || before.ends_with(' ')).then_some(from)
        }) else {
            continue;
        };
        // Up to a comment, a pipe, a redirection, or the words of another program. Help is printed if all before it is understood.
        let end = ["#", "|", " > ", " && ", "-- "]
            .iter()
            .filter_map(|stop| command.find(stop))
            .min()
            .unwrap_or(command.len());
        let words: Vec<String> =
            command[..end].replace("\"ada's passphrase\"", "label").split_whitespace().map(str::to_owned).collect();
        house.run(words.into_iter().chain(["--help".to_owned()])).expect(0);
        seen += 1;
    }
    assert!(seen > 15, "only {seen} commands found");
}

#[test]
fn secrets_stay_out_of_what_is_said_and_stored() {
    let (house, source, _) = furnished();
    let marker = "Marker-5d1f0c77";
    std::fs::write(source.join(marker), format!("{marker} content {marker}").repeat(300)).unwrap();
    let said = house.run(["-vv", "backup", "files", text(&source)]).expect(0);
    let everything = format!("{}{}", String::from_utf8_lossy(&said.out), said.err);
    assert!(!everything.contains(&house.password), "{everything}");
    let mut directories = vec![house.repository()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            for secret in [marker, house.password.as_str(), "Dear reader"] {
                let there = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!there, "{} holds `{secret}` in clear", path.display());
            }
        }
    }
}
