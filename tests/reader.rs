//! The independent reader, written from the format page alone, agrees with what the product writes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chunkstore::backend::Backend;
use chunkstore::backend::directory::Directory;
use chunkstore::codec::{Bases, Differ, Part, Sealer};
use chunkstore::configuration::{Configuration, Kem, Suite};
use chunkstore::id::{BlobId, Reference, RepositoryId, RunId};
use chunkstore::key::{Hardness, Keys, add_passphrase, add_recovery};
use chunkstore::list::{Item, List, Slice};
use chunkstore::mark::{Action, Mark};
use chunkstore::record::Kind;
use chunkstore::repository::{Access, Repository};
use chunkstore::snapshot::{Details, Snapshot, Summary, Totals, Writer};
use chunkstore::store::Store;
use chunkstore::tree::{Attributes, Content, Entry, HardLink, Node, Time, Tree};

use crate::support::manifest;
use crate::support::program::House;
use crate::support::python::{self, Reader};
use crate::support::torture::{Place, Random};

pub const PASSWORD: &str = "correct horse";

/// A repository made by hand, so that it holds shapes that the program makes seldom or not yet: a delta on a delta, one of parts, files
/// that share chunks, trees and lists of several levels, both suites, both KEMs.
pub struct Made {
    recovery_key: String,
    large: Vec<u8>,
    shared: [Vec<u8>; 3],
    pub snapshot: String,
}

struct Session<'a> {
    repository: &'a Repository,
    sealer: Sealer,
}

impl Session<'_> {
    fn put(&self, kind: Kind, content: &[u8], links: &[BlobId]) -> Reference {
        let tag = self.sealer.key.tag(kind, content);
        let record = self.sealer.seal(kind, tag, content, links).unwrap();
        let id = self.repository.put(record, &self.sealer.capsule).unwrap();
        Reference { id, tag: tag.half() }
    }

    fn delta(&self, content: &[u8], base: Reference, base_content: &[u8]) -> Reference {
        let tag = self.sealer.key.tag(Kind::Chunk, content);
        let record = self.sealer.seal_delta(tag, content, &[(base.id, base_content.to_vec().into())]).unwrap();
        let id = self.repository.put(record, &self.sealer.capsule).unwrap();
        Reference { id, tag: tag.half() }
    }

    fn delta_of_parts(&self, content: &[u8], parts: Vec<Part>) -> Reference {
        let tag = self.sealer.key.tag(Kind::Chunk, content);
        let record =
            self.sealer.seal_similar(tag, content, &Bases::of_parts(parts), false, &mut Differ::default()).unwrap();
        assert!(!record.links.is_empty(), "it did not pay");
        let id = self.repository.put(record, &self.sealer.capsule).unwrap();
        Reference { id, tag: tag.half() }
    }

    fn slice(&self, content: &[u8], offset: usize, link: Reference) -> Node {
        let (len, tag) = (content.len() as u64, self.sealer.key.tag(Kind::Chunk, content).half());
        Node::File(Content::Items {
            size: len,
            items: vec![Item::Slice(Slice { len, offset: offset as u64, link, tag })],
        })
    }

    fn list(&self, level: u8, items: Vec<Item>) -> Reference {
        let list = List { level, items };
        self.put(Kind::List, &list.encode(), &list.links())
    }

    fn tree(&self, tree: &Tree) -> Reference {
        self.put(Kind::Tree, &tree.encode(), &tree.links())
    }
}

fn entry(name: &str, node: Node) -> Entry {
    let modified = Time { seconds: -5, nanoseconds: 999_999_999 };
    Entry { name: name.into(), attributes: Attributes { mode: 0o644, modified, ..Attributes::default() }, node }
}

