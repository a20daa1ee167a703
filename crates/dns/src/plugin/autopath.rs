//! `autopath`: walks an asker's search path for him, so that his first question is his last.
//!
//! ```text
//! autopath [ZONE...] @kubernetes|RESOLV.CONF
//! ```
//!
//! A question for a name below the first element of the path goes its way; only where there is no such
//! name are the other elements tried, and at last the name alone. An answer that comes of it begins with
//! an alias from the name that was asked for.

use super::per_chain::PerChain;
use crate::chain::{At, Later, Onward, Plugin, Step};
use crate::corefile::{Error, Word, origins};
use crate::exchange::{Exchange, Outcome};
use crate::metrics::{Counter, Metrics};
use crate::setup::Setting;
use std::path::Path;
use std::sync::Arc;
use wire::{Name, Question, Rcode, Reply, Section, Type};

/// More elements are not tried: so many resolvers take.
const ELEMENTS_MAX: usize = 32;
/// What says the search path of the node.
const RESOLV_CONF: &str = "/etc/resolv.conf";

struct Autopath {
    zones: Vec<Name>,
    /// The path, or what stands behind that of the plugin `kubernetes`.
    path: Vec<Name>,
    kubernetes: bool,
    metrics: Arc<Metrics>,
    successes: PerChain<Arc<Counter>>,
}

/// Kept from the way in: what is left of the path, and the name without its first element.
struct Rest {
    base: Name,
    path: Vec<Name>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_block()?;
    let Some((source, zones)) = line.args.split_last() else {
        return Err(line.error("takes @kubernetes or a file like /etc/resolv.conf"));
    };
    let kubernetes = source.text == "@kubernetes";
    if source.text.starts_with('@') && !kubernetes {
        return Err(source.error("no plugin that knows search paths"));
    }
    if kubernetes && !setting.block.plugins.contains("kubernetes") {
        return Err(source.error("there is no kubernetes in this server block"));
    }
    let path = if kubernetes { RESOLV_CONF } else { source.text.as_str() };
    let path = match std::fs::read_to_string(Path::new(path)) {
        Ok(text) => search(&text, source)?,
        Err(_) if kubernetes => Vec::new(),
        Err(error) => return Err(source.error(error)),
    };
    Ok(Some(Arc::new(Autopath {
        zones: origins(zones, &setting.block.zones)?,
        path,
        kubernetes,
        metrics: setting.world.metrics.clone(),
        successes: PerChain::default(),
    })))
}

/// The search path of a file like `/etc/resolv.conf`; the last `search` or `domain` counts.
fn search(text: &str, source: &Word) -> Result<Vec<Name>, Error> {
    let mut path = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let Some("search" | "domain") = words.next() {
            let names = words.take(ELEMENTS_MAX).map(str::parse).collect::<Result<Vec<Name>, _>>();
            path = names.map_err(|error| source.error(error))?;
        }
    }
    Ok(path)
}

impl Autopath {
    fn path_of(&self, exchange: &Exchange, at: &At<'_>) -> Option<Vec<Name>> {
        let mut path = if self.kubernetes {
            let kubernetes = at.chain.links().iter().find(|link| link.name == "kubernetes")?;
            kubernetes.plugin.search_path(exchange)?
        } else {
            Vec::new()
        };
        path.extend(self.path.iter().copied());
        // At last the name is tried as it is.
        path.push(Name::ROOT);
        Some(path)
    }
}

impl Plugin for Autopath {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        let name = exchange.asked.question.name;
        if !self.zones.iter().any(|zone| name.is_in(zone)) {
            return Step::Pass;
        }
        let Some(path) = self.path_of(exchange, at) else { return Step::Pass };
        let Some((first, rest)) = path.split_first() else { return Step::Pass };
        let labels = name.label_count().saturating_sub(first.label_count());
        if !name.is_in(first) || first.is_root() || labels == 0 {
            return Step::Pass;
        }
        let mut base = Name::ROOT;
        if name.labels().take(labels).try_for_each(|label| base.push(label)).is_ok() {
            exchange.note(at.index, Rest { base, path: rest.to_vec() });
        }
        Step::Pass
    }

    fn answered(&self, exchange: &mut Exchange, at: &At<'_>) -> Onward {
        let Some(rest) = exchange.take_note::<Rest>(at.index) else { return Onward::Done };
        let failed =
            matches!(exchange.outcome, Some(Outcome::Failed(_) | Outcome::Refused | Outcome::Silence));
        if failed || exchange.reply.rcode != Rcode::NXDOMAIN {
            if !failed {
                self.count(at);
            }
            return Onward::Done;
        }
        exchange.note(at.index, *rest);
        Onward::Later
    }

    fn answered_later<'a>(&'a self, exchange: &'a mut Exchange, at: &'a At<'a>) -> Later<'a, ()> {
        Box::pin(async move {
            let Some(rest) = exchange.take_note::<Rest>(at.index) else { return };
            let asked = exchange.asked.question;
            for element in &rest.path {
                let mut name = rest.base;
                if name.append(element).is_err() {
                    continue;
                }
                let mut other = exchange.another(Question { name, ..asked });
                at.below(&mut other).await;
                if let Some(Outcome::Failed(_)) = other.outcome {
                    exchange.reply.clear();
                    exchange.settle(other.outcome.unwrap_or(Outcome::Silence), "autopath");
                    return;
                }
                let silent = matches!(other.outcome, Some(Outcome::Refused | Outcome::Silence) | None);
                if silent || other.reply.rcode == Rcode::NXDOMAIN {
                    continue;
                }
                take_over(exchange, &other.reply, &name);
                self.count(at);
                return;
            }
            // Nowhere is such a name: the first answer says so.
        })
    }
}

