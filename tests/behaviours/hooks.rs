//! Hooks: which, when, where, with what, and what their failure means.

use serde_json::{Value, json};
use std::fs;

use tests::{Bundle, Place, eventually, subject};

subject! {
    both: hooks_run_in_the_order_of_the_specification, state_comes_on_stdin, hooks_of_the_host_run_on_the_host,
        failing_hook_before_start_fails_create, failing_poststop_is_only_reported, hook_that_takes_too_long_is_ended,
        missing_hook_is_named, arguments_and_environment_are_the_hooks, create_container_hook_sees_the_container,
        start_container_hook_runs_inside, failing_start_container_hook_fails_start, hooks_of_one_kind_run_in_order,
        relative_hook_path_is_refused, poststop_runs_on_forced_delete, failing_poststart_ends_the_container;
    container: create_container_hook_is_in_the_mount_namespace, hooks_of_the_host_are_not_in_the_containers_namespaces,
        hook_killed_by_a_signal_is_a_failure, large_state_reaches_a_hook_that_does_not_read,
        prestart_hook_can_move_a_network_device, hook_output_is_no_ones_input,
        hook_finds_the_rootfs_in_the_containers_mounts;
}

/// A hook that appends a line to the log.
fn note(place: &Place, line: &str) -> Value {
    let log = place.path("log");
    let script = place.script(
        &format!("hook-{}", line.replace(' ', "-")),
        &format!("cat >/dev/null; echo {line} >>{}", log.display()),
    );
    json!({"path": script})
}

fn log(place: &Place) -> Vec<String> {
    fs::read_to_string(place.path("log")).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn hook(place: &Place, name: &str, text: &str) -> Value {
    json!({"path": place.script(name, text)})
}

fn with(bundle: Bundle, kind: &str, hooks: Value) -> Bundle {
    bundle.set(&format!("/hooks/{kind}"), hooks)
}

fn hooks_run_in_the_order_of_the_specification(place: &Place) {
    place.only_hull();
    let mut bundle = place.bundle().args(&["sleep", "1000"]);
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        bundle = with(bundle, kind, json!([note(place, kind)]));
    }
    let container = place.create(&bundle);
    assert_eq!(log(place), ["prestart", "createRuntime"]);
    container.start();
    assert_eq!(log(place), ["prestart", "createRuntime", "poststart"]);
    container.kill("KILL");
    container.becomes("stopped");
    assert_eq!(log(place).len(), 3);
    container.delete();
    assert_eq!(log(place), ["prestart", "createRuntime", "poststart", "poststop"]);
}

fn hooks_of_one_kind_run_in_order(place: &Place) {
    let notes: Vec<Value> = (0..5).map(|n| note(place, &format!("number {n}"))).collect();
    let _container = place.create(&with(place.bundle(), "createRuntime", json!(notes)));
    assert_eq!(log(place), ["number 0", "number 1", "number 2", "number 3", "number 4"]);
}

fn state_of(place: &Place, name: &str) -> Value {
    let path = place.path(name);
    let text = eventually("the hook has written", || {
        fs::read_to_string(&path).ok().filter(|t| t.trim_end().ends_with('}'))
    });
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

fn keeps_state(place: &Place, kind: &str) -> Value {
    hook(
        place,
        &format!("keep-{kind}"),
        &format!("cat >{}", place.path(&format!("state-{kind}")).display()),
    )
}

fn state_comes_on_stdin(place: &Place) {
    place.only_hull();
    let mut bundle =
        place.bundle().args(&["sleep", "1000"]).set("/annotations", json!({"org.example.x": "y"}));
    for kind in ["createRuntime", "poststart", "poststop"] {
        bundle = with(bundle, kind, json!([keeps_state(place, kind)]));
    }
    let container = place.create(&bundle);
    let pid = container.pid();
    container.start();
    container.delete_force();
    for (kind, statuses) in [
        ("createRuntime", &["creating", "created"][..]),
        ("poststart", &["running"]),
        ("poststop", &["stopped"]),
    ] {
        let state = state_of(place, &format!("state-{kind}"));
        assert_eq!(state["id"], json!(place.id), "{state}");
        assert_eq!(state["bundle"], json!(bundle.dir), "{state}");
        assert!(
            statuses.contains(&state["status"].as_str().unwrap_or_default()),
            "{kind}: {state}"
        );
        assert!(state["ociVersion"].is_string(), "{state}");
        assert_eq!(state["annotations"]["org.example.x"], json!("y"), "{state}");
        if kind != "poststop" {
            assert_eq!(state["pid"], json!(pid), "{kind}: {state}");
        }
    }
}

fn hooks_of_the_host_run_on_the_host(place: &Place) {
    let seen = place.path("seen");
    let script = format!("readlink /proc/self/ns/mnt >{0}; pwd >>{0}", seen.display());
    let bundle = with(place.bundle(), "createRuntime", json!([hook(place, "look", &script)]));
    let _container = place.create(&bundle);
    let text = fs::read_to_string(seen).expect("it ran on the host");
    let own = fs::read_link("/proc/self/ns/mnt").expect("a namespace");
    assert_eq!(text.lines().next(), own.to_str());
}

fn failing_hook_before_start_fails_create(place: &Place) {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        // A createContainer hook runs in the container's own mounts: its shell is there.
        let failing = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 7"]}]);
        let output = place.creating(&with(place.bundle(), kind, failing), &place.id).run();
        output.fails();
        assert!(output.stderr.contains("hook") || output.stderr.contains('7'), "{kind}: {output}");
        place.call(&["state", &place.id]).fails();
    }
}

