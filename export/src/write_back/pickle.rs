//! The pickle of a state dict, as `torch.save` writes it.
//!
//! In: the tensors of a state dict. Out: the bytes of `data.pkl`, protocol 2: an `OrderedDict` of
//! one f32 tensor per name, each row-major and the whole of a storage of its own, whose key is the
//! tensor's place in the list. PyTorch gives the same bytes for an `OrderedDict` of such tensors,
//! up to 1000 of them; the versions of modules that a state dict also carries are left out, and no
//! reader misses them.
//!
//! Python remembers every object that it pickles, in a memo with rising indices, and refers to what
//! it meets again; so does this.
//!
//! Source: Python's `Lib/pickletools.py` for the opcodes; the pickles of PyTorch 2.

use std::collections::BTreeMap;

use super::state_dict::Entry;
use crate::import::opcode as op;

const ORDERED_DICT: &str = "collections\nOrderedDict\n";
const REBUILD_TENSOR: &str = "torch._utils\n_rebuild_tensor_v2\n";
const FLOAT_STORAGE: &str = "torch\nFloatStorage\n";

/// The pickle of a state dict.
pub(super) fn pickle(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut writer = Writer { bytes: vec![op::PROTO, 2], memo: 0, known: BTreeMap::new() };
    writer.empty_dict();
    writer.op(op::MARK);
    for (key, entry) in entries.iter().enumerate() {
        writer.text(&entry.name);
        writer.tensor(&key.to_string(), entry);
    }
    writer.op(op::SETITEMS);
    writer.op(op::STOP);
    writer.bytes
}

struct Writer {
    bytes: Vec<u8>,
    /// Number of objects that are remembered.
    memo: usize,
    /// Where in the memo what is met again is.
    known: BTreeMap<&'static str, usize>,
}

impl Writer {
    fn op(&mut self, code: u8) {
        self.bytes.push(code);
    }

    /// A row-major f32 tensor that is the whole of the storage `key`.
    fn tensor(&mut self, key: &str, entry: &Entry<'_>) {
        self.global(REBUILD_TENSOR);
        self.op(op::MARK);
        self.op(op::MARK);
        self.constant("storage");
        self.global(FLOAT_STORAGE);
        self.text(key);
        self.constant("cpu");
        self.int(entry.values.len());
        self.op(op::TUPLE);
        self.remember();
        self.op(op::BINPERSID);
        self.int(0);
        self.sizes(&entry.shape);
        self.sizes(&strides(&entry.shape));
        self.op(op::NEWFALSE); // needs no gradient
        self.empty_dict(); // no hooks
        self.op(op::TUPLE);
        self.remember();
        self.op(op::REDUCE);
        self.remember();
    }

    fn empty_dict(&mut self) {
        self.global(ORDERED_DICT);
        self.op(op::EMPTY_TUPLE);
        self.op(op::REDUCE);
        self.remember();
    }

    /// A tuple of numbers.
    fn sizes(&mut self, sizes: &[usize]) {
        let code = match sizes.len() {
            1 => op::TUPLE1,
            2 => op::TUPLE2,
            3 => op::TUPLE3,
            _ => op::TUPLE,
        };
        if code == op::TUPLE {
            self.op(op::MARK);
        }
        for size in sizes {
            self.int(*size);
        }
        self.op(code);
        self.remember();
    }

    /// A number in the shortest form.
    fn int(&mut self, number: usize) {
        if let Ok(short) = u8::try_from(number) {
            self.bytes.extend([op::BININT1, short]);
        } else if let Ok(short) = u16::try_from(number) {
            self.op(op::BININT2);
            self.bytes.extend(short.to_le_bytes());
        } else {
            // Four bytes of them are signed: the archive bounds every number by 2^30 elements.
            self.op(op::BININT);
            self.bytes.extend(low_bytes(number));
        }
    }

    /// A text that is met once.
    fn text(&mut self, text: &str) {
        self.op(op::BINUNICODE);
        self.bytes.extend(low_bytes(text.len()));
        self.bytes.extend(text.as_bytes());
        self.remember();
    }

    /// A text that is met again.
    fn constant(&mut self, text: &'static str) {
        if !self.recall(text) {
            self.text(text);
        }
    }

    /// What Python finds by the two lines of `name`, its module and its own name.
    fn global(&mut self, name: &'static str) {
        if !self.recall(name) {
            self.op(op::GLOBAL);
            self.bytes.extend(name.as_bytes());
            self.remember();
        }
    }

    /// Refers to what was met before; otherwise it is about to be remembered.
    fn recall(&mut self, name: &'static str) -> bool {
        let Some(index) = self.known.get(name).copied() else {
            self.known.insert(name, self.memo);
            return false;
        };
        self.indexed(op::BINGET, op::LONG_BINGET, index);
        true
    }

    /// Remembers the object on top of the stack.
    fn remember(&mut self) {
        self.indexed(op::BINPUT, op::LONG_BINPUT, self.memo);
        self.memo += 1;
    }

    fn indexed(&mut self, short_code: u8, long_code: u8, index: usize) {
        if let Ok(short) = u8::try_from(index) {
            self.bytes.extend([short_code, short]);
        } else {
            self.op(long_code);
            self.bytes.extend(low_bytes(index));
        }
    }
}

/// Elements from one entry of each axis to the next.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// A number below 2^32, little-endian: nothing in a pickle comes near it.
fn low_bytes(number: usize) -> [u8; 4] {
    let [a, b, c, d, ..] = (number as u64).to_le_bytes();
    [a, b, c, d]
}
