//! Tests of `atomic`.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{AtomicWriteError, write_atomically, write_directory_atomically};

/// Names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.gguf");
    (folder, path)
}

#[test]
fn a_file_is_created_and_replaced_on_request_only() {
    let (folder, path) = folder();
    write_atomically(&path, b"one", false).unwrap();
    let refused = write_atomically(&path, b"two", false).unwrap_err();
    assert!(matches!(&refused, AtomicWriteError::AlreadyExists { path: at } if *at == path));
    assert_eq!(fs::read(&path).unwrap(), b"one");
    write_atomically(&path, b"two", true).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(names(folder.path()), ["out.gguf"]);
}

#[test]
fn of_many_writers_without_overwrite_one_succeeds() {
    let (folder, path) = folder();
    let winners: Vec<u8> = std::thread::scope(|scope| {
        let path = &path;
        let writer = |byte: u8| {
            scope.spawn(move || {
                let bytes = vec![byte; 4096];
                write_atomically(path, &bytes, false).is_ok().then_some(byte)
            })
        };
        let writers: Vec<_> = (0..8).map(writer).collect();
        writers.into_iter().filter_map(|writer| writer.join().unwrap()).collect()
    });
    assert_eq!(winners.len(), 1);
    assert_eq!(fs::read(&path).unwrap(), vec![winners[0]; 4096]);
    assert_eq!(names(folder.path()), ["out.gguf"]);
}

#[test]
fn paths_that_cannot_be_files_are_refused() {
    let (folder, path) = folder();
    fs::create_dir(&path).unwrap();
    for overwrite in [false, true] {
        let error = write_atomically(&path, b"", overwrite).unwrap_err();
        assert!(matches!(error, AtomicWriteError::IsDirectory { .. }));
    }
    let error = write_atomically(&path.join(".."), b"", true).unwrap_err();
    assert!(matches!(error, AtomicWriteError::NoFileName { .. }));
    let error = write_atomically(&path.join("missing/out"), b"", true).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(matches!(error, AtomicWriteError::NoParent { .. }));
    assert_eq!(names(folder.path()), ["out.gguf"]);
    assert!(names(&path).is_empty());
}

#[cfg(unix)]
#[test]
fn sockets_and_the_like_are_not_replaced() {
    let (_folder, path) = folder();
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = write_atomically(&path, b"", true).unwrap_err();
    assert!(matches!(error, AtomicWriteError::NotAFile { .. }));
}

#[cfg(unix)]
#[test]
fn a_link_is_replaced_and_its_target_kept() {
    let (folder, path) = folder();
    let original = folder.path().join("original");
    fs::write(&original, b"original").unwrap();
    std::os::unix::fs::symlink(&original, &path).unwrap();
    let error = write_atomically(&path, b"new", false).unwrap_err();
    assert!(matches!(error, AtomicWriteError::AlreadyExists { .. }));
    write_atomically(&path, b"new", true).unwrap();
    assert_eq!(fs::read(&original).unwrap(), b"original");
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[cfg(unix)]
#[test]
fn permissions_are_those_of_ordinary_new_files() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = folder();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let ordinary = folder.path().join("ordinary");
    fs::write(&ordinary, b"").unwrap();
    write_atomically(&path, b"", false).unwrap();
    assert_eq!(mode(&path), mode(&ordinary));

    let (ordinary, path) = (folder.path().join("a"), folder.path().join("b"));
    fs::create_dir(&ordinary).unwrap();
    write_directory_atomically(&path, &[("file", b"")], false).unwrap();
    assert_eq!(mode(&path), mode(&ordinary));
    fs::write(ordinary.join("file"), b"").unwrap();
    assert_eq!(mode(&path.join("file")), mode(&ordinary.join("file")));
}

#[test]
fn a_directory_is_created_and_replaced_on_request_only() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("adapter");
    let trailing = folder.path().join("adapter/");
    write_directory_atomically(&trailing, &[("a", b"1"), ("b", b"2")], false).unwrap();
    assert_eq!(names(&path), ["a", "b"]);
    let error = write_directory_atomically(&path, &[("a", b"3")], false).unwrap_err();
    assert!(matches!(error, AtomicWriteError::AlreadyExists { .. }));
    write_directory_atomically(&path, &[("b", b"4"), ("a", b"3")], true).unwrap();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"3");
    assert_eq!(fs::read(path.join("b")).unwrap(), b"4");
    assert_eq!(names(folder.path()), ["adapter"]);
}

#[test]
fn a_directory_with_other_content_is_kept() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("adapter");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a"), b"old").unwrap();
    fs::write(path.join("notes.txt"), b"mine").unwrap();
    let error = write_directory_atomically(&path, &[("a", b"new")], true).unwrap_err();
    assert!(matches!(
        &error,
        AtomicWriteError::ForeignEntry { name, .. } if name == "notes.txt"
    ));
    fs::remove_file(path.join("notes.txt")).unwrap();
    fs::create_dir(path.join("b")).unwrap();
    let files: [(&str, &[u8]); 2] = [("a", b"new"), ("b", b"")];
    let error = write_directory_atomically(&path, &files, true).unwrap_err();
    assert!(matches!(&error, AtomicWriteError::ForeignEntry { name, .. } if name == "b"));
    assert_eq!(fs::read(path.join("a")).unwrap(), b"old");

    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = write_directory_atomically(&file, &[], true).unwrap_err();
    assert!(matches!(error, AtomicWriteError::NotADirectory { .. }));
    assert_eq!(names(folder.path()), ["adapter", "file"]);
}

#[test]
fn processes_that_write_the_same_directory_all_do() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("adapter");
    let written = std::thread::scope(|scope| {
        let write = |who: u8| {
            let files: [(&str, &[u8]); 2] = [("a", &[who]), ("b", &[who])];
            (0..25).try_for_each(|_| write_directory_atomically(&path, &files, true))
        };
        let threads: Vec<_> = (0..4).map(|who| scope.spawn(move || write(who))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    for done in written {
        done.unwrap();
    }
    assert_eq!(fs::read(path.join("a")).unwrap(), fs::read(path.join("b")).unwrap());
    assert_eq!(names(folder.path()), ["adapter"]);
}

#[test]
fn names_that_leave_the_directory_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("adapter");
    for name in ["", ".", "..", "a/b", "/a", "a/", "../a", "a\0"] {
        let error = write_directory_atomically(&path, &[(name, b"")], false).unwrap_err();
        assert!(matches!(error, AtomicWriteError::FileName { .. }), "{name}");
    }
    let error = write_directory_atomically(&path, &[("a", b""), ("a", b"")], false);
    assert!(matches!(error, Err(AtomicWriteError::FileName { name, .. }) if name == "a"));
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_failure_while_writing_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("adapter");
    let long = "n".repeat(5000);
    let files: [(&str, &[u8]); 2] = [("a", b"1"), (&long, b"2")];
    let error = write_directory_atomically(&path, &files, false).unwrap_err();
    assert!(matches!(error, AtomicWriteError::Io { .. }), "{error:?}");
    let error = write_atomically(&folder.path().join(&long), b"1", false).unwrap_err();
    assert!(matches!(error, AtomicWriteError::Io { .. }), "{error:?}");
    assert!(names(folder.path()).is_empty());
}
