//! The engine by stories, and by what must hold in all of them.

use super::*;
use model::Protocol;
use proptest::prelude::*;

const HEALTHY: Outcome =
    Outcome { answer: Answer::Accepted(Duration::from_millis(1)), lives: true, control: true, stands: true };
const DEAD: Outcome = Outcome { answer: Answer::Silent, lives: false, control: true, stands: true };
const BUSY: Outcome = Outcome { answer: Answer::Silent, lives: true, control: true, stands: true };
const REFUSES: Outcome = Outcome { answer: Answer::Refused, lives: true, control: true, stands: true };
/// The node's own cable is out: nobody answers at all.
const CUT_OFF: Outcome = Outcome { answer: Answer::Silent, lives: false, control: false, stands: true };

fn backend(number: u8) -> BackendKey {
    BackendKey { protocol: Protocol::Tcp, at: ([10, 0, 0, number], 80).into() }
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// Has a backend suspected and judged, again and again while it is asked for; says when it turned.
fn story(engine: &mut Engine, from: u64, to: u64, outcome: impl Fn(u64) -> Outcome) -> Vec<(u64, Turn)> {
    let one = backend(1);
    let mut turns = Vec::new();
    for time in (from..to).step_by(50) {
        let now = ms(time);
        let mut trials: Vec<_> =
            engine.suspect(now, one, Some(Sign::Unanswered), vec![backend(2).at]).into_iter().collect();
        trials.extend(engine.due(now, 8));
        for trial in trials {
            assert_eq!(trial.backend, one);
            turns.extend(engine.judge(now, trial.backend, outcome(time)).map(|turn| (time, turn)));
        }
    }
    turns
}

#[test]
fn evidence_and_what_the_probe_says() {
    type Expected = Option<(u64, Why)>;
    let cases: [(&str, Outcome, Expected); 6] = [
        ("a client that is cut off: the probe is answered", HEALTHY, None),
        ("a node that died", DEAD, Some((0, Why::Silent))),
        ("a backend that refuses", REFUSES, Some((0, Why::Refusing))),
        ("this node is cut off", CUT_OFF, None),
        ("an accept queue that stays full", BUSY, Some((1500, Why::Stuck))),
        ("the client had its answer meanwhile", Outcome { stands: false, ..DEAD }, None),
    ];
    for (what, outcome, expected) in cases {
        let mut engine = Engine::new(Thresholds::default());
        let turns = story(&mut engine, 0, 60_000, |_| outcome);
        let first = turns.first().map(|(time, turn)| match turn {
            Turn::Aside(aside) => (*time, aside.why),
            Turn::Back(back) => panic!("{what}: {back:?}"),
        });
        assert_eq!(first, expected, "{what}");
        assert_eq!(turns.len(), usize::from(expected.is_some()), "{what}: {turns:?}");
    }
}

#[test]
fn a_queue_that_is_full_for_a_second_is_forgiven() {
    let mut engine = Engine::new(Thresholds::default());
    assert_eq!(story(&mut engine, 0, 20_000, |time| if time < 1000 { BUSY } else { HEALTHY }), []);
}

#[test]
fn the_first_time_it_is_back_at_once_and_then_later_each_time() {
    let mut engine = Engine::new(Thresholds::default());
    // Every odd minute is a bad one.
    let turns = story(&mut engine, 0, 1_200_000, |time| if time / 60_000 % 2 == 0 { DEAD } else { HEALTHY });
    let holds: Vec<u64> = turns
        .iter()
        .filter_map(|(_, turn)| match turn {
            Turn::Aside(aside) => Some((aside.until - aside.since).as_secs()),
            Turn::Back(_) => None,
        })
        .collect();
    assert_eq!(holds, [0, 5, 10, 20, 40, 80, 160, 300]);
    let backs: Vec<u64> = turns
        .iter()
        .filter_map(|(time, turn)| matches!(turn, Turn::Back(_)).then_some(time / 1000))
        .collect();
    assert_eq!(backs[..4], [60, 180, 300, 420]);
}

#[test]
fn holds_are_bounded_and_forgiven() {
    let thresholds = Thresholds { hold: ms(1000), hold_max: ms(3000), ..Thresholds::default() };
    let mut engine = Engine::new(thresholds);
    let hold = |engine: &mut Engine, at: u64| {
        engine.suspect(ms(at), backend(1), Some(Sign::Unanswered), vec![backend(2).at]).expect("a trial");
        let Some(Turn::Aside(aside)) = engine.judge(ms(at), backend(1), DEAD) else { panic!("not aside") };
        let back = aside.until.max(aside.since + ms(1000));
        assert!(matches!(engine.judge(back, backend(1), HEALTHY), Some(Turn::Back(_))));
        ((aside.until - aside.since).as_millis(), aside.times)
    };
    assert_eq!(hold(&mut engine, 0), (0, 1));
    assert_eq!(hold(&mut engine, 2_000), (1000, 2));
    assert_eq!(hold(&mut engine, 5_000), (2000, 3));
    assert_eq!(hold(&mut engine, 9_000), (3000, 4));
    // After twice the longest time without trouble it is another story.
    assert_eq!(hold(&mut engine, 20_000), (0, 1));
}

#[test]
fn evidence_that_never_ends_is_listened_to_ever_less() {
    let mut engine = Engine::new(Thresholds::default());
    let mut trials = Vec::new();
    for time in (0..60_000).step_by(50) {
        if engine.suspect(ms(time), backend(1), Some(Sign::Unanswered), vec![backend(2).at]).is_some() {
            trials.push(time / 1000);
            assert_eq!(engine.judge(ms(time), backend(1), HEALTHY), None);
        }
    }
    assert_eq!(trials, [0, 1, 3, 7, 15, 25, 35, 45, 55]);
}

#[test]
fn who_is_slow_is_given_more_time() {
    let mut engine = Engine::new(Thresholds::default());
    let mut trial = |now, took| {
        let trial = engine
            .suspect(ms(now), backend(1), Some(Sign::Unanswered), vec![backend(2).at])
            .expect("a trial");
        engine.judge(ms(now), backend(1), Outcome { answer: Answer::Accepted(ms(took)), ..HEALTHY });
        trial.patience
    };
    assert_eq!(trial(0, 100), ms(75));
    assert_eq!(trial(10_000, 1), ms(400));
}

#[test]
fn one_that_answers_late_is_back() {
    let mut engine = Engine::new(Thresholds::default());
    engine.suspect(ms(0), backend(1), Some(Sign::Unanswered), vec![backend(2).at]).expect("a trial");
    assert!(matches!(engine.judge(ms(75), backend(1), DEAD), Some(Turn::Aside(_))));
    assert!(engine.is_aside(&backend(1)));
    let late = Outcome { answer: Answer::Accepted(ms(120)), ..HEALTHY };
    assert_eq!(
        engine.judge(ms(120), backend(1), late),
        Some(Turn::Back(Back { backend: backend(1), after: ms(45) }))
    );
    assert_eq!(engine.aside(), []);
}

#[test]
fn one_that_was_asked_for_another_s_sake_may_still_be_accused() {
    let mut engine = Engine::new(Thresholds::default());
    let controls = || vec![backend(2).at];
    assert!(!engine.suspect(ms(0), backend(1), None, controls()).expect("a trial").asked);
    assert_eq!(engine.judge(ms(1), backend(1), HEALTHY), None);
    assert!(engine.suspect(ms(2), backend(1), Some(Sign::Unanswered), controls()).expect("a trial").asked);
    assert_eq!(engine.judge(ms(3), backend(1), HEALTHY), None);
    assert_eq!(engine.suspect(ms(4), backend(1), Some(Sign::Unanswered), controls()), None);
}

#[test]
fn strangers_and_single_backends_are_left_alone() {
    let mut engine = Engine::new(Thresholds::default());
    assert!(engine.is_news(ms(0), backend(1)));
    assert_eq!(engine.suspect(ms(0), backend(1), Some(Sign::Refused), vec![]), None);
    assert!(!engine.is_news(ms(9_999), backend(1)));
    assert!(engine.is_news(ms(10_000), backend(1)));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut engine = Engine::new(Thresholds::default());
    let key = |n: u32| BackendKey { protocol: Protocol::Tcp, at: (n.to_be_bytes(), 80).into() };
    for n in 0..100_000 {
        engine.suspect(ms(u64::from(n)), key(n), Some(Sign::Refused), vec![]);
        assert!(engine.records.len() <= RECORDS_MAX);
    }
    // Those who are aside are not forgotten for it.
    let mut engine = Engine::new(Thresholds::default());
    engine.adopt(ms(0), key(7), Why::Silent, vec![key(8).at]);
    for n in 100..100_000 {
        engine.suspect(ms(u64::from(n)), key(n), Some(Sign::Refused), vec![]);
    }
    assert!(engine.is_aside(&key(7)));
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let answer = prop_oneof![
        (0u64..200).prop_map(|took| Answer::Accepted(ms(took))),
        Just(Answer::Refused),
        Just(Answer::Silent)
    ];
    (answer, any::<[bool; 3]>()).prop_map(|(answer, [lives, control, stands])| Outcome {
        answer,
        lives,
        control,
        stands,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: turns alternate, nobody is set aside by evidence alone, nor by a probe that
    /// was answered or had no control; nobody is back without an answer, nor before its time.
    #[test]
    fn turns(events in proptest::collection::vec((0u8..4, 0u64..3000, proptest::option::of(outcome())), 1..200)) {
        let mut engine = Engine::new(Thresholds::default());
        let mut now = ms(0);
        let mut aside: HashMap<BackendKey, Aside> = HashMap::new();
        for (who, later, outcome) in events {
            now += ms(later);
            let one = backend(who);
            let Some(outcome) = outcome else {
                engine.suspect(now, one, Some(Sign::Unanswered), vec![backend(9).at]);
                engine.due(now, 8);
                continue;
            };
            match engine.judge(now, one, outcome) {
                Some(Turn::Aside(turn)) => {
                    prop_assert_eq!(aside.insert(one, turn), None);
                    prop_assert!(!matches!(outcome.answer, Answer::Accepted(_)));
                    prop_assert!(outcome.control);
                    prop_assert!(turn.until <= now + Thresholds::default().hold_max);
                }
                Some(Turn::Back(turn)) => {
                    let was = aside.remove(&one);
                    prop_assert!(was.is_some_and(|was| was.until <= now && was.since + turn.after == now));
                    prop_assert!(matches!(outcome.answer, Answer::Accepted(_)));
                }
                None => {}
            }
            let mut expected: Vec<_> = aside.values().copied().collect();
            expected.sort_unstable_by_key(|aside| (aside.since, aside.backend));
            prop_assert_eq!(engine.aside(), expected);
            // Somebody who is aside is always asked again.
            prop_assert!(aside.is_empty() || engine.next().is_some_and(|next| next <= now + PROBATION_LATER));
        }
    }
}
