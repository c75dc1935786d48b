//! The directories that only the mount has, made from a listing as a whole; what differs between two of them. Pure.

use crate::listing::{Listing, Shown};
use crate::number::{self, ROOT};
use chunkstore::id::{RunId, SnapshotId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

const ID_DIGITS_MIN: usize = 8;

pub struct Skeleton {
    nodes: HashMap<u64, Node>,
    pub stored_bytes: u64,
}

pub struct Node {
    pub parent: u64,
    /// Nanoseconds since 1970: the newest snapshot below.
    pub modified: i64,
    pub kind: Kind,
}

pub enum Kind {
    /// Names, and numbers of their nodes.
    Directory(BTreeMap<Vec<u8>, u64>),
    /// A directory whose content is the snapshot's root.
    Snapshot(Arc<Shown>),
    /// The only file of a snapshot.
    Dump(Arc<Shown>),
    Link(Vec<u8>),
}

/// What the kernel must forget.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Changes {
    pub directories: Vec<u64>,
    /// Parent and name.
    pub names: Vec<(u64, Vec<u8>)>,
}

impl Skeleton {
    pub fn new(listing: &Listing) -> Skeleton {
        let mut skeleton = Skeleton { nodes: HashMap::new(), stored_bytes: listing.stored_bytes };
        let top = Node { parent: ROOT, modified: 0, kind: Kind::Directory(BTreeMap::new()) };
        skeleton.nodes.insert(ROOT, top);
        let mut snapshots: Vec<Arc<Shown>> = listing.snapshots.iter().cloned().map(Arc::new).collect();
        snapshots.sort_by_key(|shown| (shown.time, shown.id));
        for name in ["by-id", "by-run", "datasets", "dumps"] {
            skeleton.directory(ROOT, name.as_bytes());
        }
        skeleton.by_dataset(&snapshots);
        skeleton.by_id(&snapshots);
        skeleton.by_run(&snapshots);
        skeleton.dumps(&snapshots);
        skeleton
    }

    pub fn node(&self, number: u64) -> Option<&Node> {
        self.nodes.get(&number)
    }

