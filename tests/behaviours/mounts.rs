//! The root file system and what is mounted into it.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use tests::place::str;
use tests::{Bundle, Call, Place, subject};

subject! {
    both: default_devices_are_there, links_of_dev_are_there, root_can_be_read_only, root_is_writable_otherwise,
        bound_directory_is_shared_both_ways, bound_file_is_the_file, read_only_bind_refuses_writing,
        missing_target_is_made, tmpfs_has_its_size_and_mode, nosuid_nodev_noexec_are_set, noexec_is_obeyed,
        mount_without_a_source_works, later_mount_covers_the_earlier, missing_source_is_named,
        masked_paths_show_nothing, read_only_paths_refuse_writing, devices_of_the_config_are_made,
        tmpfs_copies_up, overlay_can_be_mounted, message_queues_are_mounted, pseudo_terminals_are_of_its_own,
        root_path_may_be_absolute, odd_names_are_no_matter, atime_options_are_set, unknown_option_is_refused,
        unknown_type_is_refused, relative_destination_is_below_the_root, bind_into_dev_is_kept,
        sys_is_read_only, proc_options_are_obeyed, sysctls_are_set, recursive_bind_brings_submounts_along,
        plain_bind_leaves_submounts_out, bound_owner_and_mode_are_seen, hard_links_and_renames_work_on_a_bind,
        a_hundred_mounts_work, file_locks_and_mappings_work;
    container: propagation_is_set, root_propagation_is_set, private_mount_stays_inside, shared_mount_comes_out,
        slave_mount_comes_in, recursive_read_only_reaches_submounts, idmapped_bind_maps_owners,
        cgroups_are_mounted, unneeded_mount_of_the_host_is_gone, device_mode_and_owner_are_set, no_pivot_works,
        no_pivot_leaves_no_bare_proc, naming_an_attribute_of_a_bind_clears_the_others,
        locked_attributes_of_a_bind_are_not_taken_off,
        remount_of_a_bind_keeps_locked_flags, source_in_an_earlier_mount_is_found,
        destination_may_be_given_as_seen_outside;
}

fn default_devices_are_there(place: &Place) {
    let script = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done
        test -e /dev/ptmx || echo no ptmx
        stat -c '%t:%T %a' /dev/null; head -c 4 /dev/zero | od -An -tx1; echo x >/dev/null; echo x >/dev/full";
    let output = place.run(&place.bundle().sh(script));
    output.says("1:3 666").says("00 00 00 00").does_not_say("no ");
    assert!(output.stderr.contains("No space left"), "{output}");
}

fn links_of_dev_are_there(place: &Place) {
    let script =
        "for l in fd stdin stdout stderr; do readlink /dev/$l; done; echo through | cat /dev/stdin";
    place
        .run(&place.bundle().sh(script))
        .ok()
        .prints("/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\nthrough");
}

fn root_can_be_read_only(place: &Place) {
    let bundle = place
        .bundle()
        .set("/root/readonly", json!(true))
        .sh("touch /x || echo refused; touch /dev/shm/x && echo tmp");
    let output = place.run(&bundle);
    output.ok().prints("refused\ntmp");
    assert!(output.stderr.to_lowercase().contains("read-only file system"), "{output}");
    assert!(!bundle.rootfs().join("x").exists());
}

fn root_is_writable_otherwise(place: &Place) {
    let bundle = place.bundle().sh("echo word >/x; mkdir /d; chmod 700 /d; ln -s x /l; mv /x /y");
    place.run(&bundle).ok();
    assert_eq!(fs::read_to_string(bundle.rootfs().join("y")).expect("the file"), "word\n");
    assert_eq!(
        fs::metadata(bundle.rootfs().join("d")).expect("the directory").permissions().mode()
            & 0o777,
        0o700
    );
    assert!(bundle.rootfs().join("l").is_symlink());
}

fn bound_directory_is_shared_both_ways(place: &Place) {
    let dir = place.new_dir("shared");
    fs::write(dir.join("in"), "from outside").expect("a file");
    let bundle =
        place.bundle().bind(&dir, "/mnt", &["rw"]).sh("cat /mnt/in; echo from inside >/mnt/out");
    place.run(&bundle).ok().prints("from outside");
    assert_eq!(fs::read_to_string(dir.join("out")).expect("the file"), "from inside\n");
}

