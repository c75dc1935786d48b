//! Which snapshots the server forgets and which it takes back: policy by dataset, by the time of receipt. Pure: what is held in,
//! what is to be said about it out.
//!
//! The whole is worked out anew each time, from all snapshots that no key holder forgot: so a policy that was wrong is undone
//! by a right one as long as nothing was collected.

use crate::holdings::{Holding, Word};
use chunkstore::id::SnapshotId;
use chunkstore::mark::Action;
use jiff::tz::TimeZone;
use rules::retention::{Candidate, Policy, apply};
use std::collections::BTreeMap;

/// One mark that is to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub snapshot: SnapshotId,
    pub dataset: String,
    pub received: i64,
    pub action: Action,
}

#[derive(Default, Debug)]
pub struct Plan {
    pub changes: Vec<Change>,
    pub kept: u64,
    /// Forgotten before, and to stay so.
    pub forgotten: u64,
}

pub fn plan<'p>(holdings: &[Holding], policy: &dyn Fn(&str) -> &'p Policy, now: i64, zone: &TimeZone) -> Plan {
    let mut datasets: BTreeMap<&str, Vec<&Holding>> = BTreeMap::new();
    for holding in holdings.iter().filter(|holding| holding.word != Word::KeyForgot) {
        datasets.entry(&holding.dataset).or_default().push(holding);
    }
    let mut plan = Plan::default();
    for (dataset, holdings) in datasets {
        let policy = policy(dataset);
        let candidates: Vec<Candidate> = holdings.iter().map(|holding| candidate(holding)).collect();
        // Without a rule nothing goes.
        let kept: Vec<bool> = if policy.is_given() {
            apply(policy, &candidates, now, zone).iter().map(|reasons| !reasons.is_empty()).collect()
        } else {
            vec![true; holdings.len()]
        };
        for (holding, kept) in holdings.into_iter().zip(kept) {
            let action = match (kept || holding.word == Word::KeyRestored, holding.word) {
                (true, Word::ServerForgot) => Some(Action::Undelete),
                (false, Word::ServerForgot) => {
                    plan.forgotten += 1;
                    None
                }
                (true, _) => None,
                (false, _) => Some(Action::Forget),
            };
            plan.kept += u64::from(
                matches!(action, Some(Action::Undelete)) || (action.is_none() && holding.word != Word::ServerForgot),
            );
            plan.changes.extend(action.map(|action| Change {
                snapshot: holding.id,
                dataset: dataset.to_owned(),
                received: holding.received,
                action,
            }));
        }
    }
    plan
}

fn candidate(holding: &Holding) -> Candidate {
    Candidate {
        time: holding.received,
        incomplete: holding.incomplete,
        pinned: holding.pinned,
        labels: holding.labels.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rules::retention::Count;

    const DAY: i64 = 86_400_000_000_000;

    fn held(number: u8, day: i64) -> Holding {
        Holding {
            id: SnapshotId([number; 32]),
            dataset: "h/files/x".into(),
            received: day * DAY + i64::from(number),
            client: None,
            incomplete: false,
            root: chunkstore::id::BlobId::default(),
            content_bytes: 1,
            added_bytes: 1,
            forgotten: None,
            word: Word::None,
            pinned: false,
            labels: std::collections::BTreeSet::new(),
        }
    }

    fn daily(days: u32) -> Policy {
        Policy { daily: Some(Count::Of(days)), ..Policy::default() }
    }

    /// First bytes of the ids that are forgotten, and of those taken back.
    fn changes(holdings: &[Holding], policy: &Policy) -> (Vec<u8>, Vec<u8>) {
        let plan = plan(holdings, &|_| policy, 100 * DAY, &TimeZone::UTC);
        let of = |action: &Action| {
            let changes = plan.changes.iter().filter(|change| change.action == *action);
            changes.map(|change| change.snapshot.0[0]).collect()
        };
        (of(&Action::Forget), of(&Action::Undelete))
    }

    #[test]
    fn policy_by_receipt() {
        let holdings = [held(1, 1), held(2, 1), held(3, 2), held(4, 3)];
        assert_eq!(changes(&holdings, &daily(2)), (vec![1, 2], vec![]));
        assert_eq!(changes(&holdings, &Policy::default()), (vec![], vec![]), "no rule, nothing goes");
    }

    #[test]
    fn what_key_holders_said_is_left_alone() {
        let with = |number: u8, day: i64, word: Word| Holding { word, ..held(number, day) };
        let holdings = [
            with(1, 1, Word::KeyRestored),
            with(2, 2, Word::KeyForgot),
            Holding { pinned: true, ..held(3, 3) },
            held(4, 4),
            held(5, 5),
        ];
        assert_eq!(changes(&holdings, &daily(1)), (vec![4], vec![]));
        // Who forgets the newest brings back the one that stands for its day now.
        let holdings = [with(1, 1, Word::ServerForgot), with(2, 1, Word::KeyForgot), held(3, 2)];
        assert_eq!(changes(&holdings, &daily(2)), (vec![], vec![1]));
    }

    #[test]
    fn a_wrong_policy_is_undone_by_a_right_one() {
        let mut holdings: Vec<Holding> = (1..=9).map(|number| held(number, i64::from(number))).collect();
        let (gone, _) = changes(&holdings, &daily(1));
        assert_eq!(gone, [1, 2, 3, 4, 5, 6, 7, 8]);
        for holding in holdings.iter_mut().filter(|holding| gone.contains(&holding.id.0[0])) {
            holding.word = Word::ServerForgot;
        }
        assert_eq!(changes(&holdings, &daily(1)), (vec![], vec![]), "said once");
        assert_eq!(changes(&holdings, &daily(7)), (vec![], vec![3, 4, 5, 6, 7, 8]));
        assert_eq!(changes(&holdings, &Policy::default()).1.len(), 8);
        for holding in &mut holdings {
            holding.word = if holding.id.0[0] < 3 { Word::ServerForgot } else { Word::ServerRestored };
        }
        assert_eq!(changes(&holdings, &daily(7)), (vec![], vec![]));
        assert_eq!(changes(&holdings, &daily(6)), (vec![3], vec![]));
    }
}
