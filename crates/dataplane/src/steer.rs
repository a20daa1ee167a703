//! `names: local`: queries to the cluster DNS Service's address go to a server on this node for as long
//! as one listens there, and where the plane sends them when none does.
//!
//! Before connection tracking sees a packet its destination is rewritten to a private address of the
//! host's, and the kernel is asked whether anybody listens there. If so the packet is not tracked and
//! is delivered; if not it is written back as it was, and goes on to the plane. So the open socket
//! is the switch: the kernel turns it itself the moment the server's process ends, however it ends,
//! and no plane has to know. What the node itself asks is left to the plane: on its way out a
//! packet has the socket of its sender, and the kernel tells of no other.
//!
//! All of it stands in a table of its own, beside whichever plane there is.

use crate::Error;
use crate::program::{ChainSpec, Installed, Program, Rule, install, table};
use crate::write::{End, RuleWriter, octets, rule};
use model::{Family, Protocol};
use netlink::nftables::{
    self as nft, Base, Batch, ChainKind, Expression, Hook, Operator, PayloadBase, Policy, Register, SocketKey,
};
use netlink::route::{Action, RouteEntry};
use netlink::{Netfilter, Route, Socket};
use std::net::IpAddr;

/// The table, one for each family.
pub const TABLE: &str = "portolan-names";

/// Before connection tracking (-200) and whatever others do at "raw" (-300), after fragments have been
/// put together (-400).
const PRIORITY: i32 = -310;
/// The port of DNS.
const PORT: u16 = 53;
/// Whose a route is: as those beside IPVS.
const ROUTE_PROTOCOL: u8 = 112;
/// The loopback device.
const LOOPBACK: &str = "lo";
/// Where TCP's flags are, and which of them tell a first packet.
const TCP_FLAGS_AT: u32 = 13;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

/// The chain that asks who listens, and the one that writes a packet back.
const LISTENS: &str = "who-listens";
const BACK: &str = "back";

const VALUE: Register = Register::new(0);

/// Which packets are led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    /// All.
    All,
    /// Those of connections that there are: the server is about to end.
    Established,
}

/// One family.
#[derive(Debug)]
struct Half {
    family: Family,
    /// The private address.
    local: IpAddr,
    /// The Service's, if it has one.
    service: Option<IpAddr>,
}

/// The table at work.
#[derive(Debug)]
pub struct Steer {
    nft: Socket<Netfilter>,
    route: Socket<Route>,
    halves: Vec<Half>,
    lead: Lead,
    /// The ruleset's generation when we looked last.
    generation: Option<u32>,
}

impl Steer {
    /// Makes these private addresses, at most one a family, the host's own, so that they can be listened
    /// at. Nothing is led to them yet.
    pub fn open(local: &[IpAddr]) -> Result<Steer, Error> {
        let mut steer = Steer::over(local)?;
        let link = steer.route.link(LOOPBACK)?.index;
        for half in &steer.halves {
            let route = RouteEntry { protocol: ROUTE_PROTOCOL, ..RouteEntry::local(half.local, link) };
            steer.route.change_route(Action::Replace, &route)?;
        }
        Ok(steer)
    }

    fn over(local: &[IpAddr]) -> Result<Steer, Error> {
        let half = |local: &IpAddr| Half { family: Family::of(*local), local: *local, service: None };
        let halves = local.iter().map(half).collect();
        let (nft, route) = (Socket::open()?, Socket::open()?);
        Ok(Steer { nft, route, halves, lead: Lead::All, generation: None })
    }

    /// From now on these addresses of the Service, one a family, are led here. Says what had to be done.
    pub fn lead(&mut self, service: &[IpAddr]) -> Result<Vec<String>, Error> {
        for half in &mut self.halves {
            half.service = service.iter().copied().find(|ip| Family::of(*ip) == half.family);
        }
        self.install()
    }

    /// New questions go to the plane; those that are under way, and connections, are still ours.
    pub fn withdraw(&mut self) -> Result<(), Error> {
        self.lead = Lead::Established;
        self.install().map(|_| ())
    }

    /// After [`Steer::withdraw`], all over again.
    pub fn resume(&mut self) -> Result<(), Error> {
        self.lead = Lead::All;
        self.install().map(|_| ())
    }

    /// Looks whether somebody changed the table, and puts it right. Says what had to be done.
    pub fn look(&mut self) -> Result<Vec<String>, Error> {
        let generation = nft::generation(&mut self.nft)?.id;
        if self.generation == Some(generation) {
            return Ok(Vec::new());
        }
        self.install()
    }

    fn install(&mut self) -> Result<Vec<String>, Error> {
        let Steer { nft: socket, halves, lead, .. } = self;
        let there = nft::tables(socket)?;
        let mut said = Vec::new();
        for half in halves {
            let table = table(half.family, TABLE);
            let exists = there.iter().any(|other| other.family == table.family && other.name == TABLE);
            let mut batch = Batch::new();
            match half.service {
                Some(service) => {
                    let installed = match exists {
                        true => Installed::read(socket, table)?,
                        false => Installed::default(),
                    };
                    if !exists {
                        batch.add_table(table, &[]);
                    }
                    let done = install(table, &installed, &program(half, service, *lead), &mut batch);
                    if done.is_empty() && exists {
                        continue;
                    }
                    said.push(format!("{} leads to {}", service, half.local));
                }
                None if exists => {
                    batch.delete_table(table);
                    said.push(format!("nothing leads to {}", half.local));
                }
                None => continue,
            }
            batch.commit(socket, &format_args!("write nftables table {table}"), None)?;
        }
        self.generation = Some(nft::generation(socket)?.id);
        Ok(said)
    }