fn bound_file_is_the_file(place: &Place) {
    let file = place.new_file("one", "outside\n");
    let bundle =
        place.bundle().bind(&file, "/etc/one", &["rw"]).sh("cat /etc/one; echo more >>/etc/one");
    place.run(&bundle).ok().prints("outside");
    assert_eq!(fs::read_to_string(file).expect("the file"), "outside\nmore\n");
}

fn read_only_bind_refuses_writing(place: &Place) {
    let dir = place.new_dir("shared");
    let bundle = place.bundle().bind(&dir, "/mnt", &["ro"]).sh("touch /mnt/x || echo refused");
    place.run(&bundle).ok().prints("refused");
    assert!(!dir.join("x").exists());
}

fn missing_target_is_made(place: &Place) {
    let (dir, file) = (place.new_dir("shared"), place.new_file("one", "text"));
    fs::write(dir.join("f"), "").expect("a file");
    let bundle = place.bundle().bind(&dir, "/new/deep/dir", &[]).bind(&file, "/other/file", &[]);
    place.run(&bundle.sh("ls /new/deep/dir; cat /other/file")).ok().prints("f\ntext");
}

fn tmpfs_has_its_size_and_mode(place: &Place) {
    let bundle = place
        .bundle()
        .mount("/new", "tmpfs", "tmpfs", &["size=1m", "mode=1750", "uid=7", "gid=8"])
        .sh("stat -c '%a %u %g' /new; dd if=/dev/zero of=/new/x bs=1024 count=2000 2>/dev/null || echo full");
    place.run(&bundle).ok().prints("1750 7 8\nfull");
}

/// The options of a mount point as the kernel shows them inside.
fn options_of(place: &Place, bundle: Bundle, point: &str) -> Vec<String> {
    let output = place.run(&bundle.sh("cat /proc/self/mountinfo"));
    let line = output
        .ok()
        .stdout
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some(point))
        .unwrap_or_else(|| panic!("{point} is not mounted: {output}"))
        .to_owned();
    line.split(' ').nth(5).unwrap_or_default().split(',').map(str::to_owned).collect()
}

fn nosuid_nodev_noexec_are_set(place: &Place) {
    let options = options_of(
        place,
        place.bundle().bind(&place.new_dir("d"), "/mnt", &["nosuid", "nodev", "noexec"]),
        "/mnt",
    );
    for option in ["rw", "nosuid", "nodev", "noexec"] {
        assert!(options.iter().any(|o| o == option), "{option} of {options:?}");
    }
}

fn noexec_is_obeyed(place: &Place) {
    let dir = place.new_dir("d");
    fs::copy("/bin/busybox", dir.join("true")).expect("a program");
    let bundle = place.bundle().bind(&dir, "/mnt", &["noexec"]).sh("/mnt/true || echo refused");
    place.run(&bundle).ok().prints("refused");
}

fn mount_without_a_source_works(place: &Place) {
    let bundle = place.bundle().push("/mounts", json!({"destination": "/mnt", "type": "tmpfs"}));
    place.run(&bundle.sh("grep -c ' /mnt tmpfs' /proc/mounts")).ok().prints("1");
}

fn later_mount_covers_the_earlier(place: &Place) {
    let (one, two) = (place.new_dir("one"), place.new_dir("two"));
    fs::write(one.join("a"), "").expect("a file");
    fs::write(two.join("b"), "").expect("a file");
    let bundle =
        place.bundle().bind(&one, "/mnt", &[]).bind(&two, "/mnt", &[]).args(&["ls", "/mnt"]);
    place.run(&bundle).ok().prints("b");
}

fn missing_source_is_named(place: &Place) {
    let bundle = place.bundle().bind(&place.path("nowhere"), "/mnt", &[]);
    place.run(&bundle).complains(&["nowhere"]);
    assert!(!bundle.rootfs().join("mnt/nowhere").exists());
}

