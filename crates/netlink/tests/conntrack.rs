//! Conntrack against what the `conntrack` program sends, and against the real kernel.

mod common;

use common::{enter_new_namespace, recorded, run};
use netlink::conntrack::*;
use netlink::{IpVersion, Message, Messages, Netfilter, Socket};

const CT_NEW: u16 = 0x100;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;

const TCP: u8 = 6;
const UDP: u8 = 17;

fn tuple(source: &str, destination: &str, protocol: u8, detail: Detail) -> Tuple {
    let parse = |text: &str| text.parse().unwrap();
    Tuple { source: parse(source), destination: parse(destination), protocol, detail }
}

fn ports(source: u16, destination: u16) -> Detail {
    Detail::Ports { source, destination }
}

fn icmp(id: u16, kind: u8, code: u8) -> Detail {
    Detail::Icmp { id, kind, code }
}

/// What was recorded and what the other test creates, without the numbers that vary.
fn wanted() -> [Flow; 4] {
    let flow = |original, reply| Flow {
        original,
        reply,
        status: 8,
        mark: 0,
        timeout_s: Some(99),
        tcp_state: None,
        id: 0,
        zone: 0,
    };
    let [client, cluster] = ["10.0.0.1", "10.96.0.10"];
    [
        Flow {
            status: 8 | STATUS_SEEN_REPLY,
            mark: 2,
            ..flow(
                tuple(client, cluster, UDP, ports(4000, 53)),
                tuple("10.1.0.7", client, UDP, ports(5353, 4000)),
            )
        },
        Flow {
            zone: 5,
            ..flow(tuple(client, cluster, UDP, ports(4000, 54)), tuple(cluster, client, UDP, ports(54, 4000)))
        },
        Flow {
            tcp_state: Some(TCP_SYN_SENT),
            ..flow(
                tuple("fd00::1", "fd00:96::1", TCP, ports(4001, 80)),
                tuple("fd00:1::9", "fd00::1", TCP, ports(8080, 4001)),
            )
        },
        Flow {
            timeout_s: Some(49),
            ..flow(tuple(client, "10.0.0.2", 1, icmp(77, 8, 0)), tuple("10.0.0.2", client, 1, icmp(77, 0, 0)))
        },
    ]
}

#[test]
fn recorded_flows_are_read_and_written_alike() {
    let recording = recorded(include_str!("recorded/conntrack.txt"));
    assert_eq!(recording.len(), 4);
    for (step, wants) in recording.iter().zip(wanted()) {
        let theirs = step.message();
        let read = read_flow(&Message { kind: CT_NEW, ..theirs }).unwrap();
        assert_eq!(read, wants);
        assert_eq!(read_flow(&theirs), None);

        let mut messages = Messages::new();
        push_delete(&mut messages, &Flow { id: 7, ..read });
        let ours = netlink::message::messages(messages.as_bytes()).next().unwrap();
        assert_eq!((ours.kind, ours.payload[0]), (theirs.kind, theirs.payload[0]));
        let value = |message: Message<'_>, kind| message.attributes(4).find(kind).map(|a| a.value.to_vec());
        for kind in [TUPLE_ORIGINAL, ZONE] {
            assert_eq!(value(ours, kind), value(theirs, kind));
        }
        assert_eq!(value(ours, ID), Some(vec![0, 0, 0, 7]));
        assert_eq!(value(ours, TUPLE_REPLY), None);
    }
}

fn create(arguments: &str) {
    run("conntrack", &["-I"].into_iter().chain(arguments.split_whitespace()).collect::<Vec<_>>());
}

fn open() -> Socket<Netfilter> {
    enter_new_namespace();
    create(
        "-p udp -s 10.0.0.1 -d 10.96.0.10 --sport 4000 --dport 53 --reply-src 10.1.0.7 --reply-dst 10.0.0.1 \
         --reply-port-src 5353 --reply-port-dst 4000 --timeout 100 --mark 2 -u SEEN_REPLY",
    );
    create("-p udp -s 10.0.0.1 -d 10.96.0.10 --sport 4000 --dport 54 --timeout 100 --zone 5");
    create(
        "-p tcp -s fd00::1 -d fd00:96::1 --sport 4001 --dport 80 --reply-src fd00:1::9 --reply-dst fd00::1 \
         --reply-port-src 8080 --reply-port-dst 4001 --timeout 100 --state SYN_SENT",
    );
    create("-p icmp -s 10.0.0.1 -d 10.0.0.2 --icmp-type 8 --icmp-code 0 --icmp-id 77 --timeout 50");
    Socket::open().unwrap()
}

/// Indices into [`wanted`].
fn listed(socket: &mut Socket<Netfilter>, filter: &Filter) -> Vec<usize> {
    let wanted = wanted();
    let place = |flow: &Flow| wanted.iter().position(|wants| wants.original == flow.original).unwrap();
    let mut listed: Vec<_> = flows(socket, filter).unwrap().iter().map(place).collect();
    listed.sort_unstable();
    listed
}