    /// Takes all of it away, also what another process left, and says what that was.
    pub fn remove(local: &[IpAddr]) -> Result<Vec<String>, Error> {
        let Steer { mut nft, mut route, halves, .. } = Steer::over(local)?;
        let mut removed = Vec::new();
        for found in nft::tables(&mut nft)? {
            if found.name == TABLE && Family::ALL.iter().any(|f| table(*f, TABLE).family == found.family) {
                let table = nft::Table { family: found.family, name: TABLE };
                let mut batch = Batch::new();
                batch.delete_table(table);
                batch.commit(&mut nft, &format_args!("delete nftables table {table}"), None)?;
                removed.push(format!("table {table}"));
            }
        }
        let link = route.link(LOOPBACK)?.index;
        for half in halves {
            let entry = RouteEntry { protocol: ROUTE_PROTOCOL, ..RouteEntry::local(half.local, link) };
            match route.change_route(Action::Delete, &entry) {
                Ok(()) => removed.push(format!("route to {}", half.local)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(removed)
    }
}

/// The table's program for one family.
fn program(half: &Half, service: IpAddr, lead: Lead) -> Program {
    let Half { family, local, .. } = *half;
    let begin = || rule(family);
    let to_local = |rule: RuleWriter| write_address(rule, End::Destination, local);
    let ours = |rule: RuleWriter| rule.and(Expression::NoTrack).accept();
    let listens = vec![
        // A listener at all addresses is somebody else's.
        ours(socket_is(to_local(begin()), 0)).end("a server of ours listens"),
        socket_is(begin(), 1).goto(BACK).end("somebody listens everywhere"),
        // A connection that has just begun or ended has no whole socket (`sk_fullsock`), and does not say
        // where it is bound; it can only be at this address.
        ours(begin().and(Expression::Socket { into: VALUE, key: SocketKey::Transparent }))
            .end("a connection of ours begins or ends"),
        begin().goto(BACK).end(""),
    ];
    let back = vec![write_address(begin(), End::Destination, service).end("nobody: as it was")];
    let base = |hook| Base { kind: ChainKind::Filter, hook, priority: PRIORITY, policy: Policy::Accept };
    let chain = |name: &str, base, rules| ChainSpec { name: name.to_owned(), base, rules };
    Program {
        chains: vec![
            chain(BACK, None, back),
            chain(LISTENS, None, listens),
            chain("prerouting", Some(base(Hook::Prerouting)), arriving(family, service, lead)),
            chain("output", Some(base(Hook::Output)), answering(family, local, service)),
        ],
        sets: Vec::new(),
    }
}

/// Which packets are asked about.
fn arriving(family: Family, service: IpAddr, lead: Lead) -> Vec<Rule> {
    let begin = |protocol| {
        let begin = is_address(rule(family), End::Destination, service).if_protocol(protocol, VALUE);
        is_port(begin.port(VALUE))
    };
    let mut rules = Vec::new();
    let tcp = match lead {
        Lead::All => {
            rules.push(begin(Protocol::Udp).goto(LISTENS).end("questions"));
            begin(Protocol::Tcp)
        }
        Lead::Established => begin(Protocol::Tcp)
            .and(Expression::Payload {
                into: VALUE,
                base: PayloadBase::Transport,
                offset: TCP_FLAGS_AT,
                len: 1,
            })
            .mask(VALUE, vec![SYN_ACK])
            .compare(VALUE, Operator::NotEqual, &[SYN]),
    };
    rules.push(tcp.goto(LISTENS).end("connections"));
    rules
}

/// Answers leave from the Service's address.
fn answering(family: Family, local: IpAddr, service: IpAddr) -> Vec<Rule> {
    let answer = |protocol| {
        let from = is_address(rule(family), End::Source, local).if_protocol(protocol, VALUE);
        let from =
            from.and(Expression::Payload { into: VALUE, base: PayloadBase::Transport, offset: 0, len: 2 });
        write_address(is_port(from).and(Expression::NoTrack), End::Source, service).end("answers")
    };
    [Protocol::Udp, Protocol::Tcp].map(answer).to_vec()
}

fn is_address(rule: RuleWriter, end: End, address: IpAddr) -> RuleWriter {
    rule.address(end, VALUE).compare(VALUE, Operator::Equal, &octets(address))
}

fn is_port(rule: RuleWriter) -> RuleWriter {
    rule.compare(VALUE, Operator::Equal, &PORT.to_be_bytes())
}

fn socket_is(rule: RuleWriter, wildcard: u8) -> RuleWriter {
    rule.and(Expression::Socket { into: VALUE, key: SocketKey::Wildcard }).compare(
        VALUE,
        Operator::Equal,
        &[wildcard],
    )
}

fn write_address(rule: RuleWriter, end: End, address: IpAddr) -> RuleWriter {
    let value = octets(address);
    let (source, len, checksum) = match address {
        IpAddr::V4(_) => (12, 4, Some(10)),
        IpAddr::V6(_) => (8, 16, None),
    };
    let offset = if end == End::Source { source } else { source + len };
    rule.and(Expression::Immediate { into: VALUE, value }).and(Expression::PayloadSet {
        from: VALUE,
        offset,
        len,
        checksum,
    })
}
