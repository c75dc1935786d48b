//! The records of a FileStorage (`Data.fs`): headers from bytes, transaction ids and their times.
//!
//! All integers are big-endian. Decoding judges a header by itself; what is around it is for the scan.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::fmt;

/// What a storage begins with: the first was written under Python 2, the second under Python 3.
pub const MAGICS: [&[u8; 4]; 2] = [b"FS21", b"FS30"];
/// Where the first transaction is.
pub const FIRST: u64 = 4;
pub const TRANSACTION_LEN: usize = 23;
pub const RECORD_LEN: usize = 42;
/// The length that is repeated after a transaction.
pub const TRAILER_LEN: u64 = 8;

/// Names a transaction, and tells when it was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tid(pub u64);

impl Tid {
    /// Sixteen hex digits, with or without `0x`.
    pub fn parse(text: &str) -> Option<Tid> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let is_whole = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_whole.then(|| u64::from_str_radix(digits, 16).ok().map(Tid))?
    }

    /// The largest that a transaction of this moment can have.
    pub fn at(time: Timestamp) -> Tid {
        let civil = time.to_zoned(TimeZone::UTC).datetime();
        let years = u64::try_from(i64::from(civil.year()) - 1900).unwrap_or(0);
        let part = |part: i8| u64::try_from(part).unwrap_or(0);
        let months = years * 12 + part(civil.month()) - 1;
        let days = months * 31 + part(civil.day()) - 1;
        let minutes = (days * 24 + part(civil.hour())) * 60 + part(civil.minute());
        let nanoseconds = part(civil.second()) * 1_000_000_000 + u64::try_from(civil.subsec_nanosecond()).unwrap_or(0);
        // A minute has 2^32 parts.
        let fraction = (u128::from(nanoseconds) << 32) / 60_000_000_000;
        Tid(minutes << 32 | u64::try_from(fraction).unwrap_or(u64::from(u32::MAX)))
    }

    /// When it was made; none if it is not made of a time.
    pub fn time(self) -> Option<Timestamp> {
        let minutes = self.0 >> 32;
        let (hours, minute) = (minutes / 60, minutes % 60);
        let (days, hour) = (hours / 24, hours % 24);
        let (months, day) = (days / 31, days % 31 + 1);
        let (years, month) = (months / 12, months % 12 + 1);
        let nanoseconds = (u128::from(self.0 & u64::from(u32::MAX)) * 60_000_000_000) >> 32;
        let (second, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
        let civil = DateTime::new(
            i16::try_from(years + 1900).ok()?,
            i8::try_from(month).ok()?,
            i8::try_from(day).ok()?,
            i8::try_from(hour).ok()?,
            i8::try_from(minute).ok()?,
            i8::try_from(second).ok()?,
            i32::try_from(rest).ok()?,
        );
        TimeZone::UTC.to_timestamp(civil.ok()?).ok()
    }

    /// For people: RFC 3339, to the millisecond.
    pub fn shown_time(self) -> String {
        let shown = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
        self.time().map_or_else(|| "an unknown time".into(), shown)
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a transaction begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transaction {
    pub tid: Tid,
    /// All of it but the repeated length at its end.
    pub len: u64,
    /// ` ` committed, `p` packed, `u` undone by an old program, `c` not committed yet.
    pub status: u8,
    /// The header with user, description and extension.
    pub head_len: u64,
}

impl Transaction {
    pub fn decode(bytes: &[u8; TRANSACTION_LEN]) -> Transaction {
        let (numbers, rest) = bytes.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
        let (tid, len) = halves(numbers);
        let (status, lens) = rest.split_first().map_or((0, &[][..]), |(status, lens)| (*status, lens));
        let lens = lens.as_chunks::<2>().0.iter().map(|len| u64::from(u16::from_be_bytes(*len)));
        Transaction { tid: Tid(tid), len, status, head_len: TRANSACTION_LEN as u64 + lens.sum::<u64>() }
    }

    /// Committed, and long enough for itself.
    pub fn is_sound(&self) -> bool {
        matches!(self.status, b' ' | b'p' | b'u') && self.len >= self.head_len
    }
}

/// What a data record begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub oid: u64,
    pub tid: Tid,
    /// Where the transaction begins.
    pub transaction: u64,
    /// Always 0: versions are long gone.
    pub version_len: u16,
    /// 0: the position of another record follows, which has the data; 0 there too: the object is gone.
    pub data_len: u64,
}

impl Record {
    pub fn decode(bytes: &[u8; RECORD_LEN]) -> Record {
        let number = |at: usize| {
            let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>());
            u64::from_be_bytes(bytes.copied().unwrap_or_default())
        };
        let version_len = bytes.get(32..).and_then(|rest| rest.first_chunk::<2>()).copied().unwrap_or_default();
        Record {
            oid: number(0),
            tid: Tid(number(8)),
            transaction: number(24),
            version_len: u16::from_be_bytes(version_len),
            data_len: number(34),
        }
    }

    /// How long what follows it is.
    pub fn body_len(&self) -> u64 {
        if self.data_len == 0 { 8 } else { self.data_len }
    }
}

