//! Archives that are damaged or want more than to be read: each is refused by what is wrong with
//! it, and nothing of it is carried out.

use super::case::{Case, message};
use super::writer::{Entry, Pickle, StateDict, zip};
use crate::checkpoint::Variant;
use crate::import::error::PickleError;
use crate::import::pickle;

/// The refusal of a sound network whose entries were changed.
fn refused(change: impl FnOnce(&mut Vec<Entry>)) -> String {
    let case = Case::new(Variant::L);
    let mut entries = case.state.entries(case.state.pickle());
    change(&mut entries);
    message(&case.import_archive(zip(&entries)).unwrap_err())
}

/// The refusal of a network whose state dict was changed.
fn refused_state(change: impl FnOnce(&mut StateDict)) -> String {
    let mut case = Case::new(Variant::L);
    change(&mut case.state);
    case.refusal()
}

/// The refusal of a pickle.
fn refused_pickle(bytes: &[u8]) -> String {
    pickle::read(bytes).unwrap_err().to_string()
}

/// The refusal of opcodes behind the two bytes of the protocol.
fn refused_program(program: &[u8]) -> String {
    refused_pickle(&[b"\x80\x02".as_slice(), program].concat())
}

#[test]
fn nothing_is_looked_up_or_called_but_what_a_state_dict_needs() {
    let system = refused_program(b"cos\nsystem\n(X\x04\x00\x00\x00truetR.");
    assert_eq!(system, "global `os.system` at byte 2 is not allowed");
    let globals = ["builtins.eval", "posix.system", "torch.load", "torch.storage._load_from_bytes"];
    for global in globals {
        let (module, name) = global.rsplit_once('.').unwrap();
        let got = refused_program(format!("c{module}\n{name}\n.").as_bytes());
        assert_eq!(got, format!("global `{global}` at byte 2 is not allowed"));
    }
    let escaped = refused_program(b"cos\n\x1b[2Jsystem\n.");
    assert_eq!(escaped, "global `os.\\u{1b}[2Jsystem` at byte 2 is not allowed");
    let whole = refused(|entries| entries[0].data = b"\x80\x02cos\nsystem\n)R.".to_vec());
    assert!(whole.ends_with("state dict: global `os.system` at byte 2 is not allowed"), "{whole}");
}

#[test]
fn every_other_opcode_is_refused_by_name() {
    let allowed = b".(NJKM\x8a\x88\x89X)]}\x85\x86\x87taesuqrhjcRbQ";
    for code in (0..=255).filter(|code| !allowed.contains(code)) {
        let error = pickle::read(&[0x80, 2, code, 0, 0, 0, 0]).unwrap_err();
        let PickleError::Opcode { byte, offset: 2, opcode } = error else {
            panic!("{code:#04x}: {error}");
        };
        assert_eq!(byte, code);
        let known = [(0x93, "STACK_GLOBAL"), (b'i', "INST"), (0x81, "NEWOBJ"), (b'P', "PERSID")];
        for (_, name) in known.iter().filter(|(known, _)| *known == code) {
            assert_eq!(opcode, *name);
        }
    }
    assert_eq!(refused_program(b"\x93"), "opcode STACK_GLOBAL (0x93) at byte 2 is not allowed");
    let protocol = "it starts with the bytes [80, 04], expected those of protocol 2: [80, 02]";
    assert_eq!(refused_pickle(b"\x80\x04N."), protocol);
    assert!(refused_pickle(b"").contains("the bytes []"));
}

#[test]
fn calls_with_other_arguments_are_refused() {
    let ordered = b"ccollections\nOrderedDict\n";
    let float = b"ctorch\nFloatStorage\n";
    let parameter = b"ctorch._utils\n_rebuild_parameter\n";
    let tensor = b"ctorch._utils\n_rebuild_tensor_v2\n";
    let cases: [(&[&[u8]], &str); 7] = [
        (&[ordered, b"N\x85R."], "OrderedDict at byte 29 is called with (None), expected no"),
        (&[float, b")R."], "REDUCE at byte 23 needs a function, got a type of storage"),
        (&[parameter, b"N\x88N\x87R."], "is called with (None, a bool, None), expected (tensor,"),
        (&[tensor, b")R."], "is called with (), expected (storage, offset, shape, strides, bool"),
        (&[b")", ordered, b"R."], "REDUCE at byte 28 needs a tuple of arguments, got a function"),
        (&[b"N)R."], "REDUCE at byte 4 needs a function, got None"),
        (
            &[b"(NNNt", b"Q."],
            "BINPERSID at byte 7 needs (\"storage\", type, key, device, elements)",
        ),
    ];
    for (program, expected) in cases {
        let got = refused_program(&program.concat());
        assert!(got.contains(expected), "{got}");
    }
    // Attributes other than the versions of modules.
    let mut pickle = Pickle::new();
    pickle.op(b"}}").text("evil").int(1).op(b"sb.");
    let got = refused_pickle(&pickle.bytes);
    assert!(got.contains("needs a dict with the one key `_metadata`, got a dict"), "{got}");
    assert!(refused_program(b"N}b.").contains("needs a dict to set attributes of, got None"));
}

