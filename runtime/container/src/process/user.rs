//! Who the process is: groups, group, user, umask; and its home directory by default.

use crate::error::{Done, Failure, Trying};
use crate::path::Root;
use crate::sys;
use nix::errno::Errno;
use nix::unistd::{Gid, Uid};
use oci::spec::User;
use std::os::fd::AsFd;

/// `/etc/passwd` of an honest image is smaller.
const MAX_PASSWD: usize = 1 << 20;

/// The user that a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: Option<u32>,
}

impl Identity {
    pub(crate) fn plan(user: &User) -> Identity {
        Identity {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask(),
        }
    }

    /// Sets the supplementary groups.
    pub(crate) fn set_groups(&self) -> Done<()> {
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        match nix::unistd::setgroups(&groups) {
            Ok(()) => Ok(()),
            // An ordinary user mapped only itself: there are no groups to drop, none to gain.
            Err(Errno::EPERM) if groups.is_empty() => Ok(()),
            Err(error) => {
                Err(error).trying(|| format!("process.user.additionalGids {:?}", self.groups))
            }
        }
    }

    /// Looks at files as this user for the time of `look`. The kernel takes away what capabilities
    /// would add, and gives it back after.
    pub(crate) fn looking_as(&self, look: impl FnOnce() -> Done<()>) -> Done<()> {
        if self.uid == 0 && self.gid == 0 {
            return look();
        }
        nix::unistd::setfsgid(Gid::from_raw(self.gid));
        nix::unistd::setfsuid(Uid::from_raw(self.uid));
        let seen = look();
        nix::unistd::setfsuid(nix::unistd::geteuid());
        nix::unistd::setfsgid(nix::unistd::getegid());
        seen
    }

    /// Changes group and user; capabilities stay (for now) by `PR_SET_KEEPCAPS`.
    pub(crate) fn assume(&self) -> Done<()> {
        let gid = Gid::from_raw(self.gid);
        nix::unistd::setresgid(gid, gid, gid)
            .trying(|| format!("process.user.gid {}", self.gid))?;
        let uid = Uid::from_raw(self.uid);
        if uid.is_root() && nix::unistd::getuid().is_root() {
            return Ok(());
        }
        sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).trying(|| "keep capabilities")?;
        nix::unistd::setresuid(uid, uid, uid)
            .trying(|| format!("process.user.uid {}", self.uid))?;
        sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).trying(|| "keep capabilities")?;
        Ok(())
    }

    /// Gives stdin, stdout and stderr to the user, so that it can open `/dev/stdout` anew.
    pub(crate) fn own_stdio(&self) -> Done<()> {
        for fd in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
            let Ok(stat) = sys::fstat(fd) else { continue };
            let null = nix::sys::stat::makedev(1, 3);
            let device = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == null;
            if device || stat.st_uid == self.uid {
                continue;
            }
            match nix::unistd::fchown(fd, Some(Uid::from_raw(self.uid)), None) {
                // Not ours to give, or of a kind or in a place that knows no owners.
                Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS | Errno::ENOSYS) => {}
                Err(error) => return Err(error).trying(|| "change the owner of stdio"),
            }
        }
        Ok(())
    }
}

/// The home directory of a user by `/etc/passwd` of the root; `/` where it does not say.
pub(crate) fn home(root: &Root, uid: u32) -> String {
    passwd(root).and_then(|text| home_in(&text, uid)).unwrap_or_else(|| "/".to_owned())
}

fn passwd(root: &Root) -> Option<String> {
    // A fifo or device there must not make us wait.
    let fd = root.open(c"/etc/passwd", libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY).ok()?;
    let stat = sys::fstat(&fd).ok()?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return None;
    }
    let bytes = sys::read_all(fd.as_fd(), MAX_PASSWD).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let id = fields.nth(2)?;
        let home = fields.nth(2)?;
        (id.parse() == Ok(uid) && home.starts_with('/')).then(|| home.to_owned())
    })
}

/// The umask for making the container's files, so that modes come out as given.
pub(crate) fn clear_umask() {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::umask(0) };
}

/// The umask of the user's program.
pub(crate) fn set_umask(umask: u32) -> Done<()> {
    if umask > 0o777 {
        return Err(Failure::plain(format!("process.user.umask {umask:o}: not a umask")));
    }
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::umask(umask) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_directory_is_found_by_number() {
        let text = "root:x:0:0:root:/root:/bin/sh\nbroken\nme:x:1000:1000::/home/me:/bin/sh\n";
        assert_eq!(home_in(text, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(text, 1000).as_deref(), Some("/home/me"));
        assert_eq!(home_in(text, 5), None);
    }

    #[test]
    fn a_relative_home_is_none() {
        assert_eq!(home_in("x:x:1:1::nowhere:/bin/sh", 1), None);
    }
}