fn halves(bytes: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_be_bytes(*bytes);
    let low = u64::try_from(both & u128::from(u64::MAX)).unwrap_or(0);
    (u64::try_from(both >> 64).unwrap_or(0), low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_headers() {
        let mut bytes = [0; TRANSACTION_LEN];
        bytes[..8].copy_from_slice(&7u64.to_be_bytes());
        bytes[8..16].copy_from_slice(&300u64.to_be_bytes());
        bytes[16] = b' ';
        bytes[17..].copy_from_slice(&[0, 1, 1, 0, 0, 2]);
        let header = Transaction::decode(&bytes);
        assert_eq!(header, Transaction { tid: Tid(7), len: 300, status: b' ', head_len: 23 + 1 + 256 + 2 });
        assert!(header.is_sound());
        assert!(!Transaction { status: b'c', ..header }.is_sound());
        assert!(!Transaction { len: 281, ..header }.is_sound());
        let mut bytes = [0; RECORD_LEN];
        for (at, value) in [(0, 1u64), (8, 2), (16, 3), (24, 4), (34, 5)] {
            bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        let record = Record { oid: 1, tid: Tid(2), transaction: 4, version_len: 0, data_len: 5 };
        assert_eq!((Record::decode(&bytes), record.body_len()), (record, 5));
        assert_eq!(Record { data_len: 0, ..record }.body_len(), 8);
    }

    #[test]
    fn tids_are_times() {
        // As TimeStamp(2026, 11, 21, 10, 20, 30.5).raw().hex() has it.
        let tid = Tid(0x040d_29ac_8222_2222);
        let time: Timestamp = "2026-11-21T10:20:30.5Z".parse().unwrap();
        assert_eq!(Tid::at(time), tid);
        assert_eq!(tid.shown_time(), "2026-11-21T10:20:30.499Z");
        // The 31st of February 1900.
        assert_eq!(Tid((31 + 30) * 1440 << 32).time(), None);
        assert_eq!(Tid::parse("040d29ac82222222"), Some(tid));
        assert_eq!(Tid::parse("0x040D29AC82222222"), Some(tid));
        for wrong in ["", "0x", "40d29ac82222222", "040d29ac822222222", "040d29ac8222222g", "+40d29ac82222222"] {
            assert_eq!(Tid::parse(wrong), None, "{wrong}");
        }
        assert_eq!(tid.to_string(), "040d29ac82222222");
    }

    proptest! {
        #[test]
        fn a_time_and_its_tid_agree(seconds in 0i64..4_000_000_000, nanoseconds in 0i32..1_000_000_000) {
            let time = Timestamp::new(seconds, nanoseconds).unwrap();
            let back = Tid::at(time).time().unwrap();
            let off = time.as_nanosecond() - back.as_nanosecond();
            prop_assert!((0..15).contains(&off), "{} {}", time, back);
        }
    }
}
