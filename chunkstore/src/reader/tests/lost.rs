//! A record that is gone, and what serves in its place.

use super::*;

fn again(s: &Setup, kind: Kind, content: &[u8], links: &[BlobId]) -> BlobId {
    let stored = s.writer().put(kind, content, links).unwrap();
    stored.id
}

#[test]
fn other_records_of_equal_content_serve() {
    let s = Setup::new();
    let chunk = s.chunk(b"some content");
    let file = s.build_file(&[chunk; 6]);
    let root = s.build(&[Entry { node: EntryNode::File(file.clone()), ..fifo("file") }]);
    let Content::List { root: list, .. } = file else { panic!() };
    let lost = [root.id, list.id, chunk.link().unwrap().id];
    let contents = [Kind::Tree, Kind::List, Kind::Chunk].into_iter().zip(lost);
    let contents: Vec<_> = contents.map(|(kind, id)| (kind, s.store.content(id, kind))).collect();
    lost.iter().for_each(|id| s.store.lose(*id));
    let read = || {
        let reader = s.reader();
        let entry = reader.lookup(root, b"file")?.unwrap();
        let EntryNode::File(content) = entry.node else { panic!() };
        reader.read_at(&content, 0, 15)
    };
    assert!(matches!(read(), Err(Error::Missing { object }) if object == format!("blob {}", root.id)));
    for (at, (kind, content)) in contents.iter().enumerate() {
        s.store.contents().pretended.extend(lost);
        let links = match kind {
            Kind::Tree => vec![list.id],
            Kind::List => vec![lost[2]],
            Kind::Chunk => vec![],
        };
        assert_ne!(again(&s, *kind, content, &links), lost[at]);
        match lost.get(at + 1) {
            Some(next) => {
                assert!(matches!(read(), Err(Error::Missing { object }) if object == format!("blob {next}")));
            }
            None => assert_eq!(read().unwrap(), b"some contentsom"),
        }
    }
}

#[test]
fn damaged_records_are_replaced_too() {
    let s = Setup::new();
    let link = s.chunk(b"some content").link().unwrap();
    s.store.contents().records.get_mut(&link.id).unwrap().bytes[100] ^= 1;
    let one = |reader: &Reader| reader.chunks(&[link]).unwrap().remove(0);
    assert_eq!(damage(one(&s.reader())).0, format!("blob {}", link.id));
    s.store.contents().tags.clear();
    again(&s, Kind::Chunk, b"some content", &[]);
    assert_eq!(one(&s.reader()).unwrap(), b"some content");
}

#[test]
fn what_a_link_was_served_with_is_no_base() {
    let s = Setup::new();
    let [x, y] = [b"content of x", b"content of y"].map(|content| s.chunk(content).link().unwrap());
    let tag = s.sealer.key.tag(Kind::Chunk, b"delta of x");
    let record = s.sealer.seal_delta(tag, b"delta of x", &[(x.id, b"content of x".to_vec().into())]).unwrap();
    let delta = Reference { id: s.store.insert(record, &s.sealer.capsule), tag: tag.half() };
    // A hostile parent names x with the tag of y: that is served by y, to that parent alone.
    let mixed = Reference { id: x.id, tag: y.tag };
    let reader = s.reader();
    let file = |link| Content::Items { size: 12, items: vec![Item::Chunk { len: 12, link }] };
    assert_eq!(reader.read_at(&file(mixed), 0, 12).unwrap(), b"content of y");
    assert_eq!(reader.read_at(&file(x), 0, 12).unwrap(), b"content of x");
    assert_eq!(reader.chunks(&[delta]).unwrap().remove(0).unwrap(), b"delta of x");
}

#[test]
fn a_missing_capsule_is_named() {
    let s = Setup::new();
    let link = s.chunk(b"some content").link().unwrap();
    s.store.contents().capsules.clear();
    assert!(
        matches!(s.reader().chunks(&[link]).unwrap().remove(0), Err(Error::Missing { object }) if object.contains("capsule"))
    );
}

