//! Digests: sha256 of contents, and of the recipe that a compile starts from.
//!
//! In: bytes, or named fields. Out: a [`Digest`], written `sha256:` and 64 lower-case hexadecimal
//! digits wherever people or files carry it. There is one spelling per digest, so that equal
//! digests are equal text.
//!
//! A recipe's encoding cannot be confused with that of another recipe or of anything else: it
//! starts with its own domain, fields are sorted, and every key and value carries its length.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// What the text of a digest starts with.
const PREFIX: &str = "sha256:";
/// Domain of [`recipe_digest`]; the number changes with the encoding.
const RECIPE_DOMAIN: &[u8] = b"t2lc/recipe/1\0";
/// Bytes that [`Hasher::update_from`] reads at once.
const CHUNK_BYTES: usize = 1 << 16;

/// A sha256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The 32 bytes of the digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest as 64 lower-case hexadecimal digits, without `sha256:`.
    pub fn to_hex(&self) -> String {
        self.to_string().split_off(PREFIX.len())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix(PREFIX)
            .and_then(|hex| parse_hex(hex.as_bytes()))
            .map(Self)
            .ok_or_else(|| DigestError { got: text.to_owned() })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Text that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("digest is `{got}`, expected `sha256:` and 64 lower-case hexadecimal digits")]
pub struct DigestError {
    got: String,
}

fn parse_hex(hex: &[u8]) -> Option<[u8; 32]> {
    let (pairs, []) = hex.as_chunks::<2>() else {
        return None;
    };
    let mut bytes = [0; 32];
    if pairs.len() != bytes.len() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (hex_digit(*high)? << 4) | hex_digit(*low)?;
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Digests what arrives in pieces.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes; only their concatenation matters, not where they were split.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds the length of `bytes` as a little-endian `u64`, then `bytes`.
    pub fn update_prefixed(&mut self, bytes: &[u8]) {
        self.update(&(bytes.len() as u64).to_le_bytes());
        self.update(bytes);
    }

    /// Adds what `source` has to its end, holding little of it at once.
    ///
    /// # Errors
    /// What reading says, but for interruptions, after which it goes on.
    pub fn update_from(&mut self, mut source: impl Read) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match source.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => self.update(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// The digest of a recipe, given as fields of a name and a value in any order.
///
/// sha256 over `t2lc/recipe/1` and a NUL byte, then the fields sorted by name (fields of one name
/// by value), each as name and value with their lengths before them as little-endian `u64`.
pub fn recipe_digest(pairs: &[(&str, &[u8])]) -> Digest {
    let mut sorted = pairs.to_vec();
    sorted.sort_unstable();
    let mut hasher = Hasher::new();
    hasher.update(RECIPE_DOMAIN);
    for (key, value) in sorted {
        hasher.update_prefixed(key.as_bytes());
        hasher.update_prefixed(value);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::{CHUNK_BYTES, Digest, Hasher, recipe_digest};

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn text_and_digest_are_the_same_thing() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), ABC);
        assert_eq!(format!("{digest:?}"), ABC);
        assert_eq!(digest.to_hex(), ABC[7..]);
        assert_eq!(ABC.parse(), Ok(digest));
        assert_eq!(digest.as_bytes()[0], 0xba);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{ABC}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn other_spellings_are_refused() {
        let upper = ABC.to_uppercase().replace("SHA256", "sha256");
        let sloppy = ["", "sha256:", &ABC[7..], &ABC[..70], &format!("{ABC}0"), &upper];
        for text in sloppy.iter().copied().chain([&*ABC.replace("ba78", "gg78"), "sha256:é"]) {
            let error = text.parse::<Digest>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("digest is `{text}`, expected")));
        }
        assert!(serde_json::from_str::<Digest>("7").is_err());
    }

    #[test]
    fn pieces_do_not_matter() {
        let mut hasher = Hasher::new();
        hasher.update(b"a");
        hasher.update(b"");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), Digest::of(b"abc"));

        let long: Vec<u8> = (0..=255).cycle().take(3 * CHUNK_BYTES + 1).collect();
        let mut hasher = Hasher::new();
        hasher.update(&long[..5]);
        hasher.update_from(&long[5..]).unwrap();
        assert_eq!(hasher.finish(), Digest::of(&long));
        assert_eq!(
            Hasher::new().finish().to_hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn recipes_have_these_digests_forever() {
        assert_eq!(
            recipe_digest(&[]).to_hex(),
            "cecbffbb72d91bc204e4caf618d014824cedced59118afc1381ad19a03989666"
        );
        let recipe: [(&str, &[u8]); 2] =
            [("quantization", b"q8_0"), ("description", b"summarize legal text")];
        assert_eq!(
            recipe_digest(&recipe).to_hex(),
            "3b1e982d060e4c9e36727ead20cf2d46a4f40252a5a6dc30c9dfe1783b7d9a0b"
        );
    }

    #[test]
    fn order_is_irrelevant_and_every_byte_has_its_field() {
        let digest = recipe_digest(&[("a", b"xy"), ("b", b"z")]);
        assert_eq!(recipe_digest(&[("b", b"z"), ("a", b"xy")]), digest);
        let others: [&[(&str, &[u8])]; 6] = [
            &[("a", b"x"), ("b", b"yz")],
            &[("ax", b"y"), ("b", b"z")],
            &[("a", b"z"), ("b", b"xy")],
            &[("a", b"xyb"), ("", b"z")],
            &[("a", b"xy"), ("b", b"z"), ("", b"")],
            &[("a", b"xy")],
        ];
        for other in others {
            assert_ne!(recipe_digest(other), digest, "{other:?}");
        }
    }
}