/// Answers with what was found under another name.
fn take_over(exchange: &mut Exchange, found: &Reply, name: &Name) {
    let reply = &mut exchange.reply;
    reply.clear();
    reply.rcode = found.rcode;
    reply.authoritative = found.authoritative;
    reply.truncated = found.truncated;
    reply.recursion_available = found.recursion_available;
    if let Some(first) = found.section(Section::Answer).next() {
        reply.push_name(Section::Answer, wire::Owner::QUESTION, Type::CNAME, first.ttl, name);
    }
    reply.extend(found, name, |_| true);
    exchange.outcome = Some(Outcome::Given);
}

impl Autopath {
    fn count(&self, at: &At<'_>) {
        let counter = self.successes.of(at.chain, || {
            let help = "Counter of requests that did autopath.";
            self.metrics.counter("coredns_autopath_success_total", help, &[("server", &*at.chain.server)])
        });
        counter.count();
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Act, Bench, Told, refused, scratch, soa};
    use wire::{Rcode, Section, Type};

    #[test]
    fn the_path_is_walked_for_the_asker() {
        let told = Told::new(|asked, _| {
            let name = asked.question.name.to_string();
            match name.as_str() {
                "here.ns.svc.c." | "web.svc.c." | "outside.org." => {
                    Act::Answer(Rcode::NOERROR, vec![[10, 0, 0, 1]])
                }
                "bad.svc.c." => Act::Garbage,
                _ => Act::Records(Rcode::NXDOMAIN, vec![(Section::Authority, Type::SOA, 30, soa(30))]),
            }
        });
        let dir = scratch("autopath");
        dir.write("resolv", "search old\nnameserver 10.0.0.1\nsearch ns.svc.c svc.c c\n");
        let bench = Bench::of(&format!(
            "autopath c {}/resolv\nforward . {} {{\nmax_connect_attempts 1\n}}",
            dir.path(),
            told.address
        ));
        for (name, want, asked) in [
            ("here.ns.svc.c", "NOERROR ra here.ns.svc.c. 30 IN A 10.0.0.1", 1),
            (
                "web.ns.svc.c",
                "NOERROR ra web.ns.svc.c. 30 IN CNAME web.svc.c.; web.svc.c. 30 IN A 10.0.0.1",
                2,
            ),
            (
                "Outside.org.ns.svc.c",
                "NOERROR ra Outside.org.ns.svc.c. 30 IN CNAME Outside.org.; Outside.org. 30 IN A 10.0.0.1",
                4,
            ),
            ("no.ns.svc.c", "NXDOMAIN ra | no.ns.svc.c. 30 IN SOA ns. root. 1 7200 1800 86400 30", 4),
            ("web.c", "NXDOMAIN ra | web.c. 30 IN SOA ns. root. 1 7200 1800 86400 30", 1),
            ("bad.ns.svc.c", "SERVFAIL", 2),
        ] {
            told.seen.lock().unwrap().clear();
            assert_eq!(bench.ask(&format!("{name} A")), want, "{name}");
            // An upstream that fails is soon asked whether it is well again, too.
            let about_names = told.questions().into_iter().filter(|question| question.ends_with(" A"));
            assert_eq!(about_names.count(), asked, "{name}");
        }
        assert_eq!(bench.metric("coredns_autopath_success_total{server=\"dns://:53\"}"), "3");
        for (lines, want) in [
            ("autopath", "\"autopath\": takes @kubernetes or a file"),
            ("autopath @other", "\"@other\": no plugin that knows search paths"),
            ("autopath @kubernetes", "\"@kubernetes\": there is no kubernetes in this server block"),
            ("autopath /no/such/file", "\"/no/such/file\": No such file"),
        ] {
            assert!(refused(lines).contains(want), "{lines}");
        }
    }
}
