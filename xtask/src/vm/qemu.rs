//! Boots the machine in qemu, passes its console on, and finds out how it ended.
//!
//! Always by qemu's own translator (`-accel tcg`), never by KVM, which may be there and broken:
//! the machine is the same wherever it runs.

use super::kernel::Kernel;
use anyhow::{Context, Result, bail};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// The line by which /init tells the exit code.
const EXIT_LINE: &str = "portolan-vm: exit ";
const PANIC: &str = "Kernel panic";
const CHUNK_SIZE: usize = 16 << 10;
/// The machine ends itself at its time limit; this is how much later we end it.
const GRACE_S: u64 = 20;

/// The machine to boot.
pub(crate) struct Machine {
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    /// 2^N ns of the machine's time for each instruction, so that time counts instructions.
    pub(crate) instruction_shift: Option<u8>,
    pub(crate) time_limit_s: u64,
    pub(crate) kernel_messages: bool,
}

impl Machine {
    /// Boots, gives each line of the console to `on_line` and to our standard output; the exit code
    /// of what ran in the machine.
    pub(crate) fn run(&self, kernel: &Kernel, initramfs: &Path, on_line: &mut dyn FnMut(&str)) -> Result<u8> {
        let mut command = self.command(kernel, initramfs);
        command.args(["-serial", "stdio", "-monitor", "none"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut qemu = command.spawn().context("starting qemu-system-x86_64 (package qemu-system-x86)")?;
        let end = self.watch(&mut qemu, on_line);
        // Harmless when it has ended already.
        let _ = qemu.kill();
        qemu.wait().context("waiting for qemu to end")?;
        end
    }

    /// Boots with the console on this terminal.
    pub(crate) fn run_interactively(&self, kernel: &Kernel, initramfs: &Path) -> Result<()> {
        println!("xtask: leave the machine by `exit`, or at once by Ctrl-A x");
        let mut command = self.command(kernel, initramfs);
        crate::workspace::run(command.args(["-serial", "mon:stdio"]))
    }

    fn command(&self, kernel: &Kernel, initramfs: &Path) -> Command {
        // setpriv: the machine must not outlive us, however we end.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-cpu", "max"]);
        command.args(["-m", &self.memory_mib.to_string()]);
        match self.instruction_shift {
            // With a second CPU the kernel's waiting for it would be counted too, and takes minutes.
            Some(shift) => {
                let icount = format!("shift={shift},sleep=off");
                command.args(["-accel", "tcg,thread=single", "-icount", &icount, "-smp", "1"])
            }
            None => command.args(["-accel", "tcg,thread=multi", "-smp", &self.cpus.to_string()]),
        };
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
        let messages = if self.kernel_messages { "ignore_loglevel" } else { "quiet loglevel=2" };
        // A panic or an oops ends the machine; addresses and the clock do not differ between boots.
        command.args([
            "-append",
            &format!(
                "console=ttyS0 {messages} panic=-1 oops=panic nokaslr mitigations=off \
                 tsc=reliable random.trust_cpu=on nowatchdog dummy.numdummies=0 rdinit=/init"
            ),
        ]);
        command
    }

    fn watch(&self, qemu: &mut Child, on_line: &mut dyn FnMut(&str)) -> Result<u8> {
        let mut console = qemu.stdout.take().context("qemu has no standard output")?;
        let (sender, chunks) = mpsc::channel();
        thread::spawn(move || {
            let mut chunk = vec![0; CHUNK_SIZE];
            while let Ok(length @ 1..) = console.read(&mut chunk) {
                if sender.send(chunk.get(..length).unwrap_or_default().to_vec()).is_err() {
                    break;
                }
            }
        });
        let deadline = Instant::now() + Duration::from_secs(self.time_limit_s + GRACE_S);
        let mut line = Vec::new();
        let mut end = End::default();
        loop {
            match chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(mut chunk) => {
                    // The kernel's own messages end in \r\n.
                    chunk.retain(|byte| *byte != b'\r');
                    io::stdout()
                        .write_all(&chunk)
                        .and_then(|()| io::stdout().flush())
                        .context("writing output")?;
                    for byte in chunk {
                        if byte != b'\n' {
                            line.push(byte);
                            continue;
                        }
                        let text = String::from_utf8_lossy(&line);
                        end.line(&text);
                        on_line(&text);
                        if end.code.is_some() {
                            // No need to wait for the machine to shut down.
                            return end.code();
                        }
                        line.clear();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return end.code(),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the machine did not end within {} s", self.time_limit_s)
                }
            }
        }
    }
}

/// What the console says of the end.
#[derive(Default)]
struct End {
    code: Option<String>,
    panic: Option<String>,
}

impl End {
    fn line(&mut self, line: &str) {
        if let Some(code) = line.strip_prefix(EXIT_LINE) {
            self.code = Some(code.to_owned());
        } else if line.contains(PANIC) {
            self.panic = Some(line.to_owned());
        }
    }

    fn code(&self) -> Result<u8> {
        match (&self.panic, &self.code) {
            (Some(panic), _) => bail!("the machine's kernel gave up: {panic}"),
            (None, Some(code)) => code.parse().with_context(|| format!("the machine ended with {code}")),
            (None, None) => bail!("the machine ended without saying how"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::End;

    fn code(lines: &[&str]) -> Option<u8> {
        let mut end = End::default();
        lines.iter().for_each(|line| end.line(line));
        end.code().ok()
    }

    #[test]
    fn only_a_plain_exit_line_gives_a_code() {
        assert_eq!(code(&["hello", "portolan-vm: exit 0"]), Some(0));
        assert_eq!(code(&["portolan-vm: exit 3"]), Some(3));
        assert_eq!(code(&["hello"]), None);
        assert_eq!(code(&["portolan-vm: exit 125 (modules)"]), None);
        assert_eq!(code(&["[ 1.0] Kernel panic - not syncing: x", "portolan-vm: exit 0"]), None);
    }
}
