//! A pickle as `torch.save` writes it for a state dict, read without executing anything.
//!
//! In: the bytes of `data.pkl`, protocol 2. Out: a [`StateDict`]: names and views of tensors in the
//! order of the file. A pickle is a program for a stack machine. This machine knows the opcodes
//! that a dict of tensors needs and the globals in [`Global`], and has no others: a call makes one
//! of its own values and runs nothing. What else a pickle asks for is an error that names the
//! opcode or global and its place.
//!
//! Invariants: values are copies of numbers and borrowed texts, and what contains others lies in a
//! table and is referred to by its index, so that nothing recurses however deep a pickle nests. An
//! opcode makes at most one entry of a table, so that the caller bounds memory by the length of the
//! pickle; stack, marks and memo have bounds of their own.
//!
//! Source: Python's `Lib/pickletools.py` for the opcodes; the pickles of PyTorch 2.

mod calls;
mod input;
pub(crate) mod opcode;

use input::Input;
use opcode as op;

use super::element::ElementType;
use super::error::PickleError;

/// The protocol that `torch.save` uses.
const PROTOCOL: [u8; 2] = [op::PROTO, 2];
/// Most values on the stack; Python stores a dict in batches of 1000 items.
const MAX_STACK: usize = 1 << 16;
/// Most marks that are open at once.
const MAX_MARKS: usize = 64;
/// Most values that are remembered.
const MAX_MEMO: usize = 1 << 17;

/// A storage: a run of elements of one type in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    /// Its entry is `data/<key>`.
    pub(super) key: String,
    pub(super) element: ElementType,
    /// Number of elements.
    pub(super) elements: usize,
}

/// A tensor: a part of a storage. Nothing about it is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// Index of the storage in [`StateDict::storages`].
    pub(super) storage: usize,
    /// First element.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Elements from one entry of each axis to the next.
    pub(super) strides: Vec<usize>,
}

/// What the pickle holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StateDict {
    pub(super) storages: Vec<Storage>,
    /// By name, each once, in the order of the file.
    pub(super) tensors: Vec<(String, View)>,
}

/// Runs a pickle.
pub(super) fn read(bytes: &[u8]) -> Result<StateDict, PickleError> {
    let Some(program) = bytes.strip_prefix(&PROTOCOL) else {
        let got = bytes.iter().copied().take(PROTOCOL.len()).collect();
        return Err(PickleError::Protocol { got });
    };
    let input = Input::new(program, PROTOCOL.len());
    let machine = Machine {
        input,
        code: op::PROTO,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        sequences: Vec::new(),
        dicts: Vec::new(),
        storages: Vec::new(),
        views: Vec::new(),
    };
    machine.run()
}

/// What may be looked up by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`
    RebuildParameter,
    /// `torch.FloatStorage` and others
    Storage(ElementType),
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", name) => ElementType::of_class(name).map(Self::Storage),
            _ => None,
        }
    }
}

