//! Checkpoint and restore: saved, gone, back where it was.

use std::path::Path;
use std::time::Duration;
use tests::{Bundle, Container, Place, eventually, subject};

subject! {
    container: it_goes_on_where_it_was_saved, it_may_run_on, memory_may_be_saved_before,
        a_stopped_one_cannot_be_saved, images_must_be_there,
        resctrl_is_needed_to_be_restored_into_a_group;
    microvm: a_microvm_cannot_be_saved_by_criu;
}

/// CRIU must know the kernel: Debian's does where the lab runs.
fn needs_criu(place: &Place) {
    place.only_hull();
    place.needs("criu");
    let release =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    if !release.starts_with("6.1.") {
        place.cannot("Debian's criu knows Debian's kernel 6.1, not the vDSO of much newer ones");
    }
}

/// Counts into a file. Its streams are the container's own: files of the outside cannot be saved.
fn counter(place: &Place) -> Bundle {
    let script = "exec </dev/null >/dev/null 2>&1; i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.1; done";
    place.bundle().dir("tmp").sh(script)
}

fn count(bundle: &Bundle) -> u64 {
    let read =
        || std::fs::read_to_string(bundle.rootfs().join("tmp/count")).ok()?.trim().parse().ok();
    eventually("it has counted", read)
}

fn runs_on(bundle: &Bundle) {
    let before = count(bundle);
    eventually("it counts on", || (count(bundle) > before).then_some(()));
}

fn save(place: &Place, options: &[&str], images: &Path) {
    let call =
        place.hull().arg("checkpoint").args(options).arg("--image-path").arg(images).arg(&place.id);
    call.patience(Duration::from_secs(120)).ok();
}

fn it_goes_on_where_it_was_saved(place: &Place) {
    needs_criu(place);
    let bundle = counter(place);
    let container = place.start(&bundle);
    runs_on(&bundle);
    let images = place.path("images");
    save(place, &[], &images);
    container.command("state").run().complains(&["does not exist"]);
    let saved = count(&bundle);
    let pid_file = place.path("pid");
    let restore = place.hull().args(["restore", "--detach", "--image-path"]).arg(&images);
    let restore = restore
        .arg("--pid-file")
        .arg(&pid_file)
        .arg("--bundle")
        .arg(bundle.rootfs().parent().expect("a bundle"));
    restore.arg(&place.id).patience(Duration::from_secs(120)).ok();
    let again = Container::named(place, &place.id);
    again.becomes("running");
    runs_on(&bundle);
    let now = count(&bundle);
    assert!(now > saved && now < saved + 1000, "{saved} when saved, {now} now");
    assert_eq!(
        std::fs::read_to_string(pid_file).expect("a pid file").trim(),
        again.pid().to_string()
    );
    again.delete_force();
}

fn it_may_run_on(place: &Place) {
    needs_criu(place);
    let bundle = counter(place);
    let container = place.start(&bundle);
    runs_on(&bundle);
    save(place, &["--leave-running"], &place.path("images"));
    assert_eq!(container.status(), "running");
    runs_on(&bundle);
}

fn memory_may_be_saved_before(place: &Place) {
    needs_criu(place);
    let bundle = counter(place);
    let container = place.start(&bundle);
    runs_on(&bundle);
    save(place, &["--pre-dump"], &place.path("before"));
    runs_on(&bundle);
    save(place, &["--parent-path", "../before"], &place.path("images"));
    container.command("state").run().complains(&["does not exist"]);
}

fn a_stopped_one_cannot_be_saved(place: &Place) {
    place.only_hull();
    let container = place.start(&place.bundle().args(&["true"]));
    container.becomes("stopped");
    let output = place.hull().args(["checkpoint", &place.id]).run();
    output.complains(&["cannot be checkpointed in stopped state"]);
}

fn images_must_be_there(place: &Place) {
    place.only_hull();
    let bundle = counter(place);
    bundle.save();
    let call = place.hull().args(["restore", "--image-path"]).arg(place.path("nothing"));
    let call = call.arg("--bundle").arg(bundle.rootfs().parent().expect("a bundle"));
    call.arg(&place.id).run().complains(&["nothing: No such file or directory"]);
}

/// As for one that is made anew. Nothing is left of the try.
fn resctrl_is_needed_to_be_restored_into_a_group(place: &Place) {
    place.only_hull();
    if Path::new("/sys/fs/resctrl/schemata").exists() {
        place.cannot("resctrl is here");
    }
    let images = place.new_dir("images");
    std::fs::write(images.join("descriptors.json"), r#"["/dev/null","/dev/null","/dev/null"]"#)
        .expect("the names of the streams");
    let group = serde_json::json!({"closID": "hull", "l3CacheSchema": "L3:0=f"});
    let bundle = counter(place).set("/linux/intelRdt", group);
    bundle.save();
    let call = place.hull().args(["restore", "--image-path"]).arg(images);
    let call = call.arg("--bundle").arg(&bundle.dir);
    call.arg(&place.id).run().complains(&["linux.intelRdt: resctrl is not mounted"]);
}

fn a_microvm_cannot_be_saved_by_criu(place: &Place) {
    let container = place.start(&place.bundle().args(&["sleep", "1000"]));
    let output = place.hull().args(["checkpoint", &place.id]).run();
    output.complains(&["checkpoint is not supported for a microvm"]);
    container.delete_force();
}
