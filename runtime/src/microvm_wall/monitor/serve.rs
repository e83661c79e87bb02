//! The monitor's one loop: creator, commands, signals, guest and streams.
//!
//! Nothing here blocks and nothing a guest or a client sends ends it: a client that breaks the
//! rules is dropped, a guest that does has ended its own container.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use hull_agent::link::{
    Answer, Ask, Connection, Exec, ExitStatus, INIT, MAX_REPORT, ProcessId, Report, Request,
};
use microvm::Outcome as End;

use super::boot::{Failure, Phase};
use super::clients::{Channel, Client};
use super::guest::Newcomers;
use super::machine::{Machine, wait_for};
use super::place::Place;
use super::signals::Came;
use super::streams::{Streams, window_size};
use crate::microvm_wall::protocol::{Command, News, Order, Outcome};

/// How long a guest may take to answer to SIGKILL before the monitor takes it for dead.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How long a guest whose agent has fallen silent is given to say why on its console, and to end.
const LOST_PATIENCE: Duration = Duration::from_millis(200);

/// What a monitor exits with when its guest has died under the workload.
const GUEST_DIED: i32 = 255;

/// How many clients are served at a time.
const MAX_CLIENTS: usize = 256;

/// How far the container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Booting,
    SettingUp,
    Created,
    Running,
    Ended,
}

/// Who waits for a reply of the guest.
#[derive(Debug)]
enum Waiter {
    /// Nobody.
    Nobody,
    /// The creator, for the set-up.
    Created,
    /// Whoever asked for the start.
    Started(Option<u64>),
    /// A client, for just that.
    Client(u64),
    /// A client, for the process it runs.
    Exec(u64, ProcessId),
    /// A client, for SIGKILL.
    Kill(Option<u64>),
}

/// The loop's state.
pub struct Server {
    machine: Machine,
    place: Place,
    creator: Option<Channel>,
    kept: bool,
    confined: bool,
    paused: bool,
    stage: Stage,
    newcomers: Newcomers,
    agent: Option<Channel>,
    seq: u32,
    waiters: BTreeMap<u32, Waiter>,
    clients: Vec<Client>,
    next_client: u64,
    processes: BTreeMap<ProcessId, Streams>,
    next_process: ProcessId,
    kill_deadline: Option<Instant>,
    /// The agent has closed its link: when that is taken for the end, and why it did.
    lost: Option<(Instant, String)>,
    over: Option<i32>,
}

/// Which descriptors stand where in the poll set.
struct Places {
    creator: Option<usize>,
    agent: Option<usize>,
    clients: usize,
}

impl Server {
    /// A machine that was just started.
    pub fn new(machine: Machine, place: Place, creator: UnixStream) -> Self {
        Self {
            machine,
            place,
            creator: Some(Channel::new(creator, MAX_REPORT)),
            kept: false,
            confined: false,
            paused: false,
            stage: Stage::Booting,
            newcomers: Newcomers::default(),
            agent: None,
            seq: 0,
            waiters: BTreeMap::new(),
            clients: Vec::new(),
            next_client: 0,
            processes: BTreeMap::new(),
            next_process: INIT + 1,
            kill_deadline: None,
            lost: None,
            over: None,
        }
    }

