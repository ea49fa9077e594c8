//! Protobuf one field at a time, without a schema.
//!
//! In: the bytes of a message. Out: its first field, borrowed, and what follows it. Nothing of the
//! field's own content is read, and nothing is allocated.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>. Groups, which ONNX does not have,
//! are refused.

/// Largest number of a field.
const MAX_NUMBER: u32 = (1 << 29) - 1;

/// Codes of how a value is stored.
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const LENGTH_AND_BYTES: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number in the schema.
    pub number: u32,
    /// Key and value as they are in the file.
    pub bytes: &'a [u8],
    /// Its value.
    pub value: Value<'a>,
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number, a truth value or a code.
    Integer(u64),
    /// A message, a string or bytes.
    Bytes(&'a [u8]),
    /// A number of four or eight bytes.
    Fixed,
}

/// The first field of a message, and the rest; `None` if there is no whole one.
pub fn split_field(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (key, after) = varint(bytes)?;
    let number = u32::try_from(key >> 3).ok().filter(|n| (1..=MAX_NUMBER).contains(n))?;
    let (value, rest) = match key & 7 {
        VARINT => {
            let (integer, rest) = varint(after)?;
            (Value::Integer(integer), rest)
        }
        LENGTH_AND_BYTES => {
            let (length, after) = varint(after)?;
            let (value, rest) = after.split_at_checked(usize::try_from(length).ok()?)?;
            (Value::Bytes(value), rest)
        }
        EIGHT_BYTES => (Value::Fixed, after.get(8..)?),
        FOUR_BYTES => (Value::Fixed, after.get(4..)?),
        _ => return None,
    };
    let bytes = &bytes[..bytes.len() - rest.len()];
    Some((Field { number, bytes, value }, rest))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (place, byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        // Of the tenth byte, one bit is left.
        if place == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[place + 1..]));
        }
    }
    None
}
