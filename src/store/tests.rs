//! Stores in temporary directories.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use t2lc_runtime::digest::Digest;
use tempfile::TempDir;

use super::record::tests::of_later_version;
use super::remote::Remote;
use super::{BLOBS, Kept, RECIPES, Record, Store, default_root};

fn store() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let store = Store::new(dir.path().join("store"));
    (dir, store)
}

/// Stores bytes and a record; gives the recipe and the content.
fn fill(store: &Store, bytes: &[u8]) -> (Digest, Digest) {
    let recipe = Digest::of(&[b"recipe of ", bytes].concat());
    let content = store.put(bytes).unwrap();
    store.record(&recipe, &Record::sample(recipe, bytes)).unwrap();
    (recipe, content)
}

#[test]
fn what_is_stored_is_found_again() {
    let (_dir, store) = store();
    assert_eq!(store.get(&Digest::of(b"a")).unwrap(), None);
    assert!(!store.root().exists(), "looking creates nothing");
    let (recipe, content) = fill(&store, b"a");
    assert_eq!(fill(&store, b"a"), (recipe, content));
    assert_eq!(store.get(&content).unwrap().as_deref(), Some(&b"a"[..]));
    assert_eq!(store.look_up(&recipe).unwrap(), Some(Record::sample(recipe, b"a")));
    assert!(store.contains(&content, 1).unwrap() && !store.contains(&content, 2).unwrap());
    let hex = content.to_hex();
    let path = store.root().join("blobs/sha256").join(&hex[..2]).join(&hex[2..]);
    assert_eq!(fs::read(path).unwrap(), b"a");
}

#[test]
fn damage_is_removed_and_repaired() {
    let (_dir, store) = store();
    let (recipe, content) = fill(&store, b"abc");
    let path = store.place(BLOBS, &content);
    fs::write(&path, b"abd").unwrap();
    assert_eq!(store.get(&content).unwrap(), None);
    assert!(!path.exists());
    assert_eq!(store.look_up(&recipe).unwrap(), None, "a record without bytes is no record");
    fs::write(&path, b"xyz").unwrap();
    store.put(b"abc").unwrap();
    assert_eq!(store.get(&content).unwrap().as_deref(), Some(&b"abc"[..]));

    let record = store.place(RECIPES, &recipe);
    fs::write(&record, b"sha256").unwrap();
    assert_eq!(store.look_up(&recipe).unwrap(), None);
    assert!(!record.exists());
}

#[test]
fn records_of_another_version_are_passed_over() {
    let (_dir, store) = store();
    let (recipe, _) = fill(&store, b"a");
    let old = Record { t2lc: "0.0.0".into(), ..Record::sample(recipe, b"a") };
    store.record(&recipe, &old).unwrap();
    assert_eq!(store.look_up(&recipe).unwrap(), None);
    let place = store.place(RECIPES, &recipe);
    assert!(place.exists());

    let (key, later) = (super::key(RECIPES, &recipe), of_later_version(&recipe));
    let remote = Arc::new(Shelf::default());
    let store = store.with_remote(remote.clone());
    fs::write(&place, &later).unwrap();
    remote.0.lock().unwrap().insert(key.clone(), later.clone());
    assert_eq!(store.look_up(&recipe).unwrap(), None);
    assert!(store.verify().unwrap().is_empty());
    store.collect(&Kept::Contents(BTreeSet::new()), false).unwrap();
    assert_eq!(fs::read(&place).unwrap(), later);
    assert_eq!(remote.0.lock().unwrap().get(&key), Some(&later));
}

#[test]
fn verify_reads_everything() {
    let (_dir, store) = store();
    let (_, good) = fill(&store, b"good");
    let (recipe, bad) = fill(&store, b"bad");
    assert!(store.verify().unwrap().is_empty());
    fs::write(store.place(BLOBS, &bad), b"BAD").unwrap();
    fs::write(store.place(RECIPES, &recipe), b"?").unwrap();
    let damaged = store.verify().unwrap();
    let paths: Vec<PathBuf> = damaged.into_iter().map(|found| found.path).collect();
    assert_eq!(paths, [store.place(BLOBS, &bad), store.place(RECIPES, &recipe)]);
    assert!(store.verify().unwrap().is_empty());
    let listed = store.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].content, listed[0].recipes.len()), (good, 1));
}

