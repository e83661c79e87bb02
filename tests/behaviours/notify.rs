//! Readiness, told to the service manager that started the runtime (`NOTIFY_SOCKET`).

use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use tests::{Bundle, Container, Place, Running, eventually, holds_within, subject};

subject! {
    container: detached_run_waits_until_it_is_ready, start_waits_until_it_is_ready,
        foreground_run_tells_while_it_waits, one_that_ends_is_not_waited_for,
        last_words_are_passed_on, without_a_manager_nothing_is_there, abstract_socket_is_found,
        missing_manager_is_named;
}

/// The service manager's end. Descriptors that come along (the barrier) are closed at once.
fn manager(place: &Place) -> UnixDatagram {
    let socket = UnixDatagram::bind(place.path("manager.sock")).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    socket
}

fn hear(manager: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let length = manager.recv(&mut message).expect("the manager is told something");
    String::from_utf8_lossy(&message[..length]).into_owned()
}

fn bundle(place: &Place, script: &str) -> Bundle {
    place.bundle().helper(0o755).sh(script)
}

const SAYS: &str = "while ! test -e /go; do sleep 0.05; done
    /bin/inside inside notify 'STATUS=warm'
    /bin/inside inside notify 'READY=1'
    sleep 1000";

/// A call waits while [`SAYS`] is not ready, tells the manager when it is, and ends well.
fn waits_until_ready(
    mut call: Running,
    manager: &UnixDatagram,
    bundle: &Bundle,
    container: &Container,
) {
    assert!(!holds_within(Duration::from_millis(300), || !call.runs()), "it is not ready");
    std::fs::write(bundle.rootfs().join("go"), "").expect("the word to go");
    assert_eq!(hear(manager), "READY=1\n");
    assert_eq!(hear(manager), format!("MAINPID={}\n", container.pid()));
    assert_eq!(hear(manager), "BARRIER=1");
    call.wait().ok();
}

fn detached_run_waits_until_it_is_ready(place: &Place) {
    let manager = manager(place);
    let bundle = bundle(place, SAYS);
    let running = place
        .running(&bundle)
        .arg("--detach")
        .env("NOTIFY_SOCKET", place.path("manager.sock"))
        .spawn();
    let container = Container::named(place, &place.id);
    eventually("it runs", || {
        place.call(&["state", &place.id]).stdout.contains("running").then_some(())
    });
    waits_until_ready(running, &manager, &bundle, &container);
    let env = container.sh("tr '\\0' '\\n' </proc/1/environ | grep NOTIFY; touch /run/notify/x");
    assert_eq!(env.stdout.trim(), "NOTIFY_SOCKET=/run/notify/notify.sock");
    assert!(env.stderr.contains("Read-only"), "{}", env.stderr);
}

fn start_waits_until_it_is_ready(place: &Place) {
    let manager = manager(place);
    let bundle = bundle(place, SAYS);
    let path = place.path("manager.sock");
    place.creating(&bundle, &place.id).env("NOTIFY_SOCKET", &path).run().ok();
    let container = Container::named(place, &place.id);
    let starting = container.command("start").env("NOTIFY_SOCKET", &path).spawn();
    eventually("it runs", || (container.status() == "running").then_some(()));
    waits_until_ready(starting, &manager, &bundle, &container);
}

fn foreground_run_tells_while_it_waits(place: &Place) {
    let manager = manager(place);
    let bundle = bundle(
        place,
        "echo before; /bin/inside inside notify 'A=b\\nREADY=1\\nC=d'; read word; echo $word; exit 4",
    );
    let mut running = place.running(&bundle).env("NOTIFY_SOCKET", place.path("manager.sock"));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    running = running.stdin(reader);
    let running = running.spawn();
    assert_eq!(hear(&manager), "READY=1\n");
    // It passes signals on, so it is the one to watch.
    assert_eq!(hear(&manager), format!("MAINPID={}\n", running.pid()));
    assert_eq!(hear(&manager), "BARRIER=1");
    std::io::Write::write_all(&mut &writer, b"after\n").expect("a word");
    running.wait().exits(4).says("after");
}

fn one_that_ends_is_not_waited_for(place: &Place) {
    let _manager = manager(place);
    let path = place.path("manager.sock");
    place.running(&bundle(place, "exit 3")).env("NOTIFY_SOCKET", &path).run().exits(3);
    place.running(&bundle(place, "exit 3")).arg("--detach").env("NOTIFY_SOCKET", &path).run().ok();
    Container::named(place, &place.id).becomes("stopped");
}

fn last_words_are_passed_on(place: &Place) {
    let manager = manager(place);
    let bundle = bundle(place, "/bin/inside inside notify READY=1");
    place.running(&bundle).env("NOTIFY_SOCKET", place.path("manager.sock")).run().ok();
    assert_eq!(hear(&manager), "READY=1\n");
}

fn without_a_manager_nothing_is_there(place: &Place) {
    place
        .running(&place.bundle().sh("echo =$NOTIFY_SOCKET=; test -e /run/notify || echo none"))
        .env("NOTIFY_SOCKET", "")
        .run()
        .exits(0)
        .says("==")
        .says("none");
}

fn abstract_socket_is_found(place: &Place) {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(place.id.as_bytes());
    let manager = UnixDatagram::bind_addr(&address.expect("a name")).expect("a socket");
    let bundle = bundle(place, "/bin/inside inside notify READY=1");
    place.running(&bundle).env("NOTIFY_SOCKET", format!("@{}", place.id)).run().ok();
    assert_eq!(hear(&manager), "READY=1\n");
}

fn missing_manager_is_named(place: &Place) {
    place.only_hull();
    place
        .running(&place.bundle())
        .env("NOTIFY_SOCKET", place.path("nowhere"))
        .run()
        .complains(&["nowhere: no such file"]);
}
