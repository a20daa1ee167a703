//! Is the virtual machine what the data planes' tests take it for? Judged with the ordinary tools,
//! so that a failure elsewhere is the planes' and not the machine's.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs a shell line; what it printed, if it succeeded.
fn shell(line: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-c", line]).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr });
    if output.status.success() { Ok(text.into_owned()) } else { Err(format!("{line}: {text}")) }
}

fn nft(rules: &str) -> Result<(), String> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let sent = nft.stdin.take().map(|mut input| input.write_all(rules.as_bytes()));
    assert!(sent.is_some_and(|sent| sent.is_ok()), "nft reads its rules");
    if nft.wait().is_ok_and(|status| status.success()) { Ok(()) } else { Err(format!("nft refuses {rules}")) }
}

#[test]
fn it_says_that_it_is_the_machine() {
    assert_eq!(std::env::var("PORTOLAN_VM").as_deref(), Ok("1"));
}

#[test]
fn ipvs_takes_every_scheduler() {
    for (port, scheduler) in
        (1..).zip(["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "mh", "fo", "ovf"])
    {
        for (option, address) in [("-t", "10.96.0.1"), ("-u", "[fd00::1]")] {
            shell(&format!("ipvsadm -A {option} {address}:{port} -s {scheduler}")).expect(scheduler);
        }
        let listed = shell("ipvsadm -Ln").expect("the list");
        assert!(listed.contains(&format!("TCP  10.96.0.1:{port} {scheduler}")), "{listed}");
    }
}

#[test]
fn devices_and_namespaces_can_be_made() {
    shell("ip link add kube-ipvs0 type dummy && ip address add 10.96.0.9/32 dev kube-ipvs0").expect("dummy");
    shell("ip netns add pod && ip link add host-end type veth peer name pod-end netns pod").expect("veth");
    let listed = shell("ip netns exec pod ip link show pod-end").expect("the other end");
    assert!(listed.contains("pod-end@"), "{listed}");
    shell("ip link add br0 type bridge && ip link set host-end master br0").expect("bridge");
}

#[test]
fn nftables_has_the_expressions_of_the_planes() {
    nft("table inet t {
        map picks { type inet_proto . inet_service : ipv4_addr . inet_service; flags timeout; }
        map who { typeof ip saddr : ip daddr; flags dynamic,timeout; size 65535; timeout 1h; }
        chain nat { type nat hook prerouting priority dstnat;
            dnat ip to meta l4proto . th dport map @picks
            ip protocol tcp dnat ip to numgen random mod 2 map { 0: 10.0.0.1, 1: 10.0.0.2 }
            ip protocol tcp redirect
        }
        chain post { type nat hook postrouting priority srcnat;
            meta mark & 0x4000 != 0 masquerade fully-random
        }
        chain filter { type filter hook input priority filter;
            ct state invalid drop
            fib daddr type local counter accept
            jhash ip saddr mod 2 0 accept
            update @who { ip saddr : ip daddr }
            limit rate 1/second log group 1
            quota over 1 mbytes drop
            socket wildcard 0 accept
            meta l4proto sctp reject with icmpx port-unreachable
            tcp flags syn reject with tcp reset
        }
        chain raw { type filter hook prerouting priority raw;
            notrack
        }
    }")
    .expect("the table");
}

#[test]
fn both_iptables_work() {
    for variant in ["nft", "legacy"] {
        for command in ["iptables", "ip6tables"] {
            shell(&format!(
                "{command}-{variant} -t nat -A OUTPUT -p tcp --dport 9 -m comment --comment x -j REDIRECT"
            ))
            .expect(variant);
            shell(&format!("{command}-{variant} -t mangle -A OUTPUT -m statistic --mode random --probability 0.5 -j MARK --set-mark 1"))
                .expect(variant);
        }
    }
}

#[test]
fn conntrack_and_ipset_answer() {
    shell("conntrack -L").expect("conntrack");
    shell("ipset create s hash:ip,port && ipset add s 10.0.0.1,tcp:80").expect("ipset");
}

#[test]
fn sctp_sockets_exist() {
    shell("modprobe sctp && test -d /proc/net/sctp").expect("sctp");
}
