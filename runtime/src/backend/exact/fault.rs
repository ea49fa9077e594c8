//! Why a model is refused or a step of it fails.
//!
//! Internal to the backend: its text becomes the reason of a
//! [`BackendError`](crate::backend::BackendError).

use crate::onnx::Swollen;

/// A reason; [`Fault::At`] says where.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The bytes are not a model.
    #[error("not an ONNX model: {0}")]
    Decode(#[from] prost::DecodeError),
    /// Far more parts than a model has.
    #[error(transparent)]
    Swollen(#[from] Swollen),
    /// Something is not as it must be.
    #[error("{what} is {got}, expected {expected}")]
    Differs {
        /// What it is about.
        what: String,
        /// What would do.
        expected: String,
        /// What there is.
        got: String,
    },
    /// A value that nothing before defines.
    #[error("`{name}` is read, but not defined before")]
    Undefined {
        /// Name of the value.
        name: String,
    },
    /// A name that is empty or in use.
    #[error("name `{name}` is empty or defined twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// Shapes that do not combine.
    #[error("shapes {left:?} and {right:?} do not fit together")]
    Shapes {
        /// Shape of the first operand.
        left: Vec<usize>,
        /// Shape of the second operand.
        right: Vec<usize>,
    },
    /// A row that a table does not have.
    #[error("index {index} is outside of a table of {rows} rows")]
    Index {
        /// The index.
        index: i64,
        /// Size of the table.
        rows: usize,
    },
    /// More memory than the limit.
    #[error("{what} takes more than {limit_bytes} bytes")]
    TooLarge {
        /// What it is about.
        what: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// A failure with its place.
    #[error("{what} `{name}`: {fault}")]
    At {
        /// The operator of a node, or what else it is.
        what: String,
        /// Its name.
        name: String,
        /// What fails.
        fault: Box<Fault>,
    },
}

impl Fault {
    /// The same failure with its place.
    pub(super) fn at(self, what: &str, name: &str) -> Self {
        Self::At { what: what.to_owned(), name: name.to_owned(), fault: Box::new(self) }
    }
}

/// A [`Fault::Differs`].
#[allow(clippy::needless_pass_by_value, reason = "numbers and literals; keeps the calls short")]
pub(super) fn differs(
    what: impl Into<String>,
    expected: impl ToString,
    got: impl ToString,
) -> Fault {
    Fault::Differs { what: what.into(), expected: expected.to_string(), got: got.to_string() }
}