fn masked_paths_show_nothing(place: &Place) {
    let bundle = place
        .bundle()
        .file("/etc/secret", "secret", 0o644)
        .file("/opt/d/secret", "secret", 0o644)
        .set("/linux/maskedPaths", json!(["/etc/secret", "/opt/d", "/no/such/path", "/proc/kcore"]))
        .sh("cat /etc/secret; ls /opt/d; touch /opt/d/x 2>/dev/null || echo closed; head -c 1 /proc/kcore | wc -c");
    place.run(&bundle).ok().prints("closed\n0");
}

fn read_only_paths_refuse_writing(place: &Place) {
    let bundle = place
        .bundle()
        .dir("/opt/fixed")
        .set("/linux/readonlyPaths", json!(["/opt/fixed", "/proc/sys", "/no/such/path"]))
        .sh("touch /opt/fixed/x || echo one; echo 1 >/proc/sys/vm/swappiness || echo two; touch /opt/y && echo three");
    place.run(&bundle).ok().prints("one\ntwo\nthree");
}

fn devices_of_the_config_are_made(place: &Place) {
    let bundle = place
        .bundle()
        .set(
            "/linux/devices",
            json!([
                {"path": "/dev/my-null", "type": "c", "major": 1, "minor": 3, "fileMode": 432, "uid": 7, "gid": 8},
                {"path": "/dev/deep/pipe", "type": "p"},
            ]),
        )
        .set("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]))
        .sh("stat -c '%F %t:%T %a %u %g' /dev/my-null; test -p /dev/deep/pipe && echo pipe; echo x >/dev/my-null && echo w");
    place.run(&bundle).ok().prints("character special file 1:3 660 7 8\npipe\nw");
}

fn device_mode_and_owner_are_set(place: &Place) {
    // The caller's umask has no say in it.
    let bundle = place
        .bundle()
        .set(
            "/linux/devices",
            json!([{"path": "/dev/odd", "type": "c", "major": 1, "minor": 5, "fileMode": 438}]),
        )
        .sh("stat -c %a /dev/odd /dev/null");
    let output = place
        .running(&bundle)
        .before_exec(|| {
            // SAFETY: umask takes an integer.
            unsafe { libc::umask(0o077) };
            Ok(())
        })
        .run();
    output.ok().prints("666\n666");
}

fn tmpfs_copies_up(place: &Place) {
    let bundle = place
        .bundle()
        .file("/opt/x", "image", 0o640)
        .mount("/opt", "tmpfs", "tmpfs", &["tmpcopyup"])
        .sh("cat /opt/x; stat -c ' %a' /opt/x; echo changed >/opt/x; grep -c ' /opt tmpfs' /proc/mounts");
    place.run(&bundle).ok().prints("image 640\n1");
    assert_eq!(fs::read_to_string(bundle.rootfs().join("opt/x")).expect("the file"), "image");
}

fn overlay_can_be_mounted(place: &Place) {
    let (lower, upper, work) =
        (place.new_dir("lower"), place.new_dir("upper"), place.new_dir("work"));
    fs::write(lower.join("f"), "lower").expect("a file");
    let data = [
        format!("lowerdir={}", lower.display()),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ];
    let options: Vec<&str> = data.iter().map(String::as_str).collect();
    let bundle = place
        .bundle()
        .mount("/mnt", "overlay", "overlay", &options)
        .sh("cat /mnt/f; echo upper >/mnt/f");
    place.run(&bundle).ok().prints("lower");
    assert_eq!(fs::read_to_string(upper.join("f")).expect("the file"), "upper\n");
    assert_eq!(fs::read_to_string(lower.join("f")).expect("the file"), "lower");
}

fn message_queues_are_mounted(place: &Place) {
    place.run(&place.bundle().sh("grep -c ' /dev/mqueue mqueue' /proc/mounts")).ok().prints("1");
}

fn pseudo_terminals_are_of_its_own(place: &Place) {
    place
        .run(&place.bundle().sh("ls /dev/pts; test -c /dev/ptmx && echo c"))
        .ok()
        .prints("ptmx\nc");
}

fn root_path_may_be_absolute(place: &Place) {
    let bundle = place.bundle().sh("echo here");
    let path = bundle.rootfs();
    place.run(&bundle.set("/root/path", json!(path))).ok().prints("here");
}

fn odd_names_are_no_matter(place: &Place) {
    let bundle = place.bundle_at(place.path("a b,c=d:ü\\040x")).sh("echo here; ls /mnt/é\\ ü");
    let dir = place.new_dir("so urce,x:y");
    fs::write(dir.join("f"), "").expect("a file");
    place.run(&bundle.bind(&dir, "/mnt/é ü", &[])).ok().prints("here\nf");
}

fn atime_options_are_set(place: &Place) {
    for option in ["noatime", "relatime"] {
        let bundle = place.bundle().bind(&place.new_dir("d"), "/mnt", &[option]);
        let options = options_of(place, bundle, "/mnt");
        assert!(options.iter().any(|o| o == option), "{option} of {options:?}");
    }
}

fn unknown_option_is_refused(place: &Place) {
    place
        .run(&place.bundle().mount("/mnt", "tmpfs", "tmpfs", &["no-such-option=1"]))
        .complains(&["mnt", "invalid argument"]);
}

fn unknown_type_is_refused(place: &Place) {
    place
        .run(&place.bundle().mount("/mnt", "no-such-fs", "none", &[]))
        .complains(&["no-such-fs", "no such device"]);
}

fn relative_destination_is_below_the_root(place: &Place) {
    let bundle = place.bundle().mount("mnt/rel", "tmpfs", "tmpfs", &[]);
    place.run(&bundle.sh("grep -c ' /mnt/rel tmpfs' /proc/mounts")).ok().prints("1");
}

fn bind_into_dev_is_kept(place: &Place) {
    let file = place.new_file("one", "word");
    place
        .run(&place.bundle().bind(&file, "/dev/one", &[]).args(&["cat", "/dev/one"]))
        .ok()
        .prints("word");
}

fn sys_is_read_only(place: &Place) {
    place
        .run(
            &place
                .bundle()
                .sh("mkdir /sys/x 2>/dev/null || echo refused; test -d /sys/kernel && echo there"),
        )
        .ok()
        .prints("refused\nthere");
}

fn proc_options_are_obeyed(place: &Place) {
    let mut bundle = place.bundle();
    bundle.config["mounts"][0]["options"] = json!(["nosuid", "noexec", "nodev", "hidepid=2"]);
    let output = place.run(&bundle.sh("grep ' /proc proc' /proc/mounts | head -n 1"));
    output.ok().says("nosuid").says("noexec").says("hidepid=");
}

fn sysctls_are_set(place: &Place) {
    let bundle = place
        .bundle()
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}))
        .sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced");
    place.run(&bundle).ok().prints("1\n1");
}

