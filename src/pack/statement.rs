//! Where the adapters of a pack come from, as an unsigned in-toto statement with SLSA provenance.
//!
//! In: a lock, and the digest of every file by its title. Out: JSON that is a function of the two:
//! no times, no host, no run. Whoever signs it (`cosign attest-blob --statement`) vouches for it;
//! as it is, it only says in the form that policy tools read what the lock says. And back: the
//! files that such a statement is about, from bytes that are not trusted.
//!
//! | field | what it holds |
//! |---|---|
//! | `subject` | the files |
//! | `externalParameters` | the backend, and of every adapter what is asked for, and its recipe |
//! | `internalParameters` | the version of the compile pipeline |
//! | `resolvedDependencies` | the bundle |
//!
//! Types that are ours are URIs of a scheme `t2lc`: nobody's domain is claimed. The builder is
//! `t2lc:local`, any machine: equal inputs give equal bytes, and no platform answers for them.
//!
//! Sources: <https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md> and
//! <https://slsa.dev/spec/v1.0/provenance>.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use t2lc_runtime::digest::Digest;

use super::lock::{Lock, LockedAdapter};

/// Media type of a statement.
pub(super) const MEDIA_TYPE: &str = "application/vnd.in-toto+json";
/// Type of the predicate.
pub(super) const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// Type of the statement.
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// What is done with the parameters; the number changes with their meaning.
const BUILD_TYPE: &str = "t2lc:pack-build/1";
/// Who does it.
const BUILDER: &str = "t2lc:local";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: Vec<Resource<'a>>,
    predicate_type: &'static str,
    predicate: Provenance<'a>,
}

/// Something with a name and a digest.
#[derive(Serialize)]
struct Resource<'a> {
    name: &'a str,
    digest: DigestSet,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, &'a str>,
}

/// Hexadecimal digits by algorithm.
#[derive(Serialize)]
struct DigestSet {
    sha256: String,
}

impl From<&Digest> for DigestSet {
    fn from(digest: &Digest) -> Self {
        Self { sha256: digest.to_hex() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Provenance<'a> {
    build_definition: BuildDefinition<'a>,
    run_details: RunDetails<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition<'a> {
    build_type: &'static str,
    external_parameters: ExternalParameters<'a>,
    internal_parameters: InternalParameters<'a>,
    resolved_dependencies: [Resource<'a>; 1],
}

#[derive(Serialize)]
struct ExternalParameters<'a> {
    backend: &'a str,
    adapters: Vec<Request<'a>>,
}

/// What is asked for.
#[derive(Serialize)]
struct Request<'a> {
    name: &'a str,
    output: &'a str,
    description: &'a str,
    format: &'static str,
    quantization: &'static str,
    scale: f32,
    recipe: Digest,
}

impl<'a> Request<'a> {
    fn of(adapter: &'a LockedAdapter) -> Self {
        Self {
            name: &adapter.name,
            output: &adapter.output,
            description: &adapter.description,
            format: adapter.format.name(),
            quantization: adapter.quantization.name(),
            scale: adapter.scale,
            recipe: adapter.recipe,
        }
    }
}

#[derive(Serialize)]
struct InternalParameters<'a> {
    pipeline: &'a str,
}

#[derive(Serialize)]
struct RunDetails<'a> {
    builder: Builder<'a>,
}

#[derive(Serialize)]
struct Builder<'a> {
    id: &'static str,
    version: BTreeMap<&'static str, &'a str>,
}

/// The statement about these files of a lock, as compact JSON.
pub(super) fn statement<'a>(
    lock: &'a Lock,
    files: impl Iterator<Item = (&'a str, &'a Digest)>,
) -> Vec<u8> {
    let file = |(name, digest): (&'a str, &'a Digest)| Resource {
        name,
        digest: DigestSet::from(digest),
        annotations: BTreeMap::new(),
    };
    let bundle = Resource {
        name: &lock.bundle.name,
        digest: DigestSet::from(&lock.bundle.digest),
        annotations: BTreeMap::from([
            ("base", lock.bundle.base.as_str()),
            ("base_fingerprint", lock.bundle.base_fingerprint.as_str()),
        ]),
    };
    let statement = Statement {
        kind: STATEMENT_TYPE,
        subject: files.map(file).collect(),
        predicate_type: PREDICATE_TYPE,
        predicate: Provenance {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE,
                external_parameters: ExternalParameters {
                    backend: &lock.backend,
                    adapters: lock.adapters.iter().map(Request::of).collect(),
                },
                internal_parameters: InternalParameters { pipeline: &lock.pipeline },
                resolved_dependencies: [bundle],
            },
            run_details: RunDetails {
                builder: Builder {
                    id: BUILDER,
                    version: BTreeMap::from([("t2lc", lock.t2lc.as_str())]),
                },
            },
        },
    };
    serde_json::to_vec(&statement).expect("strings, numbers, lists and maps by string are JSON")
}

