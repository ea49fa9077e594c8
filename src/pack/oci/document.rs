//! The documents of an OCI image layout: descriptor, manifest, index, layout file.
//!
//! In: values, or bytes that are not trusted. Out: compact JSON, fields in the order of the structs
//! and annotations sorted by key, so that equal values are equal bytes; and back, with unknown
//! fields passed over, as the specification asks. Digests are parsed with the document: what names
//! a blob is always 64 hexadecimal digits.
//!
//! Source: <https://github.com/opencontainers/image-spec/tree/v1.1.1>, `descriptor.md`,
//! `manifest.md`, `image-index.md` and `image-layout.md`.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::{Deserialize, Serialize};
use t2lc_runtime::digest::Digest;

/// File that says that a directory is a layout, and of which version.
pub(super) const LAYOUT_FILE: &str = "oci-layout";
/// File that lists the manifests.
pub(super) const INDEX_FILE: &str = "index.json";
/// Directory of the blobs whose digests are sha256.
pub(super) const BLOBS: &str = "blobs/sha256";
/// The only version of layouts there is.
pub(super) const LAYOUT_VERSION: &str = "1.0.0";
/// The only schema version of manifests and indexes.
pub(super) const SCHEMA_VERSION: u32 = 2;

/// Media type of an index.
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a manifest.
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of a config that says nothing; its bytes are [`EMPTY`].
pub(super) const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The bytes of a config that says nothing.
pub(super) const EMPTY: &[u8] = b"{}";

/// Annotation of a layer: the path at which clients put the file.
pub(super) const TITLE: &str = "org.opencontainers.image.title";
/// Annotation of a manifest in an index: its tag.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What a blob is and how it is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    /// In bytes.
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The descriptor of a blob.
    pub(super) fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.into(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Adds an annotation.
    pub(super) fn annotated(mut self, key: &str, value: impl Display) -> Self {
        self.annotations.insert(key.into(), value.to_string());
        self
    }

    /// Where clients put the file.
    pub(super) fn title(&self) -> Option<&str> {
        self.annotations.get(TITLE).map(String::as_str)
    }

    /// Where the blob lies in a layout.
    pub(super) fn place(&self) -> String {
        format!("{BLOBS}/{}", self.digest.to_hex())
    }
}

/// A config and layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<String>,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// The manifest of an artifact.
    pub(super) fn new(artifact_type: &str, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            media_type: Some(MANIFEST_TYPE.into()),
            artifact_type: Some(artifact_type.into()),
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Adds an annotation.
    pub(super) fn annotated(mut self, key: &str, value: impl Display) -> Self {
        self.annotations.insert(key.into(), value.to_string());
        self
    }
}

/// The manifests of a layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    pub(super) manifests: Vec<Descriptor>,
}

impl Index {
    /// The index of these manifests.
    pub(super) fn new(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: SCHEMA_VERSION, media_type: Some(INDEX_TYPE.into()), manifests }
    }
}

/// What `oci-layout` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayoutFile {
    pub(super) image_layout_version: String,
}

/// A document as compact JSON.
pub(super) fn to_json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("strings, numbers, lists and maps by string are JSON")
}

#[cfg(test)]
mod tests {
    use super::{Descriptor, EMPTY, EMPTY_TYPE, Manifest, TITLE, to_json};

    /// The digest that image-spec gives for the bytes of an empty config.
    const EMPTY_DIGEST: &str =
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    #[test]
    fn a_manifest_is_these_bytes() {
        let config = Descriptor::of(EMPTY_TYPE, EMPTY);
        assert_eq!(config.digest.to_string(), EMPTY_DIGEST);
        let layer = Descriptor::of("text/plain", b"{}").annotated("z", 1).annotated(TITLE, "a/b");
        let manifest = Manifest::new("a/b", config, vec![layer]);
        let expected = format!(
            "{{\"schemaVersion\":2,\
             \"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\
             \"artifactType\":\"a/b\",\
             \"config\":{{\"mediaType\":\"application/vnd.oci.empty.v1+json\",\
             \"digest\":\"{EMPTY_DIGEST}\",\"size\":2}},\
             \"layers\":[{{\"mediaType\":\"text/plain\",\"digest\":\"{EMPTY_DIGEST}\",\"size\":2,\
             \"annotations\":{{\"org.opencontainers.image.title\":\"a/b\",\"z\":\"1\"}}}}]}}"
        );
        let bytes = to_json(&manifest);
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(serde_json::from_slice::<Manifest>(&bytes).unwrap(), manifest);
    }

    #[test]
    fn a_digest_is_never_a_path() {
        let text = format!(
            r#"{{"mediaType":"a/b","digest":"{EMPTY_DIGEST}","size":2,"urls":[],"future":1}}"#
        );
        let descriptor: Descriptor = serde_json::from_str(&text).unwrap();
        assert_eq!(descriptor.place(), format!("blobs/sha256/{}", &EMPTY_DIGEST[7..]));
        for hostile in ["sha256:../../etc/passwd", "../x", "sha256:44136F", "sha512:00", ""] {
            let text = text.replace(EMPTY_DIGEST, hostile);
            let error = serde_json::from_str::<Descriptor>(&text).unwrap_err();
            assert!(error.to_string().contains("expected `sha256:`"), "{error}");
        }
    }
}
