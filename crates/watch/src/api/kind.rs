//! Which objects are asked for, and how: kube-proxy's selectors where only routes are wanted.

use super::watcher::escape;
use crate::Keep;
use crate::manifest::Kind;

/// A kind of object as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    kind: Kind,
    path: &'static str,
    plural: &'static str,
    labels: Option<&'static str>,
    fields: Option<String>,
    optional: bool,
}

/// What is asked for. Where names are wanted too, headless Services and their endpoints are needed,
/// and the namespaces' labels; one watch then serves both. Without a node there are
/// no routes: a DNS server need not, and mostly may not, read Nodes and ServiceCIDRs.
pub(super) fn resources(node: &str, keep: Keep) -> Vec<Resource> {
    if keep.imports {
        return imports();
    }
    let routes_only = !keep.names;
    let mut resources = vec![
        Resource {
            kind: Kind::Service,
            path: "/api/v1/services",
            plural: "Services",
            labels: routes_only.then_some("!service.kubernetes.io/service-proxy-name"),
            fields: routes_only.then(|| "spec.clusterIP!=None".to_owned()),
            optional: false,
        },
        Resource {
            kind: Kind::Slice,
            path: "/apis/discovery.k8s.io/v1/endpointslices",
            plural: "EndpointSlices",
            labels: routes_only.then_some("!service.kubernetes.io/headless"),
            fields: None,
            optional: false,
        },
        Resource {
            kind: Kind::Node,
            path: "/api/v1/nodes",
            plural: "our Node",
            labels: None,
            fields: Some(format!("metadata.name={node}")),
            optional: true,
        },
        Resource {
            kind: Kind::ServiceCidr,
            path: "/apis/networking.k8s.io/v1/servicecidrs",
            plural: "ServiceCIDRs",
            labels: None,
            fields: None,
            optional: true,
        },
    ];
    if node.is_empty() {
        resources.retain(|resource| !matches!(resource.kind, Kind::Node | Kind::ServiceCidr));
    }
    if keep.names {
        resources.push(Resource {
            kind: Kind::Namespace,
            path: "/api/v1/namespaces",
            plural: "Namespaces",
            labels: None,
            fields: None,
            optional: false,
        });
    }
    if keep.pods {
        resources.push(Resource {
            kind: Kind::Pod,
            path: "/api/v1/pods",
            plural: "Pods",
            labels: None,
            fields: Some("status.phase!=Succeeded,status.phase!=Failed".to_owned()),
            optional: false,
        });
    }
    resources
}

/// ServiceImports, which few clusters have, and the slices of their endpoints.
fn imports() -> Vec<Resource> {
    vec![
        Resource {
            kind: Kind::Import,
            path: "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports",
            plural: "ServiceImports",
            labels: None,
            fields: None,
            optional: true,
        },
        Resource {
            kind: Kind::Slice,
            path: "/apis/discovery.k8s.io/v1/endpointslices",
            plural: "EndpointSlices of ServiceImports",
            labels: Some("multicluster.kubernetes.io/service-name"),
            fields: None,
            optional: false,
        },
    ]
}

/// API groups and resources that are listed and watched, as RBAC names them.
pub fn rights(keep: Keep) -> Vec<(&'static str, &'static str)> {
    let right = |resource: &Resource| {
        let rest = resource.path.trim_start_matches("/apis/");
        match rest.split('/').collect::<Vec<_>>().as_slice() {
            // `/api/v1/services`: the core group has no name.
            ["", "api", _, plural] => ("", *plural),
            [group, _, plural] => (*group, *plural),
            [..] => ("", ""),
        }
    };
    resources("node", keep).iter().map(right).collect()
}

impl Resource {
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn path(&self) -> &'static str {
        self.path
    }

    /// As messages call it.
    pub(super) fn plural(&self) -> &'static str {
        self.plural
    }

    /// We can do without.
    pub(super) fn optional(&self) -> bool {
        self.optional
    }

    /// Has a field selector that older servers may not know.
    pub(super) fn has_fields(&self) -> bool {
        self.kind == Kind::Service && self.fields.is_some()
    }

    /// The selectors as they stand in a URL.
    pub(super) fn selectors(&self, with_fields: bool) -> String {
        let labels = self.labels.map(|labels| format!("labelSelector={}", escape(labels)));
        let fields = self.fields.as_ref().filter(|_| with_fields || !self.has_fields());
        let fields = fields.map(|fields| format!("fieldSelector={}", escape(fields)));
        let both: Vec<String> = labels.into_iter().chain(fields).collect();
        both.join("&")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_as_rbac_names_them() {
        assert_eq!(
            rights(Keep::default()),
            [
                ("", "services"),
                ("discovery.k8s.io", "endpointslices"),
                ("", "nodes"),
                ("networking.k8s.io", "servicecidrs"),
            ]
        );
    }

    #[test]
    fn selectors_of_kube_proxy() {
        let selectors = |keep| -> Vec<String> {
            resources("node-a", keep).iter().map(|resource| resource.selectors(true)).collect()
        };
        assert_eq!(
            selectors(Keep::default()),
            [
                "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name&fieldSelector=spec.clusterIP%21%3DNone",
                "labelSelector=%21service.kubernetes.io%2Fheadless",
                "fieldSelector=metadata.name%3Dnode-a",
                "",
            ]
        );
        assert_eq!(
            selectors(Keep::ALL),
            [
                "",
                "",
                "fieldSelector=metadata.name%3Dnode-a",
                "",
                "",
                "fieldSelector=status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed"
            ]
        );
        let imports = Keep { names: true, imports: true, ..Keep::default() };
        assert_eq!(selectors(imports), ["", "labelSelector=multicluster.kubernetes.io%2Fservice-name"]);
        assert_eq!(
            rights(imports),
            [("multicluster.x-k8s.io", "serviceimports"), ("discovery.k8s.io", "endpointslices")]
        );
        assert_eq!(resources("", Keep { names: true, ..Keep::default() }).len(), 3);
        let services = &resources("n", Keep::default())[0];
        assert_eq!(services.selectors(false), "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name");
    }
}
