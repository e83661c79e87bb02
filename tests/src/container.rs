//! A container made by `create`, deleted by force when the behaviour is done
//! with it, however it ends.

use crate::call::{Call, Output, Running};
use crate::place::Place;
use crate::wait::eventually;
use serde_json::Value;
use std::cell::RefCell;

/// A container, or the name of one.
pub struct Container<'a> {
    place: &'a Place,
    /// Its id.
    pub id: String,
    creator: RefCell<Option<(std::path::PathBuf, std::path::PathBuf)>>,
}

impl<'a> Container<'a> {
    /// A container known by its name only.
    pub fn named(place: &'a Place, id: &str) -> Container<'a> {
        Container { place, id: id.to_owned(), creator: RefCell::new(None) }
    }

    /// Waits for the `create` that makes it.
    #[track_caller]
    pub fn created_by(self, running: Running) -> Container<'a> {
        *self.creator.borrow_mut() = Some(running.files());
        running.wait().ok();
        self
    }

    /// A command on it.
    pub fn command(&self, name: &str) -> Call {
        self.place.hull().arg(name).arg(&self.id)
    }

    /// Starts it.
    #[track_caller]
    pub fn start(&self) {
        self.command("start").ok();
    }

    /// What `state` says.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.command("state").ok().json()
    }

    /// Its status in one word.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("a status").to_owned()
    }

    /// Its process on the host.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().expect("a pid") as i32
    }

    /// Waits until it has this status.
    #[track_caller]
    pub fn becomes(&self, status: &str) {
        eventually(&format!("{} is {status}", self.id), || (self.status() == status).then_some(()));
    }

    /// Sends a signal.
    #[track_caller]
    pub fn kill(&self, signal: &str) {
        self.place.hull().args(["kill", &self.id, signal]).ok();
    }

    /// Deletes it; it must have stopped.
    #[track_caller]
    pub fn delete(&self) {
        self.command("delete").ok();
    }

    /// Deletes it by force.
    #[track_caller]
    pub fn delete_force(&self) {
        self.place.hull().args(["delete", "--force", &self.id]).ok();
    }

    /// An `exec` in it, about to be called.
    pub fn exec<S: AsRef<str>>(&self, args: &[S]) -> Call {
        self.exec_with(&[], args)
    }

    /// An `exec` with options in it, about to be called.
    pub fn exec_with<S: AsRef<str>>(&self, options: &[&str], args: &[S]) -> Call {
        self.place
            .hull()
            .arg("exec")
            .args(options)
            .arg(&self.id)
            .args(args.iter().map(AsRef::as_ref))
    }

    /// A shell script in it, to its end.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        self.exec(&["sh", "-c", script]).run()
    }

    /// What it wrote to stdout.
    pub fn stdout(&self) -> String {
        self.read(|(out, _)| out)
    }

    /// What it wrote to stderr.
    pub fn stderr(&self) -> String {
        self.read(|(_, err)| err)
    }

    fn read(
        &self,
        which: impl Fn(&(std::path::PathBuf, std::path::PathBuf)) -> &std::path::PathBuf,
    ) -> String {
        self.creator.borrow().as_ref().map_or_else(String::new, |files| {
            String::from_utf8_lossy(&std::fs::read(which(files)).unwrap_or_default()).into_owned()
        })
    }

    /// Waits until its stdout contains these words.
    #[track_caller]
    pub fn says(&self, words: &str) {
        crate::wait::within(crate::wait::PATIENCE, || self.stdout().contains(words).then_some(()))
            .unwrap_or_else(|| {
                panic!(
                    "{} did not say {words:?}\nstatus: {}\nstdout: {}\nstderr: {}",
                    self.id,
                    self.command("state").run().stdout,
                    self.stdout(),
                    self.stderr()
                )
            });
    }

    /// Its directory of state.
    pub fn state_dir(&self) -> std::path::PathBuf {
        self.place.root().join(&self.id)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The room is emptied by the driver; a runtime that hangs must not
            // cost the first error its place.
            return;
        }
        if self.state_dir().exists() {
            let output = self.place.hull().args(["delete", "--force", &self.id]).run();
            output.ok();
        }
    }
}