fn failing_poststop_is_only_reported(place: &Place) {
    let bundle = with(
        place.bundle(),
        "poststop",
        json!([hook(place, "fail", "exit 7"), note(place, "second")]),
    );
    let container = place.start(&bundle);
    container.becomes("stopped");
    container.delete();
    place.call(&["state", &place.id]).fails();
}

fn failing_poststart_ends_the_container(place: &Place) {
    place.only_hull();
    let bundle = with(
        place.bundle().args(&["sleep", "1000"]),
        "poststart",
        json!([hook(place, "fail", "exit 7")]),
    );
    let container = place.create(&bundle);
    let output = container.command("start").run();
    output.complains(&["poststart", "hook"]);
    eventually("it is ended", || {
        let state = container.command("state").run();
        (state.code() != 0 || state.stdout.contains("stopped")).then_some(())
    });
}

fn hook_that_takes_too_long_is_ended(place: &Place) {
    place.only_hull();
    let slow = json!([{"path": "/bin/sh", "args": ["sh", "-c", "sleep 100"], "timeout": 1}]);
    let began = std::time::Instant::now();
    place.creating(&with(place.bundle(), "createRuntime", slow), &place.id).run().fails();
    assert!(began.elapsed().as_secs() < 60);
    place.call(&["state", &place.id]).fails();
}

fn missing_hook_is_named(place: &Place) {
    for kind in ["prestart", "createRuntime"] {
        let hooks = json!([{"path": "/no/such/hook"}]);
        place
            .creating(&with(place.bundle(), kind, hooks), &place.id)
            .run()
            .complains(&["/no/such/hook"]);
    }
}

fn relative_hook_path_is_refused(place: &Place) {
    place
        .creating(&with(place.bundle(), "createRuntime", json!([{"path": "bin/true"}])), &place.id)
        .run()
        .fails();
}

fn arguments_and_environment_are_the_hooks(place: &Place) {
    let out = place.path("out");
    let script = place.script("tell", &format!("(echo $0 $1 $2; env | sort) >{}", out.display()));
    let hooks = json!([{"path": script, "args": ["name", "one", "two"], "env": ["MARK=x y", "PATH=/bin:/usr/bin"]}]);
    let _container = place.create(&with(place.bundle(), "createRuntime", hooks));
    let text = fs::read_to_string(out).expect("it ran");
    assert!(text.contains(" one two\n") && text.contains("MARK=x y\n"), "{text}");
    assert!(!text.contains("HOME="), "the runtime's own environment is not the hook's: {text}");
}

fn create_container_hook_sees_the_container(place: &Place) {
    // Its path is looked up where it runs, before the root is changed: the
    // host's file system in the container's mount namespace.
    let out = place.path("out");
    let script = place.script("look", &format!("cat >{}", out.display()));
    let hooks = json!([{"path": script}]);
    let output = place.creating(&with(place.bundle(), "createContainer", hooks), &place.id).run();
    if place.is_vm() && output.code() != 0 {
        output.complains(&["createContainer"]);
        return;
    }
    output.ok();
    let container = tests::Container::named(place, &place.id);
    let state: Value =
        serde_json::from_str(&fs::read_to_string(out).expect("it ran")).expect("JSON");
    assert_eq!(state["id"], json!(place.id));
    drop(container);
}

fn create_container_hook_is_in_the_mount_namespace(place: &Place) {
    let out = place.path("out");
    let script = place.script("look", &format!("readlink /proc/self/ns/mnt >{}", out.display()));
    let container =
        place.create(&with(place.bundle(), "createContainer", json!([{"path": script}])));
    let inner = fs::read_link(format!("/proc/{}/ns/mnt", container.pid())).expect("a namespace");
    assert_eq!(fs::read_to_string(out).expect("it ran").trim(), inner.to_str().unwrap_or_default());
}