fn with_submount(place: &Place) -> std::path::PathBuf {
    let dir = place.new_dir("tree");
    fs::create_dir(dir.join("sub")).expect("a directory");
    Call::new(&place.dir, "mount").args(["-t", "tmpfs", "none"]).arg(dir.join("sub")).ok();
    fs::write(dir.join("sub/f"), "").expect("a file");
    dir
}

fn recursive_bind_brings_submounts_along(place: &Place) {
    let dir = with_submount(place);
    let text = str(&dir).to_owned();
    let output = place.run(
        &place.bundle().mount("/mnt", "none", &text, &["rbind", "rw"]).args(&["ls", "/mnt/sub"]),
    );
    unmount(place);
    output.ok().prints("f");
}

fn plain_bind_leaves_submounts_out(place: &Place) {
    let dir = with_submount(place);
    let output = place.run(&place.bundle().bind(&dir, "/mnt", &[]).args(&["ls", "/mnt/sub"]));
    unmount(place);
    output.ok().prints("");
}

fn unmount(place: &Place) {
    Call::new(&place.dir, "umount").arg(place.path("tree/sub")).ok();
}

fn bound_owner_and_mode_are_seen(place: &Place) {
    let dir = place.new_dir("d");
    std::os::unix::fs::chown(&dir, Some(123), Some(456)).expect("an owner");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o2750)).expect("a mode");
    let bundle = place
        .bundle()
        .bind(&dir, "/mnt", &[])
        .sh("stat -c '%u %g %a' /mnt; touch /mnt/x; chown 5:6 /mnt/x");
    place.run(&bundle).ok().prints("123 456 2750");
    let made = fs::metadata(dir.join("x")).expect("the file");
    assert_eq!((made.uid(), made.gid()), (5, 6));
}

