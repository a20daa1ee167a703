//! `health`: a page that says that the process is alive.
//!
//! ```text
//! health [ADDRESS:PORT] {         by default :8080
//!     lameduck DURATION
//! }
//! ```
//!
//! `/health` says `OK`. With `lameduck`, a process that is told to stop goes on answering for so long,
//! while `ready` says no already, so that those who still send to it are served.

use crate::chain::{At, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::Exchange;
use crate::metrics::{Counter, Histogram};
use crate::say;
use crate::setup::{Setting, duration, socket_address};
use crate::web::{EVERYWHERE, Page, Said};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PORT_DEFAULT: u16 = 8080;
/// The page is asked by ourselves so often, which tells how busy we are.
const LOOK: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(3);
/// CoreDNS' `SlimTimeBuckets`.
const BOUNDS_S: &[f64] = &[0.00025, 0.0025, 0.025, 0.25, 2.5];

/// Not in the way of questions: it stands in the chain for its background work only.
struct Health {
    address: SocketAddr,
    took: Arc<Histogram>,
    failed: Arc<Counter>,
    task: Mutex<Option<JoinHandle<()>>>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let mut address = SocketAddr::new(EVERYWHERE, PORT_DEFAULT);
    for line in setting.lines {
        match line.args.as_slice() {
            [] => {}
            [word] => address = socket_address(word)?,
            [_, extra, ..] => return Err(extra.error("health takes one address")),
        }
        for option in &line.block {
            option.no_block()?;
            match option.name.text.as_str() {
                "lameduck" => {
                    let [word] = option.exactly()?;
                    let process = &mut setting.process.lameduck;
                    *process = (*process).max(duration(word)?);
                }
                _ => return Err(option.unknown_option("health")),
            }
        }
    }
    let page = Page { path: "/health", say: Arc::new(|| Said::text(200, "OK")) };
    setting.process.pages.push((address, page));
    let metrics = &setting.world.metrics;
    let health = Arc::new(Health {
        address,
        took: metrics.histogram(
            "coredns_health_request_duration_seconds",
            "Histogram of the time (in seconds) each request took.",
            &[],
            BOUNDS_S,
        ),
        failed: metrics.counter(
            "coredns_health_request_failures_total",
            "The number of times the health check failed.",
            &[],
        ),
        task: Mutex::new(None),
    });
    setting.process.plugins.push(health);
    Ok(None)
}

impl Plugin for Health {
    fn ask(&self, _exchange: &mut Exchange, _at: &At<'_>) -> Step {
        Step::Pass
    }

    fn start(self: Arc<Self>) {
        let health = self.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                health.look().await;
            }
        });
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    fn stop(&self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl Health {
    async fn look(&self) {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let began = Instant::now();
        let ask = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
            stream.read_to_end(&mut Vec::new()).await
        };
        let asked = timeout(PATIENCE, ask).await;
        let took = began.elapsed();
        self.took.observe(took.as_secs_f64());
        if !matches!(asked, Ok(Ok(1..))) {
            self.failed.count();
            say::warning(format_args!("plugin/health: Local health request to {address} failed"));
        } else if took > Duration::from_secs(1) {
            say::warning(format_args!("plugin/health: Local health request to {address} took {took:?}"));
        }
    }
}
