//! The container wall: the host's kernel, by the `container` crate.

use crate::wall::{Container, CreateRequest, Created, Exec, ExecRequest, Record, Update, Wall};
use crate::{Error, Result};
use config::WallKind;
use container::cgroups::OomEvents;
use container::criu;
use std::ffi::OsString;
use std::os::fd::OwnedFd;

/// Namespaces and cgroups on the host's kernel.
#[derive(Clone, Copy, Debug)]
pub struct ContainerWall;

/// The container's part of the record; a record of the other wall was routed wrongly.
fn own(container: &Container) -> Result<&container::Record> {
    match &container.record {
        Record::Container(record) => Ok(record),
        Record::Microvm(_) => {
            Err(Error::WrongWall { id: container.id.clone(), wall: WallKind::Microvm })
        }
    }
}

struct Made(container::Created);

impl Created for Made {
    fn pid(&self) -> i32 {
        self.0.pid()
    }

    fn record(&self) -> Record {
        Record::Container(self.0.record().clone())
    }

    fn take_console(&mut self) -> Option<OwnedFd> {
        self.0.take_console()
    }

    fn start(&mut self) -> Result<()> {
        Ok(self.0.start()?)
    }

    fn keep(self: Box<Self>) {
        self.0.keep();
    }
}

struct Restored(container::criu::Restored);

impl Created for Restored {
    fn pid(&self) -> i32 {
        self.0.pid()
    }

    fn record(&self) -> Record {
        Record::Container(self.0.record().clone())
    }

    fn take_console(&mut self) -> Option<OwnedFd> {
        self.0.take_console()
    }

    fn start(&mut self) -> Result<()> {
        Ok(())
    }

    fn keep(self: Box<Self>) {
        self.0.keep();
    }
}

impl Wall for ContainerWall {
    fn create(&self, request: &CreateRequest<'_>) -> Result<Box<dyn Created>> {
        let cache_dir = request.root.join(crate::wall::CACHE_DIR);
        let created = container::create(&container::CreateRequest {
            id: request.id,
            config: request.config,
            bundle: request.bundle,
            state_dir: request.state_dir,
            cache_dir: Some(&cache_dir),
            console_socket: request.console_socket,
            plain_newlines: request.console_socket.is_none(),
            stdio: request.stdio,
            preserve_fds: request.preserve_fds,
            no_pivot: request.no_pivot,
            no_new_keyring: request.no_new_keyring,
            systemd_cgroup: request.systemd_cgroup,
            rootless: request.rootless,
            foreground: request.foreground,
            guard: request.guard,
        })?;
        Ok(Box::new(Made(created)))
    }

    fn start(&self, container: &Container) -> Result<()> {
        Ok(container::start(&container.state_dir, own(container)?)?)
    }

    fn status(&self, container: &Container) -> Result<oci::Status> {
        Ok(container::status(own(container)?, &container.state_dir))
    }

    fn exec(&self, container: &Container, request: &ExecRequest<'_>) -> Result<Exec> {
        let cache_dir = request.root.join(crate::wall::CACHE_DIR);
        let exec = container::exec(
            own(container)?,
            &container::ExecRequest {
                process: request.process,
                config: request.config,
                cache_dir: Some(&cache_dir),
                console_socket: request.console_socket,
                plain_newlines: request.console_socket.is_none(),
                stdio: request.stdio,
                preserve_fds: request.preserve_fds,
                cgroup: request.cgroup,
                ignore_paused: request.ignore_paused,
            },
        )?;
        Ok(Exec { pid: exec.pid, console: exec.console })
    }

    fn signal(&self, container: &Container, signal: i32, all: bool) -> Result<()> {
        Ok(container::signal(own(container)?, signal, all)?)
    }

    fn pause(&self, container: &Container) -> Result<()> {
        Ok(container::pause(own(container)?)?)
    }

    fn resume(&self, container: &Container) -> Result<()> {
        Ok(container::resume(own(container)?)?)
    }

    fn update(&self, container: &mut Container, update: &Update) -> Result<()> {
        let record = own(container)?;
        container::update(record, &update.resources)?;
        let (l3, bandwidth) = (update.l3_cache_schema.as_deref(), update.mem_bw_schema.as_deref());
        if l3.is_none() && bandwidth.is_none() {
            return Ok(());
        }
        if let Some(group) = &record.rdt {
            group.update(l3, bandwidth).map_err(container::Error::from)?;
            return Ok(());
        }
        // The configuration asked for none: it gets one now, as with runc.
        let list = || container::processes(record).unwrap_or_default();
        let group = container::rdt::enter(&record.id, l3, bandwidth, &list)
            .map_err(container::Error::from)?;
        if let Record::Container(record) = &mut container.record {
            record.rdt = Some(group);
        }
        Ok(())
    }

    fn stats(&self, container: &Container) -> Result<container::cgroups::Stats> {
        Ok(container::stats(own(container)?)?)
    }

    fn processes(&self, container: &Container) -> Result<Vec<i32>> {
        Ok(container::processes(own(container)?)?)
    }

    fn process_table(&self, container: &Container, arguments: &[OsString]) -> Result<String> {
        crate::ps::table(&self.processes(container)?, arguments)
    }

    fn oom_events(&self, container: &Container) -> Result<Option<OomEvents>> {
        let events = own(container)?.cgroup.oom_events().map_err(container::Error::from)?;
        Ok(Some(events))
    }

    fn checkpoint(
        &self,
        container: &Container,
        config: &oci::Config,
        options: &criu::Options,
    ) -> Result<()> {
        let bundle = &container.bundle;
        Ok(criu::checkpoint(&criu::CheckpointRequest {
            record: own(container)?,
            config,
            bundle,
            options,
        })?)
    }

    fn restore(
        &self,
        request: &CreateRequest<'_>,
        options: &criu::Options,
    ) -> Result<Box<dyn Created>> {
        let restored = criu::restore(&criu::RestoreRequest {
            id: request.id,
            config: request.config,
            bundle: request.bundle,
            state_dir: request.state_dir,
            options,
            console_socket: request.console_socket,
            stdio: request.stdio,
            systemd_cgroup: request.systemd_cgroup,
            rootless: request.rootless,
        })?;
        Ok(Box::new(Restored(restored)))
    }

    fn delete(&self, container: &Container, force: bool) -> Result<()> {
        Ok(container::delete(own(container)?, force)?)
    }
}
