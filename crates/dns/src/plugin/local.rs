//! `local`: answers for `localhost` and the addresses of the loopback.
//!
//! ```text
//! local {
//!     localhost_prefix on|off
//! }
//! ```
//!
//! By `localhost_prefix`, which is on by default, `localhost.DOMAIN` is `localhost`, too: some resolvers
//! ask for it along their search path.

use crate::chain::{At, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::{Exchange, Outcome};
use crate::metrics::Counter;
use crate::say::{self, Level};
use crate::setup::Setting;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use wire::{Name, Owner, Reply, Section, Type};

/// A week.
const TTL_S: u32 = 604_800;

struct Local {
    prefix: bool,
    localhost: Name,
    /// Its zones: of `localhost`, and of networks that are nobody's.
    zones: Vec<Name>,
    /// The one address that has a name.
    loopback: Name,
    requests: Arc<Counter>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_arguments()?;
    let mut prefix = true;
    for option in &line.block {
        option.no_block()?;
        if option.name.text != "localhost_prefix" {
            return Err(option.unknown_option("local"));
        }
        let [word] = option.exactly()?;
        prefix = match word.text.as_str() {
            "on" => true,
            "off" => false,
            _ => return Err(word.error("neither on nor off")),
        };
    }
    let name = |text: &str| text.parse::<Name>().map_err(|error| line.error(error));
    let zones = ["localhost", "0.in-addr.arpa", "127.in-addr.arpa", "255.in-addr.arpa"].map(name);
    Ok(Some(Arc::new(Local {
        prefix,
        localhost: name("localhost")?,
        zones: zones.into_iter().collect::<Result<_, _>>()?,
        loopback: name("1.0.0.127.in-addr.arpa")?,
        requests: setting.world.metrics.counter(
            "coredns_local_localhost_requests_total",
            "Counter of localhost.<domain> requests.",
            &[],
        ),
    })))
}

impl Local {
    fn push_soa(&self, reply: &mut Reply, section: Section, owner: Owner) {
        let numbers: Vec<u8> = [1, 0, 0, 0, TTL_S].into_iter().flat_map(u32::to_be_bytes).collect();
        let parts = [self.localhost.as_bytes(), b"\x04root", self.localhost.as_bytes(), &numbers];
        reply.push_parts(section, owner, Type::SOA, TTL_S, &parts);
    }

    /// What `localhost` has.
    fn push_address(&self, reply: &mut Reply, rtype: Type) -> bool {
        let address: IpAddr = match rtype {
            Type::A => Ipv4Addr::LOCALHOST.into(),
            Type::AAAA => Ipv6Addr::LOCALHOST.into(),
            _ => return false,
        };
        reply.push_address(Section::Answer, Owner::QUESTION, TTL_S, address);
        true
    }
}

impl Plugin for Local {
    fn ask(&self, exchange: &mut Exchange, _at: &At<'_>) -> Step {
        let Exchange { asked, reply, .. } = exchange;
        let (name, rtype) = (&asked.question.name, asked.question.rtype);
        let below = name.label_count() > 1;
        let first = name.labels().next().unwrap_or_default();
        let is_prefix = self.prefix && first.eq_ignore_ascii_case(b"localhost");
        if below && (is_prefix || name.is_in(&self.localhost)) {
            self.requests.count();
            let client = exchange.from.client.ip();
            say::say(
                Level::Debug,
                format_args!(
                    "plugin/local: Intercepting localhost query for \"{name}\" {rtype}, from {client}"
                ),
            );
            if self.push_address(reply, rtype) {
                return Step::Done(Outcome::Records);
            }
            self.push_soa(reply, Section::Authority, Owner::QUESTION);
            return Step::Done(Outcome::NoData);
        }
        let Some(zone) = self.zones.iter().find(|zone| name.is_in(zone)) else { return Step::Pass };
        if name.is(zone) {
            match rtype {
                Type::A | Type::AAAA if name.is(&self.localhost) => {
                    self.push_address(reply, rtype);
                }
                Type::SOA => self.push_soa(reply, Section::Answer, Owner::QUESTION),
                Type::NS => {
                    reply.push_name(Section::Answer, Owner::QUESTION, Type::NS, TTL_S, &self.localhost);
                }
                _ => {
                    self.push_soa(reply, Section::Authority, Owner::QUESTION);
                    return Step::Done(Outcome::NoData);
                }
            }
            return Step::Done(Outcome::Records);
        }
        if name.is(&self.loopback) && rtype == Type::PTR {
            reply.push_name(Section::Answer, Owner::QUESTION, Type::PTR, TTL_S, &self.localhost);
            return Step::Done(Outcome::Records);
        }
        let owner = reply.own(zone);
        self.push_soa(reply, Section::Authority, owner);
        Step::Done(if name.is(&self.loopback) { Outcome::NoData } else { Outcome::NoSuchName })
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused};

    #[test]
    fn names_of_the_loopback() {
        let bench = Bench::of("local\nwhoami");
        let soa = |owner: &str| format!("{owner} 604800 IN SOA localhost. root.localhost. 1 0 0 0 604800");
        for (question, want) in [
            ("localhost A", "NOERROR localhost. 604800 IN A 127.0.0.1".to_owned()),
            ("localhost AAAA", "NOERROR localhost. 604800 IN AAAA ::1".to_owned()),
            ("a.LOCALHOST A", "NOERROR a.LOCALHOST. 604800 IN A 127.0.0.1".to_owned()),
            ("localhost.example A", "NOERROR localhost.example. 604800 IN A 127.0.0.1".to_owned()),
            ("localhost.example MX", format!("NOERROR | {}", soa("localhost.example."))),
            ("localhost SOA", format!("NOERROR {}", soa("localhost."))),
            ("127.in-addr.arpa NS", "NOERROR 127.in-addr.arpa. 604800 IN NS localhost.".to_owned()),
            ("127.in-addr.arpa A", format!("NOERROR | {}", soa("127.in-addr.arpa."))),
            (
                "1.0.0.127.in-addr.arpa PTR",
                "NOERROR 1.0.0.127.in-addr.arpa. 604800 IN PTR localhost.".to_owned(),
            ),
            ("1.0.0.127.in-addr.arpa A", format!("NOERROR | {}", soa("127.in-addr.arpa."))),
            ("2.0.0.127.in-addr.arpa PTR", format!("NXDOMAIN | {}", soa("127.in-addr.arpa."))),
            ("1.0.0.255.in-addr.arpa PTR", format!("NXDOMAIN | {}", soa("255.in-addr.arpa."))),
        ] {
            assert_eq!(bench.ask(question), want, "{question}");
        }
        assert!(bench.ask("localhosts.example A").contains("_udp"));
        assert_eq!(bench.metric("coredns_local_localhost_requests_total"), "3");
        let bench = Bench::of("local {\nlocalhost_prefix off\n}\nwhoami");
        assert!(bench.ask("localhost.example A").contains("_udp"));
        assert!(refused("local {\nlocalhost_prefix maybe\n}").contains("\"maybe\": neither on nor off"));
        assert!(refused("local {\nx\n}").contains("\"x\": no option of plugin local"));
    }
}
