//! A scenario on a real kernel: its nodes, pods and clients as hosts in network namespaces, the
//! plane in the namespace of the node under test, and real packets for every flow.

mod bench;
mod flow;

pub(crate) use bench::Bench;