fn start_container_hook_runs_inside(place: &Place) {
    let bundle = place
        .bundle()
        .file(
            "/bin/hook",
            "#!/bin/sh\ncat >/state; echo from hook >/mark; hostname >>/mark; echo \"$WORD\" >>/mark\n",
            0o755,
        )
        .set("/process/env", json!(["PATH=/bin:/usr/bin", "WORD=the program's"]))
        .sh("cat /mark; sleep 1000");
    let bundle = with(bundle, "startContainer", json!([{"path": "/bin/hook"}]));
    let container = place.create(&bundle);
    assert!(!bundle.rootfs().join("mark").exists(), "it runs at start, not before");
    container.start();
    container.says("from hook\nhull-test\nthe program's");
    let state: Value =
        serde_json::from_str(&fs::read_to_string(bundle.rootfs().join("state")).expect("it ran"))
            .expect("JSON");
    assert_eq!(state["id"], json!(place.id));
}

fn failing_start_container_hook_fails_start(place: &Place) {
    let bundle =
        place.bundle().file("/bin/hook", "#!/bin/sh\nexit 7\n", 0o755).sh("touch /ran; sleep 1000");
    let bundle = with(bundle, "startContainer", json!([{"path": "/bin/hook"}]));
    let container = place.create(&bundle);
    let output = container.command("start").run();
    if place.is_hull() {
        output.fails();
    }
    container.becomes("stopped");
    assert!(!bundle.rootfs().join("ran").exists());
}

fn poststop_runs_on_forced_delete(place: &Place) {
    let bundle =
        with(place.bundle().args(&["sleep", "1000"]), "poststop", json!([note(place, "poststop")]));
    place.start(&bundle).delete_force();
    assert_eq!(log(place), ["poststop"]);
}

fn hooks_of_the_host_are_not_in_the_containers_namespaces(place: &Place) {
    let out = place.path("out");
    let script = place.script(
        "look",
        &format!("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done >{}", out.display()),
    );
    let _container =
        place.create(&with(place.bundle(), "createRuntime", json!([{"path": script}])));
    let own: Vec<String> = ["net", "ipc", "uts", "pid"]
        .map(|n| {
            fs::read_link(format!("/proc/self/ns/{n}")).expect("a namespace").display().to_string()
        })
        .into();
    assert_eq!(fs::read_to_string(out).expect("it ran").lines().collect::<Vec<_>>(), own);
}

fn hook_killed_by_a_signal_is_a_failure(place: &Place) {
    let bundle =
        with(place.bundle(), "createRuntime", json!([hook(place, "die", "kill -KILL $$")]));
    place.creating(&bundle, &place.id).run().fails();
}

fn large_state_reaches_a_hook_that_does_not_read(place: &Place) {
    let bundle =
        place.bundle().set("/annotations", json!({"org.example.big": "x".repeat(300_000)}));
    let bundle = with(bundle, "createRuntime", json!([{"path": "/bin/true"}]));
    let _container = place.create(&bundle);
}

fn prestart_hook_can_move_a_network_device(place: &Place) {
    // What an engine's network plug-in does with the pid it is told.
    let short = place.id.replace("hb-", "");
    let (one, two) = (format!("a{short}"), format!("b{short}"));
    let script = format!(
        "pid=$(sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p' | head -n 1)
         export PATH=/usr/sbin:/usr/bin:/sbin:/bin
         ip link add {one} type veth peer name {two} && ip link set {two} netns $pid"
    );
    if tests::Call::new(&place.dir, "ip")
        .args(["link", "add", &one, "type", "veth", "peer", "name", &two])
        .run()
        .code()
        != 0
    {
        place.cannot("no veth device");
    }
    tests::Call::new(&place.dir, "ip").args(["link", "delete", &one]).ok();
    let bundle = with(
        place.bundle().args(&["ip", "link"]),
        "prestart",
        json!([hook(place, "net", &script)]),
    );
    place.run(&bundle).ok().says(&two);
}

fn hook_output_is_no_ones_input(place: &Place) {
    let bundle = with(
        place.bundle().sh("echo workload"),
        "createRuntime",
        json!([hook(place, "noise", "echo noise; echo noise >&2")]),
    );
    place.run(&bundle).ok().says("workload");
}

fn hook_finds_the_rootfs_in_the_containers_mounts(place: &Place) {
    place.needs("nsenter");
    let bundle = place.bundle().sh("cat /etc/given");
    let given = place.new_file("given", "by the hook\n");
    let target = bundle.rootfs().join("etc/given");
    let text = format!(
        "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/')
        touch {0}; nsenter -m -t $pid mount --bind {1} {0}",
        target.display(),
        given.display(),
    );
    place
        .run(&with(bundle, "createRuntime", json!([hook(place, "binds", &text)])))
        .ok()
        .prints("by the hook");
}
