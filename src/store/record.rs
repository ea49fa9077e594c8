//! What a recipe gave: a small text file of two lines, the digest of the second line and JSON.
//!
//! In: a record and the recipe it belongs to. Out: text, and back from text a record only if no
//! byte of it has changed and it lies under the recipe that it names. What another version wrote in
//! another form is told from what is damaged.

use serde::{Deserialize, Serialize};
use t2lc_runtime::compile::Adapter;
use t2lc_runtime::digest::Digest;

/// The only schema this version reads and writes.
const SCHEMA: u32 = 1;
/// Every byte of an adapter file depends on the version, which is written into it.
pub(crate) const T2LC: &str = env!("CARGO_PKG_VERSION");

/// A training task near a description.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearTask {
    /// The task's id.
    pub task: String,
    /// Cosine similarity, rounded to four decimals.
    pub cosine: f64,
}

/// What a recipe gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub(super) schema: u32,
    pub(super) recipe: Digest,
    /// Version that compiled it.
    pub t2lc: String,
    /// Digest of the bytes.
    pub content: Digest,
    /// Their number.
    pub size_bytes: u64,
    /// The nearest training tasks, nearest first.
    pub nearest: Vec<NearTask>,
    /// Whether the description is like those of training.
    pub familiar: bool,
    /// Whether the description was cut to the encoder's limit.
    pub truncated: bool,
}

/// Bytes that no version wrote as the record of their recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damage;

impl Record {
    /// The record of an adapter that this version has compiled.
    pub fn of(adapter: &Adapter) -> Self {
        let near = |n: &t2lc_runtime::nearest::Neighbor| NearTask {
            task: n.task.clone(),
            cosine: (f64::from(n.cosine) * 1e4).round() / 1e4,
        };
        Self {
            schema: SCHEMA,
            recipe: adapter.recipe,
            t2lc: T2LC.into(),
            content: adapter.content,
            size_bytes: adapter.size_bytes() as u64,
            nearest: adapter.nearest.iter().map(near).collect(),
            familiar: adapter.familiar,
            truncated: adapter.truncated,
        }
    }

    /// Whether this version of the program compiled it.
    pub(super) fn is_current(&self) -> bool {
        self.t2lc == T2LC
    }

    pub(super) fn to_text(&self, recipe: &Digest) -> String {
        let json = serde_json::json!({
            "schema": SCHEMA, "recipe": recipe, "t2lc": self.t2lc, "content": self.content,
            "size_bytes": self.size_bytes, "nearest": self.nearest, "familiar": self.familiar,
            "truncated": self.truncated,
        })
        .to_string();
        format!("{}\n{json}\n", Digest::of(json.as_bytes()))
    }

    /// The record in a file; `None` if it is whole, but not in the form of this version.
    pub(super) fn from_bytes(bytes: &[u8], recipe: &Digest) -> Result<Option<Self>, Damage> {
        let json = intact(bytes).ok_or(Damage)?;
        match serde_json::from_str::<Self>(json) {
            Ok(record) if record.recipe != *recipe => Err(Damage),
            Ok(record) => Ok((record.schema == SCHEMA).then_some(record)),
            // Fields may have come or gone.
            Err(_) => Ok(None),
        }
    }

    #[cfg(test)]
    pub(crate) fn sample(recipe: Digest, bytes: &[u8]) -> Self {
        Self {
            schema: SCHEMA,
            recipe,
            t2lc: T2LC.into(),
            content: Digest::of(bytes),
            size_bytes: bytes.len() as u64,
            nearest: vec![NearTask { task: "a".into(), cosine: 0.8125 }],
            familiar: true,
            truncated: false,
        }
    }
}

/// The second line of a file, if the first is its digest.
fn intact(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    let (digest, json) = text.split_once('\n')?;
    let digest: Digest = digest.parse().ok()?;
    (digest == Digest::of(json.as_bytes())).then_some(json)
}

#[cfg(test)]
pub(super) mod tests {
    use t2lc_runtime::digest::Digest;

    use super::{Damage, Record};

    /// What a later version may write.
    pub(in crate::store) fn of_later_version(recipe: &Digest) -> Vec<u8> {
        let json = serde_json::json!({"schema": 2, "recipe": recipe, "colour": "green"});
        let json = json.to_string();
        format!("{}\n{json}\n", Digest::of(json.as_bytes())).into_bytes()
    }

    #[test]
    fn the_form_of_another_version_is_no_damage() {
        let recipe = Digest::of(b"recipe");
        assert_eq!(Record::from_bytes(&of_later_version(&recipe), &recipe), Ok(None));
        let record = Record { schema: 2, ..Record::sample(recipe, b"bytes") };
        let json = serde_json::to_string(&record).unwrap();
        let text = format!("{}\n{json}\n", Digest::of(json.as_bytes()));
        assert_eq!(Record::from_bytes(text.as_bytes(), &recipe), Ok(None));
    }

    #[test]
    fn no_byte_of_a_record_can_change() {
        let recipe = Digest::of(b"recipe");
        let record = Record::sample(recipe, b"bytes");
        let text = record.to_text(&recipe);
        assert_eq!(Record::from_bytes(text.as_bytes(), &recipe), Ok(Some(record)));
        for index in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[index] ^= 1;
            assert_eq!(Record::from_bytes(&bytes, &recipe), Err(Damage), "byte {index}");
            assert_eq!(Record::from_bytes(&bytes[..index], &recipe), Err(Damage), "{index} bytes");
        }
        assert_eq!(Record::from_bytes(text.as_bytes(), &Digest::of(b"other")), Err(Damage));
    }
}