fn hard_links_and_renames_work_on_a_bind(place: &Place) {
    let dir = place.new_dir("d");
    let script = "cd /mnt; echo x >a; ln a b; stat -c %h a; mv b c; mkdir e; mv c e/f; ln -s e/f l; cat l;
        rm a; ls; chmod 600 e/f; truncate -s 10 e/f 2>/dev/null || dd of=e/f bs=1 seek=10 count=0 2>/dev/null; stat -c '%s %a' e/f";
    place.run(&place.bundle().bind(&dir, "/mnt", &[]).sh(script)).ok().prints("2\nx\ne\nl\n10 600");
    assert_eq!(fs::metadata(dir.join("e/f")).expect("the file").len(), 10);
}

fn a_hundred_mounts_work(place: &Place) {
    let dir = place.new_dir("d");
    let mut bundle = place.bundle();
    for number in 0..100 {
        bundle = bundle.bind(&dir, &format!("/mnt/{number}"), &["ro"]);
    }
    place.run(&bundle.sh("grep -c ' /mnt/' /proc/self/mountinfo")).ok().prints("100");
}

fn file_locks_and_mappings_work(place: &Place) {
    // sort, cmp and a program run from the root use both reading and mapping.
    let script = "cp /bin/busybox /tmp/busybox && cmp /bin/busybox /tmp/busybox && /tmp/busybox echo runs && rm /tmp/busybox
        i=0; while [ $i -lt 300 ]; do echo $i >/tmp/f$i; i=$((i+1)); done; ls /tmp | wc -l; rm /tmp/f*; ls /tmp | wc -l";
    place.run(&place.bundle().sh(script)).ok().prints("runs\n300\n0");
}

fn optional_fields(place: &Place, bundle: Bundle, point: &str) -> String {
    let output = place.run(&bundle.sh("cat /proc/self/mountinfo"));
    let line = output
        .ok()
        .stdout
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some(point))
        .expect("mounted")
        .to_owned();
    line.split(' ').skip(6).take_while(|word| *word != "-").collect::<Vec<_>>().join(" ")
}

fn propagation_is_set(place: &Place) {
    let dir = place.new_dir("d");
    Call::new(&place.dir, "mount").args(["--bind", str(&dir)]).arg(&dir).ok();
    Call::new(&place.dir, "mount").arg("--make-shared").arg(&dir).ok();
    let shown =
        |option: &str| optional_fields(place, place.bundle().bind(&dir, "/mnt", &[option]), "/mnt");
    let (slave, shared, private, unbindable) =
        (shown("rslave"), shown("rshared"), shown("rprivate"), shown("unbindable"));
    Call::new(&place.dir, "umount").arg(&dir).ok();
    assert!(slave.contains("master:") && !slave.contains("shared:"), "{slave}");
    assert!(shared.contains("shared:"), "{shared}");
    assert_eq!(private, "");
    assert_eq!(unbindable, "unbindable");
}

fn root_propagation_is_set(place: &Place) {
    place.only_hull();
    for (wanted, shown) in
        [("private", ""), ("rprivate", ""), ("unbindable", "unbindable"), ("shared", "shared:")]
    {
        let bundle = place.bundle().set("/linux/rootfsPropagation", json!(wanted));
        let fields = optional_fields(place, bundle, "/");
        assert!(
            fields.starts_with(shown) && (fields.is_empty() == shown.is_empty()),
            "{wanted}: {fields:?}"
        );
    }
    place
        .run(&place.bundle().set("/linux/rootfsPropagation", json!("sideways")))
        .complains(&["rootfsPropagation", "sideways"]);
}

fn sharing(place: &Place, option: &str, check: impl FnOnce(&tests::Container, &std::path::Path)) {
    let dir = place.new_dir("d");
    fs::create_dir_all(dir.join("inner")).expect("a directory");
    Call::new(&place.dir, "mount").arg("--bind").args([&dir, &dir]).ok();
    Call::new(&place.dir, "mount").arg("--make-shared").arg(&dir).ok();
    let mut bundle = place
        .bundle()
        .more_capabilities(&["CAP_SYS_ADMIN"])
        .bind(&dir, "/mnt", &[option])
        .args(&["sleep", "1000"]);
    if option != "private" {
        bundle = bundle.set("/linux/rootfsPropagation", json!("shared"));
    }
    let container = place.start(&bundle);
    check(&container, &dir);
    container.delete_force();
    let _ = Call::new(&place.dir, "umount").arg(dir.join("inner")).run();
    Call::new(&place.dir, "umount").arg("-l").arg(&dir).ok();
}

