//! The cluster: all objects, changed one at a time, and what each change touches.

use crate::{ByName, Name, Named, Namespace, Node, ObjectName, Place, Pod, Service, ServiceCidr, Slice};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// An object of any kind that we know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "objects live in it only on their way into the cluster")]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    Slice(Slice),
    /// A Node.
    Node(Node),
    /// A Namespace.
    Namespace(Namespace),
    /// A Pod.
    Pod(Pod),
    /// A ServiceCIDR.
    ServiceCidr(ServiceCidr),
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKey {
    /// A Service.
    Service(ObjectName),
    /// An EndpointSlice.
    Slice(ObjectName),
    /// A Node.
    Node(Name),
    /// A Namespace.
    Namespace(Name),
    /// A Pod.
    Pod(ObjectName),
    /// A ServiceCIDR.
    ServiceCidr(Name),
}

impl Object {
    /// Which object it is.
    pub fn key(&self) -> ObjectKey {
        match self {
            Object::Service(o) => ObjectKey::Service(o.name.clone()),
            Object::Slice(o) => ObjectKey::Slice(o.name.clone()),
            Object::Node(o) => ObjectKey::Node(o.name.clone()),
            Object::Namespace(o) => ObjectKey::Namespace(o.name.clone()),
            Object::Pod(o) => ObjectKey::Pod(o.name.clone()),
            Object::ServiceCidr(o) => ObjectKey::ServiceCidr(o.name.clone()),
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly every change is an object, and none lives long")]
pub enum Change {
    /// The object is now so.
    Apply(Object),
    /// The object is gone.
    Delete(ObjectKey),
}

impl Change {
    /// Which object it is about.
    pub fn key(&self) -> ObjectKey {
        match self {
            Change::Apply(object) => object.key(),
            Change::Delete(key) => key.clone(),
        }
    }
}

/// What changes touched. Changes that change nothing touch nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services whose own object or endpoints changed.
    pub services: BTreeSet<ObjectName>,
    /// Nodes that changed.
    pub nodes: BTreeSet<Name>,
    /// A ServiceCIDR changed.
    pub service_cidrs: bool,
    /// Namespaces that changed.
    pub namespaces: BTreeSet<Name>,
    /// Pods that changed.
    pub pods: BTreeSet<ObjectName>,
}

impl Touched {
    /// Whether nothing was touched.
    pub fn is_empty(&self) -> bool {
        let Touched { services, nodes, service_cidrs, namespaces, pods } = self;
        services.is_empty() && nodes.is_empty() && !service_cidrs && namespaces.is_empty() && pods.is_empty()
    }

    /// Adds what another change touched.
    pub fn merge(&mut self, other: Touched) {
        let Touched { services, nodes, service_cidrs, namespaces, pods } = other;
        self.services.extend(services);
        self.nodes.extend(nodes);
        self.service_cidrs |= service_cidrs;
        self.namespaces.extend(namespaces);
        self.pods.extend(pods);
    }
}

impl Named for Service {
    fn name(&self) -> (&str, &str) {
        self.name.words()
    }
}

impl Named for Slice {
    fn name(&self) -> (&str, &str) {
        self.name.words()
    }
}

impl Named for Pod {
    fn name(&self) -> (&str, &str) {
        self.name.words()
    }
}

/// The slices of one Service, in order of their names. Most Services have one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Slices {
    One(Arc<Slice>),
    /// Never none.
    Many(Box<[Arc<Slice>]>),
}

impl Slices {
    fn as_slice(&self) -> &[Arc<Slice>] {
        match self {
            Slices::One(slice) => std::slice::from_ref(slice),
            Slices::Many(slices) => slices,
        }
    }

