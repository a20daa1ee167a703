//! Counters, gauges and histograms, by the names that CoreDNS gives them, in Prometheus' text form.
//!
//! Whoever counts keeps the [`Counter`] itself: counting is one addition. Series are found again by
//! name and labels, so they go on counting after a reload. What is counted on every query is not
//! kept here but by the plugin `prometheus`, which hands it over when asked ([`Metrics::collect`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Something that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn count(&self) {
        self.add(1);
    }

    /// Counts so many.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many there have been.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// It is so much now.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// It is so much more, or less.
    pub fn add(&self, more: i64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How much it is.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often something was how much.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what is above all.
    buckets: Box<[AtomicU64]>,
    /// The sum, in millionths.
    sum_millionths: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, buckets, sum_millionths: AtomicU64::new(0) }
    }

    /// It was so much once more.
    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_millionths.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }
}

/// What kind of series a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Counters.
    Counter,
    /// Gauges.
    Gauge,
    /// Histograms.
    Histogram,
}

#[derive(Debug)]
enum Series {
    Counter(Arc<Counter>),
    Gauge(Arc<Gauge>),
    Histogram(Arc<Histogram>),
}

/// A family: a name, and its series by their labels.
type Family = (&'static str, Kind, BTreeMap<String, Series>);

/// Something that keeps counts of its own.
pub trait Collect: Send + Sync {
    /// Writes them down.
    fn collect(&self, text: &mut Exposition);
}

/// All that is counted.
#[derive(Default)]
pub struct Metrics {
    families: Mutex<BTreeMap<&'static str, Family>>,
    collectors: Mutex<Vec<Weak<dyn Collect>>>,
}

impl Metrics {
    /// The counter of this name and these labels.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Arc<Counter> {
        self.series(
            name,
            help,
            Kind::Counter,
            labels,
            || Series::Counter(Arc::default()),
            |series| match series {
                Series::Counter(counter) => Some(counter.clone()),
                _ => None,
            },
        )
    }

    /// The gauge of this name and these labels.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Arc<Gauge> {
        self.series(
            name,
            help,
            Kind::Gauge,
            labels,
            || Series::Gauge(Arc::default()),
            |series| match series {
                Series::Gauge(gauge) => Some(gauge.clone()),
                _ => None,
            },
        )
    }

    /// The histogram of this name, these labels and these bounds.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        bounds: &'static [f64],
    ) -> Arc<Histogram> {
        let new = || Series::Histogram(Arc::new(Histogram::new(bounds)));
        let found = self.series(name, help, Kind::Histogram, labels, new, |series| match series {
            Series::Histogram(histogram) => Some(Found(histogram.clone())),
            _ => None,
        });
        found.0
    }

    /// Forgets a series: what it counted has gone for good.
    pub fn forget(&self, name: &str, labels: &[(&str, &str)]) {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, series)) = families.get_mut(name) {
            series.remove(&labels_text(labels));
        }
    }

    fn series<T: Default>(
        &self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        labels: &[(&str, &str)],
        new: impl Fn() -> Series,
        of: impl Fn(&Series) -> Option<T>,
    ) -> T {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, _, series) = families.entry(name).or_insert_with(|| (help, kind, BTreeMap::new()));
        // A name that stands for two kinds counts beside, and is not shown.
        of(series.entry(labels_text(labels)).or_insert_with(&new)).or_else(|| of(&new())).unwrap_or_default()
    }

    /// Adds one that keeps counts of its own, for as long as it lives.
    pub fn add_collector(&self, collector: &Arc<impl Collect + 'static>) {
        let collector: Weak<dyn Collect> = Arc::downgrade(collector) as Weak<dyn Collect>;
        let mut collectors = self.collectors.lock().unwrap_or_else(PoisonError::into_inner);
        collectors.retain(|collector| collector.strong_count() > 0);
        collectors.push(collector);
    }

    /// All of it, as text.
    pub fn collect(&self) -> String {
        let mut text = Exposition::default();
        let collectors: Vec<Arc<dyn Collect>> = {
            let collectors = self.collectors.lock().unwrap_or_else(PoisonError::into_inner);
            collectors.iter().filter_map(Weak::upgrade).collect()
        };
        for collector in collectors {
            collector.collect(&mut text);
        }
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, (help, kind, series)) in families.iter() {
            for (labels, series) in series {
                let mut family = text.family(name, help, *kind);
                match series {
                    Series::Counter(counter) => family.value(labels, counter.get()),
                    Series::Gauge(gauge) => family.signed(labels, gauge.get()),
                    Series::Histogram(histogram) => {
                        let buckets = histogram.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
                        let sum = histogram.sum_millionths.load(Ordering::Relaxed) as f64 / 1e6;
                        family.histogram(labels, histogram.bounds, buckets, sum);
                    }
                }
            }
        }
        text.finish()
    }
}