fn private_mount_stays_inside(place: &Place) {
    sharing(place, "private", |container, dir| {
        container.sh("mount -t tmpfs none /mnt/inner && touch /mnt/inner/x").ok();
        assert!(!dir.join("inner/x").exists());
    });
}

fn shared_mount_comes_out(place: &Place) {
    sharing(place, "shared", |container, dir| {
        container.sh("mount -t tmpfs none /mnt/inner && touch /mnt/inner/x").ok();
        assert!(dir.join("inner/x").exists());
        container.sh("umount /mnt/inner").ok();
        assert!(!dir.join("inner/x").exists());
    });
}

fn slave_mount_comes_in(place: &Place) {
    sharing(place, "slave", |container, dir| {
        Call::new(&place.dir, "mount").args(["-t", "tmpfs", "none"]).arg(dir.join("inner")).ok();
        fs::write(dir.join("inner/x"), "").expect("a file");
        container.sh("test -e /mnt/inner/x").ok();
    });
}

fn recursive_read_only_reaches_submounts(place: &Place) {
    place.only_hull();
    let dir = with_submount(place);
    let text = str(&dir).to_owned();
    let bundle = place.bundle().mount("/mnt", "bind", &text, &["rbind", "rro"]);
    let output = place.run(&bundle.sh("touch /mnt/x || echo one; touch /mnt/sub/x || echo two"));
    unmount(place);
    output.ok().prints("one\ntwo");
}

fn idmapped_bind_maps_owners(place: &Place) {
    place.only_hull();
    let dir = place.new_dir("d");
    fs::write(dir.join("f"), "").expect("a file");
    std::os::unix::fs::chown(dir.join("f"), Some(5), Some(6)).expect("an owner");
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 100}]);
    let mount: Value = json!({"destination": "/mnt", "type": "bind", "source": dir, "options": ["bind", "idmap"],
        "uidMappings": map, "gidMappings": map});
    let output = place.run(&place.bundle().push("/mounts", mount).sh("stat -c '%u %g' /mnt/f"));
    output.ok().prints("1005 1006");
}

fn cgroups_are_mounted(place: &Place) {
    place.only_hull();
    let bundle = place
        .bundle()
        .namespace("cgroup", None)
        .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
        .sh("find /sys/fs/cgroup -name cgroup.procs | head -n 1 | wc -l; touch /sys/fs/cgroup/x 2>/dev/null || echo refused");
    place.run(&bundle).ok().prints("1\nrefused");
}

fn unneeded_mount_of_the_host_is_gone(place: &Place) {
    let output = place.run(&place.bundle().args(&["cat", "/proc/self/mountinfo"]));
    output.ok();
    assert!(
        !output.stdout.contains(" /oldroot") && !output.stdout.contains("/put_old"),
        "{output}"
    );
    let root: Vec<&str> =
        output.lines().into_iter().filter(|l| l.split(' ').nth(4) == Some("/")).collect();
    assert_eq!(root.len(), 1, "{output}");
    assert!(root[0].split(' ').nth(3).is_some_and(|path| path.ends_with("/rootfs")), "{output}");
}

fn no_pivot_works(place: &Place) {
    place
        .running(&place.bundle().sh("ls -d /bin; pwd"))
        .arg("--no-pivot")
        .run()
        .ok()
        .prints("/bin\n/");
}

fn no_pivot_leaves_no_bare_proc(place: &Place) {
    let bundle = place
        .bundle()
        .more_capabilities(&["CAP_SETFCAP"])
        .sh("unshare -mrpf mount -t proc none /proc && echo bare");
    place.running(&bundle).arg("--no-pivot").run().does_not_say("bare");
}

