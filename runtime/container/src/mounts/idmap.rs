//! User namespaces that serve only as mappings of mounts (`idmap`, mount_setattr(2)).

use super::plan::Step;
use crate::userns::{self, Mappings};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A user namespace for each id-mapped mount, by the step's index.
#[derive(Debug, Default)]
pub(crate) struct IdMaps(BTreeMap<usize, OwnedFd>);

impl IdMaps {
    /// The mapping of a step, if it has one.
    pub(crate) fn of(&self, step: &Step) -> Option<BorrowedFd<'_>> {
        self.0.get(&step.index).map(AsFd::as_fd)
    }

    /// Makes the namespaces of all steps that want one. `own`: the container's mappings.
    pub(crate) fn make(steps: &[Step], own: Option<&Mappings>) -> Result<IdMaps> {
        let mut made = BTreeMap::new();
        for step in steps {
            let Some((users, groups)) = &step.mappings else { continue };
            let given = Mappings { users: users.clone(), groups: groups.clone() };
            let mappings = if !users.is_empty() {
                &given
            } else {
                own.filter(|own| !own.users.is_empty()).ok_or_else(|| {
                    Error::value(
                        format!("mounts[{}].options", step.index),
                        "idmap needs uidMappings and gidMappings: the container has none of its own",
                    )
                })?
            };
            made.insert(step.index, userns::holder(mappings)?);
        }
        Ok(IdMaps(made))
    }
}
