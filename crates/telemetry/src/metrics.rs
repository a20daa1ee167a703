//! Metrics: counters, gauges and histograms that anybody may hold and change without waiting, and a
//! registry that writes them in Prometheus' text format.
//!
//! Our own and small, because all that is wanted is three kinds of number and one format: no global
//! registry, no label that is not known when a metric is made (so nothing grows), and reading one is
//! reading an atomic.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A number that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, number: f64) {
        self.0.store(number.to_bits(), Ordering::Relaxed);
    }

    /// Sets it to a number of things.
    pub fn count(&self, number: usize) {
        self.set(u32::try_from(number).map_or(f64::MAX, f64::from));
    }

    /// What it is.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// How often a quantity was how large.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    /// The upper ends, rising.
    bounds: Vec<f64>,
    /// One a bound, and one for what is above all.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &[f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram(Arc::new(Buckets { bounds: bounds.to_vec(), counts, sum: AtomicU64::new(0) }))
    }

    /// Takes in one observation.
    pub fn observe(&self, value: f64) {
        let Buckets { bounds, counts, sum } = &*self.0;
        let bucket = bounds.partition_point(|bound| *bound < value);
        if let Some(count) = counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let add = |old: u64| Some((f64::from_bits(old) + value).to_bits());
        // It never refuses.
        let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Takes in how long something took, in seconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// How many observations there were.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// So many bounds, each so many times the one before.
pub fn exponential(first: f64, factor: f64, number: usize) -> Vec<f64> {
    std::iter::successors(Some(first), |bound| Some(bound * factor)).take(number).collect()
}

/// So many bounds, each so much more than the one before.
pub fn linear(first: f64, step: f64, number: usize) -> Vec<f64> {
    std::iter::successors(Some(first), |bound| Some(bound + step)).take(number).collect()
}

/// A metric's labels, names and values.
pub type Labels<'l> = &'l [(&'l str, &'l str)];

#[derive(Clone, Debug)]
enum Metric {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    /// By their labels as they are written.
    metrics: BTreeMap<String, Metric>,
}

/// The metrics of a process.
#[derive(Debug, Default)]
pub struct Registry {
    families: Mutex<BTreeMap<&'static str, Family>>,
}

impl Registry {
    /// The counter of this name and these labels.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Counter {
        match self.metric(name, help, labels, || Metric::Counter(Counter::default())) {
            Metric::Counter(counter) => counter,
            _ => Counter::default(),
        }
    }

    /// The gauge of this name and these labels.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Gauge {
        match self.metric(name, help, labels, || Metric::Gauge(Gauge::default())) {
            Metric::Gauge(gauge) => gauge,
            _ => Gauge::default(),
        }
    }

    /// The histogram of this name and these labels.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        bounds: &[f64],
    ) -> Histogram {
        match self.metric(name, help, labels, || Metric::Histogram(Histogram::new(bounds))) {
            Metric::Histogram(histogram) => histogram,
            _ => Histogram::new(bounds),
        }
    }

    /// Finds or makes a metric. One of another kind under the same name would be a mistake of ours:
    /// the one that came first is the one that is shown.
    fn metric(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        make: impl FnOnce() -> Metric,
    ) -> Metric {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let family = families.entry(name).or_insert_with(|| Family { help, metrics: BTreeMap::new() });
        family.metrics.entry(written(labels)).or_insert_with(make).clone()
    }

    /// All of them in Prometheus' text format, by name.
    pub fn write(&self, text: &mut String) {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, family) in &*families {
            let kind = match family.metrics.values().next() {
                None => continue,
                Some(Metric::Counter(_)) => "counter",
                Some(Metric::Gauge(_)) => "gauge",
                Some(Metric::Histogram(_)) => "histogram",
            };
            head(text, name, family.help, kind);
            for (labels, metric) in &family.metrics {
                match metric {
                    Metric::Counter(counter) => sample(text, name, labels, counter.get()),
                    Metric::Gauge(gauge) => sample(text, name, labels, gauge.get()),
                    Metric::Histogram(histogram) => buckets(text, name, labels, &histogram.0),
                }
            }
        }
    }
}

/// What stands before a metric's samples.
pub fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    // Writing to a string does not fail.
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn sample(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = match labels.is_empty() {
        true => writeln!(text, "{name} {value}"),
        false => writeln!(text, "{name}{{{labels}}} {value}"),
    };
}

fn buckets(text: &mut String, name: &str, labels: &str, histogram: &Buckets) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut sum = 0;
    let bounds = histogram.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
    for (bound, count) in bounds.zip(&histogram.counts) {
        sum += count.load(Ordering::Relaxed);
        let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {sum}");
    }
    let total = f64::from_bits(histogram.sum.load(Ordering::Relaxed));
    sample(text, &format!("{name}_sum"), labels, total);
    sample(text, &format!("{name}_count"), labels, sum);
}

/// Labels as they stand between the braces.
fn written(labels: Labels<'_>) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        let comma = if text.is_empty() { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{comma}{name}=\"{value}\"");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_prometheus_reads_it() {
        let registry = Registry::default();
        let seen = registry.counter("seen_total", "How many.\nIn all", &[("who", "a\"b\\"), ("code", "200")]);
        registry.counter("seen_total", "", &[("who", "z")]).add(7);
        registry.gauge("level", "How high", &[]).set(-1.5);
        let took = registry.histogram("took_seconds", "How long", &[("x", "y")], &[0.5, 1.0, 2.5]);
        seen.increment();
        for value in [0.1, 0.5, 0.6, 9.0] {
            took.observe(value);
        }
        let mut text = String::new();
        registry.write(&mut text);
        let expected = "\
# HELP level How high
# TYPE level gauge
level -1.5
# HELP seen_total How many.\\nIn all
# TYPE seen_total counter
seen_total{who=\"a\\\"b\\\\\",code=\"200\"} 1
seen_total{who=\"z\"} 7
# HELP took_seconds How long
# TYPE took_seconds histogram
took_seconds_bucket{x=\"y\",le=\"0.5\"} 2
took_seconds_bucket{x=\"y\",le=\"1\"} 3
took_seconds_bucket{x=\"y\",le=\"2.5\"} 3
took_seconds_bucket{x=\"y\",le=\"+Inf\"} 4
took_seconds_sum{x=\"y\"} 10.2
took_seconds_count{x=\"y\"} 4
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_same_metric_twice_is_one() {
        let registry = Registry::default();
        registry.counter("a", "", &[]).add(2);
        assert_eq!(registry.counter("a", "", &[]).get(), 2);
        // Of another kind: it counts for nobody, and nothing breaks.
        registry.gauge("a", "", &[]).set(9.0);
        let mut text = String::new();
        registry.write(&mut text);
        assert!(text.ends_with("a 2\n"), "{text}");
    }

    #[test]
    fn bounds() {
        assert_eq!(exponential(0.001, 2.0, 3), [0.001, 0.002, 0.004]);
        assert_eq!(linear(60.0, 5.0, 3), [60.0, 65.0, 70.0]);
    }
}
