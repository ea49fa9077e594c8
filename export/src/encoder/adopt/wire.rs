//! Protobuf one level deep: a message as the list of its fields.
//!
//! In: the bytes of a message. Out: its fields in order, borrowed, each with its bytes as they are
//! in the file, so that a message is changed field by field and what nobody here knows is copied to
//! the bit. Nothing of a field's own content is read, and nothing but the list is allocated.

use std::borrow::Cow;

use prost::Message;
use t2lc_runtime::onnx::field::split_field;
pub(super) use t2lc_runtime::onnx::field::{Field, Value};

use super::differs;
use crate::error::ExportError;

/// Most fields of one message. The encoders of today have some thousand nodes and tensors.
const MAX_FIELDS: usize = 1 << 20;
/// Code of a value that is stored as its length and its bytes.
const LENGTH_AND_BYTES: u64 = 2;

/// Splits a message.
pub(super) fn fields(message: &[u8]) -> Result<Vec<Field<'_>>, ExportError> {
    let (mut fields, mut rest) = (Vec::new(), message);
    while !rest.is_empty() {
        let at = message.len() - rest.len();
        if fields.len() == MAX_FIELDS {
            return Err(differs("number of fields", format!("at most {MAX_FIELDS}"), "more"));
        }
        let (field, after) = split_field(rest).ok_or(ExportError::Field { at })?;
        fields.push(field);
        rest = after;
    }
    Ok(fields)
}

/// A message that is put together, from fields of another and new ones.
#[derive(Debug, Default)]
pub(super) struct Pieces<'a>(Vec<Cow<'a, [u8]>>);

impl<'a> Pieces<'a> {
    /// Appends a field as it is.
    pub(super) fn keep(&mut self, field: &Field<'a>) {
        self.0.push(Cow::Borrowed(field.bytes));
    }

    /// Appends a field that holds a message.
    pub(super) fn add(&mut self, number: u32, message: &impl Message) {
        let payload = message.encode_to_vec();
        let mut field = head(number, payload.len());
        field.extend(payload);
        self.0.push(Cow::Owned(field));
    }

    /// Appends a field that holds a message.
    pub(super) fn nest(&mut self, number: u32, message: Pieces<'a>) {
        self.0.push(Cow::Owned(head(number, message.size_bytes())));
        self.0.extend(message.0);
    }

    /// Size of the message.
    pub(super) fn size_bytes(&self) -> usize {
        // All of it is in memory or a part of one slice, each at most once: no sum overflows.
        self.0.iter().map(|piece| piece.len()).sum()
    }

    /// The message.
    pub(super) fn concat(&self) -> Vec<u8> {
        self.0.concat()
    }
}

/// Key and length of a field of `size` bytes.
fn head(number: u32, size: usize) -> Vec<u8> {
    let mut head = Vec::new();
    for mut value in [(u64::from(number) << 3) | LENGTH_AND_BYTES, size as u64] {
        while value >= 0x80 {
            head.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        head.push(value.to_le_bytes()[0]);
    }
    head
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use t2lc_runtime::onnx::OperatorSetIdProto;

    use super::{Field, Pieces, Value, fields};
    use crate::error::ExportError;

    #[test]
    fn every_kind_of_value_is_split() {
        let message = [0x08, 0xac, 0x02, 0x12, 2, b'h', b'i', 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4];
        let message = [&message[..], &[5, 6, 7, 8]].concat();
        let split = fields(&message).unwrap();
        let values: Vec<_> = split.iter().map(|field| (field.number, field.value)).collect();
        let expected = [
            (1, Value::Integer(300)),
            (2, Value::Bytes(b"hi")),
            (3, Value::Fixed),
            (4, Value::Fixed),
        ];
        assert_eq!(values, expected);
        let joined: Vec<u8> = split.iter().flat_map(|field| field.bytes).copied().collect();
        assert_eq!(joined, message);
    }

    #[test]
    fn what_is_no_message_is_refused_where_it_goes_wrong() {
        let bad: [(&str, &[u8]); 8] = [
            ("no value", &[0x08]),
            ("half a value", &[0x08, 0x80]),
            ("65 bits", &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
            ("longer than the message", &[0x12, 3, 1, 2]),
            ("2^63 bytes", &[0x12, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]),
            ("3 bytes of 4", &[0x0d, 1, 2, 3]),
            ("field 0", &[0x00, 0]),
            ("a group", &[0x0b, 0x0c]),
        ];
        for (what, tail) in bad {
            let message = [&[0x08, 1][..], tail].concat();
            let refused = fields(&message);
            assert!(matches!(refused, Err(ExportError::Field { at: 2 })), "{what}: {refused:?}");
        }
    }

    #[test]
    fn pieces_are_a_message_again() {
        let set = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
        let bytes = set("com.microsoft", 1).encode_to_vec();
        let [domain, version]: [Field<'_>; 2] = fields(&bytes).unwrap().try_into().unwrap();
        let mut inner = Pieces::default();
        inner.keep(&version);
        inner.keep(&domain);
        let mut outer = Pieces::default();
        outer.nest(8, inner);
        outer.add(500, &set("a", 300));
        let message = outer.concat();
        assert_eq!(message.len(), outer.size_bytes());
        let decoded: Vec<_> = fields(&message)
            .unwrap()
            .into_iter()
            .map(|field| match field.value {
                Value::Bytes(bytes) => (field.number, OperatorSetIdProto::decode(bytes).unwrap()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(decoded, [(8, set("com.microsoft", 1)), (500, set("a", 300))]);
    }
}
