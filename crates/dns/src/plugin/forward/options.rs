//! From the words of a `forward` to a stanza.

use super::flights::Flights;
use super::policy::Policy;
use super::{Stanza, to};
use crate::corefile::{Error, Line, Scheme, Word, host_and_port};
use crate::say;
use crate::setup::{Setting, duration, number};
use crate::upstream::{Carrier, Check, Limits, Method, QUERIES_MAX, Query, Settings, Upstream, tls};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use wire::{Name, Rcode, Type};

/// What the block says, or CoreDNS' defaults.
struct Options {
    except: Vec<Name>,
    force_tcp: bool,
    prefer_udp: bool,
    respell: bool,
    limits: Limits,
    read_timeout: Duration,
    fails_max: u32,
    attempts_max: Option<usize>,
    method: Method,
    tls: tls::Files,
    server_name: Option<Word>,
    policy: Policy,
    check_interval: Duration,
    check_recursion: bool,
    check_name: Name,
    concurrent_max: usize,
    queries_max: usize,
    next: Vec<Rcode>,
    next_on_nodata: bool,
    fail_fast: bool,
    failover: Vec<Rcode>,
    source: Option<IpAddr>,
    resolvers: Vec<SocketAddr>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            except: Vec::new(),
            force_tcp: false,
            prefer_udp: false,
            respell: false,
            limits: Limits {
                expire: Duration::from_secs(10),
                max_age: Duration::ZERO,
                idle_max: 0,
                uses_max: 0,
            },
            read_timeout: Duration::from_secs(2),
            fails_max: 2,
            attempts_max: None,
            method: Method::Post,
            tls: tls::Files::default(),
            server_name: None,
            policy: Policy::default(),
            check_interval: Duration::from_millis(500),
            check_recursion: true,
            check_name: Name::ROOT,
            concurrent_max: 0,
            queries_max: QUERIES_MAX,
            next: Vec::new(),
            next_on_nodata: false,
            fail_fast: false,
            failover: Vec::new(),
            source: None,
            resolvers: Vec::new(),
        }
    }
}

/// Reads a `forward`.
pub(super) fn read(line: &Line, setting: &Setting<'_>) -> Result<Stanza, Error> {
    let [from, to @ ..] = line.args.as_slice() else { return Err(line.error("takes a zone and upstreams")) };
    if to.is_empty() {
        return Err(line.error("takes a zone and at least one upstream"));
    }
    let (zones, _) = host_and_port(from, &from.text)?;
    let Some(zone) = zones.first().copied() else { return Err(from.error("no zone")) };
    if zones.len() > 1 {
        say::warning(format_args!(
            "plugin/forward: {} stands for {} zones, of which only {zone} is forwarded",
            from.text,
            zones.len()
        ));
    }
    let mut options = Options::default();
    for option in &line.block {
        option.no_block()?;
        options.read(option, setting)?;
    }
    let upstreams = options.upstreams(to::read(to, &options.resolvers)?, to, setting)?;
    let metrics = &setting.world.metrics;
    Ok(Stanza {
        from: zone,
        attempts_max: options.attempts_max.unwrap_or(2 * upstreams.len()),
        upstreams,
        check: Arc::new(Check {
            interval: options.check_interval,
            query: Query::plain(options.check_name, Type::NS, options.check_recursion),
        }),
        except: options.except,
        policy: options.policy,
        force_tcp: options.force_tcp,
        prefer_udp: options.prefer_udp,
        respell: options.respell,
        fails_max: options.fails_max,
        concurrent_max: options.concurrent_max,
        next: options.next,
        next_on_nodata: options.next_on_nodata,
        fail_fast: options.fail_fast,
        failover: options.failover,
        waiting: AtomicUsize::new(0),
        flights: Arc::new(Flights::default()),
        broken: metrics.counter(
            "coredns_forward_healthcheck_broken_total",
            "Counter of the number of complete failures of the healthchecks.",
            &[],
        ),
        rejects: metrics.counter(
            "coredns_forward_max_concurrent_rejects_total",
            "Counter of the number of queries rejected because the concurrent queries were at maximum.",
            &[],
        ),
    })
}

