//! Names of this product in Kubernetes objects that several rooms use.

/// The field manager of all applied objects.
pub(crate) const MANAGER: &str = "vl3-lb";

/// The `spec.loadBalancerClass` of Services that the balancer serves.
pub(crate) const CLASS: &str = "vl3-lb.io/vl3-lb";

/// The label of EndpointSlices that names the controller that manages them.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// The balancers as a controller: of Events, and as the value of [`MANAGED_BY`] on EndpointSlices that they write.
pub(crate) const CONTROLLER: &str = "vl3-lb.io";

/// Whether a name has a namespace.
pub(crate) fn is_qualified(name: &str) -> bool {
    name.contains('.')
}

/// The name of a Service, or of one of its ports, with its namespace, as in the DNS of Kubernetes. One that has a namespace
/// stays: labels contain no dot.
pub(crate) fn qualified(name: &str, namespace: &str) -> String {
    if is_qualified(name) {
        name.to_owned()
    } else {
        format!("{name}.{namespace}")
    }
}
