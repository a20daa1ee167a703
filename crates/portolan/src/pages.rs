//! The daemon's pages: what is served at `metricsBindAddress` and at `healthzBindAddress`, as
//! kube-proxy serves it.

use crate::metrics::Metrics;
use dataplane::Mode;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use telemetry::health::{Finding, Health};
use telemetry::http::{Door, Handler, Request, Response, Server};
use telemetry::metrics::Counter;
use telemetry::time::Utc;
use telemetry::{error, info, process, warn};

/// How long we wait before we try again to have an address that somebody else has.
const RETRY: Duration = Duration::from_secs(5);

/// What the pages tell.
pub(crate) struct Told {
    pub(crate) mode: Mode,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    /// The configuration in use, as JSON.
    pub(crate) configuration: String,
    /// The flags in use, one a line.
    pub(crate) flags: String,
    pub(crate) started: SystemTime,
}

/// An address to be served, and the door once it could be had.
struct Wanted {
    what: &'static str,
    address: SocketAddr,
    handler: Handler,
    door: Option<Door>,
    again: Instant,
}

/// The doors of both.
pub(crate) struct Pages {
    server: Arc<Server>,
    wanted: Vec<Wanted>,
}

impl Pages {
    /// Opens both. An address that cannot be had is tried again later, or ends it all if `hard`.
    pub(crate) fn open(
        server: Arc<Server>,
        metrics: Option<SocketAddr>,
        healthz: Option<SocketAddr>,
        told: Arc<Told>,
        hard: bool,
    ) -> io::Result<Pages> {
        let again = Instant::now();
        let at_metrics = told.clone();
        let at_healthz = HealthPages::new(told);
        let wanted = [
            metrics.map(|address| -> (&str, SocketAddr, Handler) {
                ("metrics", address, Arc::new(move |request| at_metrics.answer(request)))
            }),
            healthz.map(|address| -> (&str, SocketAddr, Handler) {
                ("health", address, Arc::new(move |request| at_healthz.answer(request)))
            }),
        ];
        let wanted = wanted.into_iter().flatten().map(|(what, address, handler)| Wanted {
            what,
            address,
            handler,
            door: None,
            again,
        });
        let mut pages = Pages { server, wanted: wanted.collect() };
        for wanted in &mut pages.wanted {
            match pages.server.open(wanted.address, wanted.handler.clone()) {
                Ok(door) => wanted.door = Some(door),
                Err(error) if hard => {
                    let what = format!("serve {} at {}: {error}", wanted.what, wanted.address);
                    return Err(io::Error::new(error.kind(), what));
                }
                Err(error) => {
                    let Wanted { what, address, .. } = wanted;
                    error!("serve {what} at {address}: {error}; trying again");
                    wanted.again = Instant::now() + RETRY;
                }
            }
        }
        Ok(pages)
    }

    /// What cannot be had.
    pub(crate) fn failed(&self) -> Vec<&'static str> {
        self.wanted.iter().filter(|wanted| wanted.door.is_none()).map(|wanted| wanted.what).collect()
    }

    /// Tries again what could not be had.
    pub(crate) fn tick(&mut self, now: Instant) {
        for wanted in self.wanted.iter_mut().filter(|wanted| wanted.door.is_none() && wanted.again <= now) {
            match self.server.open(wanted.address, wanted.handler.clone()) {
                Ok(door) => {
                    info!("{} is served at {} at last", wanted.what, wanted.address);
                    wanted.door = Some(door);
                }
                Err(_) => wanted.again = now + RETRY,
            }
        }
    }
}

impl Told {
    /// What is served beside the metrics.
    fn answer(&self, request: &Request) -> Response {
        let plain = |text: String| Response::text(200, text).with("X-Content-Type-Options", "nosniff");
        match request.path.as_str() {
            "/healthz" => {
                self.sli().1.increment();
                plain("ok".to_owned())
            }
            "/metrics" => {
                let mut text = String::new();
                self.metrics.registry.write(&mut text);
                process::write(&mut text);
                prometheus(text)
            }
            "/metrics/slis" => prometheus(self.slis()),
            "/proxyMode" => plain(self.mode.name().to_owned()),
            "/configz" => {
                Response::json(200, self.configuration.clone()).with("X-Content-Type-Options", "nosniff")
            }
            "/flagz" => Response::text(200, page("flagz", &self.flags)),
            "/statusz" => Response::text(200, page("statusz", &format!("\n{}", self.status()))),
            _ => Response::not_found(),
        }
    }

