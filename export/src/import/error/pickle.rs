//! What can be wrong with a pickle.

/// Why a pickle is not that of a plain state dict. Nothing of it was executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// It ends too early.
    #[error("it ends at byte {offset}, where {needed} more bytes are needed")]
    Truncated {
        /// Its length.
        offset: usize,
        /// Bytes that should follow.
        needed: usize,
    },
    /// It goes on after its end.
    #[error("{bytes} bytes follow its end")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// Another protocol than `torch.save` uses.
    #[error("it starts with the bytes {got:02x?}, expected those of protocol 2: [80, 02]")]
    Protocol {
        /// The first bytes.
        got: Vec<u8>,
    },
    /// An opcode that a state dict does not need.
    #[error("opcode {opcode} ({byte:#04x}) at byte {offset} is not allowed")]
    Opcode {
        /// Its name.
        opcode: &'static str,
        /// Its code.
        byte: u8,
        /// Where it is.
        offset: usize,
    },
    /// A global that a state dict does not need.
    #[error("global `{global}` at byte {offset} is not allowed")]
    Global {
        /// Module and name, escaped.
        global: String,
        /// Where it is.
        offset: usize,
    },
    /// A call of something else than the functions on the list, or with other arguments.
    #[error("{function} at byte {offset} is called with ({got}), expected {expected}")]
    Call {
        /// What is called.
        function: &'static str,
        /// Where.
        offset: usize,
        /// What it takes.
        expected: &'static str,
        /// Kinds of the arguments.
        got: String,
    },
    /// A value of the wrong kind.
    #[error("{opcode} at byte {offset} needs {expected}, got {got}")]
    Kind {
        /// Name of the opcode.
        opcode: &'static str,
        /// Where it is.
        offset: usize,
        /// What it takes.
        expected: &'static str,
        /// What it found.
        got: &'static str,
    },
    /// Fewer values than an opcode takes.
    #[error("{opcode} at byte {offset} takes more values than there are")]
    Stack {
        /// Name of the opcode.
        opcode: &'static str,
        /// Where it is.
        offset: usize,
    },
    /// A number out of range.
    #[error("{what} at byte {offset} is {got}, expected {expected}")]
    Range {
        /// What the number is.
        what: &'static str,
        /// Where it is used.
        offset: usize,
        /// What it may be.
        expected: String,
        /// What it is.
        got: i64,
    },
    /// More of something than a state dict needs.
    #[error("more than {limit} {what} at byte {offset}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most there may be.
        limit: usize,
        /// Where.
        offset: usize,
    },
    /// A text that is not UTF-8.
    #[error("the text that ends at byte {offset} is not UTF-8")]
    Text {
        /// Where it ends.
        offset: usize,
    },
    /// The pickled object is not a dict of tensors.
    #[error("it holds {got}, expected a dict of tensors")]
    NotAStateDict {
        /// What it holds.
        got: String,
    },
    /// A name that no tensor of a hypernetwork has.
    #[error("the key `{name}` is not a name of up to 256 visible ASCII characters")]
    Name {
        /// The key, escaped and cut.
        name: String,
    },
    /// Two tensors of one name.
    #[error("tensor `{name}` is there twice")]
    Duplicate {
        /// The name.
        name: String,
    },
}
