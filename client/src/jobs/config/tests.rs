//! What the configuration file may say, and that each mistake is found where it stands.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn parsed(text: &str) -> (Config, Vec<Mistake>) {
    parse(text.as_bytes(), Path::new("/etc/nightkeep/client.toml"), None)
}

/// Every mistake as `LINE PLACE`.
fn places(text: &str) -> Vec<String> {
    parsed(text).1.iter().map(|m| format!("{} {}", m.line, m.place)).collect()
}

fn errors(text: &str) -> Vec<Mistake> {
    parsed(text).1.into_iter().filter(Mistake::is_error).collect()
}

#[test]
fn the_example_is_accepted_with_everything_in_it() {
    let example = crate::jobs::show::EXAMPLE;
    let (config, mistakes) = parsed(example);
    assert_eq!(mistakes.iter().filter(|m| m.is_error()).collect::<Vec<_>>(), Vec::<&Mistake>::new());
    let kinds: Vec<_> =
        config.jobs.iter().flat_map(|job| &job.sources).map(|source| std::mem::discriminant(&source.what)).collect();
    assert_eq!(config.jobs.len(), 5);
    assert_eq!(kinds.iter().collect::<std::collections::HashSet<_>>().len(), 5, "all kinds of sources are shown");
    // What is commented out is accepted too.
    let all: String = example
        .lines()
        .map(|line| {
            let rest = line.strip_prefix('#').unwrap_or(line);
            let is_key = rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') && rest.contains(['=', '[']);
            let is_other = ["password_command", "data_fs", "blobs"].iter().any(|key| rest.starts_with(key));
            if is_key && !is_other { format!("{rest}\n") } else { format!("{line}\n") }
        })
        .collect();
    let (config, mistakes) = parsed(&all);
    assert_eq!(mistakes.iter().filter(|m| m.is_error()).collect::<Vec<_>>(), Vec::<&Mistake>::new());
    assert!(
        config.hooks.before.is_some() && config.reports.syslog.is_some() && config.reports.language == Language::French
    );
}

#[test]
fn values_arrive() {
    let (config, mistakes) = parsed(
        r#"
        repository = "/srv/backup"
        password_command = ["cat", "/etc/o'brien"]
        lock_wait = "30m"
        syslog = true
        max_age = "26h"
        limit_upload = 10
        compression = 9
        [retry]
        tries = 4
        wait = "1s"
        wait_max = "3s"
        [retention]
        keep_daily = 7
        keep_last = "unlimited"
        keep_within = "1y6m"
        [jobs.b]
        tags = "nightly"
        compression = "none"
        [[jobs.b.sources]]
        files = "/"
        exclude_larger_than = "4G"
        [jobs.a]
        max_age = "1h"
        retention = { keep_yearly = 1, prune = true }
        sources = [{ command = "true | cat", name = "x" }, { postgres = "p*", format = "plain", port = 5433, jobs = 2 }]
        hooks = { before = "x", timeout = "3s" }
        "#,
    );
    assert!(mistakes.iter().all(|m| !m.is_error()), "{mistakes:?}");
    assert_eq!(config.credential, Some(CredentialSource::Command(r"'cat' '/etc/o'\''brien'".into())));
    assert_eq!(config.lock_wait, Some(Duration::from_secs(1800)));
    assert_eq!(
        [1, 2, 3, 4].map(|tries| config.retry.pause(tries).map(|wait| wait.as_secs())),
        [Some(1), Some(2), Some(3), None]
    );
    let names: Vec<&str> = config.jobs.iter().map(|job| job.name.as_str()).collect();
    assert_eq!(names, ["b", "a"], "in the order of the file");
    let (b, a) = (&config.jobs[0], &config.jobs[1]);
    assert_eq!((b.max_age, a.max_age), (Some(Duration::from_secs(93_600)), Some(Duration::from_secs(3600))));
    assert_eq!((b.tags.as_slice(), b.upload_bytes_per_second), (&["nightly".to_owned()][..], Some(10_240)));
    assert_eq!([b, a].map(|job| job.compression.to_string()), ["none", "9"]);
    assert!(b.retention.policy.last == Some(crate::retention::Count::Unlimited) && !b.retention.prune);
    assert!(a.retention.policy.last.is_none() && a.retention.prune);
    assert_eq!(a.hooks.timeout, Duration::from_secs(3));
    assert!(matches!(&a.sources[1].what, What::Postgres(p) if p.plain && p.port == Some(5433) && p.jobs == Some(2)));
    assert!(matches!(&b.sources[0].what, What::Files(f) if f.exclude_larger_than == Some(4 << 30)));
    assert_eq!(config.select(&["a".into()]).unwrap().len(), 1);
    assert!(config.select(&["c".into()]).is_err() && Config::default().select(&[]).is_err());
}

#[test]
fn the_preset_is_database_then_web_tree() {
    let (config, mistakes) = parsed("[jobs.x]\npreset = \"project-open\"\nname = \"pro[j]op\"\nmax_age = \"1h\"");
    assert!(mistakes.iter().all(|m| !m.is_error()), "{mistakes:?}");
    let [database, files] = config.jobs[0].sources.as_slice() else { panic!() };
    let What::Postgres(database) = &database.what else { panic!() };
    assert_eq!(
        (database.matches.as_slice(), database.run_as.as_deref()),
        (&[r"pro\[j\]op".to_owned()][..], Some("postgres"))
    );
    let What::Files(files) = &files.what else { panic!() };
    assert_eq!(files.paths, [PathBuf::from("/web/pro[j]op")]);
    assert_eq!(files.excludes, [r"/web/pro\[j\]op/log", r"/web/pro\[j\]op/filestorage/backup"]);
    let (config, _) = parsed("[jobs.demo]\npreset = \"project-open\"\nhost = \"db\"\nweb = \"/srv\"");
    assert!(
        matches!(&config.jobs[0].sources[0].what, What::Postgres(p) if p.matches == ["demo"] && p.run_as.is_none())
    );
    assert_eq!(errors("[jobs.x]\npreset = \"project-opne\"")[0].remedy, "did you mean \"project-open\"?");
    assert_eq!(errors("[jobs.x]\npreset = \"project-open\"\nname = \"../etc\"").len(), 1);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one file with every mistake, and what is said of each")]
fn all_mistakes_in_one_pass_each_with_its_line_and_a_remedy() {
    let text = "\
repositry = '/srv/backup'
password_file = 5
lock_wait = 'soon'
limit_upload = 0
log = 'run.log'
log_language = 'de'
[retry]
tries = 0
attempts = 3
[retention]
keep_daily = -1
keep_within = '7'
[jobs.a]
max_age = 26
tags = ['', '+x']
exclude = ['x']
[[jobs.a.sources]]
files = []
[[jobs.a.sources]]
files = ['~/x', '/etc']
exclude = ['', 'a{b', '*']
exclude_caches = 'yes'
[[jobs.a.sources]]
command = ['true']
[[jobs.a.sources]]
postgres = ['a[']
dataset = 'x'
port = 70000
password = 'x'
[[jobs.a.sources]]
files = '/etc'
zodb = '/x'
[[jobs.a.sources]]
[jobs.b]
[jobs.c]
sources = 'x'
";
    let found = places(text);
    for expected in [
        "1 repositry",
        "2 password_file",
        "3 lock_wait",
        "4 limit_upload",
        "5 log",
        "6 log_language",
        "8 retry.tries",
        "9 retry.attempts",
        "11 retention.keep_daily",
        "12 retention.keep_within",
        "14 jobs.a.max_age",
        "15 jobs.a.tags[0]",
        "15 jobs.a.tags[1]",
        "16 jobs.a.exclude",
        "18 jobs.a.sources[0].files",
        "20 jobs.a.sources[1].files[0]",
        "21 jobs.a.sources[1].exclude[0]",
        "21 jobs.a.sources[1].exclude[1]",
        "21 jobs.a.sources[1].exclude[2]",
        "22 jobs.a.sources[1].exclude_caches",
        "23 jobs.a.sources[2]",
        "26 jobs.a.sources[3].postgres[0]",
        "27 jobs.a.sources[3].dataset",
        "28 jobs.a.sources[3].port",
        "29 jobs.a.sources[3].password",
        "30 jobs.a.sources[4]",
        "33 jobs.a.sources[5]",
        "34 jobs.b",
        "36 jobs.c.sources",
    ] {
        assert!(found.iter().any(|place| place == expected), "{expected} is missing of {found:#?}");
    }
    for mistake in parsed(text).1 {
        assert!(!mistake.what.is_empty() && !mistake.remedy.is_empty(), "{mistake}");
    }
    assert_eq!(errors(text)[0].remedy, "did you mean `repository`?");
    assert!(errors("[jobs.a.hooks]\nfailure = 'x'").iter().any(|m| m.remedy == "write `on_failure`"));
}

#[test]
fn broken_toml_is_named_by_its_line_and_the_rest_is_read_on() {
    let text = "repository = /srv\nmax_age = \"26h\"\nmax_age = \"27h\"\n[jobs.a\n[jobs.b]\n[[jobs.b.sources]]\nfiles = \"/etc\"\nexclud = \"x\"\n";
    let lines: Vec<usize> = errors(text).iter().map(|m| m.line).collect();
    for line in [1, 3, 4, 8] {
        assert!(lines.contains(&line), "{line} of {:#?}", errors(text));
    }
    let place = PathBuf::from("/x/client.toml");
    let (config, mistakes) = parsed(text);
    let error = Loaded { path: place, config, mistakes }.require(|_| true).unwrap_err();
    assert!(matches!(error, Error::Configuration { line: 1, more, .. } if more >= 3));
    assert_eq!(parse(b"a = 1\n\xff", Path::new("/x"), None).1[0].what, "line 2 is not UTF-8");
    assert!(parse(&vec![b'#'; 2 << 20], Path::new("/x"), None).1[0].is_error());
    assert!(parsed("\u{feff}repository = \"/srv\"\n").0.repository.is_some());
}

#[test]
fn mistakes_in_jobs_do_not_concern_other_verbs() {
    let of = |text: &str| {
        let (config, mistakes) = parsed(text);
        Loaded { path: "/x".into(), config, mistakes }.require(Mistake::is_general)
    };
    assert_eq!(of("repository = '/srv'\n[jobs.a]\nwhatever = 1").unwrap().repository, Some("/srv".into()));
    assert!(of("repository = 7\n[jobs.a]").is_err());
    assert!(of("repository = '/srv'\n[jobs").is_err());
}

#[test]
fn secrets_must_not_be_readable_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("client.toml");
    let jobs = "[jobs.a]\n[[jobs.a.sources]]\nfiles = \"/etc\"\n";
    let check = |text: &str, mode: u32| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        load(&path).unwrap().mistakes
    };
    let clear = format!("repository = \"{}\"\npassword = \"geheim\"\n{jobs}", dir.path().display());
    for mode in [0o644, 0o640, 0o604] {
        let mistakes = check(&clear, mode);
        let mistake = mistakes.iter().find(|m| m.is_error()).unwrap();
        assert_eq!((mistake.line, mistake.place.as_str()), (2, "password"));
        assert!(mistake.remedy.contains("chmod 600") && mistake.remedy.contains("password_file"));
        assert!(!mistake.to_string().contains("geheim"));
    }
    assert!(check(&clear, 0o600).iter().all(|m| !m.is_error()) && !check(&clear, 0o600).is_empty());
    let hook = format!("{jobs}[jobs.a.hooks]\nbefore = \"PGPASSWORD=geheim psql\"\n");
    assert!(check(&hook, 0o644).iter().any(|m| m.is_error() && m.line == 5), "{:?}", check(&hook, 0o644));
    assert!(check(&hook, 0o600).iter().all(|m| !m.is_error()));

    assert!(check(jobs, 0o644).iter().all(|m| !m.is_error()), "without secrets everybody may read it");
    let writable = check(jobs, 0o666);
    assert!(writable.iter().any(|m| m.is_error() && m.remedy.contains("chmod go-w")));

    let secret = dir.path().join("password");
    std::fs::write(&secret, "x").unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o644)).unwrap();
    let by_file = format!("password_file = \"{}\"\n{jobs}", secret.display());
    assert!(check(&by_file, 0o644).iter().any(|m| m.is_error() && m.line == 1 && m.place == "password_file"));
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(check(&by_file, 0o644).iter().all(|m| !m.is_error()));
}