#[test]
fn flows_are_listed_by_filter() {
    let socket = &mut open();
    for flow in flows(socket, &Filter::default()).unwrap() {
        assert_ne!(flow.id, 0);
        let wants = wanted().into_iter().find(|wants| wants.original == flow.original).unwrap();
        assert!(flow.timeout_s.is_some_and(|timeout| timeout <= 100));
        // `conntrack` cannot create a flow with a mark and without a reply's mark of its own.
        assert_eq!(Flow { timeout_s: wants.timeout_s, id: 0, mark: wants.mark, ..flow }, wants);
    }
    let all = Filter::default();
    let address = |text: &str| Some(text.parse().unwrap());
    let reply_from = |text| Ends { source: address(text), ..Ends::default() };
    let unreplied = Masked { mask: STATUS_SEEN_REPLY, value: 0 };
    let cases: &[(Filter, &[usize])] = &[
        (all, &[0, 1, 2, 3]),
        (Filter { version: Some(IpVersion::V6), ..all }, &[2]),
        (Filter { protocol: Some(UDP), ..all }, &[0, 1]),
        (Filter { version: Some(IpVersion::V4), protocol: Some(UDP), ..all }, &[0, 1]),
        (Filter { version: Some(IpVersion::V4), protocol: Some(TCP), ..all }, &[]),
        (Filter { reply: reply_from("10.1.0.7"), ..all }, &[0]),
        (Filter { reply: reply_from("fd00:1::9"), protocol: Some(TCP), ..all }, &[2]),
        (Filter { reply: reply_from("fd00:1::9"), protocol: Some(UDP), ..all }, &[]),
        (Filter { original: Ends { destination: address("10.96.0.10"), ..Ends::default() }, ..all }, &[0, 1]),
        (
            Filter {
                protocol: Some(UDP),
                original: Ends {
                    destination: address("10.96.0.10"),
                    destination_port: Some(53),
                    ..Ends::default()
                },
                ..all
            },
            &[0],
        ),
        (Filter { original: Ends { source_port: Some(4000), ..Ends::default() }, ..all }, &[0, 1]),
        (Filter { reply: reply_from("10.1.0.7"), original: reply_from("fd00::1"), ..all }, &[]),
        (Filter { status: Some(unreplied), ..all }, &[1, 2, 3]),
        (Filter { mark: Some(Masked { mask: 0xf, value: 2 }), ..all }, &[0]),
        (Filter { zone: Some(5), ..all }, &[1]),
    ];
    for (filter, wants) in cases {
        assert_eq!(listed(socket, filter), *wants, "{filter:?}");
    }

    // What the kernel is told it leaves out itself (the zone from 6.8 on).
    let told = [
        Filter { reply: reply_from("10.1.0.7"), protocol: Some(UDP), ..all },
        Filter { mark: Some(Masked { mask: 0xf, value: 2 }), ..all },
        Filter { status: Some(Masked { mask: STATUS_SEEN_REPLY, value: STATUS_SEEN_REPLY }), ..all },
    ];
    for filter in told {
        let sent = socket.dump(&"list", &mut filter.request(), |_| Some(())).unwrap();
        assert_eq!(sent.len(), 1, "{filter:?}");
    }
}

#[test]
fn a_flow_is_found_by_its_first_packet() {
    let socket = &mut open();
    let all = flows(socket, &Filter::default()).unwrap();
    assert_eq!(all.len(), 4);
    for flow in &all {
        let found = find(socket, &flow.original, flow.zone).unwrap().expect("it is there");
        assert_eq!((found.id, &found.original, &found.reply), (flow.id, &flow.original, &flow.reply));
    }
    assert_eq!(forget(socket, &all).unwrap(), 4);
    for flow in &all {
        assert_eq!(find(socket, &flow.original, flow.zone).unwrap(), None);
    }
}

#[test]
fn flows_are_forgotten_one_by_one() {
    let socket = &mut open();
    let all = Filter::default();
    let dns = Filter { original: Ends { destination_port: Some(54), ..Ends::default() }, ..all };
    let gone = flows(socket, &dns).unwrap();
    assert_eq!(forget(socket, &gone).unwrap(), 1);
    assert_eq!(listed(socket, &all), [0, 2, 3]);
    assert_eq!(forget(socket, &gone).unwrap(), 0);

    // Another flow of the same tuple is another flow.
    let mut other = flows(socket, &Filter { protocol: Some(UDP), ..all }).unwrap();
    other[0].id ^= 1;
    assert_eq!(forget(socket, &other).unwrap(), 0);
    assert_eq!(listed(socket, &all), [0, 2, 3]);

    let rest = flows(socket, &all).unwrap();
    assert_eq!(forget(socket, &[rest, gone].concat()).unwrap(), 3);
    assert_eq!(listed(socket, &all), []);
    assert_eq!(forget(socket, &[]).unwrap(), 0);
}