/// Lets a histogram stand where a default is asked for; there is none without bounds.
struct Found(Arc<Histogram>);

impl Default for Found {
    fn default() -> Found {
        Found(Arc::new(Histogram::new(&[])))
    }
}

/// Labels as they stand between braces.
pub fn labels_text(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for char in value.chars() {
            match char {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                char => text.push(char),
            }
        }
        text.push('"');
    }
    text
}

/// Counts being written down. Families may come in parts and in any order.
#[derive(Default)]
pub struct Exposition {
    families: BTreeMap<String, String>,
}

/// A family being written down.
pub struct ExposedFamily<'e> {
    name: &'e str,
    text: &'e mut String,
}

impl Exposition {
    /// The family of this name.
    pub fn family<'e>(&'e mut self, name: &'e str, help: &str, kind: Kind) -> ExposedFamily<'e> {
        let text = self.families.entry(name.to_owned()).or_insert_with(|| {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
        });
        ExposedFamily { name, text }
    }

    fn finish(self) -> String {
        self.families.into_values().collect()
    }
}

impl ExposedFamily<'_> {
    fn line(&mut self, suffix: &str, labels: &str, value: impl std::fmt::Display) {
        let name = self.name;
        // Writing to a String does not fail.
        let _ = match labels {
            "" => writeln!(self.text, "{name}{suffix} {value}"),
            labels => writeln!(self.text, "{name}{suffix}{{{labels}}} {value}"),
        };
    }

    /// A counter.
    pub fn value(&mut self, labels: &str, value: u64) {
        self.line("", labels, value);
    }

    /// A gauge.
    pub fn signed(&mut self, labels: &str, value: i64) {
        self.line("", labels, value);
    }

    /// A gauge that is no whole number.
    pub fn float(&mut self, labels: &str, value: f64) {
        self.line("", labels, value);
    }

    /// A histogram, of which `buckets` counts each bucket by itself.
    pub fn histogram(
        &mut self,
        labels: &str,
        bounds: &[f64],
        buckets: impl IntoIterator<Item = u64>,
        sum: f64,
    ) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        let ends = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (end, count) in ends.zip(buckets) {
            below += count;
            self.line("_bucket", &format!("{labels}{comma}le=\"{end}\""), below);
        }
        self.line("_sum", labels, sum);
        self.line("_count", labels, below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let metrics = Metrics::default();
        metrics.counter("b_total", "Of b.", &[("x", "1\"\\\n")]).add(3);
        metrics.counter("b_total", "Of b.", &[("x", "1\"\\\n")]).count();
        metrics.gauge("a", "Of a.", &[]).set(-2);
        let histogram = metrics.histogram("h", "Of h.", &[("y", "z")], &[0.5, 1.0]);
        for value in [0.1, 0.5, 0.7, 9.0] {
            histogram.observe(value);
        }
        let want = "# HELP a Of a.\n# TYPE a gauge\na -2\n\
            # HELP b_total Of b.\n# TYPE b_total counter\nb_total{x=\"1\\\"\\\\\\n\"} 4\n\
            # HELP h Of h.\n# TYPE h histogram\n\
            h_bucket{y=\"z\",le=\"0.5\"} 2\nh_bucket{y=\"z\",le=\"1\"} 3\nh_bucket{y=\"z\",le=\"+Inf\"} 4\n\
            h_sum{y=\"z\"} 10.3\nh_count{y=\"z\"} 4\n";
        assert_eq!(metrics.collect(), want);
    }
}
