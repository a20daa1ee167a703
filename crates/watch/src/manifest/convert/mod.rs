//! From Kubernetes' objects to the model's, with the defaults that the API server would have filled
//! in and the checks that it would have made: manifests have not been past it.
//!
//! A field that makes no sense costs as little as can be: a port, an address, an endpoint is left
//! out and the rest of its object serves. An object is left out only when what is wrong with it
//! leaves nothing sensible to serve (no name, a ClusterIP that is none). Every such decision is a
//! [`Complaint`].

mod import;
mod node;
mod service;
mod slice;

use super::names::Names;
use super::wire::{Annotations, Labels, Metadata, Number, OUR_PREFIX, Text};
use super::{Keep, time};
use crate::Severity;
use model::{Name, ObjectKey, ObjectName, Prefix, Protocol, Words, parse_ip};
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

/// The namespace of an object that names none, as for `kubectl apply`.
const DEFAULT_NAMESPACE: &str = "default";

/// The longest name of an object (a DNS subdomain).
const SUBDOMAIN_MAX: usize = 253;

/// The longest label of DNS: namespaces, Services, ports.
const LABEL_MAX: usize = 63;

/// The kinds that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Service,
    /// A ServiceImport, which is a Service of another set.
    Import,
    Slice,
    Node,
    Namespace,
    Pod,
    ServiceCidr,
}

impl Kind {
    /// The kind of an object by its `apiVersion` and `kind`.
    pub(crate) fn of(api_version: &str, kind: &str) -> Option<Kind> {
        Some(match (api_version, kind) {
            ("v1", "Service") => Kind::Service,
            ("multicluster.x-k8s.io/v1alpha1", "ServiceImport") => Kind::Import,
            ("discovery.k8s.io/v1", "EndpointSlice") => Kind::Slice,
            ("v1", "Node") => Kind::Node,
            ("v1", "Namespace") => Kind::Namespace,
            ("v1", "Pod") => Kind::Pod,
            ("networking.k8s.io/v1" | "networking.k8s.io/v1beta1", "ServiceCIDR") => Kind::ServiceCidr,
            _ => return None,
        })
    }

    /// The name of the kind.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Service => "Service",
            Kind::Import => "ServiceImport",
            Kind::Slice => "EndpointSlice",
            Kind::Node => "Node",
            Kind::Namespace => "Namespace",
            Kind::Pod => "Pod",
            Kind::ServiceCidr => "ServiceCIDR",
        }
    }

    fn is_namespaced(self) -> bool {
        matches!(self, Kind::Service | Kind::Import | Kind::Slice | Kind::Pod)
    }

    /// How messages call an object: `Service shop/web`.
    pub(crate) fn describe(self, namespace: Option<&str>, name: &str) -> String {
        let kind = self.name();
        match self.is_namespaced() {
            true => format!("{kind} {}/{name}", namespace.unwrap_or(DEFAULT_NAMESPACE)),
            false => format!("{kind} {name}"),
        }
    }

    /// The key of an object of this kind.
    pub(crate) fn key(self, namespace: Option<&str>, name: &str) -> ObjectKey {
        let full = || ObjectName::new(namespace.unwrap_or(DEFAULT_NAMESPACE), name);
        match self {
            Kind::Service | Kind::Import => ObjectKey::Service(full()),
            Kind::Slice => ObjectKey::Slice(full()),
            Kind::Pod => ObjectKey::Pod(full()),
            Kind::Node => ObjectKey::Node(name.into()),
            Kind::Namespace => ObjectKey::Namespace(name.into()),
            Kind::ServiceCidr => ObjectKey::ServiceCidr(name.into()),
        }
    }
}

/// Something about an object that was not as it should be, and what was done about it.
#[derive(Debug)]
pub(crate) struct Complaint {
    pub(crate) severity: Severity,
    pub(crate) what: String,
}

/// What an object becomes: itself, nothing (it is well-formed, but not for us; a complaint may say
/// so), or a reason why it cannot be served.
pub(crate) type Converted<T> = Result<Option<T>, String>;

/// What conversion needs and leaves behind.
pub(crate) struct Context<'r> {
    pub(crate) keep: Keep,
    pub(crate) names: &'r mut Names,
    pub(crate) complaints: &'r mut Vec<Complaint>,
    /// What a slice says of when what it tells of happened.
    pub(crate) trigger: &'r mut Option<SystemTime>,
}

