//! Every reader of this crate behind one door, for fuzzing and for the property that no bytes
//! whatever make one panic.

use crate::attribute::{Attributes, attributes};
use crate::error::Refusal;
use crate::message::{Message, messages};
use crate::{conntrack, ipvs, nftables, route};

/// The kernel nests less deeply than this in what we read.
const DEPTH_MAX: usize = 8;
/// Lengths of the families' headers.
const FAMILY_HEADERS: [usize; 5] = [0, 4, 8, 12, 16];

/// Reads `data` as a datagram, and each message in it as everything that we can read. Must
/// return, whatever it is given.
pub fn fuzz_parse(data: &[u8]) {
    for message in messages(data) {
        for header in FAMILY_HEADERS {
            visit(message.attributes(header), DEPTH_MAX);
        }
        if let Some(refusal) = Refusal::read(message.flags, message.payload) {
            let _ = refusal.to_string();
        }
        let _ = Refusal::read_done(message.flags, message.payload).to_string();
        nftables::fuzz(&message);
        ipvs::fuzz(&message);
        route(&message);
        conntrack(&message);
    }
    nftables::fuzz_expressions(data);
    attributes(data).for_each(|attribute| nftables::fuzz_expressions(attribute.value));
}

fn visit(of: Attributes<'_>, depth: usize) {
    for attribute in of {
        let _ = (attribute.u8(), attribute.be16(), attribute.be32(), attribute.be64(), attribute.str());
        let _ = (attribute.ne16(), attribute.ne32(), attribute.ne64());
        let _ = nftables::userdata::read_comment(attribute.value);
        if depth > 0 {
            visit(attribute.nested(), depth - 1);
        }
    }
}

fn conntrack(message: &Message<'_>) {
    let flow = conntrack::read_flow(message);
    let flow = flow.or_else(|| conntrack::read_flow(&Message { kind: conntrack::CT_NEW, ..*message }));
    if let Some(flow) = flow {
        let filter = conntrack::Filter { protocol: Some(flow.original.protocol), ..Default::default() };
        assert!(filter.matches(&flow));
    }
}

fn route(message: &Message<'_>) {
    let _ = (route::Link::read(message), route::Address::read(message));
    let _ = (route::RouteEntry::read(message), route::Happened::read(message));
}