#[test]
fn memo_stack_and_marks_are_bounded() {
    let cases: [(&[u8], &str); 10] = [
        (b"h\x07.", "the memo index at byte 2 is 7, expected below 0"),
        (b"j\xff\xff\xff\xff.", "the memo index at byte 2 is 4294967295, expected below 0"),
        (b"Nq\x01.", "the memo index at byte 3 is 1, expected at most 0"),
        (b"Nr\xff\xff\xff\x7f.", "the memo index at byte 3 is 2147483647, expected at most 0"),
        (b"\x85.", "TUPLE1 at byte 2 takes more values than there are"),
        (b"N(\x85.", "TUPLE1 at byte 4 takes more values than there are"),
        (b"Nt.", "TUPLE at byte 3 takes more values than there are"),
        (b"}(Nu.", "SETITEMS at byte 5 takes more values than there are"),
        (b"NNNs.", "SETITEM at byte 5 needs a dict, got None"),
        (b"\x8a\x09000000000.", "the length of an integer at byte 4 is 9, expected at most 8"),
    ];
    for (program, expected) in cases {
        assert_eq!(refused_program(program), expected);
    }
    let marks = refused_program(&b"(".repeat(1000));
    assert_eq!(marks, "more than 64 open marks at byte 66");
    let stack = refused_program(&b"N".repeat(100_000));
    assert_eq!(stack, "more than 65536 values on the stack at byte 65538");
    let line = refused_program(&[b"c".as_slice(), &[b'x'; 300]].concat());
    assert_eq!(line, "more than 256 bytes in a line at byte 3");
}

#[test]
fn deep_nesting_needs_no_stack() {
    let nested = [b"\x80\x02N".as_slice(), &b"\x85".repeat(900_000), b"."].concat();
    assert_eq!(refused_pickle(&nested), "it holds a tuple, expected a dict of tensors");
    // A dict that holds itself.
    let cyclic = refused_program(b"}q\x00X\x01\x00\x00\x00xh\x00s.");
    assert_eq!(cyclic, "it holds a dict as `x`, expected a dict of tensors");
}

#[test]
fn what_is_no_state_dict_is_refused() {
    let cases: [(&[u8], &str); 6] = [
        (b"N.", "it holds None, expected a dict of tensors"),
        (b"NN.", "it holds 2 objects, expected a dict of tensors"),
        (b"}NNs.", "it holds a dict with None as a key, expected a dict of tensors"),
        (b"}X\x01\x00\x00\x00xNs.", "it holds None as `x`, expected a dict of tensors"),
        (b"}X\x02\x00\x00\x00\x1b[Ns.", "the key `\\u{1b}[` is not a name of up to 256 visible"),
        (b"}.N", "1 bytes follow its end"),
    ];
    for (program, expected) in cases {
        let got = refused_program(program);
        assert!(got.starts_with(expected), "{got}");
    }
    assert!(refused_program(b"}X\x01\x00\x00\x00\xffNs.").contains("is not UTF-8"));
    let twice = refused_state(|state| state.rename("mixer.1.bias", "mixer.4.bias"));
    assert!(twice.ends_with("tensor `mixer.4.bias` is there twice"), "{twice}");
}

#[test]
fn a_pickle_that_ends_anywhere_is_refused_and_a_changed_one_does_no_harm() {
    let sound = Case::new(Variant::L).state.pickle();
    assert!(pickle::read(&sound).is_ok());
    for length in 0..sound.len() {
        assert!(pickle::read(&sound[..length]).is_err(), "{length}");
    }
    for at in 0..sound.len() {
        for change in [0x01, 0x80, 0xFF] {
            let mut changed = sound.clone();
            changed[at] ^= change;
            // Accepted or not, it ends.
            drop(pickle::read(&changed));
        }
    }
}

#[test]
fn an_archive_that_ends_anywhere_is_refused_and_a_changed_one_does_no_harm() {
    let case = Case::new(Variant::L);
    let sound = case.state.archive();
    assert!(case.import_archive(sound.clone()).is_ok());
    for length in (0..sound.len()).step_by(97).chain(sound.len() - 30..sound.len()) {
        assert!(case.import_archive(sound[..length].to_vec()).is_err(), "{length}");
    }
    let directory = sound.len() - 22 - 4000;
    for at in (directory..sound.len()).step_by(7).chain(sound.len() - 22..sound.len()) {
        let mut changed = sound.clone();
        changed[at] ^= 0x55;
        drop(case.import_archive(changed));
    }
    let empty = message(&case.import_archive(Vec::new()).unwrap_err());
    assert!(empty.starts_with("the file does not end as a zip archive"), "{empty}");
}