/// A directory with these attributes of its mount.
fn mounted_with(place: &Place, options: &str) -> std::path::PathBuf {
    let dir = place.new_dir("tree").join("sub");
    fs::create_dir(&dir).expect("a directory");
    let mount = |words: &[&str]| {
        Call::new(&place.dir, "mount").args(words).arg(&dir).ok();
    };
    mount(&["-t", "tmpfs", "none"]);
    mount(&["--bind", "-o", &format!("remount,{options}")]);
    dir
}

fn naming_an_attribute_of_a_bind_clears_the_others(place: &Place) {
    let dir = mounted_with(place, "ro,nosuid,noexec,noatime");
    let bundle = place
        .bundle()
        .bind(&dir, "/kept", &["rprivate"])
        .bind(&dir, "/named", &["nodev"])
        .sh("grep -E ' /(kept|named) ' /proc/mounts");
    let output = place.run(&bundle);
    unmount(place);
    let lines = output.ok().lines();
    let options = |line: &str| line.split(' ').nth(3).expect("options").to_owned();
    assert!(options(lines[0]).starts_with("ro,nosuid,noexec,noatime"), "{output}");
    assert!(options(lines[1]).starts_with("rw,nodev,noatime"), "{output}");
}

fn locked_attributes_of_a_bind_are_not_taken_off(place: &Place) {
    let dir = mounted_with(place, "ro,noexec");
    let bundle = place.bundle().user_namespace();
    let kept = bundle.bind(&dir, "/mnt", &["nodev"]).sh("grep ' /mnt ' /proc/mounts");
    let kept = place.run(&kept);
    let bundle = place.bundle().user_namespace();
    let refused = place.run(&bundle.bind(&dir, "/mnt", &["rw"]));
    unmount(place);
    kept.ok().says(" ro,").says("nodev").says("noexec");
    refused.complains(&["operation not permitted"]);
}

fn remount_of_a_bind_keeps_locked_flags(place: &Place) {
    place.only_hull();
    let dir = place.new_dir("tree");
    fs::create_dir(dir.join("sub")).expect("a directory");
    Call::new(&place.dir, "mount")
        .args(["-t", "tmpfs", "-o", "nosuid,nodev,noexec", "none"])
        .arg(dir.join("sub"))
        .ok();
    let bundle = place.bundle().user_namespace().bind(&dir.join("sub"), "/mnt", &["ro"]);
    let output = place.run(&bundle.sh("grep ' /mnt ' /proc/mounts"));
    unmount(place);
    output.ok().says("ro,").says("nosuid").says("nodev").says("noexec");
}

/// Mounts are made in their order: a source in the rootfs is what the earlier ones left there.
fn source_in_an_earlier_mount_is_found(place: &Place) {
    let source = place.new_dir("source");
    fs::create_dir_all(source.join("deep")).expect("a directory");
    fs::write(source.join("deep/f"), "from deep").expect("a file");
    let other = place.new_dir("other");
    fs::write(other.join("g"), "from other").expect("a file");
    let id_map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    for (user, mapped) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut bundle = place.bundle();
        if user {
            bundle = bundle.user_namespace();
        }
        let mut options = vec!["rbind"];
        options.extend(mapped.then_some("idmap"));
        let rootfs = bundle.rootfs();
        let again = |from: &str, to: &str| {
            let mut mount = json!({"destination": to, "type": "bind", "source": rootfs.join(from),
                "options": options});
            if mapped && !user {
                mount["uidMappings"] = id_map.clone();
                mount["gidMappings"] = id_map.clone();
            }
            mount
        };
        let (tree, part) = (again("mnt", "/tree"), again("mnt/deep", "/part"));
        let bundle = bundle
            .bind(&source, "/mnt", &["rbind"])
            .bind(&other, "/mnt/deep/", &["rbind"])
            .push("/mounts", tree)
            .push("/mounts", part)
            .sh("cat /tree/deep/g /part/g; ls /tree/deep");
        let output = place.run(&bundle);
        assert_eq!(output.ok().stdout, "from otherfrom otherg\n", "user {user}, idmap {mapped}");
    }
}

fn destination_may_be_given_as_seen_outside(place: &Place) {
    let source = place.new_file("f", "here");
    let bundle = place.bundle();
    let destination = bundle.rootfs().join("mnt/f");
    let bundle = bundle.bind(&source, str(&destination), &["bind"]).sh("cat /mnt/f");
    place.run(&bundle).ok().prints("here");
}