/// A value of the machine. Numbers of the last five are indices of its tables.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    None,
    /// Which of the two is never asked.
    Bool,
    Int(i64),
    Text(&'a str),
    Global(Global),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

impl Value<'_> {
    fn kind(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool => "a bool",
            Self::Int(_) => "an integer",
            Self::Text(_) => "a text",
            Self::Global(Global::Storage(_)) => "a type of storage",
            Self::Global(_) => "a function",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dict",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

struct Machine<'a> {
    input: Input<'a>,
    /// The opcode that is being carried out, and where it is.
    code: u8,
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at which marks were set, rising.
    marks: Vec<usize>,
    memo: Vec<Value<'a>>,
    /// Items of tuples and lists.
    sequences: Vec<Vec<Value<'a>>>,
    /// Items of dicts, in the order in which they were set.
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<Storage>,
    views: Vec<View>,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Result<StateDict, PickleError> {
        loop {
            self.at = self.input.offset();
            [self.code] = self.input.array()?;
            match self.code {
                op::STOP => return self.finish(),
                op::MARK => self.mark()?,
                op::NONE => self.push(Value::None)?,
                op::NEWTRUE | op::NEWFALSE => self.push(Value::Bool)?,
                op::BININT | op::BININT1 | op::BININT2 | op::LONG1 => {
                    let number = self.input.integer(self.code)?;
                    self.push(Value::Int(number))?;
                }
                op::BINUNICODE => {
                    let text = self.input.text()?;
                    self.push(Value::Text(text))?;
                }
                op::EMPTY_TUPLE => self.push_sequence(Value::Tuple, Vec::new())?,
                op::EMPTY_LIST => self.push_sequence(Value::List, Vec::new())?,
                op::EMPTY_DICT => self.push_dict()?,
                op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => {
                    let items = self.pop_many(usize::from(self.code - op::TUPLE1) + 1)?;
                    self.push_sequence(Value::Tuple, items)?;
                }
                op::TUPLE => {
                    let items = self.pop_mark()?;
                    self.push_sequence(Value::Tuple, items)?;
                }
                op::APPEND | op::APPENDS => self.append()?,
                op::SETITEM | op::SETITEMS => self.set_items()?,
                op::BINPUT | op::LONG_BINPUT => self.remember()?,
                op::BINGET | op::LONG_BINGET => self.recall()?,
                op::GLOBAL => self.global()?,
                op::REDUCE => self.reduce()?,
                op::BUILD => self.build()?,
                op::BINPERSID => self.storage()?,
                byte => {
                    let opcode = op::name(byte);
                    return Err(PickleError::Opcode { opcode, byte, offset: self.at });
                }
            }
        }
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), PickleError> {
        if self.stack.len() == MAX_STACK {
            return Err(self.limit("values on the stack", MAX_STACK));
        }
        self.stack.push(value);
        Ok(())
    }

    fn push_sequence(
        &mut self,
        kind: fn(usize) -> Value<'a>,
        items: Vec<Value<'a>>,
    ) -> Result<(), PickleError> {
        self.sequences.push(items);
        self.push(kind(self.sequences.len() - 1))
    }

    fn push_dict(&mut self) -> Result<(), PickleError> {
        self.dicts.push(Vec::new());
        self.push(Value::Dict(self.dicts.len() - 1))
    }

    fn mark(&mut self) -> Result<(), PickleError> {
        if self.marks.len() == MAX_MARKS {
            return Err(self.limit("open marks", MAX_MARKS));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// The values since the last mark, which is removed.
    fn pop_mark(&mut self) -> Result<Vec<Value<'a>>, PickleError> {
        let mark = self.marks.pop().ok_or_else(|| self.underflow())?;
        // Nothing below an open mark is ever taken, so that the stack is at least as high.
        Ok(self.stack.split_off(mark))
    }

    /// The last `count` values, none of them below the last mark.
    fn pop_many(&mut self, count: usize) -> Result<Vec<Value<'a>>, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let start = self.stack.len().checked_sub(count).filter(|start| *start >= floor);
        Ok(self.stack.split_off(start.ok_or_else(|| self.underflow())?))
    }

    fn pop(&mut self) -> Result<Value<'a>, PickleError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&self) -> Result<Value<'a>, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let above = self.stack.get(floor..).and_then(<[_]>::last);
        above.copied().ok_or_else(|| self.underflow())
    }

    fn append(&mut self) -> Result<(), PickleError> {
        let items = match self.code {
            op::APPEND => self.pop_many(1)?,
            _ => self.pop_mark()?,
        };
        match self.top()? {
            Value::List(list) => self.sequences[list].extend(items),
            other => return Err(self.kind("a list", other)),
        }
        Ok(())
    }

    fn set_items(&mut self) -> Result<(), PickleError> {
        let items = match self.code {
            op::SETITEM => self.pop_many(2)?,
            _ => self.pop_mark()?,
        };
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err(self.underflow());
        };
        match self.top()? {
            Value::Dict(dict) => self.dicts[dict].extend(pairs.iter().map(|[k, v]| (*k, *v))),
            other => return Err(self.kind("a dict", other)),
        }
        Ok(())
    }

    fn remember(&mut self) -> Result<(), PickleError> {
        let index = self.input.index(self.code == op::LONG_BINPUT)?;
        let value = self.top()?;
        let count = self.memo.len();
        // Python counts up, so that the memo has no gaps.
        match self.memo.get_mut(index) {
            Some(place) => *place = value,
            None if index == count && count < MAX_MEMO => self.memo.push(value),
            None if index == count => return Err(self.limit("remembered values", MAX_MEMO)),
            None => return Err(self.memo_range(index, format!("at most {count}"))),
        }
        Ok(())
    }

    fn recall(&mut self) -> Result<(), PickleError> {
        let index = self.input.index(self.code == op::LONG_BINGET)?;
        let value = self.memo.get(index).copied();
        let count = self.memo.len();
        let value = value.ok_or_else(|| self.memo_range(index, format!("below {count}")))?;
        self.push(value)
    }

    fn global(&mut self) -> Result<(), PickleError> {
        let (module, name) = (self.input.line()?, self.input.line()?);
        let Some(global) = Global::find(module, name) else {
            let global = format!("{}.{}", module.escape_debug(), name.escape_debug());
            return Err(PickleError::Global { global, offset: self.at });
        };
        self.push(Value::Global(global))
    }

    fn memo_range(&self, index: usize, expected: String) -> PickleError {
        let got = i64::try_from(index).unwrap_or(i64::MAX);
        PickleError::Range { what: "the memo index", offset: self.at, expected, got }
    }

    fn underflow(&self) -> PickleError {
        PickleError::Stack { opcode: op::name(self.code), offset: self.at }
    }

    fn limit(&self, what: &'static str, limit: usize) -> PickleError {
        PickleError::Limit { what, limit, offset: self.at }
    }

    fn kind(&self, expected: &'static str, got: Value<'_>) -> PickleError {
        let (opcode, got) = (op::name(self.code), got.kind());
        PickleError::Kind { opcode, offset: self.at, expected, got }
    }
}
