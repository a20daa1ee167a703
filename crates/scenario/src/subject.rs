//! Who is asked what becomes of packets: the plan, a plane's image, or a kernel.

use crate::Expectation;
use crate::setup::Setup;
use plan::Rules;

/// Who is asked.
pub(crate) enum Subject {
    /// [`plan::trace`], the reference.
    Trace,
}

impl Subject {
    /// Makes it hold the plan as it is now.
    pub(crate) fn update(&mut self, _rules: &Rules) {
        match self {
            Subject::Trace => {}
        }
    }

    /// How what becomes of the flow differs from what is expected.
    pub(crate) fn differences(&self, rules: &Rules, setup: &Setup, asked: &Expectation) -> Vec<String> {
        match self {
            Subject::Trace => {
                asked.expected.differences(&plan::trace(rules, &setup.node_addresses, &asked.packet))
            }
        }
    }
}
