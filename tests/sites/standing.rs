//! What a site says of others: how far they are behind while they are away, what each keeps for itself.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::{at, checked, converge, fill, joined, pair, peers, until};
use crate::support::server::Appliance;

/// What `status` says of its one peer; and whether it complains of it.
fn standing(site: &Appliance) -> (Value, bool) {
    let told = site.run(&["--json", "status"]);
    let lines: Vec<Value> =
        String::from_utf8(told.out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let peer = lines.iter().find(|line| line["message_type"] == "peer").unwrap().clone();
    let problems = lines.last().unwrap()["problems"].as_array().unwrap();
    let complains = problems.iter().any(|problem| problem.as_str().unwrap().contains(": site "));
    assert_eq!(told.code, Some(i32::from(!problems.is_empty())));
    assert_eq!(peer["overdue"], Value::Bool(complains), "{peer}");
    (peer, complains)
}

fn metrics(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn both_sites_know_how_far_the_other_is_behind_while_it_is_away() {
    let (mut a, mut b, house) = pair();
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    a.configure(&format!("http = \"{http}\"\nmax_lag = \"2s\"\n"));
    b.configure("http = \"off\"\nmax_lag = \"2s\"\n");
    for site in [&mut a, &mut b] {
        site.stop();
        site.start();
    }
    let source = house.directory("source");
    fill(&source, 90, 1);
    house.backup(&source);
    let relay = joined(&b, &a, &[]);
    converge(&b, &a);
    let there = at(&house, &b);
    until("both are content", &[&a, &b], || !standing(&a).1 && !standing(&b).1);
    assert_eq!(
        (standing(&a).0["state"].as_str(), standing(&a).0["lag_snapshots"].as_u64()),
        (Some("answering"), Some(0))
    );

    relay.cut();
    fill(&source, 91, 1);
    house.backup(&source);
    fill(&source, 92, 1);
    house.backup(&source);
    there.backup(&source);
    // As it stands after a start, too.
    b.stop();
    b.start();
    for (site, lag) in [(&a, 2), (&b, 1)] {
        until("it is told", &[&a, &b], || standing(site).1);
        let (peer, _) = standing(site);
        assert_eq!(peer["lag_snapshots"], lag, "{peer}");
        assert!(peer["lag_bytes"].as_u64().unwrap() > 1 << 20 && peer["lag_seconds"].as_u64().unwrap() > 0, "{peer}");
        assert_eq!(peer["max_lag_seconds"], 2);
        assert!(site.run(&["status"]).expect(1).out.windows(6).any(|word| word == b"BEHIND"));
        assert!(site.ok(&["peer", "list"]).contains("snapshots"), "{peer}");
    }
    let told = metrics(&http);
    for name in ["lag_seconds", "lag_bytes", "bytes_per_second", "max_lag_seconds"] {
        assert!(told.contains(&format!("nightkeep_peer_{name}{{")), "{told}");
    }
    let value = |name: &str| told.lines().find(|line| line.starts_with(name)).unwrap().rsplit(' ').next().unwrap();
    assert_eq!((value("nightkeep_peer_overdue{"), value("nightkeep_peer_lag_snapshots{")), ("1", "2"));

    relay.heal();
    converge(&b, &a);
    until("both are content again", &[&a, &b], || !standing(&a).1 && !standing(&b).1);
    for site in [&a, &b] {
        assert_eq!(standing(site).0["lag_snapshots"], 0);
    }
}

#[test]
fn each_site_keeps_for_as_long_as_it_says_itself() {
    let (mut a, mut b, house) = pair();
    let _relay = joined(&b, &a, &[]);
    let source = house.directory("source");
    let mut all = Vec::new();
    for seed in 0..4 {
        fill(&source, 100 + seed, 1);
        all.push(house.backup(&source));
    }
    converge(&b, &a);
    a.configure("http = \"off\"\nmaintenance.grace = \"0s\"\n[retention]\nkeep_last = 1\n");
    a.ok(&["reload"]);
    let tidy = |site: &Appliance| {
        site.ok(&["retention"]);
        site.ok(&["gc"]);
    };
    tidy(&a);
    assert_eq!(house.snapshots(), all[3..]);
    // A round that looks at everything again: something new, and a fresh connection.
    let there = at(&house, &b);
    let own = house.directory("own");
    fill(&own, 110, 1);
    let later = there.backup(&own);
    until("the new one is here", &[&a, &b], || house.snapshots().contains(&later));
    b.ok(&["peer", "pause", "office"]);
    b.ok(&["peer", "resume", "office"]);
    converge(&b, &a);
    until("the link is even", &[&a, &b], || peers(&b)[0]["state"] == "even");
    assert_eq!(house.snapshots().len(), 2, "what its own retention removed does not come back");
    assert_eq!(there.snapshots().len(), 5, "what another site does not keep stays");
    let restored = there.restore(&all[0], &source);
    assert_eq!(std::fs::read(restored.join("large-100")).unwrap(), std::fs::read(source.join("large-100")).unwrap());
    let told: Value = serde_json::from_str(b.ok(&["--json", "peer", "compare"]).trim()).unwrap();
    assert_eq!((&told["equal"], told["not_kept_there"].as_array().unwrap().len()), (&Value::Bool(true), 3), "{told}");
    assert!(b.ok(&["peer", "compare"]).contains("only here, not to be kept there: 3 snapshots"));
    // Nor does anybody count as behind.
    assert_eq!((&peers(&a)[0]["lag_snapshots"], &peers(&b)[0]["lag_snapshots"]), (&Value::from(0), &Value::from(0)));

    // Later the other one removes some, too; the rest of both is whole.
    b.configure("http = \"off\"\nmaintenance.grace = \"0s\"\n[retention]\nkeep_last = 2\n");
    b.ok(&["reload"]);
    // Somebody wants to keep what only one of them has: then both do.
    there.ok(["pin", &all[1]]);
    until("what is pinned comes back", &[&a, &b], || {
        house
            .ok(["snapshots", "--forgotten"])
            .lines()
            .any(|line| line.contains(&all[1][..8]) && line.contains("pinned"))
    });
    tidy(&b);
    tidy(&a);
    converge(&b, &a);
    until("the link is even", &[&a, &b], || peers(&b)[0]["state"] == "even");
    let (mut here, mut others) = (house.snapshots(), there.snapshots());
    here.sort();
    others.sort();
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    assert_eq!(here, sorted(vec![all[1].clone(), all[3].clone(), later.clone()]));
    assert_eq!(others, sorted(vec![all[1].clone(), all[2].clone(), all[3].clone(), later]));
    assert_eq!((checked(&mut a), checked(&mut b)), (0, 0));
}