pub fn make(root: &Path, suite: Suite, kem: Kem, hardness: Hardness) -> Made {
    let id = RepositoryId([7; 16]);
    let configuration = Configuration { suite, kem, ..Configuration::new(id, 1_700_000_000_000_000_000) };
    let keys = Keys::generate(&configuration).unwrap();
    let backend: Arc<dyn Backend> = Arc::new(Directory::create(root).unwrap());
    add_passphrase(&*backend, &configuration, &keys, PASSWORD.as_bytes(), "é", 1, hardness).unwrap();
    let (_, recovery_key) = add_recovery(&*backend, &configuration, &keys, 1).unwrap();
    Repository::create(&*backend, &configuration).unwrap();
    let access = Access::Write { holder: "test".into(), wait: Duration::ZERO };
    let repository = Repository::open(root, access, 1_700_000_000).unwrap();
    let session = Session { repository: &repository, sealer: Sealer::new(&keys.write, &configuration).unwrap() };

    let (large, content) = large_file(&session);
    let mut special = entry("special", Node::CharacterDevice { major: 4000, minor: 1_000_000 });
    special.attributes.xattrs = vec![(b"trusted.a".to_vec(), b"\0\xff".to_vec()), (b"trusted.b".to_vec(), Vec::new())];
    let mut linked = entry("hard", Node::File(Content::Inline(b"small".to_vec())));
    linked.attributes.hard_link = Some(HardLink { device: 1, inode: 2, names: 2 });
    let mut twin = linked.clone();
    twin.name = b"hard-too".to_vec();
    let mut symlink = entry("symlink", Node::Symlink(b"\xff/..".to_vec()));
    symlink.attributes.mode = 0o777;
    let (shared, [one, two, three]) = shared_files(&session);
    let leaves = [
        vec![entry("empty", Node::Directory(session.tree(&Tree::Leaf(Vec::new())))), entry("fifo", Node::Fifo), linked],
        vec![
            twin,
            entry("large", content),
            entry("shared-1", one),
            entry("shared-2", two),
            entry("shared-3", three),
            special,
        ],
        vec![symlink],
    ];
    let children: Vec<_> =
        leaves.into_iter().map(|leaf| (leaf[0].name.clone(), session.tree(&Tree::Leaf(leaf)))).collect();
    let lower: Vec<_> = children
        .chunks(2)
        .map(|two| (two[0].0.clone(), session.tree(&Tree::Inner { level: 1, children: two.to_vec() })))
        .collect();
    let tree = session.tree(&Tree::Inner { level: 2, children: lower });
    let root = session.tree(&Tree::Leaf(vec![entry("tree", Node::Directory(tree))]));
    let shared_len: usize = shared.iter().map(Vec::len).sum();
    let snapshot = commit(&session, root, (large.len() + shared_len) as u64);
    let mark =
        Mark { repository: id, snapshot: snapshot.id, action: Action::AddLabel("été".into()), counter: 1, time: 5 };
    repository.mark(&mark.encode(&keys.write)).unwrap();
    Made { recovery_key: recovery_key.to_string(), large, shared, snapshot: snapshot.id.hex() }
}

/// Two files in a chunk, and one in another that was made from parts of the first; it is all of that chunk.
fn shared_files(session: &Session<'_>) -> ([Vec<u8>; 3], [Node; 3]) {
    let mut random = Random(43);
    let (one, two) = (random.bytes(5000), random.bytes(40_000));
    let chunk = [one.as_slice(), &two].concat();
    let three = [&two[1000..30_000], b"between", &one[..4000], &two[30_000..]].concat();
    let first = session.put(Kind::Chunk, &chunk, &[]);
    let part = |range| Part { id: first.id, range, chunk: Arc::new(chunk.clone()) };
    let second = session.delta_of_parts(&three, vec![part(5000..45_000), part(0..5000), part(5..6)]);
    let nodes = [session.slice(&one, 0, first), session.slice(&two, 5000, first), session.slice(&three, 0, second)];
    ([one, two, three], nodes)
}

/// Chunks, a delta, a delta on a delta, a hole; lists of two levels.
fn large_file(session: &Session<'_>) -> (Vec<u8>, Node) {
    let mut random = Random(42);
    let first = random.bytes(98_304);
    let second = [&first[..40_000], b"inserted", &first[40_000..]].concat();
    let third = [&second[..9], &second[500..], b"appended"].concat();
    let compressible = b"nightkeep ".repeat(5000);
    let references = [
        (session.put(Kind::Chunk, &first, &[]), first.len()),
        (Reference::default(), 0),
        (Reference::default(), 0),
        (session.put(Kind::Chunk, &compressible, &[]), compressible.len()),
    ];
    let mut references = references;
    references[1] = (session.delta(&second, references[0].0, &first), second.len());
    references[2] = (session.delta(&third, references[1].0, &second), third.len());
    let items: Vec<Item> = references.iter().map(|(link, len)| Item::Chunk { len: *len as u64, link: *link }).collect();
    let hole = 3 << 20;
    let lower = [vec![items[0], Item::Hole { len: hole }, items[1]], vec![items[2], items[3], items[0]]];
    let upper = lower.map(|items| {
        let len = items.iter().map(Item::covers).sum();
        Item::List { len, link: session.list(0, items) }
    });
    let large = [&first, &vec![0; hole as usize], &second, &third, &compressible, &first].map(Vec::as_slice).concat();
    let root = session.list(1, upper.to_vec());
    let size = large.len() as u64;
    (large, Node::File(Content::List { size, root }))
}