    /// The state of the one check behind `/healthz`, and how often it was asked for.
    fn sli(&self) -> (f64, Counter) {
        let asked = self.metrics.registry.counter(
            "portolan_healthz_requests_total",
            "Requests for /healthz at the metrics address",
            &[],
        );
        (1.0, asked)
    }

    fn slis(&self) -> String {
        let (state, asked) = self.sli();
        let mut text = String::new();
        let help = "[STABLE] This metric records the result of a single healthcheck.";
        telemetry::metrics::head(&mut text, "kubernetes_healthcheck", help, "gauge");
        // Writing to a string does not fail.
        let _ = writeln!(text, "kubernetes_healthcheck{{name=\"ping\",type=\"healthz\"}} {state}");
        let help = "[STABLE] This metric records the results of all healthcheck.";
        telemetry::metrics::head(&mut text, "kubernetes_healthchecks_total", help, "counter");
        let asked = asked.get();
        let labels = "name=\"ping\",status=\"success\",type=\"healthz\"";
        let _ = writeln!(text, "kubernetes_healthchecks_total{{{labels}}} {asked}");
        if let Some(start_s) = process::start_s() {
            let help = "[ALPHA] Start time of the process since unix epoch in seconds.";
            telemetry::metrics::head(&mut text, "process_start_time_seconds", help, "gauge");
            let _ = writeln!(text, "process_start_time_seconds {start_s}");
        }
        text
    }

    fn status(&self) -> String {
        let up_s = SystemTime::now().duration_since(self.started).unwrap_or_default().as_secs();
        format!(
            "Started= {}\nUp= {} hr {:02} min {:02} sec\nBinary version= portolan {}\nMode= {}\n\
             Paths= /configz /flagz /healthz /metrics /metrics/slis /proxyMode /statusz\n",
            Utc::of(self.started),
            up_s / 3600,
            up_s / 60 % 60,
            up_s % 60,
            env!("CARGO_PKG_VERSION"),
            self.mode,
        )
    }
}

/// What kube-proxy shows only where it says something.
const OMITTED_WHEN_EMPTY: [&str; 4] = [
    "/windowsRunAsService",
    "/logging/vmodule",
    "/logging/options/text/splitStream",
    "/logging/options/json/splitStream",
];

/// The configuration as kube-proxy shows it: what holds where nothing was typed, and the periods of the
/// mode in use only.
pub(crate) fn configuration(mut typed: Value, mode: Mode) -> String {
    typed["mode"] = mode.name().into();
    if typed["detectLocalMode"] == "" {
        typed["detectLocalMode"] = "ClusterCIDR".into();
    }
    if typed["nodePortAddresses"].is_null() && mode == Mode::Nftables {
        typed["nodePortAddresses"] = json!(["primary"]);
    }
    for other in Mode::ALL.into_iter().filter(|other| *other != mode) {
        for period in ["syncPeriod", "minSyncPeriod"] {
            typed[other.name()][period] = "0s".into();
        }
    }
    for place in OMITTED_WHEN_EMPTY {
        let is_empty = typed.pointer(place).is_some_and(|value| *value == json!(false) || value.is_null());
        if let Some((parent, field)) = place.rsplit_once('/').filter(|_| is_empty)
            && let Some(parent) = typed.pointer_mut(parent).and_then(Value::as_object_mut)
        {
            parent.remove(field);
        }
    }
    json!({ "kubeproxy.config.k8s.io": typed }).to_string()
}

/// kube-proxy's heading of pages for people.
fn page(name: &str, text: &str) -> String {
    format!(
        "\nkube-proxy {name}\nWarning: This endpoint is not meant to be machine parseable, has no formatting \
         compatibility guarantees and is for debugging purposes only.\n{text}\n"
    )
}

fn prometheus(text: String) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    let response = Response { content_type, ..Response::text(200, text) };
    match process::start_s() {
        Some(start_s) => response.with("Process-Start-Time-Unix", format!("{start_s:.0}")),
        None => response,
    }
}

