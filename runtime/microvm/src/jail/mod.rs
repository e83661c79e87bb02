//! What each thread of the VMM gives up before the guest runs: capabilities,
//! new privileges, and every system call not on its list.
//!
//! The lists are in `lists`; what is not on one ends the process, with a line
//! on standard error that names thread and call (`trap`): better no machine
//! than one whose confinement has a hole. A thread that cannot confine itself
//! must not go on.
//!
//! Sources: seccomp(2), capabilities(7), prctl(2).

mod capabilities;
mod lists;
mod trap;

use std::collections::BTreeMap;
use std::sync::Arc;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// A kind of thread; each has its own list of system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The thread that waits for the machine's end and talks to the outside.
    Main,
    /// A virtual processor.
    Vcpu,
    /// The event loop of the small devices.
    Devices,
    /// A virtio-fs worker; keeps the capabilities file access needs.
    Fs,
}

/// A confinement cannot be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lists do not make a filter.
    #[error("jail: {role:?}: compile: {source}")]
    Compile {
        /// Whose list.
        role: Role,
        /// Why.
        source: seccompiler::BackendError,
    },
    /// The kernel does not take the filter.
    #[error("jail: {role:?}: seccomp: {source}")]
    Apply {
        /// Whose.
        role: Role,
        /// Why.
        source: seccompiler::Error,
    },
    /// A system call failed.
    #[error("jail: {role:?}: {operation}: {source}")]
    System {
        /// Whose.
        role: Role,
        /// Which.
        operation: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// Compiled once, entered by each thread. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub struct Jail {
    filters: Option<Arc<Filters>>,
}

#[derive(Debug)]
struct Filters {
    main: BpfProgram,
    vcpu: BpfProgram,
    devices: BpfProgram,
    fs: BpfProgram,
}

impl Jail {
    /// No confinement: for tests and debugging.
    pub fn none() -> Jail {
        Jail::default()
    }

    /// The confinement of a machine. `main` names system calls that the owner
    /// needs in its own thread beyond those on the list.
    pub fn confine(main: &[i64]) -> Result<Jail, Error> {
        trap::install().map_err(|source| Error::System {
            role: Role::Main,
            operation: "sigaction SIGSYS",
            source,
        })?;
        let mut own = lists::MAIN.to_vec();
        own.extend_from_slice(main);
        Ok(Jail {
            filters: Some(Arc::new(Filters {
                main: compile(Role::Main, &own, lists::MAIN_IOCTLS)?,
                vcpu: denying_open(compile(Role::Vcpu, lists::VCPU, lists::VCPU_IOCTLS)?),
                devices: denying_open(compile(
                    Role::Devices,
                    lists::DEVICES,
                    lists::DEVICES_IOCTLS,
                )?),
                fs: compile(Role::Fs, lists::FS, lists::FS_IOCTLS)?,
            })),
        })
    }

    /// Confines the calling thread for good. Called first thing in a thread.
    pub fn enter(&self, role: Role) -> Result<(), Error> {
        let Some(filters) = &self.filters else {
            return Ok(());
        };
        let system = |operation| move |source| Error::System { role, operation, source };
        capabilities::keep(match role {
            Role::Fs => capabilities::FILE_ACCESS,
            Role::Main | Role::Vcpu | Role::Devices => 0,
        })
        .map_err(system("capset"))?;
        // SAFETY: PR_SET_NO_NEW_PRIVS takes plain numbers.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(system("PR_SET_NO_NEW_PRIVS")(std::io::Error::last_os_error()));
        }
        let program = match role {
            Role::Main => &filters.main,
            Role::Vcpu => &filters.vcpu,
            Role::Devices => &filters.devices,
            Role::Fs => &filters.fs,
        };
        seccompiler::apply_filter(program).map_err(|source| Error::Apply { role, source })
    }
}

