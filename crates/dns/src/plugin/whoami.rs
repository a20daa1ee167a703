//! `whoami`: answers with the asker's own address and port.
//!
//! ```text
//! whoami
//! ```

use crate::chain::{At, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::{Exchange, Outcome};
use crate::setup::Setting;
use std::sync::Arc;
use wire::{Name, Owner, Section, Type};

struct Whoami;

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_arguments()?;
    line.no_block()?;
    Ok(Some(Arc::new(Whoami)))
}

impl Plugin for Whoami {
    fn ask(&self, exchange: &mut Exchange, _at: &At<'_>) -> Step {
        let Exchange { asked, reply, from, .. } = exchange;
        reply.authoritative = true;
        reply.push_address(Section::Additional, Owner::QUESTION, 0, from.client.ip().to_canonical());
        let mut name = Name::ROOT;
        let label = format!("_{}", from.transport.protocol());
        if name.push(label.as_bytes()).is_ok() && name.append(&asked.question.name).is_ok() {
            let owner = reply.own(&name);
            let port = from.client.port().to_be_bytes();
            let parts = [&[0; 4][..], &port, Name::ROOT.as_bytes()];
            reply.push_parts(Section::Additional, owner, Type::SRV, 0, &parts);
        }
        Step::Done(Outcome::Records)
    }
}
