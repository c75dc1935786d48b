//! Whether there is room for more: quotas of repositories and clients, and the reserve of the file system. Refuses with what is
//! full, how much is used and of how much.

use crate::error::Result;
use crate::hub::Hub;
use crate::settings::Quota;
use chunkstore::repository::Repository;
use protocol::identity::NodeId;
use protocol::message::{Code, Refusal};
use rules::units::format_size;
use std::path::Path;

/// Who wants to store something where.
#[derive(Clone, Copy)]
pub struct Applicant<'a> {
    pub client: NodeId,
    pub name: &'a str,
    pub repository: &'a str,
}

/// The file system that holds the repositories, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    pub size: u64,
    pub used: u64,
    /// To who is not the superuser.
    pub available: u64,
}

impl Space {
    pub fn of(path: &Path) -> std::io::Result<Space> {
        let found = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let used = bytes(found.f_blocks.saturating_sub(found.f_bfree));
        Ok(Space { size: bytes(found.f_blocks), used, available: bytes(found.f_bavail) })
    }

    /// As `df` counts: what the superuser keeps for itself is not there.
    pub fn is_full(&self, percent: u64) -> bool {
        let all = u128::from(self.used) + u128::from(self.available);
        u128::from(self.used) * 100 >= all * u128::from(percent) && all > 0
    }
}

/// Refuses if a backup may not go on.
pub fn admit(hub: &Hub, repository: &Repository, applicant: Applicant<'_>) -> std::result::Result<(), Refusal> {
    let judged = judge(hub, repository, applicant).unwrap_or_else(|error| {
        tracing::error!(%error, "the space that is left cannot be told");
        Err(Refusal::new(Code::Failed, "", "the server could not do it; its log has the reason"))
    });
    if let Err(refusal) = &judged {
        tracing::warn!(client = applicant.name, repository = applicant.repository, %refusal, "no room");
    }
    judged
}

fn judge(hub: &Hub, repository: &Repository, applicant: Applicant<'_>) -> Result<std::result::Result<(), Refusal>> {
    let settings = hub.current();
    let space = space(hub)?;
    if space.is_full(settings.full_percent) {
        let left = format_size(space.available);
        let reason =
            format!("the server's disk is {} % full ({left} left): it takes no new backups", settings.full_percent);
        return Ok(Err(Refusal::new(Code::Full, format!("repository {}", applicant.repository), reason)));
    }
    for quota in settings.quotas.iter().filter(|quota| concerns(quota, applicant)) {
        let (used, whose) = match &quota.client {
            None => (repository.pack_totals()?.1, format!("repository {}", applicant.repository)),
            Some(_) => (used_by(hub, quota, applicant)?, format!("client {}", applicant.name)),
        };
        if used >= quota.bytes {
            let reason = format!("it uses {} of {}", format_size(used), format_size(quota.bytes));
            return Ok(Err(Refusal::new(Code::Full, format!("the quota of {whose}"), reason)));
        }
    }
    Ok(Ok(()))
}

pub fn space(hub: &Hub) -> Result<Space> {
    let path = hub.settings.repositories();
    Space::of(&path).map_err(|error| crate::error::Error::io("cannot look at", path.display().to_string(), error))
}

fn concerns(quota: &Quota, applicant: Applicant<'_>) -> bool {
    quota.repository.as_ref().is_none_or(|pattern| pattern.is_match(applicant.repository))
        && quota
            .client
            .as_ref()
            .is_none_or(|client| client == applicant.name || *client == applicant.client.to_string())
}

/// In all repositories that the quota is about, together.
fn used_by(hub: &Hub, quota: &Quota, applicant: Applicant<'_>) -> Result<u64> {
    let counts = |repository: &str| quota.repository.as_ref().is_none_or(|pattern| pattern.is_match(repository));
    let usage = hub.ledger.usage()?.into_iter();
    Ok(usage.filter(|(name, client, _)| *client == applicant.client && counts(name)).map(|(.., bytes)| bytes).sum())
}

/// The least that a repository's own quotas allow.
pub fn of_repository(quotas: &[Quota], repository: &str) -> Option<u64> {
    let own = quotas.iter().filter(|quota| quota.client.is_none());
    let own = own.filter(|quota| quota.repository.as_ref().is_none_or(|pattern| pattern.is_match(repository)));
    own.map(|quota| quota.bytes).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fullness_is_counted_as_df_does() {
        let space = |used: u64, available: u64| Space { size: 1000, used, available };
        assert!(!space(940, 60).is_full(95));
        assert!(space(950, 50).is_full(95));
        assert!(space(900, 40).is_full(95), "what the superuser keeps is not there");
        assert!(!space(0, 0).is_full(95), "not a file system that tells");
        assert!(space(1000, 0).is_full(100) && !space(999, 1).is_full(100));
        assert!(Space::of(Path::new("/")).unwrap().size > 0);
    }

    #[test]
    fn whom_a_quota_is_about() {
        let quota = |repository: Option<&str>, client: Option<&str>| Quota {
            repository: repository.map(|text| crate::access::pattern_of(text).unwrap()),
            client: client.map(str::to_owned),
            bytes: 1,
        };
        let key = NodeId([7; 32]);
        let applicant = Applicant { client: key, name: "www", repository: "office" };
        assert!(concerns(&quota(Some("off*"), None), applicant));
        assert!(!concerns(&quota(Some("home"), None), applicant));
        assert!(concerns(&quota(None, Some("www")), applicant));
        assert!(concerns(&quota(None, Some(&key.to_string())), applicant));
        assert!(!concerns(&quota(Some("home"), Some("www")), applicant));
        assert!(!concerns(&quota(None, Some("mail")), applicant));
        let quotas = [quota(None, Some("www")), Quota { bytes: 9, ..quota(Some("office"), None) }];
        assert_eq!((of_repository(&quotas, "office"), of_repository(&quotas, "home")), (Some(9), None));
    }
}