impl Context<'_> {
    fn complain(&mut self, field: fmt::Arguments<'_>, what: impl fmt::Display) {
        self.complaints.push(Complaint { severity: Severity::Error, what: format!("{field}: {what}") });
    }

    fn notice(&mut self, what: impl Into<String>) {
        self.complaints.push(Complaint { severity: Severity::Notice, what: what.into() });
    }

    /// Namespace and name, checked.
    fn object_name(&mut self, metadata: &Metadata<'_>, name_max: usize) -> Result<ObjectName, String> {
        let namespace =
            metadata.namespace.as_deref().filter(|text| !text.is_empty()).unwrap_or(DEFAULT_NAMESPACE);
        if !is_label(namespace) {
            return Err(format!("metadata.namespace: {namespace:?} is not a DNS label"));
        }
        let name = name(metadata, name_max)?;
        Ok(ObjectName { namespace: self.names.word(namespace), name: name.into() })
    }

    /// An address; a complaint and nothing when it is none.
    fn ip(&mut self, field: fmt::Arguments<'_>, text: &str) -> Option<IpAddr> {
        match parse_ip(text) {
            Ok(ip) => Some(ip),
            Err(error) => {
                self.complain(field, format_args!("{error}; left out"));
                None
            }
        }
    }

    /// A network; a complaint and nothing when it is none.
    fn prefix(&mut self, field: fmt::Arguments<'_>, text: &str) -> Option<Prefix> {
        match text.parse() {
            Ok(prefix) => Some(prefix),
            Err(error) => {
                self.complain(field, format_args!("{error}; left out"));
                None
            }
        }
    }

    /// A port number.
    fn port(&mut self, field: fmt::Arguments<'_>, number: Number) -> Option<u16> {
        let port = u16::try_from(number.0).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.complain(field, format_args!("{} is not between 1 and 65535; left out", number.0));
        }
        port
    }

    /// A protocol, TCP where none is named.
    fn protocol(&mut self, field: fmt::Arguments<'_>, text: Option<&str>) -> Option<Protocol> {
        match text {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(other) => {
                self.complain(field, format_args!("{other:?} is not TCP, UDP or SCTP; left out"));
                None
            }
        }
    }

    /// The name of a port, empty where it has none.
    fn port_name(&mut self, field: fmt::Arguments<'_>, text: Option<&str>) -> Option<Name> {
        let text = text.unwrap_or_default();
        if !text.is_empty() && !is_label(text) {
            self.complain(field, format_args!("{text:?} is not a DNS label; left out"));
            return None;
        }
        Some(self.names.word(text))
    }

    /// At most one of each family, the first.
    fn one_a_family(&mut self, field: &str, ips: Vec<IpAddr>) -> Vec<IpAddr> {
        let mut kept: Vec<IpAddr> = Vec::with_capacity(ips.len());
        for ip in ips {
            if kept.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
                self.complain(
                    format_args!("{field}"),
                    format_args!("{ip} is a second address of its family; left out"),
                );
            } else {
                kept.push(ip);
            }
        }
        kept
    }

    fn created(&mut self, metadata: &Metadata<'_>) -> Option<i64> {
        let text = metadata.creation_timestamp.as_deref()?;
        let seconds = time::seconds(text);
        if seconds.is_none() {
            self.complain(
                format_args!("metadata.creationTimestamp"),
                format_args!("{text:?} is not a timestamp of RFC 3339; left out"),
            );
        }
        seconds
    }

    /// Our own annotations, by the part behind the slash.
    fn our_annotations(&mut self, annotations: &Annotations<'_>) -> Words {
        let ours = annotations.0.iter().filter_map(|(key, value)| {
            let key = key.strip_prefix(OUR_PREFIX)?;
            Some((self.names.word(key), Name::from(&**value)))
        });
        ours.collect()
    }

    fn labels<L: FromIterator<(Name, Name)>>(&mut self, labels: &Labels<'_>) -> L {
        labels.0.iter().map(|(key, value)| (self.names.word(key), self.names.word(value))).collect()
    }
}

/// The object's own name, checked.
fn name<'m>(metadata: &'m Metadata<'_>, max: usize) -> Result<&'m str, String> {
    match metadata.name.as_deref() {
        None | Some("") => Err("metadata.name: missing".into()),
        Some(name) if max == LABEL_MAX && !is_label(name) => {
            Err(format!("metadata.name: {name:?} is not a DNS label"))
        }
        Some(name) if !is_subdomain(name) => Err(format!("metadata.name: {name:?} is not a DNS subdomain")),
        Some(name) => Ok(name),
    }
}

/// A label as RFC 1123 has it, in lower case.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= LABEL_MAX
        && !text.is_empty()
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    // Kubernetes bounds the whole, not each label.
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    text.len() <= SUBDOMAIN_MAX && text.split('.').all(label)
}

/// Why an address cannot be one that traffic is sent to, if it cannot.
fn special(ip: IpAddr) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_unspecified() {
        Some("is no address of anything")
    } else if ip.is_loopback() {
        Some("is a loopback address")
    } else if link_local {
        Some("is a link-local address")
    } else if ip.is_multicast() {
        Some("is a multicast address")
    } else {
        None
    }
}

/// A text that says something.
fn said<'t>(text: &'t Option<Text<'_>>) -> Option<&'t str> {
    text.as_deref().filter(|text| !text.is_empty())
}