/// What is served beside the health: `/healthz` is for load balancers and tells of the node too,
/// `/livez` is for whoever restarts us.
struct HealthPages {
    told: Arc<Told>,
    /// How often each was answered with 200 and with 503.
    healthz: [Counter; 2],
    livez: [Counter; 2],
}

impl HealthPages {
    fn new(told: Arc<Told>) -> HealthPages {
        let registry = &told.metrics.registry;
        let counters =
            |name, help| ["200", "503"].map(|code| registry.counter(name, help, &[("code", code)]));
        let healthz =
            counters("kubeproxy_proxy_healthz_total", "[ALPHA] Cumulative proxy healthz HTTP status");
        let livez = counters("kubeproxy_proxy_livez_total", "[ALPHA] Cumulative proxy livez HTTP status");
        HealthPages { told, healthz, livez }
    }

    fn answer(&self, request: &Request) -> Response {
        let finding = self.told.health.find();
        let (well, counters) = match request.path.as_str() {
            "/healthz" => (finding.healthy && finding.eligible, &self.healthz),
            "/livez" => (finding.healthy, &self.livez),
            _ => return Response::not_found(),
        };
        let [good, bad] = counters;
        if well {
            good.increment()
        } else {
            bad.increment()
        }
        let eligible = (request.path == "/healthz").then_some(finding.eligible);
        let families = self.told.metrics.families.iter().map(|of| of.family.to_string());
        let body = health_body(&finding, well, eligible, families, SystemTime::now());
        Response::json(if well { 200 } else { 503 }, body).with("X-Content-Type-Options", "nosniff")
    }
}

/// As kube-proxy spells it. `lastUpdated` is now as long as all is well: that is what it meant when
/// proxies did their work at intervals.
fn health_body(
    finding: &Finding,
    well: bool,
    eligible: Option<bool>,
    families: impl Iterator<Item = String>,
    now: SystemTime,
) -> String {
    let then = |well: bool| match (well, finding.updated) {
        (true, _) => Utc::of(now).to_string(),
        (false, Some(updated)) => Utc::of(updated).to_string(),
        (false, None) => "0001-01-01T00:00:00Z".to_owned(),
    };
    let eligible = eligible.map_or_else(String::new, |eligible| format!("\"nodeEligible\":{eligible},"));
    let healthy = finding.healthy;
    let status: Vec<String> = families
        .map(|family| format!("\"{family}\":{{\"lastUpdated\":\"{}\",\"healthy\":{healthy}}}", then(healthy)))
        .collect();
    format!(
        "{{\"lastUpdated\":\"{}\",\"currentTime\":\"{}\",{eligible}\"healthy\":{well},\"status\":{{{}}}}}",
        then(well),
        Utc::of(now),
        status.join(",")
    )
}

/// For tests: the pages' own metrics are there from the beginning.
#[cfg(test)]
pub(crate) fn register(told: Arc<Told>) {
    HealthPages::new(told);
}

/// Says that profiles are not served.
pub(crate) fn refuse_profiling(enabled: bool) {
    if enabled {
        warn!("enableProfiling: this program has no profiles to serve; /debug/pprof is not there");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_health() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let families = || ["IPv4".to_owned()].into_iter();
        let body = |finding: Finding, well, eligible| -> Value {
            serde_json::from_str(&health_body(&finding, well, eligible, families(), at(60))).expect("JSON")
        };
        let good = Finding { healthy: true, updated: Some(at(1)), eligible: true };
        assert_eq!(
            body(good, true, Some(true)),
            json!({
                "lastUpdated": "1970-01-01T00:01:00Z",
                "currentTime": "1970-01-01T00:01:00Z",
                "nodeEligible": true,
                "healthy": true,
                "status": {"IPv4": {"lastUpdated": "1970-01-01T00:01:00Z", "healthy": true}},
            })
        );
        let leaving = Finding { eligible: false, ..good };
        let left = body(leaving, false, Some(false));
        assert_eq!(left["lastUpdated"], "1970-01-01T00:00:01Z");
        assert_eq!(left["status"]["IPv4"]["healthy"], true);
        let late = body(Finding { healthy: false, ..good }, false, None);
        assert_eq!(late.get("nodeEligible"), None);
        assert_eq!(late["status"]["IPv4"]["lastUpdated"], "1970-01-01T00:00:01Z");
    }
}
