//! Boots a kernel with an initramfs, shows its console and says how long what
//! took: `boot KERNEL INITRD [--acpi|--cmdline] [--debug] [--cpus N] [--mem MIB]
//! [-- KERNEL-PARAMETER...]`.

use std::fs::File;

use microvm::jail::Jail;
use microvm::{Announce, Config, Devices, InitrdPart, Loading, Vm};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(kernel), Some(initrd)) = (args.next(), args.next()) else {
        return Err("usage: boot KERNEL INITRD [--acpi|--cmdline] [--debug] [--cpus N] [--mem MIB] [-- PARAMETER...]".into());
    };
    let mut config = Config { memory: 256 << 20, ..Config::default() };
    let number = |args: &mut dyn Iterator<Item = String>| -> Result<u64, String> {
        args.next().and_then(|n| n.parse().ok()).ok_or_else(|| "a number is missing".to_owned())
    };
    let mut devices = true;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--acpi" => config.announce = Announce::Acpi,
            "--cmdline" => config.announce = Announce::CommandLine,
            "--debug" => config.debug = true,
            "--bare" => devices = false,
            "--cpus" => config.vcpus = number(&mut args)?.try_into()?,
            "--mem" => config.memory = number(&mut args)? << 20,
            "--" => config.cmdline = args.by_ref().collect::<Vec<_>>().join(" "),
            other => return Err(format!("unknown: {other}").into()),
        }
    }
    let initrd = File::open(&initrd).map(|file| InitrdPart::File(file, initrd.into()))?;
    let loading = Loading::start(File::open(kernel)?, vec![initrd], &config);
    let devices = Devices { fs: vec![], vsock: devices, rng: devices };
    let vm = Vm::build(&config, loading, devices)?;
    let handle = vm.start(&Jail::confine(&[])?)?;
    handle.console().echo();
    // What the guest sends to port 9 is for standard output.
    let listener = handle.connector().map(|c| c.listen(9)).transpose()?;
    let copy = std::thread::spawn(move || {
        while let Some(mut stream) = listener.as_ref().and_then(|l| l.accept()) {
            let _ = std::io::copy(&mut stream, &mut std::io::stdout());
        }
    });
    let outcome = handle.wait();
    let phases = handle.phases();
    for (name, at) in &phases {
        let since = *at - phases[0].1;
        eprintln!("{:>9.2} ms  {name}", since.as_secs_f64() * 1e3);
    }
    eprintln!("{outcome:?}");
    drop(handle);
    let _ = copy.join();
    Ok(())
}
