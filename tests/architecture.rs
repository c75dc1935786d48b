//! The walls of the house, read from the sources: which way modules and crates may look, what every file begins
//! with, and that nothing is forgotten. A test here that fails names the line to look at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::source::{Reference, Source, workspace};

/// Whom each crate may use; `tests` and `benches` may use all.
const WALLS: [(&str, &[&str]); 6] = [
    ("chunkstore", &[]),
    ("rules", &[]),
    ("protocol", &["chunkstore"]),
    ("fuse", &["chunkstore"]),
    ("client", &["chunkstore", "rules", "protocol", "fuse"]),
    ("server", &["chunkstore", "rules", "protocol"]),
];

/// `WriterLock` belongs to `Backend`: a value whose drop releases the lock.
const TRAITS: [&str; 4] = ["Backend", "WriterLock", "Store", "Monitor"];

const FILE_LINES_MAX: usize = 700;

fn crates() -> Vec<(&'static str, PathBuf)> {
    let all = WALLS.iter().map(|(name, _)| (*name, workspace().join(name)));
    let found: Vec<_> = all.filter(|(_, path)| path.join("Cargo.toml").exists()).collect();
    assert!(found.len() >= 2, "no crates found below {}", workspace().display());
    found
}

fn sources(directory: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    collect(directory, &mut files);
    files.sort();
    files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| Source::read(&path))
        .collect()
}

/// Sources without the files that only tests are compiled from.
fn product_sources(directory: &Path) -> Vec<Source> {
    let mut sources = sources(directory);
    let tests: BTreeSet<PathBuf> = sources.iter().flat_map(Source::test_files).collect();
    sources.retain(|source| !tests.contains(&source.path));
    sources
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Every file that belongs to the project; neither built things nor what version control keeps.
fn project_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(workspace()).unwrap() {
        let path = entry.unwrap().path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some(".git" | "target") => {}
            _ if path.is_dir() => collect(&path, &mut files),
            _ => files.push(path),
        }
    }
    files.retain(|path| !path.components().any(|part| part.as_os_str() == "__pycache__"));
    files
}

fn report(what: &str, lines: &[String]) {
    assert!(lines.is_empty(), "{what}:\n  {}", lines.join("\n  "));
}

#[test]
fn modules_look_only_upwards_in_the_list_of_their_crate() {
    let mut wrong = Vec::new();
    for (name, path) in crates() {
        let root = Source::read(&path.join("src/lib.rs"));
        let order = root.modules();
        assert!(!order.is_empty(), "{name}/src/lib.rs lists no modules");
        for source in product_sources(&path.join("src")) {
            let module = source.module_path(&path.join("src"));
            let Some(own) = module.first().and_then(|first| order.iter().position(|m| m == first)) else { continue };
            for reference in source.references(&module) {
                wrong
                    .extend(misplaced(&reference, &root, &order, own).map(|why| format!("{}: {why}", reference.place)));
            }
        }
    }
    report("a module uses only those above it in lib.rs", &wrong);
}

fn misplaced(reference: &Reference, root: &Source, order: &[String], own: usize) -> Option<String> {
    let first = reference.path.first()?;
    let target = match root.reexports().get(first) {
        Some(module) => module.clone(),
        None => first.clone(),
    };
    match order.iter().position(|module| *module == target) {
        Some(position) if position <= own => None,
        Some(_) => Some(format!("{} looks down from {}", reference.path.join("::"), order[own])),
        None if first.starts_with(char::is_uppercase) || first == "self" => None,
        None => Some(format!("{} leads nowhere known", reference.path.join("::"))),
    }
}

#[test]
fn every_file_opens_with_what_it_owns() {
    let mut wrong = Vec::new();
    for path in project_files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs")) {
        if !std::fs::read_to_string(&path).unwrap().starts_with("//!") {
            wrong.push(path.display().to_string());
        }
    }
    report("files that do not begin with `//!`", &wrong);
}

#[test]
fn crates_keep_their_walls() {
    let mut wrong = Vec::new();
    let packages: BTreeMap<String, &str> = crates().iter().map(|(name, path)| (package_name(path), *name)).collect();
    for (name, path) in crates() {
        let allowed = WALLS.iter().find(|(wall, _)| *wall == name).unwrap().1;
        for dependency in dependencies(&path) {
            let known = packages.get(&dependency).copied();
            if known.is_some_and(|other| other != name && !allowed.contains(&other)) {
                wrong.push(format!("{name} uses {dependency}"));
            }
            let network = ["tokio", "quinn", "rustls", "hyper", "reqwest", "mio", "socket2", "async-std", "smol"];
            if name == "chunkstore" && network.contains(&dependency.as_str()) {
                wrong.push(format!("chunkstore uses {dependency}"));
            }
        }
    }
    for source in sources(&workspace().join("chunkstore/src")) {
        for words in [["std", "net"], ["std", "env"]] {
            wrong.extend(source.names_path(&words).into_iter().map(|place| format!("{place}: {}", words.join("::"))));
        }
    }
    report("walls between crates", &wrong);
}

