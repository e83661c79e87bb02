//! `linux.resources` as plain lists of writes, for v1 and for v2.
//!
//! Everything here is pure: a list is computed from the resources alone, and carried out by
//! [`super::apply`]. Devices are planned in [`super::devices`].

pub(super) mod convert;
pub(super) mod v1;
pub(super) mod v2;

use super::error::{Error, Result};
use oci::spec::LinuxHugepageLimit;
use std::borrow::Cow;

/// What happens when the kernel refuses a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is an error.
    Must,
    /// `EINVAL` may mean that another write of the list has to come first: tried again at the end.
    Reorder,
    /// The kernel may have given this limit up: said, not failed.
    Obsolete,
    /// The file may be absent: then this one is written instead.
    Or(&'static str, String),
    /// The file may be absent: then nothing is lost.
    IfPresent,
}

/// One value for one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// The controller the file belongs to.
    pub controller: Cow<'static, str>,
    /// Name of the file.
    pub file: Cow<'static, str>,
    /// What is written.
    pub value: String,
    /// The field of `linux.resources` it comes from.
    pub field: Cow<'static, str>,
    /// How a refusal is taken.
    pub mode: Mode,
}

impl Write {
    fn new(
        controller: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
        field: impl Into<Cow<'static, str>>,
    ) -> Write {
        Write {
            controller: Cow::Borrowed(controller),
            file: file.into(),
            value: value.to_string(),
            field: field.into(),
            mode: Mode::Must,
        }
    }

    fn mode(mut self, mode: Mode) -> Write {
        self.mode = mode;
        self
    }
}

/// `memory.limit`, `memory.swap` and the like: `-1` is no limit, 0 is what engines write for unset.
fn memory_value(field: &'static str, value: Option<i64>) -> Result<Option<i64>> {
    match value {
        None | Some(0) => Ok(None),
        Some(value) if value < -1 => Err(Error::value(field, format!("{value} is not a size"))),
        Some(value) => Ok(Some(value)),
    }
}

/// A size as the kernel names its hugetlb files: `2MB`, `1GB`.
fn page_size(limit: &LinuxHugepageLimit) -> Result<&str> {
    let size = limit.page_size().as_str();
    let digits = size
        .strip_suffix("KB")
        .or_else(|| size.strip_suffix("MB"))
        .or_else(|| size.strip_suffix("GB"));
    let good = digits.is_some_and(|d| {
        !d.is_empty() && !d.starts_with('0') && d.bytes().all(|b| b.is_ascii_digit())
    });
    if good {
        Ok(size)
    } else {
        Err(Error::value("hugepageLimits.pageSize", format!("{size:?} is not of the form 2MB")))
    }
}

/// A device number pair, checked.
fn device_number(field: &'static str, major: i64, minor: i64) -> Result<String> {
    if u32::try_from(major).is_err() || u32::try_from(minor).is_err() {
        return Err(Error::value(field, format!("{major}:{minor} is not a device")));
    }
    Ok(format!("{major}:{minor}"))
}

/// A list of CPUs or memory nodes must at least look like one; the kernel judges the rest.
fn list_value(field: &'static str, value: &str) -> Result<()> {
    if value.bytes().all(|byte| byte.is_ascii_digit() || b",- :/".contains(&byte)) {
        Ok(())
    } else {
        Err(Error::value(field, format!("{value:?} is not a list of numbers and ranges")))
    }
}

/// The `rdma.max` lines; the same file on v1 and v2.
fn rdma(resources: &oci::spec::LinuxResources, out: &mut Vec<Write>) -> Result<()> {
    let Some(devices) = resources.rdma() else { return Ok(()) };
    let mut names: Vec<_> = devices.keys().collect();
    names.sort();
    for name in names {
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Error::value("rdma", format!("{name:?} is not a device")));
        }
        let limit = &devices[name];
        let mut line = name.clone();
        if let Some(handles) = limit.hca_handles() {
            line.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limit.hca_objects() {
            line.push_str(&format!(" hca_object={objects}"));
        }
        if line.len() > name.len() {
            out.push(Write::new("rdma", "rdma.max", line, format!("rdma.{name}")));
        }
    }
    Ok(())
}
