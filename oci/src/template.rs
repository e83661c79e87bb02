//! The configuration that `spec` writes: runc's, so that scripts which edit it find what
//! they look for.

use crate::SPEC_VERSION;

/// For whom the template is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Somebody with all privileges.
    Root,
    /// An ordinary user with these ids.
    Rootless {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

/// The text of the template, indented with tabs. With version 2 of cgroups alone on the
/// host (`unified`), the container gets a cgroup namespace.
pub fn template(whom: For, unified: bool) -> String {
    let text = match whom {
        For::Root => include_str!("template/root.json").to_owned(),
        For::Rootless { uid, gid } => include_str!("template/rootless.json")
            .replace("@UID@", &uid.to_string())
            .replace("@GID@", &gid.to_string()),
    };
    let text = text.replace("@VERSION@", SPEC_VERSION);
    if !unified {
        return text;
    }
    const LAST: &str = "\n\t\t\t}\n\t\t],\n\t\t\"maskedPaths\"";
    text.replace(LAST, &LAST.replacen("}", "},\n\t\t\t{\n\t\t\t\t\"type\": \"cgroup\"\n\t\t\t}", 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::LinuxNamespaceType;

    #[test]
    fn every_template_is_a_valid_configuration() {
        for whom in [For::Root, For::Rootless { uid: 1000, gid: 100 }] {
            for unified in [false, true] {
                let config = crate::parse(template(whom, unified).as_bytes()).unwrap();
                crate::validate(&config).unwrap();
                assert_eq!(config.spec.process().as_ref().unwrap().terminal(), Some(true));
                let namespaces = config.spec.linux().as_ref().unwrap().namespaces().as_ref();
                let types: Vec<_> = namespaces.unwrap().iter().map(|n| n.typ()).collect();
                assert_eq!(types.contains(&LinuxNamespaceType::Cgroup), unified);
            }
        }
    }

    #[test]
    fn the_rootless_template_maps_the_user() {
        let config =
            crate::parse(template(For::Rootless { uid: 7, gid: 8 }, false).as_bytes()).unwrap();
        let linux = config.spec.linux().as_ref().unwrap();
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 7);
        assert_eq!(linux.gid_mappings().as_ref().unwrap()[0].host_id(), 8);
    }
}
