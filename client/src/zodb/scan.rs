//! One pass over a storage's bytes: transactions counted, blobs found, every length checked against what is around it.
//!
//! Bytes are pushed in any pieces, of whole committed transactions only. Memory: a header, and what was found.

use super::pickle;
use super::transaction::{RECORD_LEN, Record, TRANSACTION_LEN, Tid, Transaction};
use chunkstore::{Error, Result};

/// Names one revision of a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlobName {
    pub oid: u64,
    pub tid: Tid,
}

/// What was found so far, up to the end of a transaction.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Found {
    pub transactions: u64,
    pub first: Option<Tid>,
    pub last: Option<Last>,
    /// Of blob records, in the order found; some are there twice.
    pub blobs: Vec<BlobName>,
    /// Records without data of their own: it is in the record at this position.
    pub borrowed: Vec<(BlobName, u64)>,
}

/// The last transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Last {
    pub tid: Tid,
    /// Where it begins.
    pub position: u64,
    /// Its header.
    pub head: [u8; TRANSACTION_LEN],
}

pub struct Scan {
    name: String,
    /// Of the next byte.
    at: u64,
    /// What is being collected, up to `wanted` bytes.
    head: Vec<u8>,
    wanted: usize,
    /// To be passed over before that.
    skip: u64,
    part: Part,
    begin: u64,
    transaction: Transaction,
    transaction_head: [u8; TRANSACTION_LEN],
    pub found: Found,
}

/// What is being collected.
#[derive(Clone, Copy)]
enum Part {
    Transaction,
    Record,
    Data(Record),
    Trailer,
}

impl Scan {
    /// `at` is where a transaction begins; `found` what is before it. `name` is for messages.
    pub fn new(name: String, at: u64, found: Found) -> Scan {
        let transaction = Transaction { tid: Tid(0), len: 0, status: b' ', head_len: 0 };
        Scan {
            name,
            at,
            head: Vec::with_capacity(pickle::HEAD_LEN),
            wanted: TRANSACTION_LEN,
            skip: 0,
            part: Part::Transaction,
            begin: at,
            transaction,
            transaction_head: [0; TRANSACTION_LEN],
            found,
        }
    }

    /// The bytes that follow those pushed before.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        loop {
            if self.skip > 0 {
                let len = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                bytes = bytes.get(len..).unwrap_or_default();
                self.skip -= len as u64;
                self.at += len as u64;
            }
            let (taken, rest) = bytes.split_at_checked(self.wanted - self.head.len()).unwrap_or((bytes, &[]));
            if self.skip > 0 || taken.is_empty() && self.wanted > 0 {
                return Ok(());
            }
            self.head.extend_from_slice(taken);
            self.at += taken.len() as u64;
            bytes = rest;
            if self.head.len() < self.wanted {
                return Ok(());
            }
            self.take_part()?;
            self.head.clear();
        }
    }

    fn take_part(&mut self) -> Result<()> {
        match self.part {
            Part::Transaction => self.transaction(),
            Part::Record => self.record(),
            Part::Data(record) => {
                self.data(&record);
                self.next_record();
                Ok(())
            }
            Part::Trailer => self.trailer(),
        }
    }

    fn transaction(&mut self) -> Result<()> {
        self.begin = self.at - TRANSACTION_LEN as u64;
        let Some(head) = self.head.first_chunk() else { return Err(self.damaged("its header is not whole")) };
        self.transaction = Transaction::decode(head);
        self.transaction_head = *head;
        if !self.transaction.is_sound() {
            return Err(self.damaged("its header makes no sense"));
        }
        if self.transaction.status == b'u' {
            self.skip = self.transaction.len - TRANSACTION_LEN as u64;
            self.collect(Part::Trailer, 8);
        } else {
            self.skip = self.transaction.head_len - TRANSACTION_LEN as u64;
            self.next_record();
        }
        Ok(())
    }

    fn collect(&mut self, part: Part, wanted: usize) {
        self.part = part;
        self.wanted = wanted;
    }

    /// Where the transaction's records end.
    fn end(&self) -> u64 {
        self.begin.saturating_add(self.transaction.len)
    }

    fn next_record(&mut self) {
        match self.at + self.skip < self.end() {
            true => self.collect(Part::Record, RECORD_LEN),
            false => self.collect(Part::Trailer, 8),
        }
    }

    fn record(&mut self) -> Result<()> {
        let Some(head) = self.head.first_chunk() else { return Err(self.damaged("a record is not whole")) };
        let record = Record::decode(head);
        let end = self.at.checked_add(record.body_len());
        if end.is_none_or(|end| end > self.end()) {
            return Err(self.damaged("a record goes beyond its end"));
        }
        if record.transaction != self.begin || record.version_len != 0 {
            return Err(self.damaged("a record in it belongs to another one"));
        }
        let wanted = usize::try_from(record.body_len()).unwrap_or(usize::MAX).min(pickle::HEAD_LEN);
        self.collect(Part::Data(record), wanted);
        Ok(())
    }

    fn data(&mut self, record: &Record) {
        let name = BlobName { oid: record.oid, tid: record.tid };
        if record.data_len > 0 {
            self.skip = record.data_len - self.wanted as u64;
            if pickle::is_blob(&self.head) {
                self.found.blobs.push(name);
            }
        } else {
            let position = self.head.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            if position != 0 {
                self.found.borrowed.push((name, position));
            }
        }
    }

    fn trailer(&mut self) -> Result<()> {
        let repeated = self.head.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        if repeated != self.transaction.len || self.at != self.end().saturating_add(8) {
            return Err(self.damaged("its length is not the one that is repeated at its end"));
        }
        let tid = self.transaction.tid;
        self.found.transactions += 1;
        self.found.first.get_or_insert(tid);
        self.found.last = Some(Last { tid, position: self.begin, head: self.transaction_head });
        self.collect(Part::Transaction, TRANSACTION_LEN);
        Ok(())
    }

    fn damaged(&self, reason: &str) -> Error {
        Error::corrupt(format!("{}: the transaction at {}", self.name, self.begin), reason)
    }
}
