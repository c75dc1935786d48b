//! Which datasets the databases of a server have, and what the repository tells of them. Pure.

use super::name::{component, of_component};
use crate::dataset::{self, Kind};
use crate::error::{Error, Result};
use crate::history::{History, Version};
use std::collections::BTreeSet;

/// Stands for the database in a dataset's name that was given.
const PLACE: char = '*';
/// What stands there for all of them.
const CLUSTER: &str = "cluster";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datasets {
    before: String,
    /// None if all have one name.
    after: Option<String>,
    pub globals: String,
}

impl Datasets {
    /// `given` is HOST/KIND/NAME or NAME, in which `*` stands for the database.
    pub fn new(host: &str, given: Option<&str>) -> Result<Datasets> {
        let given = given.unwrap_or("*");
        let last = given.rsplit('/').next().unwrap_or_default();
        if given.matches(PLACE).count() != last.matches(PLACE).count() {
            return Err(Error::argument(format!("dataset `{given}`"), "`*` may stand in its last part only"));
        }
        let example = given.replacen(PLACE, CLUSTER, 1);
        let all = dataset::name(host, Kind::Postgres, Some(&example), "")?;
        let (head, name) = all.rsplit_once('/').unwrap_or_default();
        let globals = format!("{head}-globals/{name}");
        Ok(match last.split_once(PLACE) {
            Some((before, after)) => {
                Datasets { before: format!("{head}/{before}"), after: Some(after.to_owned()), globals }
            }
            None => Datasets { before: all, after: None, globals },
        })
    }

    pub fn of(&self, database: &[u8]) -> String {
        match &self.after {
            Some(after) => format!("{}{}{after}", self.before, component(database)),
            None => self.before.clone(),
        }
    }

    /// Whether there is room for one database only.
    pub fn is_single(&self) -> bool {
        self.after.is_none()
    }

    /// The database that a dataset is of.
    fn database(&self, dataset: &str) -> Option<Vec<u8>> {
        of_component(dataset.strip_prefix(&self.before)?.strip_suffix(self.after.as_deref()?)?)
            .filter(|name| !name.is_empty())
    }

    /// Databases that were saved since the last complete run began, that one included, and are there no longer.
    pub fn vanished(&self, history: &History, there: &BTreeSet<&[u8]>) -> Vec<Vec<u8>> {
        let datasets = history.datasets();
        let last = |versions: &[&Version]| versions.last().map(|version| version.summary().time);
        let complete = datasets.get(self.globals.as_str()).into_iter().flatten().rfind(|v| !v.summary().incomplete);
        let is_ours = |dataset: &str| self.database(dataset).is_some();
        let since = complete.and_then(|complete| {
            let of_run = history.present().filter(|version| version.summary().run == complete.summary().run);
            of_run.filter(|version| is_ours(&version.summary().dataset)).map(|version| version.summary().time).min()
        });
        // A complete run without any database: nothing can have vanished before it.
        let since = since.or(complete.map(|complete| complete.summary().time)).unwrap_or(i64::MIN);
        let recent = datasets.iter().filter(|(_, versions)| last(versions).is_some_and(|time| time >= since));
        let names = recent.filter_map(|(dataset, _)| self.database(dataset));
        names.filter(|name| !there.contains(name.as_slice())).collect()
    }

    pub fn is_new(&self, history: &History, database: &[u8]) -> bool {
        let dataset = self.of(database);
        !history.present().any(|version| version.summary().dataset == dataset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_datasets() {
        let datasets = Datasets::new("h", None).unwrap();
        assert_eq!(datasets.of("L'été".as_bytes()), "h/postgres/L%27été");
        assert_eq!(datasets.globals, "h/postgres-globals/cluster");
        assert!(!datasets.is_single());
        let datasets = Datasets::new("h", Some("old-*.x")).unwrap();
        assert_eq!(
            (datasets.of(b"a"), datasets.globals.as_str()),
            ("h/postgres/old-a.x".into(), "h/postgres-globals/old-cluster.x")
        );
        let datasets = Datasets::new("h", Some("db1/pg/*")).unwrap();
        assert_eq!((datasets.of(b"a"), datasets.globals.as_str()), ("db1/pg/a".into(), "db1/pg-globals/cluster"));
        let datasets = Datasets::new("h", Some("main")).unwrap();
        assert!(datasets.is_single());
        assert_eq!(
            (datasets.of(b"a"), datasets.globals.as_str()),
            ("h/postgres/main".into(), "h/postgres-globals/main")
        );
        for wrong in ["a b*", "**", "x/*", "*/postgres/x", "", "h/*/x"] {
            assert!(Datasets::new("h", Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_dataset_tells_its_database() {
        let datasets = Datasets::new("h", Some("old-*.x")).unwrap();
        for name in ["a", "L'été", "old-.x", "."] {
            assert_eq!(datasets.database(&datasets.of(name.as_bytes())).as_deref(), Some(name.as_bytes()));
        }
        for other in ["h/postgres/a", "h/postgres/old-.x", "h/postgres-globals/old-cluster.x", "i/postgres/old-a.x"] {
            assert_eq!(datasets.database(other), None, "{other}");
        }
    }
}