/// What belongs to one module of a crate, by a word that stands for it.
#[test]
fn what_has_one_place_stays_there() {
    let places = [
        ("quinn::", "protocol", "protocol/src/connection.rs"),
        ("quinn::", "server", "nowhere"),
        ("quinn::", "client", "nowhere"),
        ("tokio::", "client", "client/src/remote.rs"),
        ("async ", "client", "client/src/remote.rs"),
        ("spawn_blocking", "server", "server/src/storage.rs"),
    ];
    let mut wrong = Vec::new();
    for (word, name, place) in places {
        for source in product_sources(&workspace().join(name).join("src")) {
            let place = workspace().join(place);
            if source.path == place || source.path.starts_with(place.with_extension("")) {
                continue;
            }
            let text = std::fs::read_to_string(&source.path).unwrap();
            let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
            let found = code.filter(|(_, line)| line.contains(word));
            wrong.extend(found.map(|(number, line)| format!("{}:{}: {line}", source.path.display(), number + 1)));
        }
    }
    report("not in its place", &wrong);
}

fn manifest(path: &Path) -> String {
    std::fs::read_to_string(path.join("Cargo.toml")).unwrap()
}

fn package_name(path: &Path) -> String {
    let text = manifest(path);
    text.lines().find_map(|line| line.strip_prefix("name = ")).unwrap().trim_matches('"').to_owned()
}

/// Names under every `[dependencies]`, `[dev-dependencies]`… table.
fn dependencies(path: &Path) -> BTreeSet<String> {
    let (mut names, mut inside) = (BTreeSet::new(), false);
    for line in manifest(path).lines() {
        if line.starts_with('[') {
            inside = line.trim_end().ends_with("dependencies]");
        } else if inside && let Some(name) = line.split(['=', '.', ' ']).next().filter(|name| !name.is_empty()) {
            names.insert(name.to_owned());
        }
    }
    names
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let all = crates().into_iter().map(|(_, path)| path).chain([workspace().join("tests")]);
    let wrong: Vec<String> = all
        .filter(|path| !manifest(path).contains("[lints]\nworkspace = true"))
        .map(|path| path.display().to_string())
        .collect();
    report("crates without `[lints] workspace = true`", &wrong);
}

#[test]
fn there_are_three_traits() {
    let mut found = BTreeSet::new();
    for (_, path) in crates() {
        for source in product_sources(&path.join("src")) {
            found.extend(source.traits());
        }
    }
    let wrong: Vec<String> = found.iter().filter(|name| !TRAITS.contains(&name.as_str())).cloned().collect();
    report("traits without a decision record", &wrong);
    assert!(found.contains("Backend") && found.contains("Store") && found.contains("Monitor"), "found only {found:?}");
}

#[test]
fn no_file_is_too_long() {
    let mut wrong = Vec::new();
    for (_, path) in crates() {
        for source in product_sources(&path.join("src")) {
            if source.product_lines() > FILE_LINES_MAX {
                wrong.push(format!("{}: {} lines", source.path.display(), source.product_lines()));
            }
        }
    }
    report("files of more product lines than 700", &wrong);
}

#[test]
fn no_module_is_forgotten() {
    let mut wrong = Vec::new();
    let trees = crates().into_iter().map(|(_, path)| path.join("src")).map(|path| (path.clone(), path.join("lib.rs")));
    for (directory, root) in trees.chain([(workspace().join("tests"), workspace().join("tests/all.rs"))]) {
        let mut listed = BTreeSet::from([root.clone(), directory.join("main.rs")]);
        follow(&root, &directory, &mut listed);
        let main = directory.join("main.rs");
        if main.exists() {
            follow(&main, &directory, &mut listed);
        }
        let there = sources(&directory).into_iter().map(|source| source.path);
        wrong.extend(there.filter(|path| !listed.contains(path)).map(|path| path.display().to_string()));
    }
    report("files that no `mod` names", &wrong);
}

fn follow(file: &Path, below: &Path, listed: &mut BTreeSet<PathBuf>) {
    for module in Source::read(file).modules() {
        let path = below.join(format!("{module}.rs"));
        if path.exists() {
            listed.insert(path.clone());
            follow(&path, &below.join(&module), listed);
        }
    }
}

#[test]
fn top_level_holds_what_it_should() {
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "chunkstore",
        "protocol",
        "client",
        "server",
        "fuse",
        "rules",
        "benches",
        "tests",
        "docs",
        "deploy",
        "target",
        "clippy.toml",
        "deny.toml",
        "rustfmt.toml",
        "rust-toolchain.toml",
    ];
    let names = std::fs::read_dir(workspace()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let wrong: Vec<String> = names.filter(|name| !name.starts_with('.') && !known.contains(&name.as_str())).collect();
    report("top level", &wrong);
}

#[test]
fn project_speaks_of_itself_alone() {
    // Written apart, so that this file does not hold what it looks for.
    let foreign = [
        concat!("/wor", "k/"),
        concat!("/tmp/", "wt"),
        concat!("/far", "m/"),
        concat!("../sha", "red"),
        concat!("before-", "stop"),
        concat!("deb.debian", ".org"),
        concat!("work", "place"),
    ];
    let mut wrong = Vec::new();
    for path in project_files() {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if foreign.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    report("words of another place", &wrong);
}
