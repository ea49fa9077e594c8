//! Archives as `torch.save` writes them, and the parts to break them with.

use std::collections::BTreeMap;

use crate::import::zip::crc32;

/// An entry; what its headers say can be changed apart from its data.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) data: Vec<u8>,
    pub(super) method: u16,
    pub(super) flags: u16,
    /// Both sizes in the directory; `None` for that of the data.
    pub(super) declared_bytes: Option<u32>,
    /// Place in the directory; `None` for where it is.
    pub(super) declared_at: Option<u32>,
}

impl Entry {
    pub(super) fn new(name: &str, data: impl Into<Vec<u8>>) -> Self {
        let (name, data) = (name.to_owned(), data.into());
        Self { name, data, method: 0, flags: 0x0808, declared_bytes: None, declared_at: None }
    }
}

fn words(numbers: &[usize]) -> Vec<u8> {
    numbers.iter().flat_map(|number| u16::try_from(*number).unwrap().to_le_bytes()).collect()
}

fn long_words(numbers: &[usize]) -> Vec<u8> {
    numbers.iter().flat_map(|number| u32::try_from(*number).unwrap().to_le_bytes()).collect()
}

/// An archive with padding before the data and a descriptor after it, as PyTorch writes them.
pub(super) fn zip(entries: &[Entry]) -> Vec<u8> {
    const PADDING: &[u8] = b"FB\x05\x00ZZZZZ";
    let (mut file, mut directory): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
    for entry in entries {
        let at = entry.declared_at.unwrap_or_else(|| u32::try_from(file.len()).unwrap());
        let size = u32::try_from(entry.data.len()).unwrap();
        file.extend(b"PK\x03\x04");
        file.extend([0; 22]);
        file.extend(words(&[entry.name.len(), PADDING.len()]));
        file.extend(entry.name.as_bytes());
        file.extend(PADDING);
        file.extend(&entry.data);
        file.extend(b"PK\x07\x08");
        file.extend(crc32(&entry.data).to_le_bytes());
        file.extend([size.to_le_bytes(), size.to_le_bytes()].concat());

        let size = entry.declared_bytes.unwrap_or(size);
        directory.extend(b"PK\x01\x02");
        directory.extend([0; 4]);
        directory.extend([entry.flags.to_le_bytes(), entry.method.to_le_bytes()].concat());
        directory.extend([0; 4]);
        directory.extend(crc32(&entry.data).to_le_bytes());
        directory.extend([size.to_le_bytes(), size.to_le_bytes()].concat());
        directory.extend(words(&[entry.name.len(), 0, 0]));
        directory.extend([0; 8]);
        directory.extend(at.to_le_bytes());
        directory.extend(entry.name.as_bytes());
    }
    let at = file.len();
    file.extend(&directory);
    file.extend(b"PK\x05\x06");
    file.extend([0; 4]);
    file.extend(words(&[entries.len(), entries.len()]));
    file.extend(long_words(&[directory.len(), at]));
    file.extend([0; 2]);
    file
}

/// A pickle in the making; protocol 2, with the memo that Python keeps.
pub(super) struct Pickle {
    pub(super) bytes: Vec<u8>,
    remembered: usize,
    globals: BTreeMap<String, usize>,
}

