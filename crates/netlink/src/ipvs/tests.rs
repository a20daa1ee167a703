//! Our bytes against those that `ipvsadm` sent.

use super::*;
use crate::message::messages;

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
/// The family's number on the machine where it was recorded.
const FAMILY: u16 = 0x20;
const RECORDED: &str = include_str!("../../tests/recorded/ipvsadm.txt");
/// How `ipvsadm` speaks of tunnels: not our business.
const TUNNEL: [u16; 3] = [13, 14, 15];

fn at(protocol: u8, address: &str, port: u16) -> ServiceKey {
    ServiceKey::Address { protocol, address: address.parse().unwrap(), port }
}

fn web() -> ServiceKey {
    at(TCP, "10.96.0.1", 443)
}

fn mark(mark: u32, version: IpVersion) -> ServiceKey {
    ServiceKey::Mark { mark, version }
}

fn to(address: &str, port: u16, weight: u32) -> Destination {
    Destination::new(address.parse().unwrap(), port, weight)
}

/// What the command lines in the recording say, in our words and their order, as far as `ipvsadm`
/// changes something.
fn ours() -> Requests {
    let mut requests = Requests { messages: Messages::new(), family: FAMILY };
    let [v4, v6] = [IpVersion::V4, IpVersion::V6];
    requests.add_service(&Service::new(web(), "rr"));
    let dns = at(UDP, "10.96.0.10", 53);
    requests.add_service(&Service { flags: SH_FALLBACK | SH_PORT | ONE_PACKET, ..Service::new(dns, "sh") });
    let six = at(TCP, "fd00:96::1", 80);
    let flags = MH_FALLBACK | PERSISTENT;
    requests.add_service(&Service { flags, timeout_s: 10_800, ..Service::new(six, "mh") });
    let marked = Service::new(mark(77, v4), "wrr");
    requests.add_service(&Service { flags: PERSISTENT, timeout_s: 360, client_prefix: 24, ..marked });
    requests.add_service(&Service::new(mark(78, v6), "lc"));
    requests.set_service(&Service::new(web(), "wlc"));
    let limited = Destination { upper_threshold: 100, lower_threshold: 10, ..to("10.1.0.1", 8443, 3) };
    requests.add_destination(&web(), &limited);
    requests.add_destination(&web(), &to("10.1.0.2", 8443, 1));
    requests.add_destination(&six, &to("fd00:1::1", 8080, 1));
    requests.add_destination(&mark(77, v4), &to("10.1.0.1", 0, 1));
    requests.set_destination(&web(), &to("10.1.0.1", 8443, 0));
    requests.set_timeouts(Timeouts { tcp_s: 900, tcp_fin_s: 120, udp_s: 300 });
    requests.delete_destination(&web(), "10.1.0.1".parse().unwrap(), 8443);
    requests.delete_service(&dns);
    requests.delete_service(&mark(77, v4));
    requests
}

fn theirs() -> Vec<Vec<u8>> {
    let hex = |line: &str| {
        let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
        (0..line.len()).step_by(2).map(byte).collect::<Vec<u8>>()
    };
    let lines = RECORDED.lines().filter(|line| !line.starts_with('#'));
    let reads = [CMD_GET_SERVICE, CMD_GET_DEST, CMD_GET_CONFIG];
    lines.map(hex).filter(|bytes| !reads.contains(&bytes[16])).collect()
}

/// An attribute's kind, that of one within it (or 0), and the value.
type Part = (u16, u16, Vec<u8>);

/// The command and the attributes, of services and destinations those within.
fn parts(message: &Message<'_>) -> (u16, u8, Vec<Part>) {
    let command = message.payload[0];
    let mut parts = Vec::new();
    for attribute in message.attributes(HEADER) {
        match command {
            CMD_SET_CONFIG => parts.push((attribute.kind, 0, attribute.value.to_vec())),
            _ => {
                let within = attribute.nested().map(|a| (attribute.kind, a.kind, a.value.to_vec()));
                parts.extend(within.filter(|part| wanted(command, part.0, part.1)));
            }
        }
    }
    parts.sort();
    (message.kind, command, parts)
}

/// Where a service or a destination is only named, `ipvsadm` describes it all the same.
fn wanted(command: u8, kind: u16, within: u16) -> bool {
    match kind {
        CMD_ATTR_SERVICE if [CMD_NEW_SERVICE, CMD_SET_SERVICE].contains(&command) => true,
        CMD_ATTR_SERVICE => within <= SVC_ATTR_FWMARK,
        _ if TUNNEL.contains(&within) => false,
        _ if command == CMD_DEL_DEST => {
            [DEST_ATTR_ADDR, DEST_ATTR_PORT, DEST_ATTR_ADDR_FAMILY].contains(&within)
        }
        _ => true,
    }
}

#[test]
fn changes() {
    let (ours, theirs) = (ours(), theirs());
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in messages(ours.as_bytes()).zip(&theirs) {
        let theirs = messages(theirs).next().unwrap();
        assert_eq!(parts(&ours), parts(&theirs));
    }
}

/// Where nothing is left out, nothing differs at all.
#[test]
fn services_byte_for_byte() {
    let ours = ours();
    let pairs = messages(ours.as_bytes()).zip(theirs());
    let mut compared = 0;
    for (ours, theirs) in pairs.filter(|(_, theirs)| theirs[16] <= CMD_SET_SERVICE) {
        assert_eq!(ours.payload, &theirs[16..]);
        compared += 1;
    }
    assert_eq!(compared, 6);
}

#[test]
fn what_is_written_is_read() {
    let service = Service {
        flags: PERSISTENT | SCHED3,
        timeout_s: 7,
        client_prefix: 20,
        engine: Some("sip".to_string()),
        ..Service::new(at(UDP, "10.96.0.10", 5060), "mh")
    };
    let read = read_back(&service);
    assert_eq!(read, Some(ServiceInfo { service, statistics: Statistics::default() }));
}

/// What is read of the message that adds the service.
pub(crate) fn read_back(service: &Service) -> Option<ServiceInfo> {
    let mut requests = Requests { messages: Messages::new(), family: FAMILY };
    requests.add_service(service);
    let message = messages(requests.as_bytes()).next()?;
    assert_eq!(read::destination(&message, IpVersion::V4), None);
    read::service(&message)
}

#[test]
fn masks() {
    let masks = [0, 1, 24, 32, 200].map(mask_of_prefix);
    assert_eq!(masks, [0, 0x8000_0000, 0xffff_ff00, u32::MAX, u32::MAX]);
}
