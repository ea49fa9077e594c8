//! What the calls of a pickle make: storages, tensors and, in the end, the state dict.
//!
//! | opcode | takes | makes |
//! |---|---|---|
//! | `REDUCE` | `OrderedDict`, `()` | an empty dict |
//! | `REDUCE` | `_rebuild_tensor_v2`, `(storage, offset, shape, strides, bool, hooks)` | a tensor |
//! | `REDUCE` | `_rebuild_parameter`, `(tensor, bool, hooks)` | the same tensor |
//! | `BINPERSID` | `("storage", type, key, device, elements)` | a storage |
//! | `BUILD` | dict, `{"_metadata": …}` | nothing: these are versions of modules |
//!
//! `hooks` is `None` or an empty dict.

use std::collections::BTreeSet;

use super::{Global, Machine, StateDict, Storage, Value, View};
use crate::import::error::PickleError;

/// Longest key of a storage; PyTorch counts them from 0.
const MAX_KEY_BYTES: usize = 64;

/// Most axes of a tensor.
const MAX_AXES: usize = 8;
/// Most tensors of a state dict.
const MAX_TENSORS: usize = 1 << 12;
/// Longest name of a tensor.
const MAX_NAME_BYTES: usize = 256;
/// Most arguments that an error lists.
const MAX_LISTED: usize = 8;

