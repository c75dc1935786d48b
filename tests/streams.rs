//! A stream is saved whole or not at all, and comes back byte for byte.

use std::io::Write as _;
use std::process::Stdio;

use crate::support::program::{House, told};
use crate::support::torture::Random;

fn fed(house: &House, name: &str, content: &[u8]) -> crate::support::program::Told {
    let mut command = house.command(["backup", "stdin", "--name", name]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let content = content.to_vec();
    // Ends early if the program does; what it says then is the caller's to judge.
    let feeder = std::thread::spawn(move || stdin.write_all(&content));
    let output = child.wait_with_output().unwrap();
    let _ = feeder.join().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{err}");
    told(&mut house.command(["snapshots"]))
}

fn dumped(house: &House, snapshot: &str, name: &str) -> Vec<u8> {
    house.run(["dump", &format!("{snapshot}:{name}")]).expect(0).out
}

#[test]
fn standard_input_comes_back() {
    let house = House::new();
    let mut random = Random(3);
    for (name, size) in [("empty", 0), ("one", 1), ("small", 2000), ("boundary", 65_536), ("large", 9_000_001)] {
        let content = random.bytes(size);
        let before = house.snapshots();
        fed(&house, name, &content).expect(0);
        let after = house.snapshots();
        let new = after.iter().find(|id| !before.contains(id)).expect("no new snapshot");
        assert!(dumped(&house, new, name) == content, "{name} came back changed");
    }
    house.ok(["check", "--read-data"]);
}

#[test]
fn a_command_is_saved_if_it_succeeds() {
    let house = House::new();
    house.ok(["backup", "command", "--name", "numbers", "--", "seq", "1", "200000"]);
    let saved = house.snapshots();
    assert_eq!(saved.len(), 1);
    let content = dumped(&house, &saved[0], "numbers");
    assert!(content.ends_with(b"199999\n200000\n"), "{} bytes", content.len());
    for failing in ["seq 1 90000; exit 3", "seq 1 10; kill -9 $$", "exit 1"] {
        let complaint = house.fails(1, ["backup", "command", "--name", "numbers", "--", "sh", "-c", failing]);
        assert!(complaint.contains("sh") || complaint.contains("numbers"), "{complaint}");
        assert_eq!(house.snapshots(), saved, "after `{failing}`");
    }
    house.fails(1, ["backup", "command", "--name", "numbers", "--", "/no/such/program"]);
    assert_eq!(house.snapshots(), saved);
    house.ok(["check", "--read-data"]);
}

#[test]
fn names_that_are_no_file_names_are_refused() {
    let house = House::new();
    for name in ["", ".", "..", "a/b"] {
        house.fails(1, ["backup", "command", "--name", name, "--", "true"]);
    }
    assert!(house.snapshots().is_empty());
}

#[test]
fn a_second_dump_adds_only_what_changed() {
    let house = House::new();
    let line = |number: u64, salt: u64| {
        format!("{number}\tcustomer {}\t{:x}\n", number * 7919 % 5003, number.wrapping_mul(salt))
    };
    let dump = |changed: u64| -> String {
        (0..60_000).map(|number| line(number, if number == changed { 3 } else { 0x9E37_79B9_7F4A_7C15 })).collect()
    };
    fed(&house, "dump.sql", dump(u64::MAX).as_bytes()).expect(0);
    let first = house.stored_bytes();
    fed(&house, "dump.sql", dump(30_000).as_bytes()).expect(0);
    let second = house.stored_bytes() - first;
    assert!(second * 4 < first, "one changed line of {first} stored bytes added {second}");
    let snapshots = house.snapshots();
    assert_eq!(snapshots.len(), 2);
    for (snapshot, changed) in snapshots.iter().zip([u64::MAX, 30_000]) {
        assert!(dumped(&house, snapshot, "dump.sql") == dump(changed).as_bytes());
    }
}
