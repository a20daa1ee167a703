//! Links, addresses and routes in namespaces of the tests' own, read back from the kernel.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;

use netlink::route::{
    Action, Address, Happened, LinkChange, NewLink, Prefix, RouteEntry, RouteFilter, RouteKind, TABLE_LOCAL,
    TABLE_MAIN,
};
use netlink::{Listener, Notice, Route, Socket};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread of its own in a fresh network namespace, gone with the thread.
fn in_namespace(test: impl FnOnce(Socket<Route>) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need the right to make network namespaces");
            test(Socket::open().unwrap());
        });
        thread.join().map_err(std::panic::resume_unwind).unwrap();
    });
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A veth pair `a`, `b`, both up; the index of `a`.
fn wire(socket: &mut Socket<Route>) -> u32 {
    socket.add_link("a", NewLink::Veth { peer: "b", namespace: None }).unwrap();
    for name in ["a", "b"] {
        let index = socket.link(name).unwrap().index;
        socket.change_link(index, LinkChange::Up).unwrap();
    }
    socket.link("a").unwrap().index
}

#[test]
fn links_are_made_changed_and_deleted() {
    in_namespace(|mut socket| {
        socket.add_link("bridge", NewLink::Bridge).unwrap();
        let bridge = socket.link("bridge").unwrap();
        assert_eq!(bridge.kind.as_deref(), Some("bridge"));
        let a = wire(&mut socket);
        socket.change_link(a, LinkChange::Master(Some(bridge.index))).unwrap();
        socket.change_link(a, LinkChange::Mtu(1400)).unwrap();
        socket.change_link(a, LinkChange::HardwareAddress([2, 0, 0, 0, 0, 9])).unwrap();
        let link = socket.link("a").unwrap();
        assert!(link.up && link.index == a);
        assert_eq!((link.kind.as_deref(), link.mtu), (Some("veth"), 1400));
        assert_eq!(link.master, Some(bridge.index));
        assert_eq!(link.hardware_address, Some([2, 0, 0, 0, 0, 9]));

        socket.change_link(a, LinkChange::Master(None)).unwrap();
        socket.change_link(a, LinkChange::Down).unwrap();
        socket.change_link(a, LinkChange::Name("c")).unwrap();
        let link = socket.link("c").unwrap();
        assert!(!link.up && !link.operational && link.master.is_none());
        let mut names: Vec<_> = socket.links().unwrap().into_iter().map(|link| link.name).collect();
        names.sort();
        assert_eq!(names, ["b", "bridge", "c", "lo"]);

        assert!(socket.add_link("c", NewLink::Bridge).unwrap_err().is_exists());
        socket.delete_link(a).unwrap();
        assert!(socket.delete_link(a).unwrap_err().is_not_found());
        assert!(socket.link("b").unwrap_err().is_not_found(), "the other end goes too");
    });
}

#[test]
fn links_reach_into_other_namespaces() {
    in_namespace(|mut here| {
        in_namespace(|mut there| {
            let theirs = File::open("/proc/thread-self/ns/net").unwrap();
            let peer = NewLink::Veth { peer: "b", namespace: Some(theirs.as_fd()) };
            here.add_link("a", peer).unwrap();
            assert_eq!(there.link("b").unwrap().kind.as_deref(), Some("veth"));
            assert!(here.link("b").unwrap_err().is_not_found());

            here.add_link("bridge", NewLink::Bridge).unwrap();
            here.add_link("c", NewLink::Veth { peer: "d", namespace: None }).unwrap();
            let c = here.link("c").unwrap().index;
            here.change_link(c, LinkChange::Namespace(theirs.as_fd())).unwrap();
            assert!(there.link("c").is_ok());
            assert!(here.link("c").unwrap_err().is_not_found());
        });
    });
}

