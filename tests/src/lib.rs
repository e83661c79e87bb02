//! What the behaviours share: a driver that runs each of them in a room of its
//! own, and helpers that make a bundle, call the runtime and look at what it
//! left. Must not know how the runtime works inside: it is called as a user
//! would call it, so that another OCI runtime can be put in its place
//! (`HULL_BIN=/usr/bin/runc`) to tell a wrong test from a wrong runtime.

pub mod bundle;
pub mod call;
pub mod cgroup;
pub mod container;
pub mod driver;
pub mod inside;
pub mod leftovers;
pub mod place;
pub mod rootfs;
pub mod terminal;
pub mod wait;

pub use bundle::Bundle;
pub use call::{Call, Output, Running};
pub use container::Container;
pub use place::{Place, Wall};
pub use wait::{eventually, holds_within};

/// One behaviour: a sentence for a name and a function that panics when the
/// sentence is not true.
#[derive(Clone, Copy)]
pub struct Behaviour {
    /// `module_path!()` of the file it stands in; its last part is the subject.
    pub module: &'static str,
    /// The function's name.
    pub name: &'static str,
    /// The walls it is true of.
    pub walls: &'static [Wall],
    /// The check itself.
    pub check: fn(&Place),
}

impl Behaviour {
    /// `container::process::exit_status_is_passed_on`
    pub fn full_name(&self, wall: Wall) -> String {
        let subject = self.module.rsplit("::").next().unwrap_or(self.module);
        format!("{}::{}::{}", wall.name(), subject, self.name)
    }
}

/// Lists for the macro [`subject!`]: the walls by the word written there.
pub mod walls {
    #![allow(non_upper_case_globals)] // They are written as words in the lists.
    use crate::Wall;
    /// True of both walls.
    pub const both: &[Wall] = &[Wall::Container, Wall::MicroVm];
    /// True of the container wall only (it looks at the host's side of it).
    pub const container: &[Wall] = &[Wall::Container];
    /// True of the microVM wall only.
    pub const microvm: &[Wall] = &[Wall::MicroVm];
}

/// The list of a subject file: `subject! { both: a, b; container: c; }`.
#[macro_export]
macro_rules! subject {
    ($($walls:ident: $($name:ident),+ $(,)?);+ $(;)?) => {
        /// The behaviours of this subject.
        pub const LIST: &[$crate::Behaviour] = &[$($($crate::Behaviour {
            module: module_path!(),
            name: stringify!($name),
            walls: $crate::walls::$walls,
            check: $name,
        }),+),+];
    };
}
