//! Kubernetes objects as they are written, with only the fields that we keep.
//!
//! Texts borrow from the manifest where they can. `null` means the same as leaving a field out, as
//! it does for the API server. Numbers are read wide, so that 70000 is a port out of range and not
//! a file that cannot be read. Nothing here has a default or is checked: `convert` does that.

use serde::Deserialize as Derive;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

/// The annotation that held source ranges before there was a field for them.
pub(crate) const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// The annotation that says when what a slice tells of happened: a pod became ready, say.
pub(crate) const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What our own annotations begin with.
pub(crate) const OUR_PREFIX: &str = "portolan.dev/";

/// A string, borrowed where it holds no escapes. (Serde borrows no `Cow` inside an `Option`.)
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        deserializer.deserialize_str(Reader)
    }
}

/// A whole number, as wide as can be; whether it fits is for `convert` to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Number(pub(crate) i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }
            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                Ok(Number(i64::try_from(number).unwrap_or(i64::MAX)))
            }
        }
        deserializer.deserialize_i64(Reader)
    }
}

/// Reads a field where `null` stands for its empty value.
fn or_null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A map, and never a list: Serde would also read `[web, shop]` as the fields of a struct in turn.
pub(crate) struct OneMap<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = OneMap<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneMap<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(OneMap)
            }
        }
        deserializer.deserialize_map(Reader(PhantomData))
    }
}

/// Reads a map, empty for `null`.
fn map_or_null<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
{
    Ok(Option::<OneMap<T>>::deserialize(deserializer)?.map(|map| map.0).unwrap_or_default())
}

/// Reads a list of maps, empty for `null`.
fn maps_or_null<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
{
    let maps = Option::<Vec<OneMap<T>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(maps.into_iter().map(|map| map.0).collect())
}

/// Labels, in the order in which they are written.
#[derive(Default)]
pub(crate) struct Labels<'a>(pub(crate) Vec<(Text<'a>, Text<'a>)>);

impl Labels<'_> {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| &**k == key).map(|(_, value)| &**value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Labels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Pairs(|_| true)).map(Labels)
    }
}

/// The annotations that mean something to us. The others may be large (`kubectl apply` writes the
/// whole object into one) and are stepped over.
#[derive(Default)]
pub(crate) struct Annotations<'a>(pub(crate) Vec<(Text<'a>, Text<'a>)>);

impl Annotations<'_> {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| &**k == key).map(|(_, value)| &**value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Annotations<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ours = |key: &str| {
            matches!(key, SOURCE_RANGES_ANNOTATION | TRIGGER_ANNOTATION) || key.starts_with(OUR_PREFIX)
        };
        deserializer.deserialize_map(Pairs(ours)).map(Annotations)
    }
}

/// Reads a map of strings, or those of its entries whose keys are wanted.
struct Pairs(fn(&str) -> bool);

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(Text<'de>, Text<'de>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key::<Text<'de>>()? {
            if (self.0)(&key) {
                let value = map.next_value::<Option<Text<'de>>>()?.unwrap_or_default();
                pairs.push((key, value));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(pairs)
    }
}

#[derive(Derive, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata<'a> {
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) namespace: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) creation_timestamp: Option<Text<'a>>,
    pub(crate) deletion_timestamp: Option<IgnoredAny>,
    #[serde(borrow, default, deserialize_with = "or_null")]
    pub(crate) labels: Labels<'a>,
    #[serde(borrow, default, deserialize_with = "or_null")]
    pub(crate) annotations: Annotations<'a>,
}

#[derive(Derive, Default)]
pub(crate) struct Service<'a> {
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) metadata: Metadata<'a>,
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) spec: ServiceSpec<'a>,
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) status: ServiceStatus<'a>,
}

#[derive(Derive, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceSpec<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow, rename = "clusterIP")]
    pub(crate) cluster_ip: Option<Text<'a>>,
    #[serde(borrow, default, rename = "clusterIPs", deserialize_with = "or_null")]
    pub(crate) cluster_ips: Vec<Text<'a>>,
    #[serde(borrow, default, rename = "externalIPs", deserialize_with = "or_null")]
    pub(crate) external_ips: Vec<Text<'a>>,
    #[serde(borrow)]
    pub(crate) external_name: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "or_null")]
    pub(crate) load_balancer_source_ranges: Vec<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "maps_or_null")]
    pub(crate) ports: Vec<ServicePort<'a>>,
    #[serde(borrow)]
    pub(crate) session_affinity: Option<Text<'a>>,
    #[serde(default, deserialize_with = "map_or_null")]
    pub(crate) session_affinity_config: SessionAffinityConfig,
    #[serde(borrow)]
    pub(crate) external_traffic_policy: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) internal_traffic_policy: Option<Text<'a>>,
    pub(crate) health_check_node_port: Option<Number>,
    #[serde(default, deserialize_with = "or_null")]
    pub(crate) publish_not_ready_addresses: bool,
}

#[derive(Derive, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Import<'a> {
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) metadata: Metadata<'a>,
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) spec: ImportSpec<'a>,
}

#[derive(Derive, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImportSpec<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "or_null")]
    pub(crate) ips: Vec<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "maps_or_null")]
    pub(crate) ports: Vec<ServicePort<'a>>,
}

#[derive(Derive, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServicePort<'a> {
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) protocol: Option<Text<'a>>,
    pub(crate) port: Option<Number>,
    pub(crate) node_port: Option<Number>,
}

