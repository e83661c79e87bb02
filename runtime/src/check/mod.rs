//! `hull check`: what this host has, and what is lost without it.
//!
//! `host` reads the host (files below a root, so that tests can make one up,
//! and what has to be asked by system call), `items` judges what was read,
//! this file prints. Nothing is changed and nothing is run.

mod host;
mod items;

use std::io::{self, Write};

use serde::Serialize;

use host::Host;

/// How the report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table for people.
    Text,
    /// One JSON object.
    Json,
}

/// What a host has of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All of it.
    Yes,
    /// Some of it.
    Partly,
    /// Nothing.
    No,
}

/// One thing a host may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// A stable name, for programs.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// Whether it is there.
    pub status: Status,
    /// Of which kind it is, or why it is not there.
    pub detail: String,
    /// What is lost without it, or by its being what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// Looks at the host and prints the report.
pub fn run(format: Format, out: &mut dyn Write) -> io::Result<()> {
    let items = items::all(&Host::this());
    match format {
        Format::Text => out.write_all(text(&items).as_bytes()),
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &serde_json::json!({ "items": items }))?;
            out.write_all(b"\n")
        }
    }
}

fn text(items: &[Item]) -> String {
    let width = items.iter().map(|item| item.title.len()).max().unwrap_or(0);
    let mut text = String::new();
    for item in items {
        let status = match item.status {
            Status::Yes => "yes",
            Status::Partly => "partly",
            Status::No => "no",
        };
        text.push_str(&format!("{:width$}  {status:6}  {}\n", item.title, item.detail));
        if let Some(lost) = &item.lost {
            text.push_str(&format!("{:width$}          -> {lost}\n", ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_reported_in_both_forms() {
        let mut json = Vec::new();
        run(Format::Json, &mut json).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let items = value["items"].as_array().unwrap();
        let named = |name: &str| items.iter().any(|item| item["name"] == name);
        for name in ["kvm", "cgroup", "namespaces", "seccomp", "ksm", "criu"] {
            assert!(named(name), "{name}");
        }
        let mut text = Vec::new();
        run(Format::Text, &mut text).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("KVM"));
    }

    #[test]
    fn what_is_missing_says_what_is_lost() {
        let items = items::all(&Host::empty());
        for item in items {
            assert!(item.status == Status::Yes || item.lost.is_some(), "{}", item.name);
        }
    }
}
