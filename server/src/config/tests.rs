//! What a file means, and every mistake in it.

use super::*;
use rules::retention::Count;
use std::time::Duration;

const HEAD: &str = "data = \"/\"\nlisten = \"127.0.0.1:4747\"\n";

fn settings(text: &str) -> Settings {
    let (settings, mistakes) = parse(format!("{HEAD}{text}").as_bytes(), None);
    assert!(mistakes.is_empty(), "{mistakes:?}");
    settings.unwrap()
}

/// Line, place and text of each mistake.
fn mistakes(text: &str) -> Vec<(usize, String, String)> {
    let (_, mistakes) = parse(text.as_bytes(), None);
    mistakes.into_iter().map(|m| (m.line, m.place.clone(), m.to_string())).collect()
}

#[test]
fn the_example_is_whole_and_right() {
    let (settings, found) = parse(EXAMPLE.as_bytes(), Some(0o600));
    let errors: Vec<_> = found.iter().filter(|mistake| mistake.is_error()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(settings.unwrap().maintenance.verify_bytes_per_second, 20 << 20);
    // So is all that stands behind a `#`.
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let (settings, found) = parse(uncommented.as_bytes(), Some(0o600));
    let errors: Vec<_> = found.iter().filter(|mistake| mistake.is_error()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let settings = settings.unwrap();
    assert_eq!((settings.datasets.len(), settings.quotas.len()), (1, 2));
    assert_eq!(settings.limits, crate::settings::Limits::default(), "the example tells the defaults");
}

#[test]
fn what_a_dataset_is_under() {
    let settings = settings(
        "max_age = \"26h\"\n[retention]\nkeep_daily = 7\n\
         [[datasets]]\nmatch = \"*/postgres/*\"\nrepository = \"off*\"\nmax_age = \"2h\"\n\
         [[datasets]]\nmatch = [\"www/*\", \"mail/*\"]\nretention = { keep_last = 3 }\n",
    );
    let rule = |repository: &str, dataset: &str| {
        let (policy, age) = settings.rule(repository, dataset);
        (policy.daily, policy.last, age.unwrap().as_secs() / 3600)
    };
    assert_eq!(rule("office", "www/postgres/x"), (Some(Count::Of(7)), None, 2), "the first one");
    assert_eq!(rule("home", "www/postgres/x"), (None, Some(Count::Of(3)), 26));
    assert_eq!(rule("home", "db/postgres/x"), (Some(Count::Of(7)), None, 26));
}

#[test]
fn times_and_sizes() {
    let settings = settings(
        "http = \"off\"\nfull_percent = 90\n[maintenance]\nevery = \"12h\"\nat = \"02:30\"\nverify_rate = \"1M\"\n\
         [[quota]]\nclient = \"www\"\nsize = \"1.5G\"\n[log]\nto = \"syslog\"\nlevel = \"warn\"\n",
    );
    assert_eq!((settings.http, settings.full_percent), (None, 90));
    assert_eq!(settings.maintenance.at.unwrap().to_string(), "02:30:00");
    assert_eq!(settings.maintenance.every, Duration::from_secs(12 * 3600));
    assert_eq!(settings.quotas[0].bytes, 3 << 29);
    assert_eq!(settings.log.level, tracing::Level::WARN);
}

#[test]
fn every_mistake_has_its_line_and_remedy() {
    let found = mistakes(
        "data = \"srv\"\nlisten = \"4747\"\nadress = \"x:1\"\nfull_percent = 101\nmax_age = \"26 hours\"\n\
         [retention]\nkeep_dialy = 7\n[[datasets]]\nmatch = \"[\"\n[[quota]]\nsize = \"lots\"\n\
         [maintenance]\nat = \"25:00\"\nverify_rate = \"0\"\n[limits]\npush = \"1M\"\n[log]\nto = \"stdrr\"\n",
    );
    let expected = [
        (1, "data", "begin it with /"),
        (2, "listen", "not an address with a port"),
        (3, "adress", "did you mean `address`?"),
        (4, "full_percent", "1 to 100"),
        (5, "max_age", "is not a time"),
        (7, "retention.keep_dialy", "did you mean `keep_daily`?"),
        (8, "datasets[0]", "give it a `max_age`"),
        (9, "datasets[0].match", "is not a pattern"),
        (10, "quota[0]", "it is nobody's"),
        (11, "quota[0].size", "is not a size"),
        (13, "maintenance.at", "is not a time of day"),
        (14, "maintenance.verify_rate", "nothing could be read"),
        (16, "limits.push", "at least \"24M\""),
        (18, "log.to", "did you mean \"stderr\"?"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((line, place, text), (at, wanted, word)) in found.iter().zip(expected) {
        assert_eq!((*line, place.as_str()), (at, wanted), "{text}");
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn what_is_missing_or_no_toml() {
    let found = mistakes("");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].2.contains("`data` is missing") && found[1].2.contains("`listen` is missing"));
    let found = mistakes(&format!("{HEAD}max_age = 26h\nfull_percent = x y\n"));
    assert!(found.iter().any(|(line, _, text)| *line == 3 && text.contains("not TOML")), "{found:?}");
    assert!(found.iter().any(|(line, ..)| *line == 4), "reading goes on: {found:?}");
    assert!(parse(&[0xff, 0xfe], None).1[0].what.contains("UTF-8"));
    let writable = parse(HEAD.as_bytes(), Some(0o666)).1;
    assert!(writable[0].what.contains("others"), "{writable:?}");
}

#[test]
fn what_needs_a_restart() {
    let before = settings("");
    assert_eq!(before.fixed_difference(&settings("max_age = \"1h\"\n")), None);
    assert_eq!(before.fixed_difference(&settings("http = \"off\"\n")), Some("http"));
    assert_eq!(before.fixed_difference(&settings("[log]\nlevel = \"debug\"\n")), Some("log"));
}
