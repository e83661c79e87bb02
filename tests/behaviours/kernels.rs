//! The store of guest kernels: list, install, show, remove.

use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use tests::{Call, Place, subject};

subject! {
    container: empty_store_lists_nothing, installed_kernel_is_listed_shown_and_removed, what_is_no_kernel_is_refused,
        unknown_kernel_is_named, damaged_kernel_is_noticed, newest_kernel_of_the_host_is_taken,
        uncompressed_kernel_is_used_where_it_lies;
}

/// An empty store, in this behaviour's own mounts.
fn store(place: &Place) -> Store<'_> {
    place.only_hull();
    fs::create_dir_all("/var/lib/hull").expect("the place of stores");
    Call::new(&place.dir, "mount").args(["-t", "tmpfs", "none", "/var/lib/hull"]).ok();
    Store(place)
}

struct Store<'a>(&'a Place);

impl Store<'_> {
    fn call(&self, args: &[&str]) -> tests::Output {
        Call::new(&self.0.dir, &self.0.program).arg("kernel").args(args).run()
    }

    fn list(&self) -> Vec<Value> {
        self.call(&["list", "--json"]).ok().json().as_array().expect("a list").clone()
    }
}

impl Drop for Store<'_> {
    fn drop(&mut self) {
        let _ = Call::new(&self.0.dir, "umount").args(["-l", "/var/lib/hull"]).run();
    }
}

/// A compressed kernel of this host.
fn compressed(place: &Place) -> PathBuf {
    let mut all: Vec<PathBuf> = fs::read_dir("/boot")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .collect();
    all.sort();
    all.pop().unwrap_or_else(|| place.cannot("no kernel in /boot"))
}

fn empty_store_lists_nothing(place: &Place) {
    let store = store(place);
    assert_eq!(store.list(), Vec::<Value>::new());
    store.call(&["list"]).ok();
}

fn installed_kernel_is_listed_shown_and_removed(place: &Place) {
    let kernel = compressed(place);
    let store = store(place);
    store.call(&["install", tests::place::str(&kernel)]).ok();
    let list = store.list();
    assert_eq!(list.len(), 1);
    let release = list[0]["release"].as_str().expect("a release").to_owned();
    let shown = store.call(&["show", &release]).ok().json();
    assert_eq!(shown["intact"], json!(true));
    store.call(&["list"]).ok().says(&release);
    store.call(&["install", tests::place::str(&kernel)]).ok();
    assert_eq!(store.list().len(), 1, "once is enough");
    store.call(&["remove", &release]).ok();
    assert_eq!(store.list().len(), 0);
}

fn damaged_kernel_is_noticed(place: &Place) {
    let kernel = compressed(place);
    let store = store(place);
    store.call(&["install", tests::place::str(&kernel)]).ok();
    let image = Call::new(&place.dir, "find")
        .args(["/var/lib/hull", "-name", "vmlinux"])
        .ok()
        .stdout
        .trim()
        .to_owned();
    let mut bytes = fs::read(&image).expect("the image");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&image, bytes).expect("damaged");
    let release = store.list()[0]["release"].as_str().expect("a release").to_owned();
    assert_eq!(store.call(&["show", &release]).ok().json()["intact"], json!(false));
}

fn newest_kernel_of_the_host_is_taken(place: &Place) {
    compressed(place);
    let store = store(place);
    store.call(&["install"]).ok();
    assert_eq!(store.list().len(), 1);
}

fn what_is_no_kernel_is_refused(place: &Place) {
    let store = store(place);
    for (name, text) in [("text", "no kernel"), ("empty", ""), ("gzip", "\u{1f}\u{8b}\u{8}")] {
        let file = place.new_file(name, text);
        store.call(&["install", tests::place::str(&file)]).complains(&[name]);
    }
    store.call(&["install", "/no/such/vmlinuz"]).complains(&["/no/such/vmlinuz"]);
    store.call(&["install", "9.9.9-nowhere"]).complains(&["9.9.9-nowhere"]);
    assert_eq!(store.list().len(), 0);
}

fn unknown_kernel_is_named(place: &Place) {
    let store = store(place);
    store.call(&["show", "9.9.9-nowhere"]).complains(&["9.9.9-nowhere"]);
    store.call(&["remove", "9.9.9-nowhere"]).complains(&["9.9.9-nowhere"]);
    store.call(&["frobnicate"]).fails();
}

fn uncompressed_kernel_is_used_where_it_lies(place: &Place) {
    let Some(kernel) = place.kernel.clone() else { place.cannot("needs HULL_TEST_KERNEL") };
    let store = store(place);
    store.call(&["install", tests::place::str(&kernel)]).ok();
    assert_eq!(store.list().len(), 0);
}
