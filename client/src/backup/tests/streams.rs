//! Commands and their output.

use super::*;
use chunkstore::tree::Content;

#[test]
fn the_output_of_a_command_becomes_a_file() {
    let fixture = Fixture::new();
    let outcome = fixture.save_stream("dump.sql", &["sh", "-c", "yes 0123456789 | head -c 7000001"]).unwrap();
    let entries = fixture.entries(&outcome);
    assert_eq!(entries.len(), 1);
    let entry = &entries[&b"/dump.sql"[..]];
    let content = fixture.content(entry);
    assert_eq!(content.len(), 7_000_001);
    assert!(content.chunks(11).all(|line| b"0123456789\n".starts_with(line)));
    assert_eq!(entry.attributes.mode, 0o600);
    assert!(outcome.new_bytes < 4 << 20, "what repeats is stored once: {}", outcome.new_bytes);
    assert_eq!((outcome.totals.files, outcome.totals.content_bytes, outcome.read_bytes), (1, 7_000_001, 7_000_001));
    let details = fixture.snapshot(&outcome).details(&fixture.reader().opener).unwrap();
    assert!(details.facts.contains(&("command".into(), b"sh".to_vec())), "arguments may hold secrets");
    assert!(!details.facts.iter().any(|(_, value)| value.windows(4).any(|part| part == b"head")));
}