impl<'a> Machine<'a> {
    /// Calls a function with a tuple of arguments.
    pub(super) fn reduce(&mut self) -> Result<(), PickleError> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let Value::Tuple(index) = arguments else {
            return Err(self.kind("a tuple of arguments", arguments));
        };
        let Value::Global(function) = function else {
            return Err(self.kind("a function", function));
        };
        let arguments = self.sequences[index].as_slice();
        match (function, arguments) {
            (Global::OrderedDict, []) => self.push_dict(),
            (
                Global::RebuildTensor,
                &[
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(shape),
                    Value::Tuple(strides),
                    Value::Bool,
                    hooks,
                ],
            ) if self.is_empty(hooks) => {
                let view = View {
                    storage,
                    offset: self.size("an offset", offset)?,
                    shape: self.sizes("a size", shape)?,
                    strides: self.sizes("a stride", strides)?,
                };
                self.views.push(view);
                self.push(Value::Tensor(self.views.len() - 1))
            }
            (Global::RebuildParameter, &[tensor @ Value::Tensor(_), Value::Bool, hooks])
                if self.is_empty(hooks) =>
            {
                self.push(tensor)
            }
            (Global::Storage(_), _) => Err(self.kind("a function", Value::Global(function))),
            _ => Err(self.wrong_call(function, arguments)),
        }
    }

    /// Sets attributes of a dict: only the versions that `state_dict` leaves there are known.
    pub(super) fn build(&mut self) -> Result<(), PickleError> {
        let state = self.pop()?;
        let object = self.top()?;
        let Value::Dict(_) = object else {
            return Err(self.kind("a dict to set attributes of", object));
        };
        let only_versions = match state {
            Value::Dict(state) => {
                self.dicts[state].iter().all(|(key, _)| matches!(key, Value::Text("_metadata")))
            }
            _ => false,
        };
        if only_versions {
            return Ok(());
        }
        Err(self.kind("a dict with the one key `_metadata`", state))
    }

    /// Makes a storage of the description that `torch.save` refers to it by.
    pub(super) fn storage(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let Value::Tuple(index) = id else {
            return Err(self.kind("a tuple", id));
        };
        let &[
            Value::Text("storage"),
            Value::Global(Global::Storage(element)),
            Value::Text(key),
            Value::Text(_),
            Value::Int(elements),
        ] = self.sequences[index].as_slice()
        else {
            return Err(self.kind("(\"storage\", type, key, device, elements)", id));
        };
        // Every use of a storage copies its key.
        let short = (1..=MAX_KEY_BYTES).contains(&key.len());
        if !short || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(self.kind("a short key of letters and digits", Value::Text(key)));
        }
        let elements = self.size("a number of elements", elements)?;
        self.storages.push(Storage { key: key.to_owned(), element, elements });
        self.push(Value::Storage(self.storages.len() - 1))
    }

    /// The state dict, if that is all there is on the stack and nothing follows.
    pub(super) fn finish(self) -> Result<StateDict, PickleError> {
        if self.input.remaining() > 0 {
            return Err(PickleError::Trailing { bytes: self.input.remaining() });
        }
        if !self.marks.is_empty() {
            return Err(self.underflow());
        }
        let &[Value::Dict(index)] = self.stack.as_slice() else {
            let got = match self.stack.as_slice() {
                &[value] => value.kind().to_owned(),
                values => format!("{} objects", values.len()),
            };
            return Err(PickleError::NotAStateDict { got });
        };
        let items = &self.dicts[index];
        if items.len() > MAX_TENSORS {
            return Err(self.limit("tensors", MAX_TENSORS));
        }
        let mut names = BTreeSet::new();
        let mut tensors = Vec::with_capacity(items.len());
        for &(key, value) in items {
            let (name, view) = self.tensor(key, value)?;
            if !names.insert(name) {
                return Err(PickleError::Duplicate { name: name.to_owned() });
            }
            tensors.push((name.to_owned(), view));
        }
        Ok(StateDict { tensors, storages: self.storages })
    }

    fn tensor(&self, key: Value<'a>, value: Value<'a>) -> Result<(&'a str, View), PickleError> {
        let Value::Text(name) = key else {
            let got = format!("a dict with {} as a key", key.kind());
            return Err(PickleError::NotAStateDict { got });
        };
        if name.len() > MAX_NAME_BYTES || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            let name = name.chars().take(MAX_NAME_BYTES).collect::<String>();
            return Err(PickleError::Name { name: name.escape_debug().to_string() });
        }
        match value {
            Value::Tensor(view) => Ok((name, self.views[view].clone())),
            other => {
                let got = format!("{} as `{name}`", other.kind());
                Err(PickleError::NotAStateDict { got })
            }
        }
    }

    /// Whether there are no hooks.
    fn is_empty(&self, hooks: Value<'a>) -> bool {
        match hooks {
            Value::None => true,
            Value::Dict(dict) => self.dicts[dict].is_empty(),
            _ => false,
        }
    }

    fn sizes(&self, what: &'static str, tuple: usize) -> Result<Vec<usize>, PickleError> {
        let items = self.sequences[tuple].as_slice();
        if items.len() > MAX_AXES {
            return Err(self.limit("axes of a tensor", MAX_AXES));
        }
        let size = |item: &Value<'a>| match *item {
            Value::Int(number) => self.size(what, number),
            other => Err(self.kind("a tuple of integers", other)),
        };
        items.iter().map(size).collect()
    }

    fn size(&self, what: &'static str, number: i64) -> Result<usize, PickleError> {
        usize::try_from(number).map_err(|_| PickleError::Range {
            what,
            offset: self.at,
            expected: "0 or more".to_owned(),
            got: number,
        })
    }

    fn wrong_call(&self, function: Global, arguments: &[Value<'a>]) -> PickleError {
        let (function, expected) = match function {
            Global::OrderedDict => ("OrderedDict", "no arguments"),
            Global::RebuildParameter => ("_rebuild_parameter", "(tensor, bool, no hooks)"),
            Global::RebuildTensor | Global::Storage(_) => {
                ("_rebuild_tensor_v2", "(storage, offset, shape, strides, bool, no hooks)")
            }
        };
        let mut got: Vec<&str> =
            arguments.iter().take(MAX_LISTED).map(|value| value.kind()).collect();
        if arguments.len() > MAX_LISTED {
            got.push("…");
        }
        PickleError::Call { function, offset: self.at, expected, got: got.join(", ") }
    }
}