fn commit(session: &Session<'_>, root: Reference, content_bytes: u64) -> Snapshot {
    let (writer, _) = Writer::generate().unwrap();
    let summary = Summary {
        repository: RepositoryId([7; 16]),
        run: RunId([9; 16]),
        dataset: "host/files/été".into(),
        time: 1_700_000_000_000_000_000,
        incomplete: false,
        root,
        writer: writer.public_key(),
        sequence: 1,
        previous: None,
        labels: vec!["first".into()],
        totals: Totals { files: 6, directories: 1, others: 3, content_bytes, added_bytes: 0 },
    };
    let details = Details { host: b"host".to_vec(), paths: vec![b"/x\xff".to_vec()], ..Details::default() };
    let snapshot = Snapshot::seal(summary, &details, &session.sealer, &writer).unwrap();
    session.repository.commit(&snapshot).unwrap();
    snapshot
}

#[test]
fn reads_every_shape_in_every_suite() {
    if !python::available() {
        return;
    }
    for (suite, kem) in
        [(Suite::Aes256Gcm, Kem::XWing), (Suite::Aes256Gcm, Kem::X25519), (Suite::ChaCha20Poly1305, Kem::XWing)]
    {
        let place = Place::new();
        let root = place.directory("repository");
        let made = make(&root, suite, kem, Hardness::Cheap);
        for reader in [
            Reader { repository: &root, password: Some(PASSWORD), recovery_key: None },
            Reader { repository: &root, password: None, recovery_key: Some(&made.recovery_key) },
        ] {
            reader.reads(&["verify"]);
            assert_eq!(reader.reads(&["cat", &made.snapshot[..8], "tree/large"]), made.large);
            for (n, content) in made.shared.iter().enumerate() {
                assert_eq!(reader.reads(&["cat", &made.snapshot[..8], &format!("tree/shared-{}", n + 1)]), *content);
            }
        }
        let reader = Reader { repository: &root, password: Some(PASSWORD), recovery_key: None };
        let listing = reader.lines(&["manifest", "host/files/été:/tree"]);
        assert_eq!(listing.len(), 10, "{listing:#?}");
        let field = |name: &str, field: usize| {
            let line = listing.iter().find(|line| line.split('\t').next() == Some(name));
            line.unwrap().split('\t').nth(field).unwrap().to_owned()
        };
        assert_eq!(field("special", 5), "4000:1000000");
        assert_eq!(field("special", 8), "trusted.a=00ff,trusted.b=");
        assert_eq!(field("hard", 7), "2:hard");
        assert_eq!(field("hard-too", 7), "2:hard");
        assert_eq!(field("large", 10), format!("98304-{}", 98_304 + (3 << 20)));
        assert_eq!(field("symlink", 4), "-4000000001");
        let told = reader.lines(&["snapshots"]).join("\n");
        assert!(told.contains("+first") && told.contains("+été"), "{told}");
        if rustix::process::geteuid().is_root() {
            let house = House::at(place, PASSWORD);
            let restored = house.restore(&made.snapshot, Path::new("/tree"));
            manifest::assert_same(&listing, &manifest::of(&restored));
            house.ok(["check", "--read-data"]);
        } else {
            println!("SKIPPED: restoring devices wants root");
        }
    }
}

#[test]
fn refuses_a_wrong_password() {
    if !python::available() {
        return;
    }
    let place = Place::new();
    let root = place.directory("repository");
    make(&root, Suite::Aes256Gcm, Kem::XWing, Hardness::Cheap);
    let reader = Reader { repository: &root, password: Some("correct house"), recovery_key: None };
    assert!(reader.refuses(&["verify"]).contains("no key slot opens"));
}
