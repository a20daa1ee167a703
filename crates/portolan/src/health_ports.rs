//! Health-check node ports: where load balancers ask whether this node has endpoints of a Service
//! with `externalTrafficPolicy: Local`.
//!
//! Only Services that have such a port cost anything here. A port that somebody else has is tried
//! again until it is free.

use model::ObjectName;
use plan::{Delta, HealthCheck, NodeRules, ServiceRules};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use telemetry::health::Health;
use telemetry::http::{Door, Handler, Request, Response, Server};
use telemetry::log::escape;
use telemetry::{error, info, verbose};

/// All of them.
pub(crate) struct HealthPorts {
    server: Arc<Server>,
    health: Arc<Health>,
    /// At which addresses: those at which NodePorts are served.
    addresses: Vec<IpAddr>,
    ports: BTreeMap<ObjectName, Port>,
}

struct Port {
    number: u16,
    local_endpoints: Arc<AtomicU32>,
    /// None as long as the port cannot be had.
    doors: Vec<Door>,
}

impl HealthPorts {
    pub(crate) fn new(server: Arc<Server>, health: Arc<Health>) -> HealthPorts {
        HealthPorts { server, health, addresses: Vec::new(), ports: BTreeMap::new() }
    }

    /// Takes in what holds for the node: at which addresses to listen. `own` are those of its
    /// interfaces.
    pub(crate) fn set_node(&mut self, node: &NodeRules, own: &[IpAddr]) {
        let all = |networks: &[model::Prefix]| networks.iter().any(|network| network.length() == 0);
        let mut addresses: Vec<IpAddr> = match all(&node.node_port_networks) {
            true => Vec::new(),
            false => own.iter().copied().filter(|ip| node.serves_node_ports(*ip)).collect(),
        };
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            addresses.push(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        }
        if addresses != self.addresses {
            self.addresses = addresses;
            self.ports.values_mut().for_each(|port| port.doors.clear());
            let _ = self.open_missing(true);
        }
    }

    /// Takes in all Services, whatever was before; hands back what went wrong.
    pub(crate) fn set_all<'a>(&mut self, services: impl Iterator<Item = &'a ServiceRules>) -> Option<String> {
        let wanted: BTreeMap<&ObjectName, HealthCheck> =
            services.filter_map(|rules| Some((&rules.name, rules.health_check?))).collect();
        self.ports.retain(|name, _| wanted.contains_key(name));
        for (name, check) in wanted {
            self.set(name, check);
        }
        self.open_missing(true)
    }

    /// Takes in how Services changed; hands back what went wrong.
    pub(crate) fn change(&mut self, deltas: &[Delta]) -> Option<String> {
        let checks = |rules: &Option<Arc<ServiceRules>>| rules.as_ref().and_then(|rules| rules.health_check);
        let mut opened = false;
        for delta in deltas {
            let name = delta.after.as_ref().or(delta.before.as_ref()).map(|rules| &rules.name);
            match (name, checks(&delta.before), checks(&delta.after)) {
                (Some(name), _, Some(check)) => {
                    self.set(name, check);
                    opened = true;
                }
                (Some(name), Some(_), None) => {
                    verbose!(2, "closing health-check port of Service {name}");
                    self.ports.remove(name);
                    // Somebody else may have been waiting for that port.
                    opened = true;
                }
                _ => {}
            }
        }
        if opened { self.open_missing(true) } else { None }
    }

    fn set(&mut self, name: &ObjectName, check: HealthCheck) {
        let HealthCheck { port: number, local_endpoints } = check;
        let port = self.ports.entry(name.clone()).or_insert_with(|| Port {
            number,
            local_endpoints: Arc::default(),
            doors: Vec::new(),
        });
        port.local_endpoints.store(local_endpoints, Ordering::Relaxed);
        if port.number != number {
            port.number = number;
            port.doors.clear();
        }
    }

    /// Opens what is not open; what fails is tried again the next time, and told if `tell`.
    pub(crate) fn open_missing(&mut self, tell: bool) -> Option<String> {
        let mut failed = None;
        let HealthPorts { server, health, addresses, ports } = self;
        for (name, port) in ports.iter_mut().filter(|(_, port)| port.doors.is_empty()) {
            let handler = handler(name.clone(), port.local_endpoints.clone(), health.clone());
            match open(server, addresses, port.number, &handler) {
                Ok(doors) => {
                    port.doors = doors;
                    if !tell {
                        info!("health-check port {} of Service {name} is open at last", port.number);
                    }
                }
                Err(error) if tell => {
                    let what = format!("health-check port {} of Service {name}: {error}", port.number);
                    error!("open {what}; trying again");
                    failed = Some(what);
                }
                Err(_) => {}
            }
        }
        failed
    }
}

/// All of a port's doors or none.
fn open(server: &Server, addresses: &[IpAddr], port: u16, handler: &Handler) -> io::Result<Vec<Door>> {
    addresses.iter().map(|ip| server.open(SocketAddr::new(*ip, port), handler.clone())).collect()
}

fn handler(name: ObjectName, local_endpoints: Arc<AtomicU32>, health: Arc<Health>) -> Handler {
    Arc::new(move |_: &Request| {
        let healthy = health.find().healthy;
        answer(&name, local_endpoints.load(Ordering::Relaxed), healthy)
    })
}

/// As kube-proxy spells it.
fn answer(name: &ObjectName, local_endpoints: u32, healthy: bool) -> Response {
    let ObjectName { namespace, name } = name;
    let status = if local_endpoints > 0 && healthy { 200 } else { 503 };
    let (namespace, name) = (escape(namespace), escape(name));
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\
         \"localEndpoints\": {local_endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    Response::json(status, body)
        .with("X-Content-Type-Options", "nosniff")
        .with("X-Load-Balancing-Endpoint-Weight", local_endpoints.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let name = ObjectName::new("shop", "web");
        let cases = [(0, true, 503), (0, false, 503), (2, true, 200), (2, false, 503)];
        for (local, healthy, status) in cases {
            let response = answer(&name, local, healthy);
            assert_eq!(response.status, status, "{local} {healthy}");
            let body: serde_json::Value = serde_json::from_str(&response.body).expect("JSON");
            let expected = serde_json::json!({
                "service": {"namespace": "shop", "name": "web"},
                "localEndpoints": local,
                "serviceProxyHealthy": healthy,
            });
            assert_eq!(body, expected);
            assert!(response.headers.contains(&("X-Load-Balancing-Endpoint-Weight", local.to_string())));
        }
    }
}