#[test]
fn entries_with_names_that_mean_places_are_refused() {
    for name in ["../data.pkl", "hypermod/../../x", "/etc/passwd", "a\\b", "c:x", "a//b", "", "./a"]
    {
        let got = refused(|entries| entries[2].name = name.to_owned());
        let shown = name.escape_debug();
        assert_eq!(
            got,
            format!("archive entry `{shown}` has a name that is not plain and relative")
        );
    }
}

#[test]
fn entries_that_lie_about_their_size_or_place_are_refused() {
    let bomb = refused(|entries| entries[0].declared_bytes = Some(u32::MAX));
    assert!(bomb.starts_with("archive entry `hypermod/data.pkl` ends at byte 4294967"), "{bomb}");
    let last = refused(|entries| entries.last_mut().unwrap().declared_bytes = Some(4096));
    assert!(last.contains(", the directory starts at byte "), "{last}");
    let large = refused(|entries| entries[0].data = vec![b'N'; (1 << 20) + 1]);
    let expected = "archive entry `hypermod/data.pkl` has 1048577 bytes, at most 1048576 are read";
    assert_eq!(large, expected);
    let same_place = refused(|entries| entries[3].declared_at = Some(0));
    assert!(same_place.contains("` ends at byte "), "{same_place}");
    let elsewhere = refused(|entries| entries[3].declared_at = Some(1));
    assert!(elsewhere.ends_with(" does not start at byte 1, as the directory says"), "{elsewhere}");
    let beyond = refused(|entries| entries[3].declared_at = Some(u32::MAX));
    assert!(beyond.starts_with("cannot read the archive"), "{beyond}");
}

#[test]
fn entries_that_are_not_stored_or_not_sound_are_refused() {
    let deflated = refused(|entries| entries[0].method = 8);
    let expected = "archive entry `hypermod/data.pkl` is compressed (method 8), \
                    expected to be stored";
    assert_eq!(deflated, expected);
    let encrypted = refused(|entries| entries[0].flags = 1);
    assert!(encrypted.contains("has flags 0x0001"), "{encrypted}");
    let twice = refused(|entries| entries.push(entries[2].clone()));
    assert_eq!(twice, "archive entry `hypermod/data/0` is there twice");
    let other = refused(|entries| entries.push(Entry::new("other/data.pkl", *b"N.")));
    assert!(other.contains("two `data.pkl`"), "{other}");
    let none = refused(|entries| entries[0].name = "hypermod/constants.pkl".to_owned());
    assert_eq!(none, "the archive has no entry `<archive>/data.pkl`");
    let lost = refused(|entries| drop(entries.remove(2)));
    assert_eq!(lost, "the archive has no entry `hypermod/data/0`");
    let big = refused(|entries| entries[1].data = b"big".to_vec());
    assert_eq!(big, "the archive's byte order is `big`, expected `little`");

    let case = Case::new(Variant::L);
    let mut archive = case.state.archive();
    // The first byte of the weights: the data of the third entry.
    let place = archive.windows(15).position(|part| part == b"hypermod/data/0").unwrap();
    archive[place + 15 + 9] ^= 1;
    let damaged = message(&case.import_archive(archive).unwrap_err());
    assert!(damaged.starts_with("archive entry `hypermod/data/0` has CRC-32 "), "{damaged}");
}

#[test]
fn tensors_outside_of_their_storage_are_refused() {
    const NAME: &str = "mlp1.mlp.1.weight";
    let shifted = refused_state(|state| state.place(NAME).offset = 1);
    let expected = format!(
        "tensor `{NAME}` [[32, 8], strides [8, 1], from element 1] is not a part of its storage \
         of 256 elements"
    );
    assert_eq!(shifted, expected);
    let stretched = refused_state(|state| state.place(NAME).strides = vec![8, 1 << 40]);
    let overflowing = refused_state(|state| state.place(NAME).strides = vec![usize::MAX >> 1, 1]);
    let repeated = refused_state(|state| {
        state.place(NAME).shape = vec![1 << 30, 1 << 30];
        state.place(NAME).strides = vec![0, 0];
    });
    let expanded = refused_state(|state| {
        state.place(NAME).shape = vec![1 << 20, 8];
        state.place(NAME).strides = vec![0, 1];
    });
    let unequal = refused_state(|state| state.place(NAME).strides = vec![1]);
    for text in [stretched, overflowing, repeated, expanded, unequal] {
        assert!(text.ends_with("] is not a part of its storage of 256 elements"), "{text}");
    }
    let axes = refused_state(|state| state.place(NAME).shape = vec![1; 9]);
    assert!(axes.contains("more than 8 axes of a tensor at byte "), "{axes}");
    let integers = refused_state(|state| state.storages[0].class = "LongStorage");
    assert!(integers.ends_with("has element type i64, expected f32, f16, bf16 or f64"));
    let wide = refused_state(|state| state.storages[0].class = "DoubleStorage");
    assert!(wide.contains("storage `0` of tensor `AB_offset.A.q_proj` has 384 bytes"), "{wide}");
}