    /// `None` where there are none.
    fn new(slices: Vec<Arc<Slice>>) -> Option<Slices> {
        match <[_; 1]>::try_from(slices) {
            Ok([slice]) => Some(Slices::One(slice)),
            Err(slices) => (!slices.is_empty()).then(|| Slices::Many(slices.into())),
        }
    }
}

impl Named for Slices {
    /// The Service's.
    fn name(&self) -> (&str, &str) {
        self.as_slice().first().map_or(("", ""), |slice| (&slice.name.namespace, &slice.service))
    }
}

/// All objects of the cluster that we were told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    services: ByName<Arc<Service>>,
    /// Slices by the Service they belong to. A slice may come before its Service.
    slices: ByName<Slices>,
    /// The same slices by their own names, for the day one is deleted or moves to another Service.
    slices_by_name: ByName<Arc<Slice>>,
    nodes: BTreeMap<Name, Arc<Node>>,
    namespaces: BTreeMap<Name, Arc<Namespace>>,
    pods: ByName<Arc<Pod>>,
    service_cidrs: BTreeMap<Name, Arc<ServiceCidr>>,
    /// One shared [`Place`] for all endpoints of a node.
    places: HashSet<Arc<Place>>,
}

impl Cluster {
    /// A cluster of which nothing is known.
    pub fn new() -> Cluster {
        Cluster::default()
    }

    /// Takes in one change and says what it touches.
    pub fn apply(&mut self, change: Change) -> Touched {
        let mut touched = Touched::default();
        match change {
            Change::Apply(object) => self.put(object, &mut touched),
            Change::Delete(key) => self.delete(&key, &mut touched),
        }
        touched
    }

    fn put(&mut self, object: Object, touched: &mut Touched) {
        match object {
            Object::Service(mut service) => {
                let first = self.slices.get(service.name.words()).and_then(|s| s.as_slice().first());
                if let Some(slice) = first {
                    service.name.name = slice.service.clone();
                }
                let name = service.name.clone();
                if self.services.get(name.words()).is_none_or(|old| **old != service) {
                    self.services.insert(Arc::new(service));
                    touched.services.insert(name);
                }
            }
            Object::Slice(slice) => self.put_slice(slice, touched),
            Object::Node(node) => {
                let name = node.name.clone();
                if self.nodes.get(&name).is_none_or(|old| **old != node) {
                    self.nodes.insert(name.clone(), Arc::new(node));
                    touched.nodes.insert(name);
                }
            }
            Object::Namespace(namespace) => {
                let name = namespace.name.clone();
                if self.namespaces.get(&name).is_none_or(|old| **old != namespace) {
                    self.namespaces.insert(name.clone(), Arc::new(namespace));
                    touched.namespaces.insert(name);
                }
            }
            Object::Pod(pod) => {
                let name = pod.name.clone();
                if self.pods.get(name.words()).is_none_or(|old| **old != pod) {
                    self.pods.insert(Arc::new(pod));
                    touched.pods.insert(name);
                }
            }
            Object::ServiceCidr(cidr) => {
                let name = cidr.name.clone();
                if self.service_cidrs.get(&name).is_none_or(|old| **old != cidr) {
                    self.service_cidrs.insert(name, Arc::new(cidr));
                    touched.service_cidrs = true;
                }
            }
        }
    }

    fn put_slice(&mut self, mut slice: Slice, touched: &mut Touched) {
        for endpoint in &mut slice.endpoints {
            match self.places.get(&endpoint.place) {
                Some(place) => endpoint.place = place.clone(),
                None => {
                    self.places.insert(endpoint.place.clone());
                }
            }
        }
        let service = (&*slice.name.namespace, &*slice.service);
        // One copy of the name serves the Service and all of its slices.
        let known = self.services.get(service).map(|service| &service.name.name);
        let sibling = || Some(&self.slices.get(service)?.as_slice().first()?.service);
        if let Some(name) = known.or_else(sibling).cloned() {
            slice.service = name;
        }
        match self.slices_by_name.get(slice.name.words()) {
            Some(old) if **old == slice => return,
            Some(old) if old.service != slice.service => {
                let old = old.clone();
                self.slices_by_name.remove(old.name.words());
                self.drop_slice(&old, touched);
            }
            _ => {}
        }
        let service = slice.owner();
        let slice = Arc::new(slice);
        self.slices_by_name.insert(slice.clone());
        let others = self.slices.remove(service.words());
        let mut slices = Vec::with_capacity(1 + others.as_ref().map_or(0, |slices| slices.as_slice().len()));
        slices.extend(others.iter().flat_map(Slices::as_slice).cloned());
        match slices.binary_search_by(|other| other.name.name.cmp(&slice.name.name)) {
            Ok(index) => drop(std::mem::replace(&mut slices[index], slice)),
            Err(index) => slices.insert(index, slice),
        }
        if let Some(slices) = Slices::new(slices) {
            self.slices.insert(slices);
        }
        touched.services.insert(service);
    }