/// What is read of a statement; the specification has readers pass over the rest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyStatement {
    #[serde(rename = "_type")]
    kind: String,
    #[serde(default)]
    subject: Vec<AnySubject>,
    #[serde(default)]
    predicate: AnyPredicate,
}

#[derive(Deserialize)]
struct AnySubject {
    #[serde(default)]
    name: String,
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyPredicate {
    #[serde(default)]
    build_definition: AnyBuild,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyBuild {
    #[serde(default)]
    build_type: String,
}

/// The files that a statement of [`statement`] is about, by title; `None` for any other statement.
///
/// # Errors
/// Why it is no statement, or which file has no digest or two.
pub(super) fn subjects(bytes: &[u8]) -> Result<Option<BTreeMap<String, Digest>>, String> {
    let parsed = serde_json::from_slice::<AnyStatement>(bytes);
    let found = parsed.map_err(|error| format!("it is no in-toto statement: {error}"))?;
    if found.kind != STATEMENT_TYPE {
        let got = found.kind;
        return Err(format!("it is of type `{got}`, expected `{STATEMENT_TYPE}`"));
    }
    if found.predicate.build_definition.build_type != BUILD_TYPE {
        return Ok(None);
    }
    let mut files = BTreeMap::new();
    for AnySubject { name, digest } in found.subject {
        let hex = digest.get("sha256").map_or("", String::as_str);
        let digest = format!("sha256:{hex}").parse::<Digest>();
        let digest = digest.map_err(|error| format!("subject `{name}`: {error}"))?;
        if files.insert(name.clone(), digest).is_some() {
            return Err(format!("subject `{name}` is there twice"));
        }
    }
    Ok(Some(files))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};
    use t2lc_runtime::digest::Digest;

    use super::{statement, subjects};
    use crate::pack::lock::tests::sample;

    fn of_two() -> (Vec<u8>, [(&'static str, Digest); 2]) {
        let files = [("a.gguf", Digest::of(b"a")), ("b.gguf", Digest::of(b"b"))];
        let lock = sample(&[("a", "say \"hi\""), ("b", "y")]);
        (statement(&lock, files.iter().map(|(title, digest)| (*title, digest))), files)
    }

    #[test]
    fn a_statement_says_what_the_lock_says() {
        let (bytes, files) = of_two();
        assert_eq!(bytes, of_two().0);
        let read: Value = serde_json::from_slice(&bytes).unwrap();
        let hex = |bytes: &[u8]| Digest::of(bytes).to_hex();
        let expected = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [
                {"name": "a.gguf", "digest": {"sha256": hex(b"a")}},
                {"name": "b.gguf", "digest": {"sha256": hex(b"b")}},
            ],
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {
                "buildDefinition": {
                    "buildType": "t2lc:pack-build/1",
                    "externalParameters": {
                        "backend": "exact/1",
                        "adapters": [
                            {
                                "name": "a", "output": "a.gguf", "description": "say \"hi\"",
                                "format": "gguf", "quantization": "q8_0", "scale": 0.1,
                                "recipe": Digest::of(b"say \"hi\""),
                            },
                            {
                                "name": "b", "output": "b.gguf", "description": "y",
                                "format": "gguf", "quantization": "q8_0", "scale": 0.1,
                                "recipe": Digest::of(b"y"),
                            },
                        ],
                    },
                    "internalParameters": {"pipeline": "1"},
                    "resolvedDependencies": [{
                        "name": "b",
                        "digest": {"sha256": hex(b"bundle")},
                        "annotations": {"base": "Base", "base_fingerprint": "sha256:00"},
                    }],
                },
                "runDetails": {"builder": {"id": "t2lc:local", "version": {"t2lc": "0.1.0"}}},
            },
        });
        assert_eq!(read, expected);
        let found = subjects(&bytes).unwrap().unwrap();
        let files = files.map(|(title, digest)| (title.to_owned(), digest));
        assert_eq!(found, BTreeMap::from(files));
    }

    #[test]
    fn statements_of_others_and_damaged_ones() {
        let text = String::from_utf8(of_two().0).unwrap();
        let changed = |from: &str, to: &str| subjects(text.replacen(from, to, 1).as_bytes());
        assert_eq!(changed("t2lc:pack-build/1", "other"), Ok(None));
        assert_eq!(changed("\"predicate\":{", "\"more\":{"), Ok(None));
        let cases = [
            ("Statement/v1", "Statement/v9", "it is of type"),
            ("\"sha256\"", "\"sha512\"", "subject `a.gguf`: digest is `sha256:`"),
            ("b.gguf", "a.gguf", "is there twice"),
            ("{", "[", "it is no in-toto statement"),
        ];
        for (from, to, expected) in cases {
            let error = changed(from, to).unwrap_err();
            assert!(error.contains(expected), "{from}: {error}");
        }
    }
}
