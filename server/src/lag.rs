//! How far other sites are behind, also while nobody can ask them: what is here, against what they said they have.
//! `docs/replication.md`, section 8.

use crate::access::{Access, Grant, Verb};
use crate::error::Result;
use crate::holdings::Holding;
use crate::hub::Hub;
use crate::maintenance::holdings;
use crate::peer::{Figures, State};
use crate::storage::{nanoseconds, seconds};
use protocol::message::Role;
use std::collections::HashMap;

/// Of all links, whoever dials: those that this site dials first.
pub fn figures(hub: &Hub) -> Result<Vec<Figures>> {
    let mut all = Vec::new();
    let mut held: HashMap<String, Vec<Holding>> = HashMap::new();
    for link in hub.sites.links() {
        let (peer, mut figures) = (&link.peer, link.figures());
        figures.max_lag_seconds = hub.current().max_lag.as_secs();
        // Nothing goes out of a lagging site.
        if peer.delay == 0 {
            let waiting = waiting(hub, &mut held, (&peer.own, &peer.address), &peer.datasets)?;
            take_in(&mut figures, &waiting);
        }
        judge(&mut figures, hub.began);
        all.push(figures);
    }
    let replica = Role::Replica.text();
    for client in hub.registry.clients()?.into_iter().filter(|client| client.role == replica) {
        if all.iter().any(|own| own.key == client.key && own.repository == client.repository) {
            continue;
        }
        let is_here = hub.visits().iter().any(|visit| visit.key == client.key && visit.repository == client.repository);
        let mut figures = Figures {
            key: client.key,
            address: client.name.clone(),
            repository: client.repository.clone(),
            datasets: client.datasets.clone(),
            state: if is_here { State::Answering } else { State::Away },
            last_contact: if is_here { Some(seconds()) } else { client.seen },
            last_complete: hub.registry.complete(&client.repository, &client.name)?,
            max_lag_seconds: hub.current().max_lag.as_secs(),
            ..Figures::default()
        };
        let waiting = waiting(hub, &mut held, (&client.repository, &client.name), &client.datasets)?;
        take_in(&mut figures, &waiting);
        judge(&mut figures, hub.began);
        all.push(figures);
    }
    Ok(all)
}

/// What is here and the site does not have, without what it did not want when it last had a choice.
fn waiting(
    hub: &Hub,
    held: &mut HashMap<String, Vec<Holding>>,
    (repository, site): (&str, &str),
    datasets: &[String],
) -> Result<Vec<Holding>> {
    if !held.contains_key(repository) {
        let shelf = hub.storage.shelf(repository, &hub.settings.repositories().join(repository));
        let all = match shelf.store() {
            Ok(store) => holdings(hub, &shelf, &store)?.snapshots,
            // The status says elsewhere what is wrong with it.
            Err(_) => Vec::new(),
        };
        held.insert(repository.to_owned(), all);
    }
    let Ok(grant) = Grant::new(Role::Replica, datasets) else { return Ok(Vec::new()) };
    let access = Access { client: String::new(), repository: repository.to_owned(), grants: vec![grant] };
    let copies = hub.registry.copies_at(repository, site)?;
    let declined = hub.registry.declined_at(repository, site)?;
    let is_waiting = |holding: &&Holding| {
        holding.forgotten.is_none()
            && !copies.contains(&holding.id)
            && !declined.contains(&holding.id)
            && access.covers(Verb::List, &holding.dataset)
    };
    Ok(held.get(repository).into_iter().flatten().filter(is_waiting).cloned().collect())
}

fn take_in(figures: &mut Figures, waiting: &[Holding]) {
    // While something goes over, it is known what, in both directions.
    if figures.state == State::Working && figures.lag_snapshots > 0 {
        return;
    }
    let age = |holding: &Holding| nanoseconds().saturating_sub(holding.received).max(0).unsigned_abs() / 1_000_000_000;
    figures.lag_snapshots = figures.lag_snapshots.max(waiting.len() as u64);
    figures.lag_bytes = figures.lag_bytes.max(waiting.iter().map(|holding| holding.added_bytes).sum());
    figures.lag_seconds = figures.lag_seconds.max(waiting.iter().map(age).max().unwrap_or(0));
    // What was committed a moment ago: the link has not begun with it.
    if figures.state == State::Even && figures.lag_snapshots > 0 {
        figures.state = State::Working;
    }
}

fn judge(figures: &mut Figures, began: i64) {
    let is_out_of_sight = matches!(figures.state, State::Failed | State::Connecting | State::Away);
    let silent = seconds().saturating_sub(figures.last_contact.unwrap_or(began)).max(0).unsigned_abs();
    let most = figures.max_lag_seconds;
    figures.overdue = figures.lag_seconds > most || (is_out_of_sight && silent > most);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holdings::Word;
    use chunkstore::id::{BlobId, SnapshotId};

    #[test]
    fn a_link_that_has_not_begun_with_a_new_snapshot_is_not_even() {
        let holding = Holding {
            id: SnapshotId([1; 32]),
            dataset: "h/files/x".into(),
            received: nanoseconds(),
            client: None,
            incomplete: false,
            root: BlobId([2; 32]),
            content_bytes: 10,
            added_bytes: 7,
            forgotten: None,
            word: Word::default(),
            pinned: false,
            labels: std::collections::BTreeSet::new(),
        };
        let mut figures = Figures { state: State::Even, ..Figures::default() };
        take_in(&mut figures, &[]);
        assert_eq!((figures.state, figures.lag_snapshots), (State::Even, 0));
        take_in(&mut figures, &[holding]);
        assert_eq!((figures.state, figures.lag_snapshots, figures.lag_bytes), (State::Working, 1, 7));
    }
}
