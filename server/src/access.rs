//! Who may do what: one table, one place, deny by default. Every request comes by here before anything is done for it.

use globset::{GlobBuilder, GlobMatcher};
use protocol::message::{Code, Refusal, Role};

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Known, Present, and putting records.
    Push,
    /// A snapshot of a dataset becomes part of the repository.
    Commit,
    /// Snapshots and the marks about them, with what is in clear of them.
    List,
    /// Sealed session keys: of use only to who can open them.
    Capsule,
    /// Records: file contents and names, sealed.
    Read,
    Alternate,
    Mark,
    ListKeys,
    /// Add key slots.
    AddKeys,
    ChangeKeys,
    Create,
    Statistics,
    /// What only sites ask each other.
    Replicate,
}

impl Verb {
    pub const ALL: [Verb; 13] = [
        Verb::Push,
        Verb::Commit,
        Verb::List,
        Verb::Capsule,
        Verb::Read,
        Verb::Alternate,
        Verb::Mark,
        Verb::ListKeys,
        Verb::AddKeys,
        Verb::ChangeKeys,
        Verb::Create,
        Verb::Statistics,
        Verb::Replicate,
    ];

    fn text(self) -> &'static str {
        match self {
            Verb::Push => "store data",
            Verb::Commit => "commit a snapshot of this dataset",
            Verb::List => "list snapshots",
            Verb::Capsule => "read sealed keys",
            Verb::Read | Verb::Alternate => "read data",
            Verb::Mark => "forget, pin or tag snapshots",
            Verb::ListKeys => "read key slots",
            Verb::AddKeys => "add key slots",
            Verb::ChangeKeys => "change key slots",
            Verb::Create => "create the repository",
            Verb::Statistics => "see statistics",
            Verb::Replicate => "replicate",
        }
    }
}

/// The table.
pub fn allows(role: Role, verb: Verb) -> bool {
    use Role::{Admin, Backup, Replica, Restore};
    match verb {
        Verb::Push | Verb::Commit => matches!(role, Backup | Admin | Replica),
        Verb::List | Verb::Capsule | Verb::ListKeys => true,
        Verb::Read => matches!(role, Restore | Admin | Replica),
        Verb::Alternate => true,
        Verb::Mark => matches!(role, Admin | Replica),
        Verb::AddKeys => matches!(role, Admin | Replica),
        Verb::ChangeKeys => matches!(role, Admin),
        Verb::Create => matches!(role, Backup | Admin | Replica),
        Verb::Statistics => matches!(role, Restore | Admin),
        Verb::Replicate => matches!(role, Replica),
    }
}

/// One thing that an enrolled client was granted in a repository.
#[derive(Clone, Debug)]
pub struct Grant {
    pub role: Role,
    /// Empty: all.
    pub datasets: Vec<GlobMatcher>,
}

impl Grant {
    pub fn new(role: Role, patterns: &[String]) -> Result<Grant, globset::Error> {
        let datasets = patterns.iter().map(|pattern| pattern_of(pattern)).collect::<Result<_, _>>()?;
        Ok(Grant { role, datasets })
    }

    fn covers(&self, dataset: &str) -> bool {
        self.datasets.is_empty() || self.datasets.iter().any(|pattern| pattern.is_match(dataset))
    }
}

/// A pattern of datasets, as `nightkeep snapshots --dataset` understands it.
pub fn pattern_of(text: &str) -> Result<GlobMatcher, globset::Error> {
    Ok(GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build()?.compile_matcher())
}

/// All that one client may do in one repository.
#[derive(Clone, Debug)]
pub struct Access {
    /// For the log: who, and from where.
    pub client: String,
    pub repository: String,
    pub grants: Vec<Grant>,
}

impl Access {
    /// Refuses, and tells the log.
    pub fn check(&self, verb: Verb) -> Result<(), Refusal> {
        if self.grants.iter().any(|grant| allows(grant.role, verb)) { Ok(()) } else { Err(self.denied(verb, None)) }
    }