#[test]
fn a_level_is_honoured_and_content_is_known_whatever_the_level() {
    let added = |fixture: &Fixture, compression: &str| {
        let compression = Compression::parse(compression).unwrap();
        let outcome = fixture.save_stream_as(&Request { compression, ..Fixture::request() }, "n", &["seq", "400000"]);
        let outcome = outcome.unwrap();
        let entries = fixture.entries(&outcome);
        assert!(fixture.content(&entries[&b"/n"[..]]).starts_with(b"1\n2\n3\n"));
        outcome
    };
    let sizes = ["none", "1", "19"].map(|level| added(&Fixture::new(), level).added_bytes);
    assert!(sizes[0] > 2_688_895 && sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
    // Whatever the level at which it was stored.
    let fixture = Fixture::new();
    added(&fixture, "none");
    for level in ["auto", "9"] {
        assert!(added(&fixture, level).new_bytes < 1000, "a node, with the time of the run");
    }
}

#[test]
fn what_is_short_lies_in_its_entry() {
    let fixture = Fixture::new();
    for text in ["", "short"] {
        let outcome = fixture.save_stream("out", &["printf", "%s", text]).unwrap();
        let entries = fixture.entries(&outcome);
        assert!(matches!(&entries[&b"/out"[..]].node, Node::File(Content::Inline(bytes)) if bytes == text.as_bytes()));
    }
    let long = "x".repeat(2049);
    let outcome = fixture.save_stream("out", &["printf", "%s", &long]).unwrap();
    assert_eq!(fixture.content(&fixture.entries(&outcome)[&b"/out"[..]]), long.as_bytes());
}

#[test]
fn a_command_that_fails_commits_nothing() {
    let fixture = Fixture::new();
    for (command, reason) in [
        (&["sh", "-c", "head -c 5000000 /dev/zero; exit 3"][..], "status 3"),
        (&["sh", "-c", "echo a; kill -9 $$"], "signal 9"),
        (&["/nonexistent/program"], "/nonexistent/program"),
        (&[], "command"),
    ] {
        let error = fixture.save_stream("x", command).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(!error.contains("5000000"), "arguments are not told: {error}");
    }
    assert!(fixture.repository.snapshots().unwrap().is_empty());
    for name in ["", "a/b", ".."] {
        assert!(matches!(fixture.save_stream(name, &["true"]), Err(Error::Invalid { .. })), "{name:?}");
    }
}

#[test]
fn a_silent_command_can_be_interrupted() {
    // Silent from the start, and after the end of its output.
    for script in ["echo $$ > PID; exec sleep 1000", "echo $$ > PID; exec >&-; exec sleep 1000"] {
        let (fixture, temp) = (Fixture::new(), tempfile::tempdir().unwrap());
        let pid = temp.path().join("pid");
        let (flag, started) = (fixture.interrupted.clone(), pid.clone());
        let signal = std::thread::spawn(move || {
            while !std::fs::read(&started).is_ok_and(|text| !text.is_empty()) {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(50));
            flag.store(true, Ordering::Relaxed);
        });
        let stopped = fixture.save_stream("x", &["sh", "-c", &script.replace("PID", pid.to_str().unwrap())]);
        signal.join().unwrap();
        assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
        if let Ok(pid) = std::fs::read_to_string(&pid) {
            assert!(!Path::new("/proc").join(pid.trim()).exists(), "it does not outlive its reader");
        }
    }
}

#[test]
fn a_store_that_fails_is_told_as_such() {
    use chunkstore::backend::simulated::Fault;
    let fixture = Fixture::new();
    fixture.backend.arm(1, Fault::Error(std::io::ErrorKind::StorageFull));
    let failed = fixture.save_stream("x", &["head", "-c", "100000000", "/dev/urandom"]);
    assert!(matches!(failed, Err(Error::Full { .. })), "{failed:?}");
}

#[test]
fn an_unchanged_stream_may_make_no_snapshot() {
    let fixture = Fixture::new();
    let skip = Request { skip_if_unchanged: true, ..Fixture::request() };
    let save = |request: &Request, name: &str, text: &str| {
        fixture.save_stream_as(request, name, &["printf", "%s", text]).unwrap().snapshot.is_some()
    };
    assert!(save(&skip, "a", "one"));
    assert!(!save(&skip, "a", "one"));
    assert!(save(&Fixture::request(), "a", "one"), "only if it is asked for");
    assert!(!save(&skip, "a", "one"));
    assert!(save(&skip, "a", "two") && save(&skip, "b", "two") && !save(&skip, "b", "two"));
    // Compared with the latest snapshot, not with the last one that was made here.
    let other = Request { dataset: "host/files/other".into(), skip_if_unchanged: true, ..Fixture::request() };
    assert!(save(&other, "b", "two"));
    let elsewhere = tempfile::tempdir().unwrap();
    let told = Told::default();
    let context = fixture.context(&told, elsewhere.path());
    let source = StreamSource::Command(vec!["printf".into(), "three".into()]);
    stream(&context, &Fixture::request(), &"b".into(), source).unwrap();
    assert!(save(&skip, "b", "two"));
    std::fs::remove_dir_all(fixture.cache_dir()).unwrap();
    assert!(save(&skip, "b", "two"), "nothing is remembered");
}

/// Runs a script as a producer whose judge accepts success alone; what was watched and complained of.
fn produce(
    fixture: &Fixture,
    script: &str,
    verdict: fn() -> Verdict,
) -> (chunkstore::Result<Outcome>, Vec<u8>, String) {
    let (mut watched, mut said) = (Vec::new(), String::new());
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let producer = Producer {
        name: "the producer".into(),
        command,
        watch: &mut |bytes| watched.extend_from_slice(bytes),
        judge: &mut |status, complaints| {
            said = String::from_utf8_lossy(complaints).into_owned();
            if status.success() { Ok(verdict()) } else { Err(Error::invalid("the producer", "refused")) }
        },
    };
    let told = Told::default();
    let request = Request { skip_if_unchanged: true, ..Fixture::request() };
    let outcome = produced(&fixture.context(&told, &fixture.cache_dir()), &request, &"out".into(), producer);
    (outcome, watched, said)
}

#[test]
fn a_producer_is_watched_and_judged() {
    let fixture = Fixture::new();
    let verdict = || Verdict { facts: vec![fact("colour", "blue")], problems: 1, sameness: Some([7; 32]) };
    let script = "head -c 3000000 /dev/zero; seq 1 50000 >&2; echo last words >&2";
    let (outcome, watched, said) = produce(&fixture, script, verdict);
    let outcome = outcome.unwrap();
    assert_eq!(fixture.content(&fixture.entries(&outcome)[&b"/out"[..]]), watched);
    assert_eq!(watched.len(), 3_000_000);
    assert!(said.ends_with("50000\nlast words\n") && said.len() == 64 << 10, "{}", said.len());
    assert!(fixture.snapshot(&outcome).summary.incomplete && outcome.problems == 1);
    let details = fixture.snapshot(&outcome).details(&fixture.reader().opener).unwrap();
    assert!(details.facts.contains(&("colour".into(), b"blue".to_vec())));

    // Other bytes, said to be the same.
    assert!(produce(&fixture, "echo other", verdict).0.unwrap().snapshot.is_none());
    assert!(produce(&fixture, "echo other", Verdict::default).0.unwrap().snapshot.is_some());
    let count = fixture.repository.snapshots().unwrap().len();
    let (outcome, _, said) = produce(&fixture, "echo half; echo why >&2; exit 1", verdict);
    assert!(outcome.unwrap_err().to_string().contains("refused") && said == "why\n");
    assert_eq!(fixture.repository.snapshots().unwrap().len(), count);
}

#[test]
fn whatever_a_producer_started_ends_with_it() {
    let (fixture, temp) = (Fixture::new(), tempfile::tempdir().unwrap());
    let pid = temp.path().join("pid");
    let (flag, started) = (fixture.interrupted.clone(), pid.clone());
    let signal = std::thread::spawn(move || {
        while !std::fs::read(&started).is_ok_and(|text| text.ends_with(b"\n")) {
            std::thread::yield_now();
        }
        flag.store(true, Ordering::Relaxed);
    });
    let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
    assert!(matches!(produce(&fixture, &script, Verdict::default).0, Err(Error::Interrupted)));
    signal.join().unwrap();
    let pid = std::fs::read_to_string(&pid).unwrap();
    let state = || std::fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap_or_default();
    // It is nobody's child here: whoever inherits it collects it in time.
    while !(state().is_empty() || state().contains(") Z ")) {
        std::thread::yield_now();
    }
}
