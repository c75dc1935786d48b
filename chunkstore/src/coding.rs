//! Bounded reading and writing of every durable format: `docs/format.md`, section 2.
//!
//! A `Decoder` never reads past its slice, never allocates more than the slice holds, and must be consumed exactly.
//! Every failure names the object it was made for.

use crate::error::{Error, Result};

/// Appends values to a buffer.
#[derive(Default)]
pub struct Encoder {
    pub bytes: Vec<u8>,
}

impl Encoder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn varint(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push((value & 0x7f) as u8);
        self
    }

    pub fn zigzag(&mut self, value: i64) -> &mut Self {
        self.varint(((value << 1) ^ (value >> 63)).cast_unsigned())
    }

    /// Varint length, then the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.varint(bytes.len() as u64).raw(bytes)
    }
}

/// Takes values from the front of a slice.
pub struct Decoder<'a> {
    rest: &'a [u8],
    object: &'a str,
}

impl<'a> Decoder<'a> {
    /// `object` names what is read, for errors.
    pub fn new(bytes: &'a [u8], object: &'a str) -> Self {
        Decoder { rest: bytes, object }
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn corrupt(&self, reason: impl Into<String>) -> Error {
        Error::corrupt(self.object, reason)
    }

    pub fn raw(&mut self, len: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(len) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(self.corrupt(format!("{len} bytes wanted, {} left", self.rest.len()))),
        }
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(self.corrupt("a number exceeds 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(self.corrupt("a number is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(self.corrupt("a number exceeds ten bytes"))
    }

    pub fn zigzag(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// A varint that fits `T`.
    pub fn number<T: TryFrom<u64>>(&mut self, what: &str) -> Result<T> {
        let value = self.varint()?;
        T::try_from(value).map_err(|_| self.corrupt(format!("{what} {value} is too large")))
    }

    /// A count of things of at least `each` bytes, at most `limit`: safe to allocate for.
    pub fn count(&mut self, limit: usize, each: usize, what: &str) -> Result<usize> {
        let count: usize = self.number(what)?;
        self.check_count(count, limit, each, what)
    }

    /// As [`Decoder::count`], for a count that was read otherwise.
    pub fn check_count(&self, count: usize, limit: usize, each: usize, what: &str) -> Result<usize> {
        if count > limit || count.saturating_mul(each) > self.rest.len() {
            return Err(self.corrupt(format!("{count} {what} announced")));
        }
        Ok(count)
    }

    /// Length-prefixed bytes of at most `limit`.
    pub fn bytes(&mut self, limit: usize, what: &str) -> Result<&'a [u8]> {
        let len: usize = self.number(what)?;
        if len > limit {
            return Err(self.corrupt(format!("{what} of {len} bytes exceeds {limit}")));
        }
        self.raw(len)
    }

    pub fn magic(&mut self, magic: &[u8]) -> Result<()> {
        if self.raw(magic.len())? == magic { Ok(()) } else { Err(self.corrupt("it does not begin as it should")) }
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.corrupt(format!("{} bytes too many", self.rest.len()))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_round_trip(a: u64, b: i64, c in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut e = Encoder::new();
            e.varint(a).zigzag(b).bytes(&c).u32(7).i64(b);
            let mut d = Decoder::new(&e.bytes, "test");
            prop_assert_eq!(d.varint().unwrap(), a);
            prop_assert_eq!(d.zigzag().unwrap(), b);
            prop_assert_eq!(d.bytes(300, "c").unwrap(), &c[..]);
            prop_assert_eq!(d.u32().unwrap(), 7);
            prop_assert_eq!(d.i64().unwrap(), b);
            d.finish().unwrap();
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut d = Decoder::new(&bytes, "test");
            while d.remaining() > 0 {
                if d.varint().is_err() || d.bytes(10, "x").is_err() { break }
            }
        }
    }

    #[test]
    fn only_the_shortest_form_is_accepted() {
        assert!(Decoder::new(&[0x80, 0x00], "t").varint().is_err());
        assert!(Decoder::new(&[0xff; 10], "t").varint().is_err());
        assert_eq!(
            Decoder::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "t").varint().unwrap(),
            u64::MAX
        );
        assert!(Decoder::new(&[1, 2], "t").finish().is_err());
    }
}