#[test]
fn collecting_keeps_what_is_named_and_nothing_foreign_is_touched() {
    let (_dir, store) = store();
    let (_, kept) = fill(&store, b"kept");
    let (recipe, gone) = fill(&store, b"gone");
    let foreign = store.place(BLOBS, &kept).with_file_name("notes.txt");
    fs::write(&foreign, b"mine").unwrap();
    let keep = Kept::Contents(BTreeSet::from([kept]));
    let planned = store.collect(&keep, true).unwrap();
    assert_eq!((planned.blobs, planned.records, planned.kept), (1, 1, 1));
    assert!(store.contains(&gone, 4).unwrap(), "a dry run removes nothing");
    assert_eq!(store.collect(&keep, false).unwrap(), planned);
    assert!(
        !store.contains(&gone, 4).unwrap() && store.contains(&kept, 4).unwrap() && foreign.exists()
    );
    assert_eq!(store.look_up(&recipe).unwrap(), None);
    assert_eq!(store.collect(&keep, false).unwrap().blobs, 0);
}

#[test]
fn collecting_by_age_spares_what_was_used() {
    let (_dir, store) = store();
    let (_, old) = fill(&store, b"old");
    let (used_recipe, used) = fill(&store, b"used");
    let long_ago = SystemTime::now() - Duration::from_hours(24 * 40);
    let temporary = store.place(BLOBS, &old).with_file_name(".t2lc-abc");
    fs::write(&temporary, b"half").unwrap();
    for path in [store.place(BLOBS, &old), store.place(BLOBS, &used), temporary.clone()] {
        fs::File::options().append(true).open(path).unwrap().set_modified(long_ago).unwrap();
    }
    assert!(store.clone().read_only().look_up(&used_recipe).unwrap().is_some());
    let looked_at = fs::metadata(store.place(BLOBS, &used)).unwrap().modified().unwrap();
    assert_eq!(looked_at, long_ago, "a store that is only read keeps its times");
    store.look_up(&used_recipe).unwrap();
    let collected = store.collect(&Kept::UsedWithin(Duration::from_hours(24 * 30)), false).unwrap();
    assert_eq!((collected.blobs, collected.kept, collected.temporary), (1, 1, 1));
    assert!(
        store.contains(&used, 4).unwrap()
            && !store.contains(&old, 3).unwrap()
            && !temporary.exists()
    );
}

