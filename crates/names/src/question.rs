//! What a name asks for, by its shape alone.
//!
//! ```text
//!                                       ZONE    the apex
//!                               svc|pod.ZONE    nothing, but it exists
//!                          NS.svc|pod.ZONE      nothing, if the namespace exists
//!                  SERVICE.NS.svc.ZONE          a Service
//!         ENDPOINT.SERVICE.NS.svc.ZONE          one of its endpoints
//!      _PORT._PROTO.SERVICE.NS.svc.ZONE         one of its ports
//!  ENDPOINT.CLUSTER.SERVICE.NS.svc.ZONE         an endpoint of another cluster (multicluster)
//!  TZ….pin|prefer._zone.SERVICE.NS.svc.ZONE     its endpoints in a zone (zonal)
//!                  A-B-C-D.NS.pod.ZONE          a pod
//!                          dns-version.ZONE     the version of the specification
//!                               ns.dns.ZONE     this server
//! ```

use wire::Name;

/// So many labels before the zone are looked at one by one.
const LABELS_MAX: usize = 16;

/// What is asked of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Of<'q> {
    pub(crate) service: &'q [u8],
    pub(crate) namespace: &'q [u8],
    pub(crate) endpoint: Option<&'q [u8]>,
    /// The cluster of the endpoint.
    pub(crate) cluster: Option<&'q [u8]>,
    /// A port's name; empty for any.
    pub(crate) port: &'q [u8],
    /// A protocol; empty for any.
    pub(crate) protocol: &'q [u8],
    /// The endpoints of a zone.
    pub(crate) zone: Option<Zonal<'q>>,
}

/// The endpoints of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Zonal<'q> {
    /// The zone's name, which may have dots, as labels.
    pub(crate) labels: &'q [&'q [u8]],
    /// All endpoints where the zone has none.
    pub(crate) prefer: bool,
}

impl Zonal<'_> {
    /// Whether a zone is called so.
    pub(crate) fn is(&self, zone: Option<&str>) -> bool {
        let Some(zone) = zone else { return false };
        let mut parts = zone.split('.');
        let same = self
            .labels
            .iter()
            .all(|label| parts.next().is_some_and(|part| part.as_bytes().eq_ignore_ascii_case(label)));
        same && parts.next().is_none()
    }
}

/// What a name asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks<'q> {
    /// The zone itself.
    Apex,
    /// A name without records that has others below it.
    Empty,
    /// A namespace.
    Namespace(&'q [u8]),
    /// A Service, or something of it.
    Service(Of<'q>),
    /// A pod by its address.
    Pod { label: &'q [u8], namespace: &'q [u8] },
    /// `dns-version`.
    Version,
    /// `ns.dns`.
    Server,
    /// Nothing that there can be.
    Nothing,
}

/// The labels of a name before its zone, from the left.
pub(crate) struct Before<'q> {
    labels: [&'q [u8]; LABELS_MAX],
    count: usize,
}

impl<'q> Before<'q> {
    /// Of a name in lower case, whose last `zone_bytes` bytes are its zone.
    pub(crate) fn new(name: &'q Name, zone_bytes: usize) -> Option<Before<'q>> {
        let mut before = Before { labels: [&[]; LABELS_MAX], count: 0 };
        let mut labels = name.labels();
        while labels.rest().len() > zone_bytes {
            *before.labels.get_mut(before.count)? = labels.next()?;
            before.count += 1;
        }
        Some(before)
    }

    /// They themselves.
    pub(crate) fn labels(&self) -> &[&'q [u8]] {
        self.labels.get(..self.count).unwrap_or_default()
    }

    /// What they ask for.
    pub(crate) fn asks(&'q self, multicluster: bool, zonal: bool) -> Asks<'q> {
        match self.labels() {
            [] => Asks::Apex,
            [b"svc" | b"pod" | b"dns"] => Asks::Empty,
            [b"dns-version"] => Asks::Version,
            [b"ns", b"dns"] => Asks::Server,
            [namespace, b"svc"] => Asks::Namespace(namespace),
            // Without `pods` there are no names below pod, not even of namespaces; that is decided later.
            [namespace, b"pod"] => Asks::Pod { label: &[], namespace },
            [label, namespace, b"pod"] => Asks::Pod { label, namespace },
            [before @ .., service, namespace, b"svc"] => {
                of_service(before, service, namespace, multicluster, zonal)
            }
            _ => Asks::Nothing,
        }
    }
}

fn of_service<'q>(
    before: &'q [&'q [u8]],
    service: &'q [u8],
    namespace: &'q [u8],
    multicluster: bool,
    zonal: bool,
) -> Asks<'q> {
    let of = Of { service, namespace, ..Of::default() };
    let of = match before {
        [] => of,
        [endpoint] => Of { endpoint: Some(endpoint), ..of },
        [endpoint, cluster] if multicluster && !endpoint.starts_with(b"_") && !cluster.starts_with(b"_") => {
            Of { endpoint: Some(endpoint), cluster: Some(cluster), ..of }
        }
        // The underscores may be missing, as in CoreDNS.
        [port, protocol] => Of { port: bare(port), protocol: bare(protocol), ..of },
        [labels @ .., directive @ (b"pin" | b"prefer"), b"_zone"]
            if zonal && !multicluster && !labels.is_empty() =>
        {
            Of { zone: Some(Zonal { labels, prefer: *directive == b"prefer" }), ..of }
        }
        _ => return Asks::Nothing,
    };
    Asks::Service(of)
}