impl Options {
    fn read(&mut self, option: &Line, setting: &Setting<'_>) -> Result<(), Error> {
        match option.name.text.as_str() {
            "except" => {
                for word in option.at_least_one()? {
                    self.except.extend(host_and_port(word, &word.text)?.0);
                }
            }
            "force_tcp" => self.force_tcp = on(option)?,
            "prefer_udp" => self.prefer_udp = on(option)?,
            "random_case" => self.respell = on(option)?,
            "next_on_nodata" => self.next_on_nodata = on(option)?,
            "failfast_all_unhealthy_upstreams" => self.fail_fast = on(option)?,
            "expire" => self.limits.expire = one(option, duration)?,
            "max_age" => {
                self.limits.max_age = one(option, duration)?;
            }
            "max_idle_conns" => self.limits.idle_max = one(option, number)?,
            "read_timeout" => {
                let [word] = option.exactly()?;
                self.read_timeout = duration(word)?;
                if self.read_timeout.is_zero() {
                    return Err(word.error("must be more than nothing"));
                }
            }
            "max_fails" => self.fails_max = one(option, number)?,
            "max_connect_attempts" => self.attempts_max = Some(one(option, number)?),
            "max_concurrent" => self.concurrent_max = one(option, number)?,
            "max_concurrent_each" => {
                self.queries_max = one(option, number)?;
                if !(1..=QUERIES_MAX).contains(&self.queries_max) {
                    return Err(option.error(format_args!("not between 1 and {QUERIES_MAX}")));
                }
            }
            "next" => self.next.extend(codes(option)?),
            "failover" => self.failover.extend(failover(option)?),
            "health_check" => self.read_health_check(option)?,
            "policy" => self.policy = one(option, policy)?,
            "doh_method" => self.method = one(option, method)?,
            "tls" => self.read_tls(option, setting)?,
            "tls_servername" => {
                let [name] = option.exactly()?;
                self.server_name = Some(name.clone());
            }
            "source_address" => self.source = Some(one(option, ip)?),
            "resolver" => {
                for word in option.at_least_one()? {
                    let address = to::address(&word.text, 53).ok_or_else(|| word.error("no address"))?;
                    self.resolvers.push(address);
                }
            }
            _ => return Err(option.unknown_option("forward")),
        }
        let Limits { expire, max_age, .. } = self.limits;
        if !max_age.is_zero() && max_age < expire && matches!(option.name.text.as_str(), "expire" | "max_age")
        {
            return Err(option.error("max_age is less than expire"));
        }
        Ok(())
    }

    fn read_health_check(&mut self, option: &Line) -> Result<(), Error> {
        let Some((interval, rest)) = option.at_least_one()?.split_first() else { return Ok(()) };
        self.check_interval = duration(interval)?;
        let mut rest = rest.iter();
        while let Some(word) = rest.next() {
            match word.text.as_str() {
                "no_rec" => self.check_recursion = false,
                "domain" => {
                    let name = rest.next().ok_or_else(|| word.error("takes a name"))?;
                    self.check_name = name.text.parse().map_err(|error| name.error(error))?;
                }
                _ => return Err(word.error("neither no_rec nor domain")),
            }
        }
        Ok(())
    }

    fn read_tls(&mut self, option: &Line, setting: &Setting<'_>) -> Result<(), Error> {
        let path = |word: &Word| setting.block.path(&word.text);
        let (own, authorities) = match option.args.as_slice() {
            [] => (None, None),
            [authorities] => (None, Some(path(authorities))),
            [certificate, key] => (Some((path(certificate), path(key))), None),
            [certificate, key, authorities] => {
                (Some((path(certificate), path(key))), Some(path(authorities)))
            }
            [_, _, _, extra, ..] => {
                return Err(extra.error("tls takes a certificate, its key and authorities"));
            }
        };
        self.tls = tls::Files { own, authorities };
        // What is wrong with the files belongs to this line.
        tls::client_config(&self.tls, &[]).map(|_| ()).map_err(|what| option.error(what))
    }