impl Pickle {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0x80, 2], remembered: 0, globals: BTreeMap::new() }
    }

    pub(super) fn op(&mut self, codes: &[u8]) -> &mut Self {
        self.bytes.extend(codes);
        self
    }

    /// Remembers the value on top; gives its index.
    fn put(&mut self) -> usize {
        let index = self.remembered;
        self.remembered += 1;
        self.indexed(b'q', b'r', index);
        index
    }

    fn get(&mut self, index: usize) -> &mut Self {
        self.indexed(b'h', b'j', index)
    }

    fn indexed(&mut self, short_code: u8, long_code: u8, index: usize) -> &mut Self {
        match u8::try_from(index) {
            Ok(short) => self.op(&[short_code, short]),
            Err(_) => self.op(&[long_code]).op(&long_words(&[index])),
        }
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes.push(b'X');
        self.bytes.extend(long_words(&[text.len()]));
        self.bytes.extend(text.as_bytes());
        self.put();
        self
    }

    /// In the shortest form, as Python writes it.
    pub(super) fn int(&mut self, number: usize) -> &mut Self {
        if let Ok(short) = u8::try_from(number) {
            return self.op(&[b'K', short]);
        }
        if let Ok(short) = u16::try_from(number) {
            return self.op(b"M").op(&short.to_le_bytes());
        }
        if let Ok(long) = i32::try_from(number) {
            return self.op(b"J").op(&long.to_le_bytes());
        }
        // The top bit is the sign.
        let (bytes, mut length) = (number.to_le_bytes(), 8);
        while length > 1 && bytes[length - 1] == 0 && bytes[length - 2] >> 7 == 0 {
            length -= 1;
        }
        self.op(&[0x8a, u8::try_from(length).unwrap()]).op(&bytes[..length])
    }

    pub(super) fn global(&mut self, module: &str, name: &str) -> &mut Self {
        let line = format!("c{module}\n{name}\n");
        if let Some(index) = self.globals.get(&line).copied() {
            return self.get(index);
        }
        self.bytes.extend(line.as_bytes());
        let index = self.put();
        self.globals.insert(line, index);
        self
    }

    /// A tuple of numbers.
    fn sizes(&mut self, sizes: &[usize]) -> &mut Self {
        if sizes.is_empty() {
            return self.op(b")");
        }
        if sizes.len() > 3 {
            self.op(b"(");
        }
        for size in sizes {
            self.int(*size);
        }
        match u8::try_from(sizes.len()) {
            Ok(count @ 1..=3) => self.op(&[0x84 + count]),
            _ => self.op(b"t"),
        };
        self.put();
        self
    }

    fn no_hooks(&mut self) -> &mut Self {
        self.global("collections", "OrderedDict").op(b")R");
        self.put();
        self
    }

    /// A tensor in a storage.
    pub(super) fn tensor(&mut self, storage: &Storage, place: &Place) -> &mut Self {
        self.global("torch._utils", "_rebuild_tensor_v2").op(b"((").text("storage");
        self.global("torch", storage.class).text(&storage.key).text("cpu");
        self.int(storage.elements).op(b"t");
        self.put();
        self.op(b"Q").int(place.offset).sizes(&place.shape).sizes(&place.strides);
        self.op(b"\x89").no_hooks().op(b"t");
        self.put();
        self.op(b"R");
        self.put();
        self
    }
}

/// A storage and its bytes.
#[derive(Clone)]
pub(super) struct Storage {
    pub(super) key: String,
    /// Its class in the module `torch`.
    pub(super) class: &'static str,
    pub(super) elements: usize,
    pub(super) bytes: Vec<u8>,
}

/// A part of a storage.
#[derive(Clone)]
pub(super) struct Place {
    /// Index of the storage.
    pub(super) storage: usize,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// A state dict in the making.
#[derive(Clone, Default)]
pub(super) struct StateDict {
    pub(super) storages: Vec<Storage>,
    pub(super) tensors: Vec<(String, Place)>,
}

impl StateDict {
    /// Adds a storage; gives its index.
    pub(super) fn storage(
        &mut self,
        class: &'static str,
        bytes: Vec<u8>,
        elements: usize,
    ) -> usize {
        let key = self.storages.len().to_string();
        self.storages.push(Storage { key, class, elements, bytes });
        self.storages.len() - 1
    }

    /// Adds a whole storage as a row-major tensor.
    pub(super) fn add(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let storage = self.storage("FloatStorage", bytes, values.len());
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        let place = Place { storage, offset: 0, shape: shape.to_vec(), strides };
        self.tensors.push((name.to_owned(), place));
    }

    /// The place of a tensor.
    pub(super) fn place(&mut self, name: &str) -> &mut Place {
        &mut self.tensors.iter_mut().find(|(found, _)| found == name).unwrap().1
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let tensor = self.tensors.iter_mut().find(|(name, _)| name == from).unwrap();
        to.clone_into(&mut tensor.0);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.tensors.retain(|(found, _)| found != name);
    }

    /// The pickle of an `OrderedDict`, with the versions that `state_dict` leaves on it.
    pub(super) fn pickle(&self) -> Vec<u8> {
        let mut pickle = Pickle::new();
        pickle.no_hooks();
        pickle.op(b"(");
        for (name, place) in &self.tensors {
            pickle.text(name).tensor(&self.storages[place.storage], place);
        }
        pickle.op(b"u}");
        pickle.put();
        pickle.text("_metadata").no_hooks().text("").op(b"}");
        pickle.put();
        pickle.text("version").int(1).op(b"sssb.");
        pickle.bytes
    }

    /// The entries of an archive with a pickle of one's own.
    pub(super) fn entries(&self, pickle: Vec<u8>) -> Vec<Entry> {
        let mut entries = vec![
            Entry::new("hypermod/data.pkl", pickle),
            Entry::new("hypermod/byteorder", *b"little"),
        ];
        for storage in &self.storages {
            let name = format!("hypermod/data/{}", storage.key);
            entries.push(Entry::new(&name, storage.bytes.clone()));
        }
        entries.push(Entry::new("hypermod/version", *b"3\n"));
        entries.push(Entry::new("hypermod/.data/serialization_id", *b"0123"));
        entries
    }

    pub(super) fn archive(&self) -> Vec<u8> {
        zip(&self.entries(self.pickle()))
    }
}