/// A label without its underscore.
pub(crate) fn bare(label: &[u8]) -> &[u8] {
    label.strip_prefix(b"_").unwrap_or(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, multicluster: bool, zonal: bool) -> String {
        let name: Name = format!("{text}cluster.local").parse().unwrap();
        let zone: Name = "cluster.local".parse().unwrap();
        let Some(before) = Before::new(&name, zone.as_bytes().len()) else { return "too long".into() };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match before.asks(multicluster, zonal) {
            Asks::Namespace(namespace) => format!("namespace {}", text(namespace)),
            Asks::Pod { label, namespace } => format!("pod {}/{}", text(namespace), text(label)),
            Asks::Service(of) => {
                let mut shown = format!("{}/{}", text(of.namespace), text(of.service));
                for (word, what) in [("endpoint", of.endpoint), ("cluster", of.cluster)] {
                    shown += &what.map(|what| format!(" {word} {}", text(what))).unwrap_or_default();
                }
                if !(of.port.is_empty() && of.protocol.is_empty()) {
                    shown += &format!(" port {}/{}", text(of.port), text(of.protocol));
                }
                if let Some(zonal) = of.zone {
                    let labels: Vec<String> = zonal.labels.iter().map(|label| text(label)).collect();
                    shown += &format!(
                        " zone {} {}",
                        labels.join("."),
                        if zonal.prefer { "prefer" } else { "pin" }
                    );
                }
                shown
            }
            asks => format!("{asks:?}"),
        }
    }

    #[test]
    fn shapes() {
        for (text, want) in [
            ("", "Apex"),
            ("svc.", "Empty"),
            ("pod.", "Empty"),
            ("dns.", "Empty"),
            ("x.", "Nothing"),
            ("shop.svc.", "namespace shop"),
            ("shop.pod.", "pod shop/"),
            ("web.shop.svc.", "shop/web"),
            ("web.shop.x.", "Nothing"),
            ("web-0.web.shop.svc.", "shop/web endpoint web-0"),
            ("_http._tcp.web.shop.svc.", "shop/web port http/tcp"),
            ("http.tcp.web.shop.svc.", "shop/web port http/tcp"),
            ("a.b.c.web.shop.svc.", "Nothing"),
            ("a.pin._zone.web.shop.svc.", "Nothing"),
            ("10-0-0-1.shop.pod.", "pod shop/10-0-0-1"),
            ("x.10-0-0-1.shop.pod.", "Nothing"),
            ("dns-version.", "Version"),
            ("ns.dns.", "Server"),
            ("x.ns.dns.", "Nothing"),
            ("1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.", "too long"),
        ] {
            assert_eq!(shown(text, false, false), want, "{text}");
        }
        assert_eq!(shown("a.b.pin._zone.web.shop.svc.", false, true), "shop/web zone a.b pin");
        assert_eq!(shown("a.prefer._zone.web.shop.svc.", false, true), "shop/web zone a prefer");
        assert_eq!(shown("pin._zone.web.shop.svc.", false, true), "shop/web port pin/zone");
        assert_eq!(shown("a.c1.web.shop.svc.", true, false), "shop/web endpoint a cluster c1");
        assert_eq!(shown("_a.c1.web.shop.svc.", true, false), "shop/web port a/c1");
    }
}
