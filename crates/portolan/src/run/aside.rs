//! The loop's part in setting backends aside: plan, kernel and observers are told of each turn.

use super::Daemon;
use ::aside::{BackendKey, Turn};
use dataplane::conntrack::{self, Suspects};
use model::Protocol;
use plan::Delta;
use std::time::Instant;
use telemetry::{error, info, verbose, warn};

impl Daemon {
    /// Takes in what the lookout's thread has told.
    pub(super) fn hear(&mut self) {
        let news = std::mem::take(&mut self.news);
        let Some(lookout) = self.lookout.as_mut().filter(|_| self.synced) else { return };
        let mut turns = Vec::new();
        for news in news {
            turns.extend(lookout.hear(news, &self.planner));
        }
        // First things first: clients wait.
        self.turn(&turns);
        if let Some(lookout) = &mut self.lookout {
            lookout.follow(&turns, &self.planner, &self.cluster);
        }
    }

    /// Does what time brings.
    pub(super) fn watch(&mut self) {
        let Some(lookout) = self.lookout.as_mut().filter(|_| self.synced) else { return };
        lookout.search(&self.planner);
        let again = lookout.tick();
        self.forget_unanswered(&again);
    }

    /// Backends are set aside, or back.
    fn turn(&mut self, turns: &[Turn]) {
        let Some(lookout) = self.lookout.as_mut().filter(|_| !turns.is_empty()) else { return };
        let begin = Instant::now();
        let told: Vec<_> = turns.iter().map(|turn| (turn, lookout.note(turn))).collect();
        let deltas = self.planner.set_aside(&self.cluster, lookout.aside());
        let aside = lookout.count();
        let report = self.plane.apply(&deltas);
        self.account(&report);
        let gone = turns.iter().filter_map(|turn| match turn {
            Turn::Aside(aside) => Some(aside.backend),
            Turn::Back(_) => None,
        });
        let gone: Vec<_> = gone.collect();
        self.forget_unanswered(&gone);
        self.forget_flows(&Suspects::of_changes(&deltas));
        if let Some(lookout) = &mut self.lookout {
            lookout.keep();
        }
        self.observer.metrics.turned(turns, aside);
        for (turn, words) in told {
            let gone = matches!(turn, Turn::Aside(_));
            let reason = if gone { "BackendSetAside" } else { "BackendBack" };
            if gone {
                warn!("{words}");
            } else {
                info!("{words}");
            }
            self.observer.event(gone, reason, "Balance", words);
        }
        verbose!(
            2,
            "turned backends={} services={} steps={} took_us={}",
            turns.len(),
            deltas.len(),
            report.steps,
            begin.elapsed().as_micros()
        );
    }

    /// Rules have changed: who is a backend of nobody any more is not aside either.
    pub(super) fn prune(&mut self, deltas: &[Delta]) -> Vec<Delta> {
        let Some(lookout) = &mut self.lookout else { return Vec::new() };
        if !lookout.prune(deltas, &self.planner) {
            return Vec::new();
        }
        lookout.keep();
        self.observer.metrics.turned(&[], lookout.count());
        self.planner.set_aside(&self.cluster, lookout.aside())
    }

    /// Connections that wait for an answer of these are forgotten: the client's next try is balanced anew.
    fn forget_unanswered(&mut self, backends: &[BackendKey]) {
        let tcp = backends.iter().filter(|backend| backend.protocol == Protocol::Tcp);
        let tcp: Vec<_> = tcp.map(|backend| backend.at).collect();
        match conntrack::forget_unanswered(&tcp) {
            Ok(0) => {}
            Ok(flows) => verbose!(1, "forgot {flows} connections that waited for an answer"),
            Err(error) => {
                error!("cannot forget connections that wait for an answer: {}", crate::output::chain(&error));
            }
        }
    }
}
