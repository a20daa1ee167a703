//! IPVS against a kernel that has it: these tests are for the virtual machine.

mod common;

use std::net::IpAddr;

use common::{enter_new_namespace, run};
use netlink::IpVersion;
use netlink::ipvs::*;

const TCP: u8 = 6;
const UDP: u8 = 17;

fn open() -> Ipvs {
    enter_new_namespace();
    run("ip", &["link", "set", "lo", "up"]);
    Ipvs::open().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(protocol: u8, to: &str, port: u16) -> ServiceKey {
    ServiceKey::Address { protocol, address: address(to), port }
}

fn services() -> Vec<Service> {
    let service = Service::new;
    let marked = ServiceKey::Mark { mark: 77, version: IpVersion::V6 };
    vec![
        service(at(TCP, "10.96.0.1", 443), "rr"),
        Service { flags: SH_FALLBACK | SH_PORT | ONE_PACKET, ..service(at(UDP, "10.96.0.10", 53), "sh") },
        Service {
            flags: MH_FALLBACK | PERSISTENT,
            timeout_s: 10_800,
            client_prefix: 64,
            ..service(at(TCP, "fd00:96::1", 80), "mh")
        },
        Service {
            flags: PERSISTENT,
            timeout_s: 300,
            client_prefix: 24,
            ..service(at(132, "10.96.0.3", 0), "wlc")
        },
        service(marked, "lc"),
    ]
}

fn sorted(services: Vec<ServiceInfo>) -> Vec<Service> {
    let mut services: Vec<_> = services.into_iter().map(|info| info.service).collect();
    services.sort_by_key(|service| service.key);
    services
}

#[test]
fn services_come_and_go() {
    let mut ipvs = open();
    assert_eq!(ipvs.services().unwrap(), []);
    let mut wants = services();
    let mut requests = ipvs.requests();
    wants.iter().for_each(|service| requests.add_service(service));
    ipvs.send(&"add services", &mut requests).unwrap();
    wants.sort_by_key(|service| service.key);
    assert_eq!(sorted(ipvs.services().unwrap()), wants);
    for service in &wants {
        assert_eq!(ipvs.service(&service.key).unwrap().service, *service);
    }
    let printed = run("ipvsadm", &["-Ln"]);
    assert!(printed.contains("TCP  10.96.0.1:443 rr"), "{printed}");
    assert!(printed.contains("UDP  10.96.0.10:53 sh (sh-fallback,sh-port) ops"), "{printed}");
    assert!(printed.contains("TCP  [fd00:96::1]:80 mh (mh-fallback) persistent 10800 mask 64"), "{printed}");
    assert!(printed.contains("SCTP 10.96.0.3:0 wlc persistent 300 mask 255.255.255.0"), "{printed}");
    assert!(printed.contains("FWM  77 IPv6 lc"), "{printed}");

    let changed = Service::new(at(UDP, "10.96.0.10", 53), "wrr");
    requests.clear();
    requests.set_service(&changed);
    requests.delete_service(&at(TCP, "10.96.0.1", 443));
    ipvs.send(&"change services", &mut requests).unwrap();
    assert_eq!(ipvs.service(&changed.key).unwrap().service, changed);
    let error = ipvs.service(&at(TCP, "10.96.0.1", 443)).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(ipvs.services().unwrap().len(), wants.len() - 1);
}

#[test]
fn destinations_come_and_go() {
    let mut ipvs = open();
    let mut requests = ipvs.requests();
    let to = |text: &str, port, weight| Destination::new(address(text), port, weight);
    let limited = Destination { upper_threshold: 100, lower_threshold: 10, ..to("10.1.0.1", 8443, 3) };
    let four = [limited, to("10.1.0.2", 8443, 1)];
    let six = [to("fd00:1::1", 8080, 1)];
    for (service, destinations) in services().iter().step_by(2).zip([&four[..], &six]) {
        requests.add_service(service);
        destinations.iter().for_each(|destination| requests.add_destination(&service.key, destination));
    }
    ipvs.send(&"add", &mut requests).unwrap();
    let listed = |ipvs: &mut Ipvs, key: &ServiceKey| {
        let mut all: Vec<_> =
            ipvs.destinations(key).unwrap().into_iter().map(|info| info.destination).collect();
        all.sort_by_key(|destination| destination.address);
        all
    };
    let [web, _, web_six, ..] = &services()[..] else { unreachable!() };
    assert_eq!(listed(&mut ipvs, &web.key), four);
    assert_eq!(listed(&mut ipvs, &web_six.key), six);
    let printed = run("ipvsadm", &["-Ln", "--thresholds"]);
    let line = printed.lines().find(|line| line.contains("10.1.0.1:8443")).unwrap_or(&printed);
    assert!(line.contains("100") && line.contains("10"), "{printed}");

    requests.clear();
    requests.set_destination(&web.key, &to("10.1.0.1", 8443, 0));
    requests.delete_destination(&web.key, address("10.1.0.2"), 8443);
    ipvs.send(&"change", &mut requests).unwrap();
    let infos = ipvs.destinations(&web.key).unwrap();
    assert_eq!(infos.len(), 1);
    assert_eq!(infos[0].destination, to("10.1.0.1", 8443, 0));
    assert_eq!((infos[0].active, infos[0].inactive, infos[0].persistent), (0, 0, 0));
    assert_eq!(infos[0].statistics, Statistics::default());
    let error = ipvs.destinations(&at(TCP, "10.96.0.99", 1)).map(|found| found.len());
    assert!(error.is_err() || error.is_ok_and(|found| found == 0));
}

#[test]
fn each_refusal_names_its_request() {
    let mut ipvs = open();
    let mut requests = ipvs.requests();
    let web = Service::new(at(TCP, "10.96.0.1", 443), "rr");
    requests.add_service(&web);
    requests.add_service(&web);
    requests.add_service(&Service::new(at(TCP, "10.96.0.2", 443), "none-such"));
    requests.delete_destination(&web.key, address("10.1.0.1"), 80);
    requests.delete_service(&at(TCP, "10.96.0.3", 443));
    requests.add_destination(&web.key, &Destination::new(address("10.1.0.1"), 80, 1));
    let error = ipvs.send(&"change", &mut requests).unwrap_err();
    let refused = error.refused();
    assert_eq!(refused.iter().map(|refused| refused.index).collect::<Vec<_>>(), [1, 2, 3, 4], "{error}");
    assert!(refused[0].refusal.is_exists());
    assert!(refused[1..].iter().all(|refused| refused.refusal.is_not_found()), "{refused:?}");
    assert_eq!(ipvs.destinations(&web.key).unwrap().len(), 1);
}

#[test]
fn thousands_at_once() {
    let mut ipvs = open();
    let mut requests = ipvs.requests();
    for number in 0..3_000u16 {
        let [high, low] = number.to_be_bytes();
        let key = ServiceKey::Address { protocol: TCP, address: [10, 96, high, low].into(), port: 80 };
        requests.add_service(&Service::new(key, "rr"));
        requests.add_destination(&key, &Destination::new([10, 1, high, low].into(), 80, 1));
    }
    ipvs.send(&"add", &mut requests).unwrap();
    assert_eq!(ipvs.services().unwrap().len(), 3_000);
    assert_eq!(ipvs.destinations(&at(TCP, "10.96.11.183", 80)).unwrap().len(), 1);
}

#[test]
fn what_ipvs_is_and_its_timeouts() {
    let mut ipvs = open();
    let info = ipvs.info().unwrap();
    assert_eq!(info.version.0, 1);
    assert!(info.connection_buckets.is_power_of_two(), "{info:?}");
    let wants = Timeouts { tcp_s: 901, tcp_fin_s: 121, udp_s: 301 };
    let mut requests = ipvs.requests();
    requests.set_timeouts(wants);
    ipvs.send(&"set timeouts", &mut requests).unwrap();
    assert_eq!(ipvs.timeouts().unwrap(), wants);
    requests.clear();
    requests.set_timeouts(Timeouts { tcp_s: 0, tcp_fin_s: 0, udp_s: 7 });
    ipvs.send(&"set one timeout", &mut requests).unwrap();
    assert_eq!(ipvs.timeouts().unwrap(), Timeouts { udp_s: 7, ..wants });
}

#[test]
fn a_namespace_without_a_device_takes_no_destination() {
    enter_new_namespace();
    let mut ipvs = Ipvs::open().unwrap();
    let mut requests = ipvs.requests();
    let web = Service::new(at(TCP, "10.96.0.1", 443), "rr");
    requests.add_service(&web);
    requests.add_destination(&web.key, &Destination::new(address("10.1.0.1"), 80, 1));
    let error = ipvs.send(&"add", &mut requests).unwrap_err();
    assert_eq!(error.refused().iter().map(|refused| refused.index).collect::<Vec<_>>(), [1], "{error}");
}