#[test]
fn addresses_are_usable_at_once_and_read_back() {
    in_namespace(|mut socket| {
        let a = wire(&mut socket);
        let wanted = ["10.1.0.1/24", "169.254.1.1/32", "fd00:1::1/64", "fe80::77/64"];
        let mut wanted: Vec<_> = wanted.iter().map(|text| Address::new(a, prefix(text))).collect();
        wanted.sort();
        socket.change_addresses(Action::Add, &wanted).unwrap();
        let mut found = socket.addresses(Some(a)).unwrap();
        // The kernel's own link-local address, made from the hardware address.
        found.retain(|address| !address.prefix.to_string().contains("ff:fe"));
        found.sort();
        assert_eq!(found, wanted);

        let error = socket.change_addresses(Action::Add, &wanted).unwrap_err();
        assert_eq!(error.refused().len(), 4);
        assert!(error.is_exists(), "{error}");
        socket.change_address(Action::Delete, &wanted[0]).unwrap();
        assert!(socket.change_address(Action::Delete, &wanted[0]).unwrap_err().is_not_found());
        assert!(!socket.addresses(None).unwrap().contains(&wanted[0]));
    });
}

#[test]
fn routes_are_added_replaced_read_back_and_deleted() {
    in_namespace(|mut socket| {
        let a = wire(&mut socket);
        for own in ["10.1.0.1/24", "fd00:1::1/64"] {
            socket.change_address(Action::Add, &Address::new(a, prefix(own))).unwrap();
        }
        let routes = [
            RouteEntry::direct(prefix("10.2.0.0/16"), a),
            RouteEntry { priority: 1024, ..RouteEntry::direct(prefix("fd00:2::/48"), a) },
            RouteEntry::via(prefix("0.0.0.0/0"), ip("10.1.0.254"), Some(a)),
            RouteEntry { priority: 7, ..RouteEntry::via(prefix("::/0"), ip("fd00:1::254"), Some(a)) },
            RouteEntry::via(prefix("10.3.0.0/16"), ip("192.168.9.9"), Some(a)),
            RouteEntry { source: Some(ip("10.1.0.1")), ..RouteEntry::direct(prefix("10.4.0.1/32"), a) },
            RouteEntry::blackhole(prefix("10.5.0.0/16")),
            RouteEntry { table: 1_000, ..RouteEntry::direct(prefix("10.6.0.0/16"), a) },
            RouteEntry::local(ip("10.96.0.1"), a),
            RouteEntry { protocol: 99, priority: 1024, ..RouteEntry::local(ip("fd00:96::1"), a) },
        ];
        for route in &routes {
            socket.change_route(Action::Add, route).unwrap();
        }
        let found = socket.routes(RouteFilter::default()).unwrap();
        for route in &routes {
            assert!(found.contains(route), "{route:?} not in {found:#?}");
        }
        assert!(socket.change_route(Action::Add, &routes[0]).unwrap_err().is_exists());

        let moved = RouteEntry { gateway: Some(ip("10.1.0.253")), ..routes[2] };
        socket.change_route(Action::Replace, &moved).unwrap();
        let found = socket.routes(RouteFilter { table: Some(TABLE_MAIN), ..RouteFilter::default() }).unwrap();
        assert!(found.contains(&moved) && !found.contains(&routes[2]));

        let deleted = routes.iter().filter(|route| route.gateway != routes[2].gateway);
        socket.change_routes(Action::Delete, deleted).unwrap();
        assert!(socket.change_route(Action::Delete, &routes[0]).unwrap_err().is_not_found());
        let found = socket.routes(RouteFilter::default()).unwrap();
        assert!(!found.iter().any(|route| routes.contains(route)), "{found:#?}");
    });
}

#[test]
fn filters_choose_routes() {
    in_namespace(|mut socket| {
        let a = wire(&mut socket);
        let mine = |text: &str| RouteEntry { protocol: 99, ..RouteEntry::local(ip(text), a) };
        let routes = [mine("10.96.0.1"), mine("fd00:96::1"), RouteEntry::local(ip("10.96.0.2"), a)];
        socket.change_routes(Action::Add, &routes).unwrap();
        let addresses = |routes: Vec<RouteEntry>| -> Vec<String> {
            routes.iter().map(|route| route.destination.to_string()).collect()
        };
        let filter = RouteFilter {
            table: Some(TABLE_LOCAL),
            link: Some(a),
            protocol: Some(99),
            kind: Some(RouteKind::Local),
        };
        assert_eq!(addresses(socket.routes(filter).unwrap()), ["10.96.0.1/32", "fd00:96::1/128"]);
        let elsewhere = RouteFilter { table: Some(4_000), ..RouteFilter::default() };
        assert!(socket.routes(elsewhere).unwrap().is_empty());
    });
}

