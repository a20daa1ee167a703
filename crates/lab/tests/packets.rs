//! Packets made by hand, against the kernel's own opinion of them.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::Protocol::{Tcp, Udp};
use lab::{Body, Failure, Family, Host, Lab, PATIENCE, Packet, TcpFlags};

fn family(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn segment(flags: u8, sequence: u32) -> Body {
    Body::Tcp { flags, sequence, acknowledgement: 0, payload: Vec::new() }
}

#[test]
fn a_hand_made_syn_is_answered_so_its_checksum_is_right() {
    let mut lab = Lab::new().unwrap();
    let node = lab.node("node").unwrap();
    let web = lab.pod(&node, "web").unwrap();
    let client = lab.outside("client").unwrap();
    let _server = web.serve(Tcp, 80).unwrap();
    for target in web.addresses() {
        let source = SocketAddr::new(client.address_like(target).unwrap(), 4711);
        let target = SocketAddr::new(target, 80);
        let mut sniffer = client.sniff(family(target.ip())).unwrap();
        client.inject(&Packet { source, target, body: segment(TcpFlags::SYN, 1_000) }).unwrap();
        let answer = sniffer.next(PATIENCE, |packet| packet.source == target).unwrap().unwrap();
        assert_eq!(answer.target, source);
        let Body::Tcp { flags, acknowledgement, .. } = answer.body else { panic!("{answer:?}") };
        assert_eq!((flags, acknowledgement), (TcpFlags::SYN | TcpFlags::ACK, 1_001));

        // And a segment of no connection is told so.
        let stray =
            Packet { source: SocketAddr::new(source.ip(), 4712), target, body: segment(TcpFlags::PSH, 5) };
        client.inject(&stray).unwrap();
        let told = |packet: &Packet| packet.target == stray.source;
        let no_answer = sniffer.next(Duration::from_millis(100), told).unwrap();
        assert_eq!(no_answer, None, "neither SYN nor ACK: a listener says nothing to it");
        let stray = Packet { body: segment(TcpFlags::ACK, 5), ..stray };
        client.inject(&stray).unwrap();
        let answer = sniffer.next(PATIENCE, told).unwrap().unwrap();
        assert!(matches!(answer.body, Body::Tcp { flags, .. } if flags & TcpFlags::RST != 0), "{answer:?}");
    }
}

#[test]
fn datagrams_and_sctp_arrive_under_forged_sources() {
    let mut lab = Lab::new().unwrap();
    let node = lab.node("node").unwrap();
    let web = lab.pod(&node, "web").unwrap();
    let client = lab.outside("client").unwrap();
    for (source, target) in
        [("192.0.2.1:9", web.ipv4().into()), ("[2001:db8::9]:9", IpAddr::from(web.ipv6()))]
    {
        let (source, target) = (source.parse().unwrap(), SocketAddr::new(target, 80));
        let mut sniffer = web.sniff(family(target.ip())).unwrap();
        for body in [Body::Udp { payload: b"hello".to_vec() }, Body::sctp_init(0xcafe)] {
            let packet = Packet { source, target, body };
            client.inject(&packet).unwrap();
            assert_eq!(sniffer.next(PATIENCE, |_| true).unwrap(), Some(packet));
        }
    }
}

/// Loads a ruleset on a host with the ordinary tool.
fn nft(host: &Host, ruleset: &str) {
    let mut command = Command::new("nft");
    let mut nft = host.spawn(command.arg("-f").arg("-").stdin(Stdio::piped())).unwrap();
    let mut input = nft.child().stdin.take().unwrap();
    std::io::Write::write_all(&mut input, ruleset.as_bytes()).unwrap();
    drop(input);
    assert!(nft.child().wait().unwrap().success(), "{ruleset}");
}

/// What the topology's page claims: hairpin needs a masquerade and nothing else.
#[test]
fn hairpin_needs_a_masquerade_and_nothing_else() {
    let mut lab = Lab::new().unwrap();
    let node = lab.node("node").unwrap();
    let (web, beside) = (lab.pod(&node, "web").unwrap(), lab.pod(&node, "beside").unwrap());
    let client = lab.outside("client").unwrap();
    let _servers = [web.serve(Tcp, 8080).unwrap(), web.serve(Udp, 8080).unwrap()];
    for (vip, to, own) in
        [("10.96.0.1", IpAddr::from(web.ipv4()), "ip"), ("fd00:10:96::1", web.ipv6().into(), "ip6")]
    {
        let dnat = format!(
            "table {own} t {{ chain in {{ type nat hook prerouting priority dstnat;
                {own} daddr {vip} meta l4proto {{ tcp, udp }} dnat to {};\n }}\n }}\n",
            SocketAddr::new(to, 8080)
        );
        nft(&node, &dnat);
        let vip = SocketAddr::new(vip.parse().unwrap(), 80);
        let network = lab::Prefix { address: vip.ip(), length: 16 };
        client.route_via(network, node.address_like(vip.ip()).unwrap()).unwrap();
        for protocol in [Tcp, Udp] {
            for guest in [&beside, &client] {
                let reply = guest.ask(protocol, vip).unwrap();
                assert_eq!(reply.backend, "web");
                assert_eq!(Some(reply.seen_source.ip()), guest.address_like(vip.ip()));
            }
            let alone = web.client(protocol).timeout(Duration::from_millis(300)).ask(vip);
            assert_eq!(alone, Err(Failure::TimedOut), "its own address comes back as a source");
        }
        nft(
            &node,
            &format!(
                "table {own} t {{ chain out {{ type nat hook postrouting priority srcnat;
                ct status dnat {own} saddr {to} {own} daddr {to} masquerade;\n }}\n }}\n"
            ),
        );
        for protocol in [Tcp, Udp] {
            let reply = web.ask(protocol, vip).unwrap();
            assert_eq!(Some(reply.seen_source.ip()), node.address_like(vip.ip()), "{protocol} {vip}");
        }
    }
}