    /// Takes a slice from its Service.
    fn drop_slice(&mut self, slice: &Slice, touched: &mut Touched) {
        let service = slice.owner();
        if let Some(slices) = self.slices.remove(service.words()) {
            let left = slices.as_slice().iter().filter(|other| other.name != slice.name).cloned().collect();
            if let Some(left) = Slices::new(left) {
                self.slices.insert(left);
            }
        }
        touched.services.insert(service);
    }

    fn delete(&mut self, key: &ObjectKey, touched: &mut Touched) {
        match key {
            ObjectKey::Service(name) => {
                if self.services.remove(name.words()).is_some() {
                    touched.services.insert(name.clone());
                }
            }
            ObjectKey::Slice(name) => {
                if let Some(slice) = self.slices_by_name.remove(name.words()) {
                    self.drop_slice(&slice, touched);
                }
            }
            ObjectKey::Node(name) => {
                if self.nodes.remove(name).is_some() {
                    touched.nodes.insert(name.clone());
                    // Nodes come and go; the places of those that went are forgotten with them.
                    self.places.retain(|place| Arc::strong_count(place) > 1);
                }
            }
            ObjectKey::Namespace(name) => {
                if self.namespaces.remove(name).is_some() {
                    touched.namespaces.insert(name.clone());
                }
            }
            ObjectKey::Pod(name) => {
                if self.pods.remove(name.words()).is_some() {
                    touched.pods.insert(name.clone());
                }
            }
            ObjectKey::ServiceCidr(name) => {
                if self.service_cidrs.remove(name).is_some() {
                    touched.service_cidrs = true;
                }
            }
        }
    }

    /// As if everything had just come.
    pub fn all(&self) -> Touched {
        let slices = self.slices_by_name.iter().map(|slice| slice.owner());
        Touched {
            services: self.services.iter().map(|service| service.name.clone()).chain(slices).collect(),
            nodes: self.nodes.keys().cloned().collect(),
            service_cidrs: !self.service_cidrs.is_empty(),
            namespaces: self.namespaces.keys().cloned().collect(),
            pods: self.pods.iter().map(|pod| pod.name.clone()).collect(),
        }
    }

    /// One Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        self.services.get(name.words())
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    /// The slices of a Service, by name.
    pub fn slices(&self, service: &ObjectName) -> impl Iterator<Item = &Arc<Slice>> {
        self.slices.get(service.words()).into_iter().flat_map(Slices::as_slice)
    }

    /// Whether there is such an object.
    pub fn holds(&self, key: &ObjectKey) -> bool {
        match key {
            ObjectKey::Service(name) => self.services.get(name.words()).is_some(),
            ObjectKey::Slice(name) => self.slices_by_name.get(name.words()).is_some(),
            ObjectKey::Node(name) => self.nodes.contains_key(name),
            ObjectKey::Namespace(name) => self.namespaces.contains_key(name),
            ObjectKey::Pod(name) => self.pods.get(name.words()).is_some(),
            ObjectKey::ServiceCidr(name) => self.service_cidrs.contains_key(name),
        }
    }

    /// All slices, in no order.
    pub fn all_slices(&self) -> impl Iterator<Item = &Arc<Slice>> {
        self.slices_by_name.iter()
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// One namespace.
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    /// All namespaces, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.namespaces.values()
    }

    /// One pod.
    pub fn pod(&self, name: &ObjectName) -> Option<&Arc<Pod>> {
        self.pods.get(name.words())
    }

    /// All pods, in no order.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter()
    }

    /// All ServiceCIDRs, by name.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &Arc<ServiceCidr>> {
        self.service_cidrs.values()
    }
}

#[cfg(test)]
mod tests;