#[test]
fn one_dataset_is_saved_by_one_source() {
    let text =
        "[jobs.a]\n[[jobs.a.sources]]\nfiles = '/etc'\n[jobs.b]\n[[jobs.b.sources]]\nfiles = '/etc'\nexclude = 'x'\n";
    let found = errors(text);
    assert!(found.len() == 1 && found[0].line == 5 && found[0].what.contains("/files/etc"), "{found:?}");
    assert!(errors(&text.replace("exclude = 'x'", "dataset = 'other'")).is_empty());
    assert_eq!(errors(&text.replace("exclude = 'x'", "dataset = 'a b'"))[0].line, 7);
    let own = "repository = '/etc'\n[jobs.a]\n[[jobs.a.sources]]\nfiles = '/etc/x'\n";
    assert!(errors(own)[0].what.contains("the repository itself"));
}

#[test]
fn what_is_shown_means_the_same_and_hides_secrets() {
    let text = r#"
        repository = "/srv/backup"
        password = "geheim"
        syslog = "local3"
        [retry]
        tries = 4
        [hooks]
        on_failure = "curl -d token=geheim https://h"
        [jobs.z]
        preset = "project-open"
        max_age = "26h"
        [jobs."ä"]
        tags = ["a\"b"]
        retention = { keep_daily = 3, keep_last = "unlimited", keep_within = "1y2m3w4d5h", prune = true }
        sources = [{ files = ["/etc"], exclude_larger_than = "1M", exclude = ["a\\*"] }, { data_fs = "/x", blobs = "/y" }, { roundup = "/z" }]
        hooks = { before = ["a", "b"], after = "echo \"x\"\ny", timeout = "90s" }
    "#;
    let (config, _) = parsed(text);
    let flags = crate::settings::Flags::default();
    let settings = crate::settings::Settings::resolve(&flags, &|_| None, true).unwrap().or(&config.defaults()).unwrap();
    let shown = crate::jobs::show::text_of(&crate::jobs::show::object(&config, &settings), &config).join("\n");
    assert!(!shown.contains("geheim"), "{shown}");
    let (again, mistakes) = parsed(&shown);
    assert!(mistakes.iter().all(|m| !m.is_error()), "{mistakes:?}\n{shown}");
    assert_eq!(again.jobs, config.jobs);
    assert_eq!(again.retry, config.retry);
}

#[test]
fn no_text_makes_it_panic() {
    let example = crate::jobs::show::EXAMPLE;
    for at in (0..example.len()).step_by(7) {
        if let Some(start) = example.get(..at) {
            parsed(start);
        }
        let mut bytes = example.as_bytes().to_vec();
        bytes[at] ^= 0x15;
        parse(&bytes, Path::new("/x"), None);
    }
}
