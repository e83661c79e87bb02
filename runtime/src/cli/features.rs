//! `features`: what this build honours, as the specification's features document.

use super::print;
use crate::{Error, Result};

/// `hull features`.
pub fn features() -> Result<()> {
    let text = serde_json::to_string_pretty(&document())
        .map_err(|source| Error::Encode { what: "features", source })?;
    print(&(text + "\n"))
}

fn document() -> oci::spec::Features {
    oci::spec::Features::default()
}