#[test]
fn the_environment_names_the_place() {
    let root = |set: &[(&str, &str)]| {
        let set = set.to_vec();
        default_root(move |name| {
            set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    };
    assert_eq!(root(&[]), None);
    assert_eq!(root(&[("HOME", "/h")]), Some("/h/.cache/t2lc/store".into()));
    let cache = [("HOME", "/h"), ("XDG_CACHE_HOME", "/c")];
    assert_eq!(root(&cache), Some("/c/t2lc/store".into()));
    assert_eq!(root(&[("T2LC_STORE", "/s"), ("HOME", "/h")]), Some("/s".into()));
    assert_eq!(root(&[("T2LC_STORE", ""), ("HOME", "/h")]), Some("/h/.cache/t2lc/store".into()));
}

/// A remote store in memory.
#[derive(Debug, Default)]
struct Shelf(Mutex<BTreeMap<String, Vec<u8>>>);

impl Shelf {
    fn damage(&self) {
        for bytes in self.0.lock().unwrap().values_mut() {
            bytes[0] ^= 1;
        }
    }
}

impl Remote for Shelf {
    fn read(&self, key: &str, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let found = self.0.lock().unwrap().get(key).cloned();
        Ok(found.filter(|bytes| bytes.len() as u64 <= limit_bytes))
    }

    fn size_bytes(&self, key: &str) -> io::Result<Option<u64>> {
        Ok(self.0.lock().unwrap().get(key).map(|bytes| bytes.len() as u64))
    }

    fn write(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().insert(key.into(), bytes.into());
        Ok(())
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }
}

#[test]
fn machines_share_what_one_of_them_stored() {
    let shelf = Arc::new(Shelf::default());
    let machine = || {
        let (dir, store) = store();
        (dir, store.with_remote(Arc::clone(&shelf) as Arc<dyn Remote>))
    };
    let (_first_dir, first) = machine();
    let (recipe, content) = fill(&first, b"abc");

    let (_second_dir, second) = machine();
    assert_eq!(second.look_up(&recipe).unwrap(), Some(Record::sample(recipe, b"abc")));
    assert!(second.contains(&content, 3).unwrap());
    assert_eq!(second.get(&content).unwrap().as_deref(), Some(&b"abc"[..]));
    shelf.0.lock().unwrap().clear();
    assert_eq!(second.get(&content).unwrap().as_deref(), Some(&b"abc"[..]), "it is here now");
    assert!(second.look_up(&recipe).unwrap().is_some());
}

#[test]
fn what_is_here_alone_can_be_shared() {
    let shelf = Arc::new(Shelf::default());
    let (dir, alone) = store();
    let (recipe, content) = fill(&alone, b"abc");
    let record = Record::sample(recipe, b"abc");
    alone.share(&recipe, &record).unwrap();
    let shared = alone.with_remote(Arc::clone(&shelf) as Arc<dyn Remote>);
    shared.share(&recipe, &record).unwrap();
    assert_eq!(shelf.0.lock().unwrap().len(), 2);
    drop(dir);

    let (_second_dir, second) = store();
    let second = second.with_remote(Arc::clone(&shelf) as Arc<dyn Remote>);
    let reading = second.clone().read_only();
    assert_eq!(reading.look_up(&recipe).unwrap(), Some(record.clone()));
    assert!(!second.root().join(RECIPES).exists(), "looking leaves no trace");
    assert_eq!(second.look_up(&recipe).unwrap(), Some(record));
    assert_eq!(second.get(&content).unwrap().as_deref(), Some(&b"abc"[..]));
}

#[test]
fn damage_in_a_remote_store_is_removed_and_repaired() {
    let shelf = Arc::new(Shelf::default());
    let (_first_dir, first) = store();
    let first = first.with_remote(Arc::clone(&shelf) as Arc<dyn Remote>);
    let (recipe, content) = fill(&first, b"abc");
    shelf.damage();

    let (_second_dir, second) = store();
    let second = second.with_remote(Arc::clone(&shelf) as Arc<dyn Remote>);
    assert_eq!(second.look_up(&recipe).unwrap(), None);
    assert_eq!(second.get(&content).unwrap(), None);
    assert!(shelf.0.lock().unwrap().is_empty());
    fill(&second, b"abc");
    let key = super::key(BLOBS, &content);
    assert_eq!(shelf.read(&key, 3).unwrap().as_deref(), Some(&b"abc"[..]));
}

#[test]
fn a_record_of_another_version_is_replaced_in_a_remote_store() {
    let shelf = Arc::new(Shelf::default());
    let (_dir, store) = store();
    let store = store.with_remote(Arc::clone(&shelf) as Arc<dyn Remote>);
    let (recipe, _) = fill(&store, b"a");
    let old = Record { t2lc: "9.9.9".into(), ..Record::sample(recipe, b"a") };
    store.record(&recipe, &old).unwrap();
    store.record(&recipe, &Record::sample(recipe, b"a")).unwrap();
    let bytes = shelf.read(&super::key(RECIPES, &recipe), 1 << 20).unwrap().unwrap();
    assert_eq!(Record::from_bytes(&bytes, &recipe), Ok(Some(Record::sample(recipe, b"a"))));
}