    /// Serves until the end; gives the status to exit with.
    pub fn run(&mut self) -> i32 {
        let mut set = Vec::new();
        loop {
            let places = self.interest(&mut set);
            // SAFETY: `set` is an array of the length given.
            let ready =
                unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, self.timeout()) };
            if ready < 0 {
                // Every signal is blocked: what is left is a lack of memory, which may pass.
                continue;
            }
            self.serve(&set, &places);
            if let Some(code) = self.over {
                return code;
            }
        }
    }

    fn interest(&mut self, set: &mut Vec<libc::pollfd>) -> Places {
        set.clear();
        set.push(wait_for(self.machine.commands.as_fd(), libc::POLLIN));
        set.push(wait_for(self.machine.signals.as_fd(), libc::POLLIN));
        set.push(wait_for(self.machine.handle.exit_fd(), libc::POLLIN));
        set.push(wait_for(self.machine.guest.as_fd(), libc::POLLIN));
        let mut add = |channel: &Channel| {
            set.push(channel.interest());
            set.len() - 1
        };
        let creator = self.creator.as_ref().map(&mut add);
        let agent = self.agent.as_ref().map(&mut add);
        let clients = set.len();
        set.extend(self.clients.iter().map(|client| client.channel.interest()));
        self.newcomers.interest(set);
        self.machine.streams.interest(set);
        for streams in self.processes.values_mut() {
            streams.interest(set);
        }
        Places { creator, agent, clients }
    }

    /// Milliseconds until something is due.
    fn timeout(&self) -> i32 {
        let boot = (self.stage < Stage::Created).then_some(self.machine.deadline);
        let lost = self.lost.as_ref().map(|(due, _)| *due);
        match boot.into_iter().chain(self.kill_deadline).chain(lost).min() {
            None => -1,
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now());
                i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1)
            }
        }
    }

    fn serve(&mut self, set: &[libc::pollfd], places: &Places) {
        let ready = |at: usize| set.get(at).is_some_and(|entry| entry.revents != 0);
        if self.stage >= Stage::Created {
            let first = self.machine.streams.resized().map(|size| (INIT, size));
            let others = self.processes.iter_mut();
            let others =
                others.filter_map(|(id, streams)| streams.resized().map(|size| (*id, size)));
            for (process, size) in first.into_iter().chain(others).collect::<Vec<_>>() {
                self.ask(Ask::Resize { process, size }, Waiter::Nobody);
            }
        }
        self.machine.streams.step(set);
        for streams in self.processes.values_mut() {
            streams.step(set);
        }
        if ready(3) {
            while let Some(stream) = self.machine.guest.try_accept() {
                self.newcomers.add(stream);
            }
        }
        // Cheap where nobody is new; one that was just accepted has mostly spoken already.
        for (connection, stream) in self.newcomers.decide() {
            self.connected(connection, stream);
        }
        if places.agent.is_some_and(ready) {
            self.hear_agent();
        }
        if places.creator.is_some_and(ready) {
            self.hear_creator();
        }
        for at in 0..self.clients.len() {
            if ready(places.clients + at) {
                self.hear_client(at);
            }
        }
        self.clients.retain(|client| !client.gone);
        if ready(0) {
            self.accept_clients();
        }
        if ready(1) {
            while let Some(came) = self.machine.signals.next() {
                self.signalled(came);
            }
        }
        self.finish_processes();
        if self.over.is_none() && ready(2) {
            self.machine_ended();
        }
        if self.over.is_none() {
            self.look_at_the_clock();
        }
    }

    // The guest.

    fn connected(&mut self, connection: Connection, stream: UnixStream) {
        match connection {
            // A second control connection is no agent's: it is dropped.
            Connection::Control if self.agent.is_none() && self.stage == Stage::Booting => {
                self.machine.phases.mark("agent called");
                self.agent = Some(Channel::new(stream, MAX_REPORT));
                self.stage = Stage::SettingUp;
                if let Some(create) = self.machine.create.take() {
                    self.ask(Ask::Create(Box::new(create)), Waiter::Created);
                }
            }
            Connection::Control => {}
            Connection::Stream { process: INIT, stream: number } => {
                self.machine.streams.connect(number, stream);
            }
            Connection::Stream { process, stream: number } => {
                if let Some(streams) = self.processes.get_mut(&process) {
                    streams.connect(number, stream);
                }
            }
        }
    }

    fn ask(&mut self, ask: Ask, waiter: Waiter) {
        self.seq = self.seq.wrapping_add(1);
        let request = Request { seq: self.seq, ask };
        let sent = match &mut self.agent {
            Some(agent) => agent.send(&request).map_err(|error| error.to_string()),
            None => Err("the guest is not up yet".to_owned()),
        };
        match sent {
            Ok(()) => {
                self.waiters.insert(self.seq, waiter);
            }
            Err(error) => self.answered(waiter, Err(error)),
        }
    }

    fn hear_agent(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let mut reports = Vec::new();
        let heard = agent.flush().map_err(Into::into).and_then(|()| agent.fill());
        let heard = heard.and_then(|open| {
            while let Some(report) = agent.next::<Report>()? {
                reports.push(report);
            }
            Ok(open)
        });
        for report in reports {
            match report {
                Report::Reply { seq, result } => {
                    if let Some(waiter) = self.waiters.remove(&seq) {
                        self.answered(waiter, result);
                    }
                }
                Report::Exited { process: INIT, status } => {
                    self.stage = Stage::Ended;
                    self.machine.streams.ended(status);
                }
                Report::Exited { process, status } => {
                    if let Some(streams) = self.processes.get_mut(&process) {
                        streams.ended(status);
                    }
                }
            }
        }
        match heard {
            Ok(true) => {}
            Ok(false) => self.agent_lost("the agent has closed its link"),
            Err(error) => self.agent_lost(&error.to_string()),
        }
    }

    fn agent_lost(&mut self, why: &str) {
        self.agent = None;
        if self.stage != Stage::Ended {
            self.lost.get_or_insert_with(|| (Instant::now() + LOST_PATIENCE, why.to_owned()));
        }
    }

    fn answered(&mut self, waiter: Waiter, result: Result<Answer, String>) {
        match waiter {
            Waiter::Nobody => {}
            Waiter::Created => match result {
                Ok(_) => self.created(),
                Err(error) => self.fail_with(Failure::boot(Phase::ContainerSetup, error)),
            },
            Waiter::Started(client) => {
                if result.is_ok() && self.stage == Stage::Created {
                    self.stage = Stage::Running;
                }
                match client {
                    Some(client) => self.reply(client, outcome(result)),
                    None => {
                        let news = result.map_or_else(News::Failed, |_| News::Started);
                        self.tell_creator(&news);
                    }
                }
            }
            Waiter::Client(client) => self.reply(client, outcome(result)),
            Waiter::Kill(client) => {
                self.kill_deadline = None;
                if let Some(client) = client {
                    self.reply(client, outcome(result));
                }
            }
            Waiter::Exec(client, process) => {
                if result.is_err() {
                    self.processes.remove(&process);
                    if let Some(client) = self.clients.iter_mut().find(|c| c.id == client) {
                        client.process = None;
                    }
                }
                self.reply(client, outcome(result));
            }
        }
    }

    fn created(&mut self) {
        if self.stage != Stage::SettingUp {
            return;
        }
        self.stage = Stage::Created;
        self.machine.phases.mark("container created");
        let phases = self.machine.phases.list(self.machine.handle.phases());
        self.tell_creator(&News::Created { phases });
    }

    // The creator.

    fn tell_creator(&mut self, news: &News) {
        let told = self.creator.as_mut().is_some_and(|creator| creator.send(news).is_ok());
        if !told && self.creator.is_some() {
            self.creator_gone();
        }
    }

    fn hear_creator(&mut self) {
        let Some(creator) = &mut self.creator else { return };
        let mut orders = Vec::new();
        let open = creator.flush().is_ok() && creator.fill().unwrap_or(false);
        while let Ok(Some(order)) = creator.next::<Order>() {
            orders.push(order);
        }
        for order in orders {
            match order {
                Order::Keep => self.keep(),
                Order::Start => {
                    // A container that runs outlives whoever ran it, as it does on the host; and
                    // a monitor that is confined could not unmake it.
                    if self.stage == Stage::Created {
                        self.keep();
                    }
                    self.start(None);
                }
            }
        }
        if !open {
            self.creator_gone();
        }
    }

    fn creator_gone(&mut self) {
        self.creator = None;
        if self.kept {
            self.confine();
        } else if self.over.is_none() {
            self.place.undo_for_creator();
            self.over = Some(1);
        }
    }

    fn keep(&mut self) {
        self.kept = true;
        self.place.kept();
    }

    fn start(&mut self, client: Option<u64>) {
        match self.stage {
            Stage::Created => {
                self.confine();
                self.ask(Ask::Start, Waiter::Started(client));
            }
            stage => {
                let text = format!("cannot start a container that is {}", self.status(stage));
                self.answered(Waiter::Started(client), Err(text));
            }
        }
    }

    /// Gives up what is not needed any more. What fails here ends the container: it is not to
    /// run with more than it should have.
    fn confine(&mut self) {
        if self.confined || self.over.is_some() {
            return;
        }
        self.confined = true;
        let closed = self.place.close_in().map_err(|error| error.to_string());
        let entered = closed.and_then(|()| {
            let role = microvm::jail::Role::Main;
            self.machine.jail.enter(role).map_err(|error| error.to_string())
        });
        if let Err(error) = entered {
            self.fail_with(Failure::host(format!("confine the monitor: {error}")));
        }
    }

    // Commands.

    fn accept_clients(&mut self) {
        while let Ok((stream, _)) = self.machine.commands.accept() {
            if self.clients.len() < MAX_CLIENTS {
                self.next_client += 1;
                self.clients.push(Client {
                    id: self.next_client,
                    channel: Channel::new(stream, MAX_REPORT),
                    process: None,
                    gone: false,
                });
            }
        }
    }

    fn hear_client(&mut self, at: usize) {
        let Some(client) = self.clients.get_mut(at) else { return };
        let id = client.id;
        let mut commands = Vec::new();
        let channel = &mut client.channel;
        let open = channel.flush().is_ok() && channel.fill().unwrap_or(false);
        let sound = loop {
            match channel.next::<Command>() {
                Ok(Some(command)) => commands.push(command),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        let process = client.process;
        for command in commands {
            self.command(id, command);
        }
        if !open || !sound {
            if let Some(client) = self.clients.get_mut(at) {
                client.gone = true;
            }
            // What kills the process that stands for one of the guest's kills that one.
            if let Some(process) = process {
                let kill = Ask::Signal { process, signal: libc::SIGKILL, all: false };
                self.ask(kill, Waiter::Nobody);
            }
        }
    }

    fn reply(&mut self, client: u64, outcome: Outcome) {
        if let Some(client) = self.clients.iter_mut().find(|one| one.id == client)
            && client.channel.send(&outcome).is_err()
        {
            client.gone = true;
        }
    }

    fn status(&self, stage: Stage) -> oci::Status {
        match stage {
            Stage::Booting | Stage::SettingUp => oci::Status::Creating,
            Stage::Ended => oci::Status::Stopped,
            _ if self.paused => oci::Status::Paused,
            Stage::Created => oci::Status::Created,
            Stage::Running => oci::Status::Running,
        }
    }

    fn command(&mut self, client: u64, command: Command) {
        match command {
            Command::Start => self.start(Some(client)),
            Command::State => self.reply(client, Outcome::Status(self.status(self.stage))),
            Command::Signal { signal, all } => self.signal(Some(client), signal, all),
            Command::Pause => {
                let held = self.machine.handle.pause().map_err(|error| error.to_string());
                self.paused = self.paused || held.is_ok();
                self.reply(client, held.map_or_else(Outcome::Failed, |()| Outcome::Done));
            }
            Command::Resume => {
                let freed = self.machine.handle.resume().map_err(|error| error.to_string());
                self.paused = self.paused && freed.is_err();
                self.reply(client, freed.map_or_else(Outcome::Failed, |()| Outcome::Done));
            }
            Command::Update(resources) => {
                self.ask(Ask::Update(resources), Waiter::Client(client));
            }
            Command::Stats => self.ask(Ask::Stats, Waiter::Client(client)),
            Command::Processes => self.ask(Ask::Processes, Waiter::Client(client)),
            Command::Exec { process, stdio, cgroup, ignore_paused } => {
                let Some(asker) = self.clients.iter_mut().find(|one| one.id == client) else {
                    return;
                };
                let descriptors = std::mem::take(&mut asker.channel.descriptors);
                if descriptors.len() != Streams::count(stdio) || asker.process.is_some() {
                    asker.gone = true;
                    return;
                }
                let id = self.next_process;
                self.next_process += 1;
                asker.process = Some(id);
                self.processes.insert(id, Streams::new(stdio, descriptors));
                let exec = Exec { process: id, spec: *process, stdio, cgroup, ignore_paused };
                self.ask(Ask::Exec(Box::new(exec)), Waiter::Exec(client, id));
            }
            Command::Forward(signal) => {
                if let Some(process) = self.process_of(client) {
                    self.ask(Ask::Signal { process, signal, all: false }, Waiter::Nobody);
                }
            }
            Command::Resize(size) => {
                if let Some(process) = self.process_of(client) {
                    self.ask(Ask::Resize { process, size }, Waiter::Nobody);
                }
            }
        }
    }

    fn process_of(&self, client: u64) -> Option<ProcessId> {
        self.clients.iter().find(|one| one.id == client).and_then(|one| one.process)
    }

    // Signals.

    fn signalled(&mut self, came: Came) {
        match came {
            Came::Resized => {
                if let Some(size) = self.machine.terminal.as_ref().and_then(window_size) {
                    self.ask(Ask::Resize { process: INIT, size }, Waiter::Nobody);
                }
            }
            Came::Forward(signal) if self.stage < Stage::Created => {
                let ends =
                    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT].contains(&signal);
                if ends {
                    self.fail_with(Failure::host(format!(
                        "ended by signal {signal} while it booted"
                    )));
                }
            }
            Came::Forward(signal) => self.signal(None, signal, false),
        }
    }

    fn signal(&mut self, client: Option<u64>, signal: i32, all: bool) {
        let ask = Ask::Signal { process: INIT, signal, all };
        if signal == libc::SIGKILL {
            if self.paused {
                // A paused guest could not die of it before it is resumed; on the host it would.
                if let Some(client) = client {
                    self.reply(client, Outcome::Done);
                }
                self.over = Some(ExitStatus::Signal(libc::SIGKILL as u8).code());
                return;
            }
            self.kill_deadline.get_or_insert_with(|| Instant::now() + KILL_PATIENCE);
            self.ask(ask, Waiter::Kill(client));
        } else if self.paused {
            // It arrives when the guest goes on, as with a frozen container.
            self.ask(ask, Waiter::Nobody);
            if let Some(client) = client {
                self.reply(client, Outcome::Done);
            }
        } else {
            self.ask(ask, client.map_or(Waiter::Nobody, Waiter::Client));
        }
    }

    // Ends.

    fn finish_processes(&mut self) {
        let finished: Vec<_> = self
            .processes
            .iter()
            .filter_map(|(id, streams)| streams.finished().map(|status| (*id, status)))
            .collect();
        for (process, status) in finished {
            self.processes.remove(&process);
            let client = self.clients.iter_mut().find(|one| one.process == Some(process));
            if let Some(client) = client {
                client.process = None;
                let id = client.id;
                self.reply(id, Outcome::Exited(status.code()));
            }
        }
        if let Some(status) = self.machine.streams.finished()
            && self.over.is_none()
        {
            self.over = Some(status.code());
        }
    }

    fn machine_ended(&mut self) {
        let cause = match self.machine.handle.wait() {
            End::Shutdown => "the guest has powered off".to_owned(),
            End::Reset => "the guest has reset itself".to_owned(),
            End::Panicked => "the guest's kernel has panicked".to_owned(),
            End::Stopped => "the machine was stopped".to_owned(),
            End::Failed(error) => error.to_string(),
        };
        if self.stage == Stage::Ended {
            // The status is known; the guest has only nothing more to say.
            self.machine.streams.guest_gone();
            self.agent = None;
            return;
        }
        self.fail(Phase::Agent, &cause);
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        if let Some((_, why)) = self.lost.take_if(|(due, _)| now >= *due) {
            self.fail(Phase::Agent, &why);
        } else if self.stage < Stage::Created && now >= self.machine.deadline {
            let seconds = self.machine.timeout.as_secs_f32();
            let phase = if self.agent.is_some() { Phase::ContainerSetup } else { Phase::Agent };
            self.fail(phase, &format!("not done within {seconds} s"));
        } else if self.kill_deadline.is_some_and(|due| now >= due) {
            self.over = Some(ExitStatus::Signal(libc::SIGKILL as u8).code());
        }
    }

    /// The guest is of no more use: `phase` if it was the agent that was heard of last.
    fn fail(&mut self, phase: Phase, cause: &str) {
        let console = self.machine.handle.console().tail();
        let phase = if self.agent.is_none() && self.stage == Stage::Booting {
            Phase::of_console(&console)
        } else {
            phase
        };
        let failure = if self.stage < Stage::Created {
            Failure::boot(phase, cause)
        } else {
            Failure::host(format!("microVM: {cause}"))
        };
        self.fail_with(failure.with_console(console));
    }

    fn fail_with(&mut self, failure: Failure) {
        if self.over.is_some() {
            return;
        }
        let text = failure.to_string();
        if self.stage < Stage::Created || !self.kept {
            let failed = News::Failed(text);
            let told = self.creator.as_mut().is_some_and(|creator| creator.send(&failed).is_ok());
            if told || self.kept {
                self.place.undo();
            } else {
                self.place.undo_for_creator();
            }
            self.over = Some(1);
            return;
        }
        // Nobody waits for news any more: the workload's stderr is the only place to say it.
        self.machine.streams.say(&format!("hull: {text}\n"));
        self.over = Some(GUEST_DIED);
    }
}

fn outcome(result: Result<Answer, String>) -> Outcome {
    match result {
        Ok(Answer::Done | Answer::Process(_)) => Outcome::Done,
        Ok(Answer::Processes(rows)) => Outcome::Processes(rows),
        Ok(Answer::Stats(stats)) => Outcome::Stats(stats),
        Err(error) => Outcome::Failed(error),
    }
}