/// Common calls and `list` are allowed, and of ioctl the requests in `ioctls`.
fn compile(role: Role, list: &[i64], ioctls: &[u64]) -> Result<BpfProgram, Error> {
    let fail = |source| Error::Compile { role, source };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        lists::COMMON.iter().chain(list).map(|&call| (call, vec![])).collect();
    let mut requests = Vec::with_capacity(ioctls.len());
    for &request in ioctls {
        // The kernel looks at the low half of the request only.
        let condition = SeccompCondition::new(
            1,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            request & 0xffff_ffff,
        )
        .map_err(fail)?;
        requests.push(SeccompRule::new(vec![condition]).map_err(fail)?);
    }
    if !requests.is_empty() {
        rules.insert(libc::SYS_ioctl, requests);
    }
    SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, TargetArch::x86_64)
        .and_then(BpfProgram::try_from)
        .map_err(fail)
}

/// The C library looks into /proc when it gives back memory of a thread's heap,
/// and copes with not being let: opening is denied, not a reason to end. The
/// check stands before the program, whose jumps are relative.
fn denying_open(program: BpfProgram) -> BpfProgram {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let instruction = |code, jt, jf, k| seccompiler::sock_filter { code, jt, jf, k };
    let mut whole = vec![
        // seccomp_data.nr is the first word.
        instruction(LOAD_NUMBER, 0, 0, 0),
        instruction(JUMP_IF_EQUAL, 0, 1, libc::SYS_openat as u32),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ];
    whole.extend(program);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, OwnedFd};

    /// Runs `act` in a child that has entered `role`; its exit status, and
    /// what it wrote to standard error.
    fn in_jail(role: Role, act: fn()) -> (i32, String) {
        let jail = Jail::confine(&[]).unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        // SAFETY: the child calls only async-signal-safe functions: the filters are
        // compiled already, and `act` of these tests makes system calls only.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: plain descriptors.
            unsafe { libc::dup2(write.as_raw_fd(), 2) };
            let entered = jail.enter(role).is_ok();
            if entered {
                act();
            }
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(if entered { 0 } else { 99 }) };
        }
        drop::<OwnedFd>(write);
        let mut status = 0;
        // SAFETY: our own child, a local.
        unsafe { libc::waitpid(pid, &mut status, 0) };
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(read), &mut text).unwrap();
        (libc::WEXITSTATUS(status), text)
    }

    fn open_a_file() {
        // SAFETY: a NUL-terminated path.
        unsafe { libc::openat(libc::AT_FDCWD, c"/etc/hostname".as_ptr(), libc::O_RDONLY) };
    }

    fn make_a_socket() {
        // SAFETY: plain numbers.
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    }

    fn nothing() {}

    #[test]
    fn a_thread_goes_on_with_what_is_on_its_list() {
        for role in [Role::Main, Role::Vcpu, Role::Devices, Role::Fs] {
            assert_eq!(in_jail(role, nothing), (0, String::new()));
        }
        assert_eq!(in_jail(Role::Fs, open_a_file).0, 0);
    }

    #[test]
    fn what_is_not_on_the_list_ends_the_process_and_is_named() {
        for role in [Role::Vcpu, Role::Devices, Role::Fs] {
            let (status, text) = in_jail(role, make_a_socket);
            assert_eq!(status, trap::STATUS);
            assert!(text.contains(&format!("system call {} ", libc::SYS_socket)), "{text}");
        }
    }

    #[test]
    fn processors_and_devices_open_nothing() {
        fn check() {
            // SAFETY: a NUL-terminated path; _exit ends the child at once.
            unsafe {
                if libc::open(c"/etc/hostname".as_ptr(), libc::O_RDONLY) >= 0 {
                    libc::_exit(7);
                }
            }
        }
        for role in [Role::Vcpu, Role::Devices] {
            assert_eq!(in_jail(role, check), (0, String::new()));
        }
    }

    #[test]
    fn no_capabilities_are_left() {
        fn check() {
            if capabilities::effective().is_ok_and(|set| set != 0) {
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(7) };
            }
        }
        // capget is not on the list of a vCPU, so the owner's thread is asked.
        assert_eq!(in_jail(Role::Main, check).0, 0);
    }
}
