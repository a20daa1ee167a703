//! The host's programs that tests need: checks that they are there, and installs them where that
//! is a matter of course (root on Debian or Ubuntu).

use crate::workspace::{program, run};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// A Debian package and a program by which it is known to be there.
const PACKAGES: &[(&str, &str)] = &[
    ("binutils", "strip"),
    ("busybox-static", "busybox"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("dnsutils", "dig"),
    ("iproute2", "ip"),
    ("ipset", "ipset"),
    ("iptables", "iptables"),
    ("ipvsadm", "ipvsadm"),
    ("nftables", "nft"),
    ("procps", "sysctl"),
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("util-linux", "setpriv"),
];

/// Returns when everything is there, or says what to install.
pub(crate) fn ensure() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !Path::new("/etc/debian_version").exists() {
        bail!("programs are missing: install what is in Debian's packages {list}");
    }
    if !is_root() {
        bail!("packages are missing: run `apt-get install {list}` as root");
    }
    println!("xtask: installing {list}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        run(command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet").args(arguments))
    };
    apt(&["update"])?;
    let options = ["install", "--yes", "--no-install-recommends"];
    apt(&options.into_iter().chain(missing).collect::<Vec<_>>())?;
    match self::missing().as_slice() {
        [] => Ok(()),
        still => bail!("programs are missing although these packages are installed: {}", still.join(" ")),
    }
}

fn missing() -> Vec<&'static str> {
    PACKAGES.iter().filter(|(_, name)| program(name).is_none()).map(|(package, _)| *package).collect()
}

/// `/proc/self` belongs to the user that runs us.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|about| about.uid() == 0)
}
