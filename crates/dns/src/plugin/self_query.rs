//! `loop`: asks ourselves one question that nobody else asks, and ends the process when it comes back.
//!
//! ```text
//! loop
//! ```
//!
//! Each try has a name of its own, so one that is seen twice has gone in a circle: nobody repeats it.

use crate::chain::{At, Plugin, Step};
use crate::corefile::{Error, Scheme};
use crate::exchange::{Exchange, Outcome};
use crate::random;
use crate::say;
use crate::setup::{OnLoop, Setting};
use crate::upstream::Query;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};
use wire::{Name, Type};

/// For so long we try to ask ourselves.
const TRY_FOR: Duration = Duration::from_secs(30);
/// For an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Between tries.
const PAUSE: Duration = Duration::from_secs(1);
/// After an answer the question may still be on its way around.
const LAST_LOOK: Duration = Duration::from_secs(2);

struct Loop {
    zone: Name,
    /// Where we are asked.
    address: Option<SocketAddr>,
    /// What is asked at the moment, and how often that was seen.
    name: Mutex<Name>,
    seen: AtomicU32,
    /// There is nothing to look for any more.
    off: AtomicBool,
    /// What is done when there is a loop.
    on_loop: Option<OnLoop>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_arguments()?;
    line.no_block()?;
    let block = &setting.block;
    let key = block.keys.iter().find(|key| key.scheme == Scheme::Dns);
    let ip = block.listen.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let zone = block.zones.first().copied().unwrap_or_default();
    Ok(Some(Arc::new(Loop {
        zone,
        address: key.map(|key| SocketAddr::new(ip, key.port)),
        name: Mutex::new(unique_name(&zone)),
        seen: AtomicU32::new(0),
        // Who is not asked in the clear is not asked by himself.
        off: AtomicBool::new(key.is_none()),
        on_loop: setting.world.on_loop.clone(),
    })))
}

/// A name in the zone that nobody asks for.
fn unique_name(zone: &Name) -> Name {
    let mut name = Name::ROOT;
    for label in [random::u64(), random::u64()] {
        // Two such labels fit before any zone but the longest, where one does.
        let _ = name.push((label >> 2).to_string().as_bytes());
    }
    match name.append(zone) {
        Ok(()) => name,
        Err(_) => *zone,
    }
}

impl Loop {
    /// What is to be said when a question shows that we ask ourselves.
    fn found(&self, exchange: &Exchange) -> Option<String> {
        let question = &exchange.asked.question;
        if question.rtype != Type::HINFO
            || self.off.load(Ordering::Relaxed)
            || !question.name.is_in(&self.zone)
        {
            return None;
        }
        let name = *self.name.lock().unwrap_or_else(PoisonError::into_inner);
        if !question.name.is(&name) || self.seen.fetch_add(1, Ordering::Relaxed) == 0 {
            return None;
        }
        let (client, zone) = (exchange.from.client, self.zone);
        let address = self.address.map(|address| address.to_string()).unwrap_or_default();
        Some(format!(
            "Loop ({client} -> {address}) detected for zone \"{zone}\", see \
             https://coredns.io/plugins/loop#troubleshooting. Query: \"HINFO {name}\""
        ))
    }

    async fn ask_ourselves(&self, address: SocketAddr) -> std::io::Result<()> {
        let name = unique_name(&self.zone);
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = name;
        self.seen.store(0, Ordering::Relaxed);
        let query = Query::plain(name, Type::HINFO, true);
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        socket.send(&query.message(false)).await?;
        let mut bytes = vec![0; query.datagram_bytes()];
        timeout(ANSWER_TIMEOUT, socket.recv(&mut bytes)).await??;
        Ok(())
    }
}

impl Plugin for Loop {
    fn ask(&self, exchange: &mut Exchange, _at: &At<'_>) -> Step {
        if exchange.asked.question.rtype == Type::HINFO
            && let Some(what) = self.found(exchange)
        {
            // To go on would feed the loop. Others may be here at the same time.
            if self.off.swap(true, Ordering::SeqCst) {
                return Step::Done(Outcome::Silence);
            }
            say::plain(format!("[FATAL] plugin/loop: {what}\n"));
            say::flush();
            match &self.on_loop {
                Some(found) => found(),
                // As CoreDNS does.
                None => std::process::exit(1),
            }
            return Step::Done(Outcome::Silence);
        }
        Step::Pass
    }

    fn start(self: Arc<Self>) {
        let Some(address) = self.address else { return };
        tokio::spawn(async move {
            let until = Instant::now() + TRY_FOR;
            while Instant::now() < until && !self.off.load(Ordering::Relaxed) {
                // What was answered without us the configuration before us has answered: a reload is
                // not yet in force when its plugins start.
                let answered = self.ask_ourselves(address).await.is_ok();
                if answered && self.seen.load(Ordering::Relaxed) > 0 {
                    sleep(LAST_LOOK).await;
                    break;
                }
                sleep(PAUSE).await;
            }
            self.off.store(true, Ordering::Relaxed);
        });
    }

    fn stop(&self) {
        self.off.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, refused};
    use std::time::Instant;

    fn exchange(name: Name, rtype: Type) -> Exchange {
        let mut exchange = Exchange::new(Instant::now());
        exchange.asked = wire::Asked::of_question(name, rtype);
        exchange.begin(Default::default(), Instant::now());
        exchange
    }

    #[test]
    fn a_name_that_comes_back() {
        let zone: Name = "example.org".parse().unwrap();
        let name = unique_name(&zone);
        assert_eq!((name.label_count(), name.is_in(&zone)), (4, true));
        let looking = Loop {
            zone,
            address: Some(SocketAddr::from(([127, 0, 0, 1], 53))),
            name: Mutex::new(name),
            seen: AtomicU32::new(0),
            off: AtomicBool::new(false),
            on_loop: None,
        };
        for (name, rtype) in [(name, Type::A), (zone, Type::HINFO), (name, Type::HINFO)] {
            assert_eq!(looking.found(&exchange(name, rtype)), None);
        }
        let what = looking.found(&exchange(name, Type::HINFO)).unwrap();
        let want = format!(
            "Loop (0.0.0.0:0 -> 127.0.0.1:53) detected for zone \"example.org.\", see \
             https://coredns.io/plugins/loop#troubleshooting. Query: \"HINFO {name}\""
        );
        assert_eq!(what, want);
        looking.stop();
        assert_eq!(looking.found(&exchange(name, Type::HINFO)), None);
    }

    #[test]
    fn it_asks_where_it_is_asked() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let bench = Bench::new(&format!("example:{port} {{\nloop\nwhoami\n}}"));
        let mut bytes = [0; 512];
        let (size, _) = socket.recv_from(&mut bytes).unwrap();
        let mut asked = wire::Asked::default();
        asked.read(&bytes[..size]).unwrap();
        assert_eq!(asked.question.rtype, Type::HINFO);
        assert!(asked.question.name.is_in(&"example".parse().unwrap()));
        assert!(bench.ask("a.example HINFO").starts_with("NOERROR"));
        assert!(refused("loop x").contains("\"x\": loop takes 0 arguments, not 1"));
    }
}