#[test]
fn a_record_in_the_place_of_another_is_asked_for_by_its_id() {
    let s = Setup::new();
    let [x, y] = [b"content of x", b"content of y"].map(|content| s.chunk(content).link().unwrap());
    s.store.contents().swapped.insert(x.id, y.id);
    let one = |link| s.reader().chunks(&[link]).unwrap().remove(0);
    s.store.take_read();
    assert_eq!(one(x).unwrap(), b"content of x");
    assert_eq!(s.store.take_read(), [y.id, x.id]);
    assert_eq!(**s.reader().shared(&[x]).unwrap()[&x].as_ref().unwrap(), *b"content of x");
    // The record of y under the tag of x, as nobody without keys can make it.
    let forged = s.store.contents().records[&x.id].tag;
    s.store.contents().records.get_mut(&y.id).unwrap().tag = forged;
    assert_eq!(one(x).unwrap(), b"content of x");
    s.store.lose(x.id);
    assert!(matches!(one(x), Err(Error::Missing { object }) if object == format!("blob {}", x.id)));
}

#[test]
fn a_record_of_equal_content_serves_at_once() {
    let s = Setup::new();
    let link = s.chunk(b"some content").link().unwrap();
    s.store.contents().tags.clear();
    let other = again(&s, Kind::Chunk, b"some content", &[]);
    s.store.contents().swapped.insert(link.id, other);
    s.store.take_read();
    assert_eq!(s.reader().chunks(&[link]).unwrap().remove(0).unwrap(), b"some content");
    assert_eq!(s.store.take_read(), [other]);
}

#[test]
fn bases_are_read_by_their_ids() {
    let s = Setup::new();
    let [x, y] = [b"content of x", b"content of y"].map(|content| s.chunk(content).link().unwrap());
    let tag = s.sealer.key.tag(Kind::Chunk, b"delta of x");
    let record = s.sealer.seal_delta(tag, b"delta of x", &[(x.id, b"content of x".to_vec().into())]).unwrap();
    let delta = Reference { id: s.store.insert(record, &s.sealer.capsule), tag: tag.half() };
    s.store.contents().swapped.insert(x.id, y.id);
    let reader = s.reader();
    assert_eq!(reader.chunks(&[delta]).unwrap().remove(0).unwrap(), b"delta of x");
    assert_eq!(**reader.bases(&[x.id]).unwrap()[0].as_ref().unwrap(), *b"content of x");
}

#[test]
fn what_lies_between_is_proved_by_what_is_made_of_it() {
    let s = Setup::new();
    let [x, y] = [b"content of x", b"content of y"].map(|content| s.chunk(content).link().unwrap());
    let delta = |content: &[u8], base: BlobId, of: &[u8]| {
        let tag = s.sealer.key.tag(Kind::Chunk, content);
        let record = s.sealer.seal_delta(tag, content, &[(base, of.to_vec().into())]).unwrap();
        Reference { id: s.store.insert(record, &s.sealer.capsule), tag: tag.half() }
    };
    let first = delta(b"content of x, more", x.id, b"content of x");
    let second = delta(b"content of x, more, again", first.id, b"content of x, more");
    let third = delta(b"content of x, more, and more", first.id, b"content of x, more");
    // A record that opens, in the place of one that the second is made from in the end.
    s.store.contents().swapped.insert(x.id, y.id);
    let reader = s.reader();
    assert_eq!(**reader.bases(&[second.id]).unwrap()[0].as_ref().unwrap(), *b"content of x, more, again");
    assert_eq!(reader.chunks(&[third]).unwrap().remove(0).unwrap(), b"content of x, more, and more");
    assert_eq!(**reader.bases(&[first.id]).unwrap()[0].as_ref().unwrap(), *b"content of x, more");
    // The error says what is wrong, not what is made of it.
    s.store.lose(x.id);
    let failed = s.reader().chunks(&[second]).unwrap().remove(0);
    assert!(matches!(failed, Err(Error::Missing { object }) if object == format!("blob {}", x.id)));
}
