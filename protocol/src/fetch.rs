//! The reading end of a fetch (`docs/protocol.md`, section 6), without I/O: which record is which, and what is still to come.

use crate::error::{Error, Result};
use crate::message::Message;
use chunkstore::id::{BlobId, RepositoryId};
use chunkstore::record::Record;
use std::collections::HashMap;

/// The answers to one `Read`, as they come.
pub struct Fetch {
    repository: RepositoryId,
    /// Positions that wait for a blob.
    wanted: HashMap<BlobId, Vec<usize>>,
    waiting: usize,
    answers: Vec<Option<chunkstore::Result<Record>>>,
}

impl Fetch {
    pub fn new(repository: RepositoryId, ids: &[BlobId]) -> Fetch {
        let mut wanted: HashMap<BlobId, Vec<usize>> = HashMap::new();
        for (position, id) in ids.iter().enumerate() {
            wanted.entry(*id).or_default().push(position);
        }
        let answers = ids.iter().map(|_| None).collect();
        Fetch { repository, waiting: ids.len(), wanted, answers }
    }

    /// Whether everything was answered.
    pub fn is_complete(&self) -> bool {
        self.waiting == 0
    }

    pub fn received(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Record(bytes) => {
                let record = Record::parse(bytes, &self.repository);
                let record = record.map_err(|error| Error::violation(error.to_string()))?;
                let id = record.id;
                self.answer(id, Ok(record))
            }
            Message::Lost { id, refusal } => self.answer(id, Err(refusal.into_error())),
            Message::Refused(refusal) => Err(Error::Refused(refusal)),
            other => Err(Error::violation(format!("{} as the answer to a fetch", other.name()))),
        }
    }

    /// In the order of the ids.
    pub fn finish(self) -> Result<Vec<chunkstore::Result<Record>>> {
        let answers: Option<Vec<_>> = self.answers.into_iter().collect();
        answers.ok_or_else(|| Error::violation("an answer to a fetch ended early"))
    }

    fn answer(&mut self, id: BlobId, answer: chunkstore::Result<Record>) -> Result<()> {
        let unasked = || Error::violation(format!("blob {id} came unasked"));
        let positions = self.wanted.get_mut(&id).ok_or_else(unasked)?;
        let position = positions.pop().ok_or_else(unasked)?;
        let slot = self.answers.get_mut(position).ok_or_else(unasked)?;
        *slot = Some(answer);
        self.waiting -= 1;
        Ok(())
    }
}
