//! The bytes of a pickle, opcode by opcode: numbers, texts and lines, each inside the pickle.

use super::op;
use crate::import::error::PickleError;

/// Longest line of a global.
const MAX_LINE_BYTES: usize = 256;

/// What is left of the pickle.
pub(super) struct Input<'a> {
    rest: &'a [u8],
    /// Bytes of the whole pickle.
    length: usize,
}

impl<'a> Input<'a> {
    /// The program behind a start of this many bytes.
    pub(super) fn new(program: &'a [u8], start: usize) -> Self {
        Self { rest: program, length: start + program.len() }
    }

    /// Bytes that are left.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn offset(&self) -> usize {
        self.length - self.rest.len()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], PickleError> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            let needed = count - self.rest.len();
            return Err(PickleError::Truncated { offset: self.length, needed });
        };
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The number behind an opcode for integers.
    pub(super) fn integer(&mut self, code: u8) -> Result<i64, PickleError> {
        match code {
            op::BININT => Ok(i64::from(i32::from_le_bytes(self.array()?))),
            op::BININT1 => Ok(i64::from(u8::from_le_bytes(self.array()?))),
            op::BININT2 => Ok(i64::from(u16::from_le_bytes(self.array()?))),
            _ => self.long(),
        }
    }

    /// A length of one byte, then as many bytes in two's complement.
    fn long(&mut self) -> Result<i64, PickleError> {
        let [length] = self.array()?;
        let offset = self.offset();
        let bytes = self.take(usize::from(length))?;
        if bytes.len() > 8 {
            let (what, expected) = ("the length of an integer", "at most 8".to_owned());
            return Err(PickleError::Range { what, offset, expected, got: i64::from(length) });
        }
        let sign = if bytes.last().is_some_and(|byte| byte >> 7 == 1) { 0xFF } else { 0 };
        let mut wide = [sign; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(wide))
    }

    /// An index of the memo, of one byte or four.
    pub(super) fn index(&mut self, long: bool) -> Result<usize, PickleError> {
        if !long {
            return Ok(usize::from(u8::from_le_bytes(self.array()?)));
        }
        // What does not fit a pointer is no index of anything.
        Ok(usize::try_from(u32::from_le_bytes(self.array()?)).unwrap_or(usize::MAX))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, PickleError> {
        let length = u32::from_le_bytes(self.array()?);
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        self.utf8(bytes)
    }

    /// A text up to the next line break, which is skipped.
    pub(super) fn line(&mut self) -> Result<&'a str, PickleError> {
        let window = &self.rest[..self.rest.len().min(MAX_LINE_BYTES)];
        let Some(length) = window.iter().position(|byte| *byte == b'\n') else {
            let (what, offset) = ("bytes in a line", self.offset());
            return match window.len() {
                MAX_LINE_BYTES => Err(PickleError::Limit { what, limit: MAX_LINE_BYTES, offset }),
                _ => Err(PickleError::Truncated { offset: self.length, needed: 1 }),
            };
        };
        let bytes = self.take(length)?;
        self.take(1)?;
        self.utf8(bytes)
    }

    fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str, PickleError> {
        str::from_utf8(bytes).map_err(|_| PickleError::Text { offset: self.offset() })
    }
}