    fn upstreams(
        &self,
        all: Vec<to::To>,
        words: &[Word],
        setting: &Setting<'_>,
    ) -> Result<Vec<Arc<Upstream>>, Error> {
        let Some(word) = words.first() else { return Ok(Vec::new()) };
        let settings = Settings {
            proxy_name: "forward",
            limits: self.limits,
            queries_max: self.queries_max,
            read_timeout: self.read_timeout,
            source: self.source,
            check_by_stream: self.force_tcp,
        };
        let wants = |scheme: Scheme, protocols: &[&[u8]]| {
            let needed = all.iter().any(|to| to.scheme == scheme);
            needed
                .then(|| tls::client_config(&self.tls, protocols))
                .transpose()
                .map_err(|what| word.error(what))
        };
        let tls_config = wants(Scheme::Tls, &[])?;
        let https_config = wants(Scheme::Https, &[b"http/1.1"])?;
        let mut upstreams = Vec::new();
        for to in &all {
            if let (Some(name), Some(_)) = (&self.server_name, &to.server_name)
                && words.iter().any(|word| word.text.contains('%'))
            {
                return Err(name.error("an upstream has a name of its own, behind a %"));
            }
            let configured = self.server_name.as_ref().map(|name| name.text.as_str());
            let name = configured.or(to.server_name.as_deref());
            let client = |config: &Option<Arc<rustls::ClientConfig>>| match config {
                Some(config) => {
                    let name = tls::server_name(name, to.address.ip()).map_err(|what| word.error(what))?;
                    Ok(tls::Client::new(config.clone(), name))
                }
                None => Err(word.error("no configuration of TLS")),
            };
            let carrier = match to.scheme {
                Scheme::Tls => Carrier::Tls(client(&tls_config)?),
                Scheme::Https => Carrier::Https(client(&https_config)?, self.method),
                _ => Carrier::Plain,
            };
            let upstream = Upstream::new(to.address, carrier, settings, &setting.world.metrics);
            upstreams.push(Arc::new(upstream));
        }
        Ok(upstreams)
    }
}

fn on(option: &Line) -> Result<bool, Error> {
    option.no_arguments().map(|()| true)
}

fn one<T>(option: &Line, read: impl Fn(&Word) -> Result<T, Error>) -> Result<T, Error> {
    let [word] = option.exactly()?;
    read(word)
}

fn ip(word: &Word) -> Result<IpAddr, Error> {
    word.text.parse().map_err(|_| word.error("no address"))
}

fn codes(option: &Line) -> Result<Vec<Rcode>, Error> {
    let code = |word: &Word| word.text.parse().map_err(|()| word.error("no response code"));
    option.at_least_one()?.iter().map(code).collect()
}

fn failover(option: &Line) -> Result<Vec<Rcode>, Error> {
    let codes = codes(option)?;
    match codes.contains(&Rcode::NOERROR) {
        true => Err(option.error("NOERROR is no failure")),
        false => Ok(codes),
    }
}

fn policy(word: &Word) -> Result<Policy, Error> {
    Ok(match word.text.as_str() {
        "random" => Policy::Random,
        "round_robin" => Policy::RoundRobin(AtomicUsize::new(0)),
        "sequential" => Policy::Sequential,
        _ => return Err(word.error("not random, round_robin or sequential")),
    })
}

fn method(word: &Word) -> Result<Method, Error> {
    Ok(match word.text.as_str() {
        "POST" => Method::Post,
        "GET" => Method::Get,
        _ => return Err(word.error("neither POST nor GET")),
    })
}
