//! AppArmor profile and SELinux labels: honoured where the kernel has the module, else refused.

use crate::error::{Done, Trying};
use crate::sys;
use crate::{Error, Result};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

/// What the program is to be labelled with when it is executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    apparmor: Option<String>,
    selinux: Option<String>,
}

/// Whether AppArmor is in the kernel and on.
pub fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|value| value.first() == Some(&b'Y'))
}

/// Whether SELinux is in the kernel and its file system is mounted.
pub fn has_selinux() -> bool {
    const SELINUX_MAGIC: i64 = 0xf97c_ff8c;
    sys::open(c"/sys/fs/selinux", libc::O_PATH, 0)
        .and_then(sys::fs_magic)
        .is_ok_and(|magic| magic == SELINUX_MAGIC)
}

/// Checks that what is asked for can be had.
pub(crate) fn plan(apparmor: Option<&str>, selinux: Option<&str>) -> Result<Labels> {
    let given = |label: Option<&str>| label.filter(|l| !l.is_empty()).map(str::to_owned);
    let labels = Labels { apparmor: given(apparmor), selinux: given(selinux) };
    if labels.apparmor.is_some() && !has_apparmor() {
        return Err(Error::value(
            "process.apparmorProfile",
            "config provided but apparmor not supported",
        ));
    }
    if labels.selinux.is_some() && !has_selinux() {
        return Err(Error::value(
            "process.selinuxLabel",
            "selinux label is specified in config, but selinux is disabled or not supported",
        ));
    }
    Ok(labels)
}

impl Labels {
    pub(crate) fn is_empty(&self) -> bool {
        self.apparmor.is_none() && self.selinux.is_none()
    }

    /// Asks for the labels from the next exec on. `own` is `/proc/self` of a genuine procfs.
    pub(crate) fn apply(&self, own: BorrowedFd<'_>) -> Done<()> {
        if let Some(profile) = &self.apparmor {
            let text = format!("exec {profile}");
            let what = || format!("process.apparmorProfile {profile:?}");
            let written = write(own, c"attr/apparmor/exec", &text)
                .or_else(|_| write(own, c"attr/exec", &text));
            written.trying(what)?;
        }
        if let Some(label) = &self.selinux {
            let text = CString::new(label.as_str()).unwrap_or_default();
            let text = String::from_utf8_lossy(text.as_bytes_with_nul()).into_owned();
            write(own, c"attr/exec", &text).trying(|| format!("process.selinuxLabel {label:?}"))?;
        }
        Ok(())
    }
}

fn write(own: BorrowedFd<'_>, path: &CStr, text: &str) -> sys::Result<()> {
    let confined = sys::resolve::BENEATH | sys::resolve::NO_XDEV | sys::resolve::NO_SYMLINKS;
    let fd = sys::openat2(own, path, libc::O_WRONLY, 0, confined)?;
    sys::write_once(fd.as_fd(), text.as_bytes())
}
