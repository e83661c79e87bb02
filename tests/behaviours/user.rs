//! Who the process is: ids, groups, capabilities.

use serde_json::json;
use tests::{Bundle, Place, subject};

subject! {
    both: ids_are_the_configs, groups_are_the_configs, capability_sets_are_the_configs,
        ambient_capabilities_are_kept_by_a_user, user_without_capabilities_has_none, bounding_set_limits_setuid,
        unknown_capability_is_not_ignored, no_capabilities_means_none, root_without_capabilities_is_weak,
        user_cannot_read_what_is_not_its_own, setuid_program_is_held_by_no_new_privileges;
}

fn status(place: &Place, bundle: Bundle) -> tests::Output {
    place.run(&bundle.args(&["grep", "Cap", "/proc/self/status"]))
}

fn mask(output: &tests::Output, set: &str) -> u64 {
    let line = output.ok().stdout.lines().find(|l| l.starts_with(set)).expect("the set");
    u64::from_str_radix(line.split_whitespace().last().unwrap_or_default(), 16).expect("a mask")
}

fn ids_are_the_configs(place: &Place) {
    let bundle = place.bundle().set("/process/user", json!({"uid": 1000, "gid": 29})).args(&["id"]);
    place.run(&bundle).ok().says("uid=1000(user) gid=29(audio)");
}

fn groups_are_the_configs(place: &Place) {
    let user = json!({"uid": 1000, "gid": 1000, "additionalGids": [29, 5000, 1]});
    place
        .run(&place.bundle().set("/process/user", user).args(&["id", "-G"]))
        .ok()
        .prints("1000 1 29 5000");
}

fn capability_sets_are_the_configs(place: &Place) {
    let bundle = place.bundle().set(
        "/process/capabilities",
        json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_CHROOT", "CAP_NET_RAW"],
            "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_CHROOT"],
            "effective": ["CAP_CHOWN", "CAP_KILL"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        }),
    );
    let output = place.run(&bundle.args(&["grep", "Cap", "/proc/1/status"]));
    // execve by root raises permitted and effective to the bounding set
    // (capabilities(7)); what was dropped from it stays away.
    let (chown, kill, net_raw, chroot) = (1u64, 1 << 5, 1 << 13, 1 << 18);
    assert_eq!(mask(&output, "CapBnd"), chown | kill | chroot | net_raw);
    assert_eq!(mask(&output, "CapPrm") & !(chown | kill | chroot | net_raw), 0);
    assert_eq!(mask(&output, "CapInh"), kill);
}

fn ambient_capabilities_are_kept_by_a_user(place: &Place) {
    let sets = json!(["CAP_NET_BIND_SERVICE", "CAP_KILL"]);
    let bundle = place.bundle().set("/process/user", json!({"uid": 1000, "gid": 1000})).set(
        "/process/capabilities",
        json!({"bounding": sets, "permitted": sets, "effective": sets, "inheritable": sets, "ambient": ["CAP_NET_BIND_SERVICE"]}),
    );
    let output = status(place, bundle);
    assert_eq!(mask(&output, "CapEff"), 1 << 10);
    assert_eq!(mask(&output, "CapAmb"), 1 << 10);
}

fn user_without_capabilities_has_none(place: &Place) {
    let output =
        status(place, place.bundle().set("/process/user", json!({"uid": 1000, "gid": 1000})));
    assert_eq!(mask(&output, "CapEff"), 0);
    assert_eq!(mask(&output, "CapPrm"), 0);
}

fn bounding_set_limits_setuid(place: &Place) {
    let bundle = place
        .bundle()
        .set("/process/noNewPrivileges", json!(false))
        .capabilities(&["CAP_KILL", "CAP_SETUID"]);
    assert_eq!(mask(&status(place, bundle), "CapBnd"), (1 << 5) | (1 << 7));
}

fn unknown_capability_is_not_ignored(place: &Place) {
    let output = place.run(&place.bundle().capabilities(&["CAP_KILL", "CAP_NO_SUCH"]));
    // Warned of (as runc does) or refused: never silent.
    assert!(
        output.stderr.contains("CAP_NO_SUCH")
            || output.code() != 0 && output.stderr.contains("capabilit"),
        "{output}"
    );
}

fn no_capabilities_means_none(place: &Place) {
    let output = status(place, place.bundle().set("/process/capabilities", json!({})));
    for set in ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(mask(&output, set), 0, "{set}");
    }
}

fn root_without_capabilities_is_weak(place: &Place) {
    let bundle = place
        .bundle()
        .capabilities(&[])
        .sh("chown 5 /etc/passwd 2>/dev/null || echo no chown; hostname x 2>/dev/null || echo no name; mknod /n c 1 3 2>/dev/null || echo no node");
    place.run(&bundle).ok().prints("no chown\nno name\nno node");
}

fn user_cannot_read_what_is_not_its_own(place: &Place) {
    let bundle = place
        .bundle()
        .file("/etc/closed", "secret", 0o600)
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .sh("cat /etc/closed 2>/dev/null || echo refused; touch /home/user/mine && echo mine");
    place.run(&bundle).ok().prints("refused\nmine");
}

fn setuid_program_is_held_by_no_new_privileges(place: &Place) {
    for (held, shown) in [(true, "1000"), (false, "0")] {
        let bundle = place
            .bundle()
            .set("/process/noNewPrivileges", json!(held))
            .set("/process/user", json!({"uid": 1000, "gid": 1000}))
            .helper(0o4755)
            .args(&["/bin/inside", "inside", "euid"]);
        let output = place.run(&bundle);
        output.ok().prints(shown);
    }
}