#[derive(Derive, Default)]
pub(crate) struct SessionAffinityConfig {
    #[serde(default, rename = "clientIP", deserialize_with = "map_or_null")]
    pub(crate) client_ip: ClientIp,
}

#[derive(Derive, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClientIp {
    pub(crate) timeout_seconds: Option<Number>,
}

#[derive(Derive, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceStatus<'a> {
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) load_balancer: LoadBalancerStatus<'a>,
}

#[derive(Derive, Default)]
pub(crate) struct LoadBalancerStatus<'a> {
    #[serde(borrow, default, deserialize_with = "maps_or_null")]
    pub(crate) ingress: Vec<Ingress<'a>>,
}

#[derive(Derive, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ingress<'a> {
    #[serde(borrow)]
    pub(crate) ip: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) ip_mode: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) hostname: Option<Text<'a>>,
}

#[derive(Derive, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Slice<'a> {
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) metadata: Metadata<'a>,
    #[serde(borrow)]
    pub(crate) address_type: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "maps_or_null")]
    pub(crate) ports: Vec<SlicePort<'a>>,
    #[serde(borrow, default, deserialize_with = "maps_or_null")]
    pub(crate) endpoints: Vec<Endpoint<'a>>,
}

#[derive(Derive, Default)]
pub(crate) struct SlicePort<'a> {
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) protocol: Option<Text<'a>>,
    pub(crate) port: Option<Number>,
}

#[derive(Derive, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint<'a> {
    #[serde(borrow, default, deserialize_with = "or_null")]
    pub(crate) addresses: Vec<Text<'a>>,
    #[serde(default, deserialize_with = "map_or_null")]
    pub(crate) conditions: Conditions,
    #[serde(borrow)]
    pub(crate) hostname: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) target_ref: TargetRef<'a>,
    #[serde(borrow)]
    pub(crate) node_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) zone: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) hints: Hints<'a>,
}

#[derive(Derive, Default)]
pub(crate) struct Conditions {
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
}

#[derive(Derive, Default)]
pub(crate) struct TargetRef<'a> {
    #[serde(borrow)]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
}

#[derive(Derive, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hints<'a> {
    #[serde(borrow, default, deserialize_with = "maps_or_null")]
    pub(crate) for_zones: Vec<Named<'a>>,
    #[serde(borrow, default, deserialize_with = "maps_or_null")]
    pub(crate) for_nodes: Vec<Named<'a>>,
}

#[derive(Derive, Default)]
pub(crate) struct Named<'a> {
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
}

#[derive(Derive, Default)]
pub(crate) struct Node<'a> {
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) metadata: Metadata<'a>,
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) spec: NodeSpec<'a>,
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) status: NodeStatus<'a>,
}

#[derive(Derive, Default)]
pub(crate) struct NodeSpec<'a> {
    #[serde(borrow, rename = "podCIDR")]
    pub(crate) pod_cidr: Option<Text<'a>>,
    #[serde(borrow, default, rename = "podCIDRs", deserialize_with = "or_null")]
    pub(crate) pod_cidrs: Vec<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "maps_or_null")]
    pub(crate) taints: Vec<Taint<'a>>,
}

#[derive(Derive, Default)]
pub(crate) struct Taint<'a> {
    #[serde(borrow)]
    pub(crate) key: Option<Text<'a>>,
}

#[derive(Derive, Default)]
pub(crate) struct NodeStatus<'a> {
    #[serde(borrow, default, deserialize_with = "maps_or_null")]
    pub(crate) addresses: Vec<NodeAddress<'a>>,
}

#[derive(Derive, Default)]
pub(crate) struct NodeAddress<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) address: Option<Text<'a>>,
}

#[derive(Derive, Default)]
pub(crate) struct Namespace<'a> {
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) metadata: Metadata<'a>,
}

#[derive(Derive, Default)]
pub(crate) struct Pod<'a> {
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) metadata: Metadata<'a>,
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) spec: PodSpec<'a>,
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) status: PodStatus<'a>,
}

#[derive(Derive, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodSpec<'a> {
    #[serde(borrow)]
    pub(crate) node_name: Option<Text<'a>>,
    #[serde(default, deserialize_with = "or_null")]
    pub(crate) host_network: bool,
}

#[derive(Derive, Default)]
pub(crate) struct PodStatus<'a> {
    #[serde(borrow)]
    pub(crate) phase: Option<Text<'a>>,
    #[serde(borrow, rename = "podIP")]
    pub(crate) pod_ip: Option<Text<'a>>,
    #[serde(borrow, default, rename = "podIPs", deserialize_with = "maps_or_null")]
    pub(crate) pod_ips: Vec<PodIp<'a>>,
}

#[derive(Derive, Default)]
pub(crate) struct PodIp<'a> {
    #[serde(borrow)]
    pub(crate) ip: Option<Text<'a>>,
}

#[derive(Derive, Default)]
pub(crate) struct ServiceCidr<'a> {
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) metadata: Metadata<'a>,
    #[serde(borrow, default, deserialize_with = "map_or_null")]
    pub(crate) spec: ServiceCidrSpec<'a>,
}

#[derive(Derive, Default)]
pub(crate) struct ServiceCidrSpec<'a> {
    #[serde(borrow, default, deserialize_with = "or_null")]
    pub(crate) cidrs: Vec<Text<'a>>,
}
