//! What this node should do about the cluster: for each port of each Service its frontends, and
//! for each frontend which backends, masqueraded or not, or why none.
//!
//! Every policy decision is taken here, once, for all data planes. [`rules`] is the specification:
//! the whole plan from the whole cluster. [`Planner`] keeps the same plan up to date change by
//! change, and [`trace`] asks it about one packet. Nothing here does I/O or reads a clock.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod aside;
mod claims;
mod decide;
mod endpoints;
mod node;
mod planner;
mod rules;
mod trace;

pub use aside::{Aside, BackendKey};
pub use node::{DetectLocal, LocalSources, NodePortAddresses, NodeRules, Settings};
pub use planner::{Delta, Planner, rules, rules_beside};
pub use rules::{
    At, Backend, Contested, Frontend, FrontendKind, HealthCheck, Masquerade, Pool, PoolKind, PortRules,
    Rules, ServiceRules, Target,
};
pub use trace::{Packet, Verdict, VerdictKind, trace};
