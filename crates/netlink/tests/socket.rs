//! The exchanges against the real kernel; they only read, so they run in the namespace at hand.

use netlink::message::NLM_F_DUMP;
use netlink::{Listener, Messages, Netfilter, Notice, Route, Socket};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTMGRP_LINK: i32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFINFO: usize = 16;

fn name(message: netlink::Message<'_>) -> Option<String> {
    assert_eq!(message.kind, RTM_NEWLINK);
    Some(message.attributes(IFINFO).find(IFLA_IFNAME)?.str()?.to_string())
}

fn get(index: i32) -> Messages<Route> {
    let header = [[0; 4], index.to_ne_bytes(), [0; 4], [0; 4]].concat();
    Messages::one(RTM_GETLINK, 0, &header, |_| ())
}

#[test]
fn dump_get_and_refusal() {
    let mut socket = Socket::<Route>::open().unwrap();
    let mut all = Messages::one(RTM_GETLINK, NLM_F_DUMP, &[0; IFINFO], |_| ());
    for _ in 0..3 {
        let links = socket.dump(&"list links", &mut all, name).unwrap();
        assert!(links.iter().any(|link| link == "lo"), "{links:?}");
    }
    assert_eq!(socket.get(&"read link 1", &mut get(1), name).unwrap(), "lo");

    let error = socket.get(&"read link 12345678", &mut get(12_345_678), name).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(error.to_string().starts_with("read link 12345678: "), "{error}");

    let strange = Messages::one(RTM_GETLINK, 0, &[0; IFINFO], |w| w.put_str(IFLA_IFNAME, "no-such-link"));
    let error = socket.request(&"read a link", &mut { strange }).unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[test]
fn each_refusal_of_a_pipeline_names_its_message() {
    let mut socket = Socket::<Route>::open().unwrap();
    let mut many = Messages::new();
    for index in 0..1_000 {
        let link: i32 = if index % 300 == 7 { 12_345_678 } else { 1 };
        let header = [[0; 4], link.to_ne_bytes(), [0; 4], [0; 4]].concat();
        many.push(RTM_GETLINK, 0, &header, |_| ());
    }
    let error = socket.pipeline(&"read links", &mut many).unwrap_err();
    let refused: Vec<_> = error.refused().iter().map(|refused| refused.index).collect();
    assert_eq!(refused, [7, 307, 607, 907], "{error}");
    assert!(error.refused().iter().all(|refused| refused.refusal.is_not_found()));
    assert_eq!(socket.get(&"read link 1", &mut get(1), name).unwrap(), "lo");
}

#[test]
fn a_message_that_could_not_be_built_is_not_sent() {
    let mut socket = Socket::<Netfilter>::open().unwrap();
    let mut flawed = Messages::one(0, 0, &[], |w| w.put_str(1, "a\0b"));
    let error = socket.request(&"send", &mut flawed).unwrap_err();
    assert_eq!(error.to_string(), "send: a name contains NUL");
}

#[test]
fn a_listener_does_not_block() {
    let mut listener = Listener::<Route>::open(&[RTMGRP_LINK]).unwrap();
    assert_ne!(listener.read(|_| ()).unwrap(), Notice::Lost);
}

#[test]
fn a_kernel_without_ipvs_is_told_by_name() {
    if let Err(error) = netlink::ipvs::Ipvs::open() {
        assert!(error.is_not_found(), "{error}");
        assert!(error.to_string().contains("module ip_vs"), "{error}");
    }
}
