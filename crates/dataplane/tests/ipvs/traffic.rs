//! Who reaches whom through which frontend, and as whom.

use crate::Test;
use crate::cluster::{Node, endpoint, port, service, slice};
use lab::Protocol::{Tcp, Udp};
use lab::{Failure, Host, Lab, Server};
use model::{Family, Object, Protocol};
use std::collections::BTreeSet;
use std::net::IpAddr;

pub(crate) const TESTS: &[Test] =
    &[("ipvs_frontends_of_both_families", frontends), ("ipvs_other_ports_are_refused", other_ports)];

const EPERM: i32 = 1;
const VIPS: [&str; 2] = ["10.96.0.1", "fd00:96::1"];

/// Two nodes, a web server on each, and clients everywhere that know the way to Services.
struct World {
    _lab: Lab,
    node: Node,
    web: [Host; 2],
    guest: Host,
    client: Host,
    _servers: Vec<Server>,
}

fn world() -> World {
    let mut lab = Lab::new().unwrap();
    let (a, b) = (lab.node("node-a").unwrap(), lab.node("node-b").unwrap());
    let web = [lab.pod(&a, "web-a").unwrap(), lab.pod(&b, "web-b").unwrap()];
    let guest = lab.pod(&a, "guest").unwrap();
    let client = lab.outside("client").unwrap();
    for vip in VIPS {
        let vip: IpAddr = vip.parse().unwrap();
        client.route_via(lab::Prefix::host(vip), a.address_like(vip).unwrap()).unwrap();
    }
    let mut servers = Vec::new();
    for host in &web {
        for protocol in [Tcp, Udp] {
            servers.push(host.serve(protocol, 8080).unwrap());
        }
    }
    let ports = [port(Protocol::Tcp, 80, Some(30080)), port(Protocol::Udp, 80, Some(30080))];
    let mut objects = vec![Object::Service(service("web", &VIPS, &ports))];
    for family in Family::ALL {
        let endpoints = web.iter().zip(["node-a", "node-b"]).map(|(host, node)| {
            let ip = host.addresses().into_iter().find(|ip| Family::of(*ip) == family).unwrap();
            endpoint(ip, node)
        });
        objects.push(Object::Slice(slice("web", family, 8080, endpoints.collect())));
    }
    let mut node = Node::new(&a, objects);
    node.reconcile();
    World { _lab: lab, node, web, guest, client, _servers: servers }
}

fn frontends() {
    let world = world();
    let World { node, web, guest, client, .. } = &world;
    let node_addresses = node.host.addresses();
    for vip in VIPS {
        let vip: IpAddr = vip.parse().unwrap();
        let own = node.host.address_like(vip).unwrap();
        for protocol in [Tcp, Udp] {
            for (who, target) in [
                (guest, (vip, 80)),
                (&node.host, (vip, 80)),
                (client, (vip, 80)),
                (guest, (own, 30080)),
                (&node.host, (own, 30080)),
                (client, (own, 30080)),
                (&web[0], (vip, 80)),
            ] {
                let mut backends = BTreeSet::new();
                for _ in 0..8 {
                    let reply = who.ask(protocol, target);
                    let Ok(reply) = reply else {
                        println!("{}", node.output("conntrack", &["-L"]));
                        println!("{}", node.output("ipvsadm", &["-Lnc"]));
                        panic!("{} to {target:?} over {protocol}: {reply:?}", who.name())
                    };
                    let from_pod = who.is(guest) || who.is(&web[0]);
                    let hairpin = reply.backend == who.name();
                    let source = reply.seen_source.ip();
                    let masqueraded = node_addresses.contains(&source);
                    let to_vip = target.1 == 80;
                    let expected = !from_pod || hairpin || !to_vip;
                    assert_eq!(masqueraded, expected, "{} to {target:?}: seen as {source}", who.name());
                    backends.insert(reply.backend);
                }
                assert_eq!(backends.len(), 2, "{} to {target:?} over {protocol}", who.name());
            }
        }
        assert!(client.ping(vip).is_ok());
        assert!(guest.ping(vip).is_ok());
    }
    // Localhost, which IPVS cannot serve.
    let localhost: IpAddr = "127.0.0.1".parse().unwrap();
    let reply = node.host.ask(Tcp, (localhost, 30080)).unwrap();
    assert!(node_addresses.contains(&reply.seen_source.ip()), "{reply:?}");
}

fn other_ports() {
    let world = world();
    let World { node, guest, client, .. } = &world;
    let _own = [node.host.serve(Tcp, 2222).unwrap(), node.host.serve(Udp, 2222).unwrap()];
    for vip in VIPS {
        let vip: IpAddr = vip.parse().unwrap();
        let own = node.host.address_like(vip).unwrap();
        for protocol in [Tcp, Udp] {
            for who in [guest, client, &node.host] {
                for port in [2222, 30080] {
                    let failure = who.ask(protocol, (vip, port)).unwrap_err();
                    // On the node itself a datagram is refused before it is sent.
                    let at_once = protocol == Udp && who.is(&node.host);
                    let refused = if at_once { Failure::Other(EPERM) } else { Failure::Refused };
                    assert_eq!(failure, refused, "{} to {vip} {port} over {protocol}", who.name());
                }
            }
            assert_eq!(client.ask(protocol, (own, 2222)).unwrap().backend, "node-a");
        }
    }
}