/// The number that matters on kube-ipvs0. (Seconds are for benchmarks; here it must only work.)
#[test]
fn twenty_thousand_local_routes_of_both_families() {
    const COUNT: u32 = 20_000;
    in_namespace(|mut socket| {
        let a = wire(&mut socket);
        let v4 = (0..COUNT).map(|n| IpAddr::from((0x0a60_0000 + n).to_be_bytes()));
        let v6 = (0..COUNT).map(|n| IpAddr::from((0xfd00_u128 << 112 | u128::from(n)).to_be_bytes()));
        let mine = |address| RouteEntry { protocol: 99, ..RouteEntry::local(address, a) };
        let routes: Vec<_> = v4.chain(v6).map(mine).collect();
        // By protocol, as the link's own IPv6 addresses come when they are found to be free.
        let filter = RouteFilter {
            link: Some(a),
            kind: Some(RouteKind::Local),
            protocol: Some(99),
            ..RouteFilter::default()
        };
        socket.change_routes(Action::Add, &routes).unwrap();
        assert_eq!(socket.routes(filter).unwrap().len(), routes.len());
        let error = socket.change_routes(Action::Add, &routes[7..9]).unwrap_err();
        let places: Vec<_> = error.refused().iter().map(|refused| refused.index).collect();
        assert_eq!(places, [0, 1], "{error}");
        socket.change_routes(Action::Delete, &routes).unwrap();
        assert_eq!(socket.routes(filter).unwrap(), []);
    });
}

#[test]
fn changes_are_heard() {
    in_namespace(|mut socket| {
        let mut listener = Listener::<Route>::links_and_addresses().unwrap();
        let a = wire(&mut socket);
        let address = Address::new(a, prefix("10.1.0.1/24"));
        socket.change_address(Action::Add, &address).unwrap();
        socket.change_address(Action::Delete, &address).unwrap();
        socket.delete_link(a).unwrap();
        let mut heard = Vec::new();
        while listener.read(|message| heard.extend(Happened::read(&message))).unwrap() == Notice::Heard {}
        let place = |wanted: &dyn Fn(&Happened) -> bool| heard.iter().position(wanted).expect("not heard");
        let made = place(&|it| matches!(it, Happened::Link(link) if link.index == a));
        let added = place(&|it| *it == Happened::Address(address));
        let removed = place(&|it| *it == Happened::AddressGone(address));
        let gone = place(&|it| matches!(it, Happened::LinkGone(link) if link.index == a));
        assert!(made < added && added < removed && removed < gone, "{heard:#?}");
    });
}

#[test]
fn prefixes() {
    assert!(prefix("10.96.0.0/12").contains(ip("10.111.255.255")));
    assert!(!prefix("10.96.0.0/12").contains(ip("10.112.0.0")));
    assert!(!prefix("10.96.0.0/12").contains(ip("::1")));
    assert!(prefix("::/0").contains(ip("::1")) && !prefix("::/0").contains(ip("0.0.0.1")));
    assert!(prefix("fd00::1/128").contains(ip("fd00::1")) && !prefix("fd00::1/128").contains(ip("fd00::2")));
    for (text, network) in [
        ("10.111.1.2/12", "10.96.0.0/12"),
        ("10.1.2.3/0", "0.0.0.0/0"),
        ("10.1.2.3/32", "10.1.2.3/32"),
        ("fd00:1:2:3::4/48", "fd00:1:2::/48"),
        ("fd00::1/0", "::/0"),
        ("fd00::1/128", "fd00::1/128"),
    ] {
        assert_eq!(prefix(text).network().to_string(), network);
    }
    for wrong in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8/8"] {
        assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
    }
}
