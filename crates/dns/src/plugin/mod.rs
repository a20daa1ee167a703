//! The plugins: the one list of them, in the order of the chain.
//!
//! # Adding a plugin
//!
//! 1. A file of its own here, named like the plugin, that begins with what it does and its syntax.
//! 2. `pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error>`
//!    reads its directives. `setting.once()` is the directive of a plugin that may stand in a block
//!    once. [`Line`](crate::corefile::Line) has its arguments ([`Line::exactly`](crate::corefile::Line::exactly)
//!    and the like) and its options as further lines; [`setup::duration`](crate::setup::duration),
//!    [`setup::number`](crate::setup::number), [`corefile::origins`](crate::corefile::origins) read words.
//!    Every word is used or refused: `word.error("what is wrong")` is an error that names file, line and
//!    word, and `option.unknown_option("name")` the one for an option that does not exist.
//! 3. What it returns is its [`Plugin`], or nothing where it only changes settings of its block
//!    (`bind`) or of the process (`health`).
//! 4. The plugin does its work in [`Plugin::ask`] on the way in and [`Plugin::answered`] on the way
//!    out; where that takes waiting, in [`Plugin::later`]. `exchange.from` says who asks and how,
//!    `at.chain` for which zone, `at.look_up` asks the server a further question, and
//!    `exchange.note` keeps something from the way in to the way out. `whoami` is the smallest that
//!    answers, `errors` and `log` look at answers, `bufsize` changes questions and `loadbalance`
//!    answers.
//! 5. Counters come from `setting.world.metrics`, by CoreDNS' names and labels, at set-up; counting is
//!    then one addition.
//! 6. Its line in the list below says where in the chain it stands; its section in `docs/dns.md` says
//!    what it does. A test compares the two.

mod acl;
mod any;
mod authority;
mod auto;
mod autopath;
mod bind;
mod bufsize;
mod cache;
mod cancel;
mod chaos;
mod debug;
mod dns64;
mod erratic;
mod errors;
mod fall;
mod file;
mod forward;
mod header;
mod health;
mod hosts;
mod k8s_external;
pub(crate) mod kubernetes;
mod loadbalance;
mod local;
mod log;
mod metadata;
mod minimal;
mod multisocket;
mod nsid;
mod per_chain;
pub(crate) mod prometheus;
pub(crate) mod ready;
mod reload;
mod rewrite;
mod root;
mod rrl;
mod secondary;
mod self_query;
mod template;
mod timeouts;
mod tls;
mod transfer;
mod transports;
mod view;
mod whoami;

use crate::chain::Plugin;
use crate::corefile::{Error, Line};
use crate::setup::Setting;
use std::sync::Arc;

/// How a plugin is set up from its directives in a server block.
pub type SetUpFn = fn(&mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error>;

/// Whether and how a plugin can be set up.
#[derive(Clone, Copy)]
pub enum SetUp {
    /// Like this.
    Built(SetUpFn),
    /// CoreDNS has it and we do not: to name it is an error that says so.
    NotBuilt,
}

/// One line of the list.
pub struct Kind {
    /// Its name, which is also its directive.
    pub name: &'static str,
    /// Its set-up.
    pub set_up: SetUp,
}

const fn built(name: &'static str, set_up: SetUpFn) -> Kind {
    Kind { name, set_up: SetUp::Built(set_up) }
}

const fn not_built(name: &'static str) -> Kind {
    Kind { name, set_up: SetUp::NotBuilt }
}

/// All plugins, in the order in which questions come to them: CoreDNS' own (its `plugin.cfg`),
/// and `rrl`, which has to be put there.
pub const PLUGINS: &[Kind] = &[
    built("root", root::set_up),
    built("metadata", metadata::set_up),
    not_built("geoip"),
    built("cancel", cancel::set_up),
    not_built("proxyproto"),
    built("quic", transports::quic),
    built("grpc_server", transports::grpc_server),
    built("https", transports::https),
    not_built("https3"),
    built("timeouts", timeouts::set_up),
    built("multisocket", multisocket::set_up),
    built("reload", reload::set_up),
    built("nsid", nsid::set_up),
    built("bufsize", bufsize::set_up),
    built("bind", bind::set_up),
    built("debug", debug::set_up),
    not_built("trace"),
    built("ready", ready::set_up),
    built("health", health::set_up),
    not_built("pprof"),
    not_built("shed"),
    built("prometheus", prometheus::set_up),
    built("errors", errors::set_up),
    built("log", log::set_up),
    not_built("dnstap"),
    built("rrl", rrl::set_up),
    built("local", local::set_up),
    built("dns64", dns64::set_up),
    built("any", any::set_up),
    built("chaos", chaos::set_up),
    built("loadbalance", loadbalance::set_up),
    not_built("tsig"),
    built("rewrite", rewrite::set_up),
    built("autopath", autopath::set_up),
    built("acl", acl::set_up),
    built("cache", cache::set_up),
    built("header", header::set_up),
    not_built("dnssec"),
    built("tls", tls::set_up),
    built("minimal", minimal::set_up),
    built("template", template::set_up),
    built("transfer", transfer::set_up),
    built("hosts", hosts::set_up),
    not_built("route53"),
    not_built("azure"),
    not_built("clouddns"),
    built("k8s_external", k8s_external::set_up),
    built("kubernetes", kubernetes::set_up),
    built("file", file::set_up),
    built("auto", auto::set_up),
    built("secondary", secondary::set_up),
    not_built("etcd"),
    built("loop", self_query::set_up),
    built("forward", forward::set_up),
    not_built("grpc"),
    built("erratic", erratic::set_up),
    built("whoami", whoami::set_up),
    not_built("on"),
    not_built("sign"),
    built("view", view::set_up),
    not_built("nomad"),
];

/// What a `kubernetes` directive says of names, for those who ask crate `names` without a server.
pub fn kubernetes_options(line: &Line) -> Result<names::Options, Error> {
    kubernetes::names_options(line)
}

/// What a `k8s_external` directive says of names, for the same.
pub fn k8s_external_options(line: &Line) -> Result<names::External, Error> {
    k8s_external::names_external(line)
}

/// The names of those that are built.
pub fn built_names() -> impl Iterator<Item = &'static str> {
    PLUGINS.iter().filter(|kind| matches!(kind.set_up, SetUp::Built(_))).map(|kind| kind.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stands_there_once() {
        let mut names: Vec<&str> = PLUGINS.iter().map(|kind| kind.name).collect();
        names.sort_unstable();
        let twice: Vec<&[&str]> = names.windows(2).filter(|two| two[0] == two[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
        assert_eq!(names.len(), 61);
    }

    #[test]
    fn the_page_has_a_section_for_each_plugin_that_is_built_and_no_other() {
        let page = include_str!("../../../../docs/dns.md");
        let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        for Kind { name, set_up } in PLUGINS {
            let built = matches!(set_up, SetUp::Built(_));
            assert_eq!(sections.contains(name), built, "docs/dns.md: ### {name}");
            assert_eq!(
                page.contains(&format!("| [{name}](#{name}) |")),
                built,
                "docs/dns.md: the table, {name}"
            );
        }
    }
}