    /// The node of this name in a directory of the mount's own.
    pub fn child(&self, parent: u64, name: &[u8]) -> Option<u64> {
        match &self.nodes.get(&parent)?.kind {
            Kind::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    /// What of the kernel's memory of `self` is wrong of `newer`.
    pub fn changes(&self, newer: &Skeleton) -> Changes {
        let mut changes = Changes::default();
        for (number, node) in &self.nodes {
            let Kind::Directory(old) = &node.kind else { continue };
            let Some(Node { kind: Kind::Directory(new), .. }) = newer.nodes.get(number) else { continue };
            if old != new {
                changes.directories.push(*number);
                let gone = old.iter().filter(|(name, child)| new.get(*name) != Some(child));
                changes.names.extend(gone.map(|(name, _)| (*number, name.clone())));
            }
        }
        changes
    }

    fn by_dataset(&mut self, snapshots: &[Arc<Shown>]) {
        for shown in snapshots {
            let parts: Vec<&[u8]> =
                ["datasets"].into_iter().chain(shown.dataset.split('/')).map(str::as_bytes).collect();
            let dataset = self.path(&parts);
            let name = self.vacant(dataset, shown, &shown.id.short());
            self.snapshot(dataset, &name, shown);
            self.point_latest(dataset, &name, shown.time);
        }
    }

    fn by_id(&mut self, snapshots: &[Arc<Shown>]) {
        let parent = self.directory(ROOT, b"by-id");
        let mut ids: Vec<SnapshotId> = snapshots.iter().map(|shown| shown.id).collect();
        ids.sort_unstable();
        let ids: Vec<String> = ids.iter().map(SnapshotId::hex).collect();
        for shown in snapshots {
            let full = shown.id.hex();
            let at = ids.partition_point(|id| *id < full);
            let neighbours = [at.checked_sub(1), Some(at + 1)].into_iter().flatten().filter_map(|at| ids.get(at));
            let shared = neighbours.map(|other| common(&full, other)).max().unwrap_or(0);
            let digits = (shared + 1).max(ID_DIGITS_MIN);
            let name: String = full.chars().take(digits).collect();
            self.snapshot(parent, name.as_bytes(), shown);
        }
    }

    fn by_run(&mut self, snapshots: &[Arc<Shown>]) {
        let parent = self.directory(ROOT, b"by-run");
        let mut runs: HashMap<RunId, Vec<u8>> = HashMap::new();
        for shown in snapshots {
            let run = match runs.get(&shown.run) {
                Some(name) => name.clone(),
                None => {
                    let name = self.vacant(parent, shown, &shown.run.short());
                    runs.insert(shown.run, name.clone());
                    self.point_latest(parent, &name, shown.time);
                    name
                }
            };
            let run = self.directory(parent, &run);
            let mut parts = shown.dataset.rsplitn(2, '/');
            let (name, above) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let above = above.split('/').fold(run, |parent, part| self.directory(parent, part.as_bytes()));
            // One run saves a dataset once; should it not, the others are still found elsewhere.
            if self.child(above, name.as_bytes()).is_none() {
                self.snapshot(above, name.as_bytes(), shown);
            }
        }
    }

    fn dumps(&mut self, snapshots: &[Arc<Shown>]) {
        let parent = self.directory(ROOT, b"dumps");
        for shown in snapshots {
            let Some(name) = shown.dump_name.as_deref().filter(|name| chunkstore::tree::is_name(name.as_bytes()))
            else {
                continue;
            };
            if self.child(parent, name.as_bytes()).is_none() {
                self.insert(parent, name.as_bytes(), shown.time, Kind::Dump(Arc::clone(shown)));
            }
        }
    }

    /// The first of its name, its exact name, or that with something nobody else has.
    fn vacant(&self, parent: u64, shown: &Shown, unique: &str) -> Vec<u8> {
        let last = format!("{}~{unique}", shown.exact_name);
        let names = [&shown.name, &shown.exact_name];
        let free = names.into_iter().find(|name| self.child(parent, name.as_bytes()).is_none());
        free.unwrap_or(&last).as_bytes().to_vec()
    }

    fn path(&mut self, parts: &[&[u8]]) -> u64 {
        parts.iter().fold(ROOT, |parent, part| self.directory(parent, part))
    }

    fn directory(&mut self, parent: u64, name: &[u8]) -> u64 {
        match self.child(parent, name) {
            Some(child) => child,
            None => self.insert(parent, name, 0, Kind::Directory(BTreeMap::new())),
        }
    }

    fn snapshot(&mut self, parent: u64, name: &[u8], shown: &Arc<Shown>) {
        self.insert(parent, name, shown.time, Kind::Snapshot(Arc::clone(shown)));
    }

    fn point_latest(&mut self, parent: u64, name: &[u8], time: i64) {
        if let Some(old) = self.child(parent, b"latest") {
            self.nodes.remove(&old);
        }
        self.insert(parent, b"latest", time, Kind::Link(name.to_vec()));
    }

    /// A link's number depends on where it leads, a snapshot's on which it is: the kernel may keep both for ever.
    fn insert(&mut self, parent: u64, name: &[u8], modified: i64, kind: Kind) -> u64 {
        let of = match &kind {
            Kind::Link(target) => target.clone(),
            Kind::Snapshot(shown) | Kind::Dump(shown) => shown.id.0.to_vec(),
            Kind::Directory(_) => Vec::new(),
        };
        let mut attempt = 0;
        let mut number = number::of_virtual(parent, name, &of, attempt);
        while self.nodes.contains_key(&number) {
            attempt += 1;
            number = number::of_virtual(parent, name, &of, attempt);
        }
        self.nodes.insert(number, Node { parent, modified, kind });
        if let Some(Node { kind: Kind::Directory(children), .. }) = self.nodes.get_mut(&parent) {
            children.insert(name.to_vec(), number);
        }
        self.touch(parent, modified);
        number
    }

    /// Directories are as new as the newest below.
    fn touch(&mut self, mut number: u64, modified: i64) {
        let mut seen = HashSet::new();
        while let Some(node) = self.nodes.get_mut(&number).filter(|_| seen.insert(number)) {
            node.modified = node.modified.max(modified);
            number = node.parent;
        }
    }
}

fn common(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::id::Reference;

    fn shown(id: u8, dataset: &str, time: i64) -> Shown {
        let mut bytes = [0xaa; 32];
        bytes[0] = id;
        Shown {
            id: SnapshotId(bytes),
            run: RunId([u8::try_from(time / 10).unwrap(); 16]),
            dataset: dataset.into(),
            time,
            root: Reference::default(),
            name: format!("t{}", time / 10),
            exact_name: format!("t{}.{}", time / 10, time % 10),
            dump_name: dataset.contains("postgres").then(|| format!("pg_dump.{}.sql", time / 10)),
        }
    }

    fn skeleton(snapshots: &[Shown]) -> Skeleton {
        Skeleton::new(&Listing { snapshots: snapshots.to_vec(), stored_bytes: 0 })
    }

    /// All paths with what is there.
    fn paths(skeleton: &Skeleton) -> Vec<String> {
        let (mut found, mut pending) = (Vec::new(), vec![(ROOT, String::new())]);
        while let Some((number, path)) = pending.pop() {
            match &skeleton.node(number).unwrap().kind {
                Kind::Directory(children) => {
                    for (name, child) in children {
                        pending.push((*child, format!("{path}/{}", String::from_utf8_lossy(name))));
                    }
                }
                Kind::Snapshot(shown) => found.push(format!("{path} {}", shown.id.0[0])),
                Kind::Dump(shown) => found.push(format!("{path} dump of {}", shown.id.0[0])),
                Kind::Link(target) => found.push(format!("{path} -> {}", String::from_utf8_lossy(target))),
            }
        }
        found.sort();
        found
    }

    #[test]
    fn every_snapshot_is_under_its_dataset_id_and_run() {
        let all = skeleton(&[
            shown(2, "h/files/etc", 15),
            shown(1, "h/files/etc", 11),
            shown(3, "h/files/etc", 15),
            shown(4, "h/postgres/é ~", 23),
        ]);
        assert_eq!(
            paths(&all),
            [
                "/by-id/01aaaaaa 1",
                "/by-id/02aaaaaa 2",
                "/by-id/03aaaaaa 3",
                "/by-id/04aaaaaa 4",
                "/by-run/latest -> t2",
                "/by-run/t1/h/files/etc 1",
                "/by-run/t2/h/postgres/é ~ 4",
                "/datasets/h/files/etc/latest -> t1.5~03aaaaaa",
                "/datasets/h/files/etc/t1 1",
                "/datasets/h/files/etc/t1.5 2",
                "/datasets/h/files/etc/t1.5~03aaaaaa 3",
                "/datasets/h/postgres/é ~/latest -> t2",
                "/datasets/h/postgres/é ~/t2 4",
                "/dumps/pg_dump.2.sql dump of 4",
            ]
        );
        let etc = all.path_of(&["datasets", "h", "files", "etc"]);
        assert_eq!((all.node(etc).unwrap().modified, all.node(ROOT).unwrap().modified), (15, 23));
        assert!(paths(&skeleton(&[])).is_empty());
    }

    #[test]
    fn numbers_stay_and_changes_are_named() {
        let one = shown(1, "h/files/etc", 11);
        let before = skeleton(std::slice::from_ref(&one));
        assert_eq!(before.changes(&skeleton(std::slice::from_ref(&one))), Changes::default());
        let after = skeleton(&[one.clone(), shown(2, "h/files/etc", 25)]);
        let etc = before.path_of(&["datasets", "h", "files", "etc"]);
        assert_eq!(etc, after.path_of(&["datasets", "h", "files", "etc"]));
        assert_eq!(before.child(etc, b"t1"), after.child(etc, b"t1"));
        let mut changes = before.changes(&after);
        changes.directories.sort_unstable();
        let mut expected = ["by-id", "by-run"].map(|name| before.path_of(&[name])).to_vec();
        expected.push(etc);
        expected.sort_unstable();
        assert_eq!(changes.directories, expected);
        let by_run = before.path_of(&["by-run"]);
        changes.names.sort();
        let mut expected = [(etc, b"latest".to_vec()), (by_run, b"latest".to_vec())];
        expected.sort();
        assert_eq!(changes.names, expected);
        // Another snapshot under the same name is another directory.
        let other = skeleton(&[shown(9, "h/files/etc", 11)]);
        assert_ne!(other.child(etc, b"t1"), before.child(etc, b"t1"));
        assert!(before.changes(&other).names.contains(&(etc, b"t1".to_vec())));
    }

    #[test]
    fn ids_that_begin_alike_are_shown_longer() {
        let mut all = [shown(1, "h/files/a", 11), shown(1, "h/files/b", 12), shown(2, "h/files/c", 13)];
        all[1].id.0[5] = 0xac;
        let ids: Vec<String> = paths(&skeleton(&all)).into_iter().filter(|path| path.starts_with("/by-id")).collect();
        assert_eq!(ids, ["/by-id/01aaaaaaaaaa 1", "/by-id/01aaaaaaaaac 1", "/by-id/02aaaaaa 2"]);
    }

    impl Skeleton {
        fn path_of(&self, parts: &[&str]) -> u64 {
            parts.iter().fold(ROOT, |parent, part| self.child(parent, part.as_bytes()).unwrap())
        }
    }
}