    pub fn check_dataset(&self, verb: Verb, dataset: &str) -> Result<(), Refusal> {
        if self.covers(verb, dataset) { Ok(()) } else { Err(self.denied(verb, Some(dataset))) }
    }

    /// Whether what belongs to a dataset is to be seen or done; what is not is passed over in silence.
    pub fn covers(&self, verb: Verb, dataset: &str) -> bool {
        self.grants.iter().any(|grant| allows(grant.role, verb) && grant.covers(dataset))
    }

    /// Whether nothing is hidden: needed for what belongs to no known dataset.
    pub fn covers_all(&self, verb: Verb) -> bool {
        self.grants.iter().any(|grant| allows(grant.role, verb) && grant.datasets.is_empty())
    }

    pub fn has(&self, role: Role) -> bool {
        self.grants.iter().any(|grant| grant.role == role)
    }

    fn denied(&self, verb: Verb, dataset: Option<&str>) -> Refusal {
        let roles: Vec<&str> = self.grants.iter().map(|grant| grant.role.text()).collect();
        let roles = roles.join(", ");
        tracing::warn!(client = self.client, repository = self.repository, ?verb, dataset, roles, "denied");
        let what = match dataset {
            None => format!("repository {}", self.repository),
            Some(dataset) => format!("dataset {dataset} of repository {}", self.repository),
        };
        Refusal::new(Code::Denied, what, format!("this client (role {roles}) may not {}", verb.text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(grants: &[(Role, &[&str])]) -> Access {
        let grant = |(role, patterns): &(Role, &[&str])| {
            Grant::new(*role, &patterns.iter().map(|&p| p.to_owned()).collect::<Vec<_>>()).unwrap()
        };
        Access { client: "c".into(), repository: "r".into(), grants: grants.iter().map(grant).collect() }
    }

    /// Every cell of the table of `docs/protocol.md`, written again.
    #[test]
    fn every_cell() {
        let table = [
            (Verb::Push, [true, false, true, true]),
            (Verb::Commit, [true, false, true, true]),
            (Verb::List, [true, true, true, true]),
            (Verb::Capsule, [true, true, true, true]),
            (Verb::Read, [false, true, true, true]),
            (Verb::Alternate, [true, true, true, true]),
            (Verb::Mark, [false, false, true, true]),
            (Verb::ListKeys, [true, true, true, true]),
            (Verb::AddKeys, [false, false, true, true]),
            (Verb::ChangeKeys, [false, false, true, false]),
            (Verb::Create, [true, false, true, true]),
            (Verb::Statistics, [false, true, true, false]),
            (Verb::Replicate, [false, false, false, true]),
        ];
        assert_eq!(table.map(|(verb, _)| verb), Verb::ALL);
        for (verb, cells) in table {
            for (role, expected) in Role::ALL.into_iter().zip(cells) {
                assert_eq!(allows(role, verb), expected, "{role:?} {verb:?}");
                assert_eq!(access(&[(role, &[])]).check(verb).is_ok(), expected);
            }
            assert_eq!(access(&[]).check(verb).unwrap_err().code, Code::Denied, "nothing granted");
        }
    }

    #[test]
    fn patterns_bound_what_a_grant_covers() {
        let both = access(&[(Role::Backup, &["www/*"]), (Role::Restore, &["mail/files/*", "db/**"])]);
        assert!(both.check_dataset(Verb::Commit, "www/files/etc").is_ok());
        assert!(both.check_dataset(Verb::Commit, "mail/files/var").is_err(), "only to be restored");
        assert!(both.covers(Verb::List, "mail/files/var") && both.covers(Verb::List, "www/files/etc"));
        assert!(!both.covers(Verb::List, "wwww/files/etc") && !both.covers(Verb::List, "mail/stream/x"));
        assert!(!both.covers_all(Verb::List));
        assert!(access(&[(Role::Admin, &[])]).covers_all(Verb::List));
        assert!(Grant::new(Role::Admin, &["[".to_owned()]).is_err());
    }
}
