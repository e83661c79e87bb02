use super::*;
use crate::wall::{RECORD_VERSION, Record};
use std::ffi::OsStr;

/// A root of its own, removed at the end.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hull-store-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Root(path)
    }

    fn store(&self) -> Store {
        Store::new(self.0.join("deep").join("root"))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn id(text: &str) -> Id {
    Id::parse(OsStr::new(text)).unwrap()
}

fn container(name: &str) -> Container {
    Container {
        version: RECORD_VERSION,
        oci_version: "1.3.0".into(),
        id: name.into(),
        bundle: "/b".into(),
        rootfs: "/b/rootfs".into(),
        created: "2026-01-01T00:00:00.000000000Z".into(),
        owner: 0,
        annotations: Default::default(),
        poststart: Vec::new(),
        poststop: Vec::new(),
        record: Record::Container(container::Record { pid: 1, ..Default::default() }),
        state_dir: PathBuf::new(),
    }
}

#[test]
fn an_id_is_claimed_once() {
    let root = Root::new("once");
    let store = root.store();
    let claim = store.claim(&id("a"), None).unwrap();
    assert!(matches!(store.claim(&id("a"), None), Err(Error::Exists)));
    assert!(matches!(store.load(&id("a")), Err(Error::NotFound)));
    let _lock = claim.commit(&container("a")).unwrap();
    assert!(matches!(store.claim(&id("a"), None), Err(Error::Exists)));
    assert_eq!(store.load(&id("a")).unwrap().id, "a");
    assert_eq!(fs::metadata(store.dir(&id("a"))).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_claim_that_is_dropped_leaves_nothing() {
    let root = Root::new("dropped");
    let store = root.store();
    let claim = store.claim(&id("a"), None).unwrap();
    claim.save_config(b"{}").unwrap();
    drop(claim);
    assert!(!store.dir(&id("a")).exists());
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn what_a_killed_create_left_does_not_block_the_id() {
    let root = Root::new("killed");
    let store = root.store();
    fs::create_dir_all(store.dir(&id("a"))).unwrap();
    fs::write(store.dir(&id("a")).join("config.json"), "{}").unwrap();
    assert!(store.list().unwrap().is_empty());
    store.claim(&id("a"), None).unwrap();
}

#[test]
fn a_removed_container_is_seen_through_a_released_lock() {
    let root = Root::new("released");
    let store = root.store();
    let lock = store.claim(&id("a"), None).unwrap().commit(&container("a")).unwrap();
    lock.release();
    assert!(lock.retake().unwrap());
    lock.release();
    let (other, container) = store.lock(&id("a")).unwrap();
    store.remove(&container.state_dir).unwrap();
    drop(other);
    assert!(!lock.retake().unwrap());
    assert!(matches!(store.lock(&id("a")), Err(Error::NotFound)));
}

#[test]
fn a_damaged_state_file_is_named_and_can_be_discarded() {
    let root = Root::new("damaged");
    let store = root.store();
    let dir = store.dir(&id("a"));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("state.json"), "{").unwrap();
    let error = store.load(&id("a")).unwrap_err();
    assert!(error.to_string().contains("state.json"), "{error}");
    let listed = store.list().unwrap();
    assert!(matches!(&listed[..], [(name, Err(Error::Corrupt { .. }))] if name == "a"));
    store.discard(&id("a")).unwrap();
    assert!(!dir.exists());
}

#[test]
fn a_pid_file_is_whole_and_alone() {
    let root = Root::new("pid");
    fs::create_dir_all(&root.0).unwrap();
    let path = root.0.join("pid");
    write_pid_file(&path, 4711).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "4711");
    assert_eq!(fs::read_dir(&root.0).unwrap().count(), 1);
    assert!(write_pid_file(&root.0.join("no/such/pid"), 1).is_err());
}
