//! The figures as lines of JSON, as a table, and as one HTML page with plots that needs nothing
//! from anywhere.

use super::measure::Row;
use super::plot::{Line, Plot};
use crate::error::Error;
use std::collections::BTreeMap;
use std::fmt::Write;

/// One row in the form that other programs read.
pub(super) fn line(row: &Row) -> Result<String, Error> {
    serde_json::to_string(row).map_err(|e| Error::Output(e.into()))
}

/// One of a row's figures.
type Figure = fn(&Row) -> f64;

/// A column of the table: its heading, in two lines, and its figure.
struct Column {
    heading: [&'static str; 2],
    decimals: usize,
    figure: Figure,
}

const fn column(heading: [&'static str; 2], decimals: usize, figure: Figure) -> Column {
    Column { heading, decimals, figure }
}

const COLUMNS: [Column; 16] = [
    column(["", "Services"], 0, |row| f64::from(row.services)),
    column(["end-", "points"], 0, |row| f64::from(row.endpoints)),
    column(["load", "s"], 2, |row| row.load_s),
    column(["full sync", "s"], 3, |row| row.full_sync_s),
    column(["CPU", "s"], 2, |row| row.cpu_s),
    column(["memory", "MB"], 1, |row| row.rss_mb),
    column(["change", "p50 ms"], 3, |row| row.change_p50_ms),
    column(["", "p99 ms"], 3, |row| row.change_p99_ms),
    column(["connect", "direct µs"], 2, |row| row.connect_direct_p50_us),
    column(["", "Service µs"], 2, |row| row.connect_service_p50_us),
    column(["to direct", "Service"], 3, |row| row.connect_ratio),
    column(["", "the first"], 3, |row| row.first_ratio),
    column(["", "the last"], 3, |row| row.last_ratio),
    column(["", "no Service"], 3, |row| row.no_service_ratio),
    column(["connect", "bare µs"], 2, |row| row.connect_bare_p50_us),
    column(["Service", "per s"], 0, |row| row.connections_per_s),
];
/// The width of a column, and of the first, the mode.
const WIDTH: usize = 11;

/// The headings of the table.
pub(super) fn heading() -> String {
    let mut text = String::new();
    for part in 0..2 {
        let mode = if part == 1 { "mode" } else { "" };
        let _ = write!(text, "{mode:WIDTH$}");
        for column in &COLUMNS {
            let word = column.heading.get(part).copied().unwrap_or_default();
            let _ = write!(text, "{word:>WIDTH$}");
        }
        if part == 0 {
            text.push('\n');
        }
    }
    text
}

/// One row of the table.
pub(super) fn table_row(row: &Row) -> String {
    let mut text = format!("{:WIDTH$}", row.mode);
    for Column { decimals, figure, .. } in &COLUMNS {
        let _ = write!(text, "{:>WIDTH$.decimals$}", figure(row));
    }
    text
}

/// A connection that takes so many times as long as with empty tables hurts.
const HURTS: f64 = 1.5;

/// So many times the largest size that was measured, a line is worth nothing any more.
const BEYOND: f64 = 2.0;

/// Where on this node a mode whose rules stand one after another begins to hurt, in one sentence for
/// each such mode; and of the others that they do not.
pub(super) fn verdicts(rows: &[Row]) -> Vec<String> {
    let mut modes: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        modes.entry(&row.mode).or_default().push(row);
    }
    let told = modes.into_iter().filter_map(|(mode, rows)| {
        let most = rows.iter().map(|row| row.services).max()?;
        let at = |figure: Figure| {
            let points: Vec<_> = rows.iter().map(|row| (f64::from(row.services), figure(row))).collect();
            hurts_at(&points).filter(|services| *services <= BEYOND * f64::from(most))
        };
        let middle = at(|row| row.connect_service_p50_us);
        Some(match (middle, at(|row| row.connect_last_p50_us), at(|row| row.connect_no_service_p50_us)) {
            (Some(middle), last, none) => {
                let also = |whose: &str, services: Option<f64>| {
                    services.map(|services| format!("; {whose} at {}", round(services))).unwrap_or_default()
                };
                format!(
                    "On this node {mode} begins to hurt at about {} Services: there a connection through a \
                     Service in the middle of the table takes half as long again as with few{}{}.",
                    round(middle),
                    also("the last Service of the table is there", last),
                    also("a connection to no Service at all", none),
                )
            }
            (None, ..) if rows.len() > 1 => {
                format!("On this node {mode} does not hurt up to {most} Services.")
            }
            (None, ..) => return None,
        })
    });
    told.collect()
}

/// Two figures are as much as is known.
fn round(services: f64) -> String {
    let unit = 10_f64.powf(services.max(1.0).log10().floor() - 1.0).max(1.0);
    format!("{}", (services / unit).round() * unit)
}

/// Where a + b·n, fitted to the points, passes 1.5 a. Each point counts by its relative error, for
/// the noise of a measurement grows with what is measured.
fn hurts_at(points: &[(f64, f64)]) -> Option<f64> {
    let weights = points.iter().filter(|(_, y)| *y > 0.0).map(|(x, y)| (1.0 / (y * y), *x, *y));
    let [mut w, mut wx, mut wy, mut wxx, mut wxy] = [0.0; 5];
    for (weight, x, y) in weights {
        w += weight;
        wx += weight * x;
        wy += weight * y;
        wxx += weight * x * x;
        wxy += weight * x * y;
    }
    let determinant = w * wxx - wx * wx;
    (determinant > 0.0).then_some(())?;
    let b = (w * wxy - wx * wy) / determinant;
    let a = (wy - b * wx) / w;
    (a > 0.0 && b > 0.0).then(|| (HURTS - 1.0) * a / b)
}

/// A page with plots and the table.
pub(super) fn page(rows: &[Row]) -> String {
    let plots = [
        plot(rows, "First full sync", "seconds", &[("", |row| row.full_sync_s)]),
        plot(
            rows,
            "One endpoint changes, until the kernel has it",
            "milliseconds",
            &[("p99", |row| row.change_p99_ms), ("p50", |row| row.change_p50_ms)],
        ),
        plot(rows, "Resident memory after the first sync", "megabytes", &[("", |row| row.rss_mb)]),
        plot(
            rows,
            "Connecting, against a direct connect",
            "ratio of medians",
            &[("through a Service", |row| row.connect_ratio), ("to no Service", |row| row.no_service_ratio)],
        ),
        plot(
            rows,
            "Where the Service stands among all, by name",
            "ratio of medians",
            &[("last", |row| row.last_ratio), ("first", |row| row.first_ratio)],
        ),
    ];
    let plots: String = plots.iter().map(|plot| format!("<figure>{}</figure>\n", plot.svg())).collect();
    let mut table = String::new();
    for row in rows {
        let _ = write!(table, "<tr><td>{}", row.mode);
        for Column { decimals, figure, .. } in &COLUMNS {
            let _ = write!(table, "<td>{:.decimals$}", figure(row));
        }
        table.push('\n');
    }
    let headings: String =
        COLUMNS.iter().map(|c| format!("<th>{}<br>{}", c.heading[0], c.heading[1])).collect();
    let verdict: String =
        verdicts(rows).iter().map(|sentence| format!("<p><b>{sentence}</b></p>\n")).collect();
    format!("{HEAD}{verdict}<main>\n{plots}<table>\n<tr><th>mode{headings}\n{table}</table>\n{FOOT}")
}

/// One series for each mode and each of these figures.
fn plot<'a>(rows: &[Row], title: &'a str, unit: &'a str, figures: &[(&str, Figure)]) -> Plot<'a> {
    let mut modes: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        modes.entry(&row.mode).or_default().push(row);
    }
    let mut lines = Vec::new();
    for (color, (mode, rows)) in modes.into_iter().enumerate() {
        for (style, (name, figure)) in figures.iter().enumerate() {
            let mut points: Vec<_> = rows.iter().map(|row| (f64::from(row.services), figure(row))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let name = format!("{mode} {name}").trim_end().to_owned();
            lines.push(Line { name, color, dashed: style > 0, points });
        }
    }
    Plot { title, unit, lines }
}

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>portolan bench</title>
<style>
:root { --ink: #1c2733; --faint: #c9d1d9; --paper: #fff; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --ink: #dde5ec; --faint: #3a4550; --paper: #12181f } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2em auto; max-width: 76em; padding: 0 1em }
h1 { font-size: 1.4em; margin: 0 }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(26em, 1fr)); gap: 1.5em; margin: 1.5em 0 }
figure { margin: 0 }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: var(--ink) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; grid-column: 1 / -1; overflow-x: auto; font-size: 14px }
th, td { padding: .25em .6em; text-align: right; border-bottom: 1px solid var(--faint) }
th { font-weight: 600; vertical-align: bottom }
th:first-child, td:first-child { text-align: left; white-space: nowrap }
</style>
<h1>portolan bench</h1>
<p>How modes scale with the number of Services on one node's kernel. Times in seconds are this
machine's; ratios, from connections interleaved by one thread, carry over to others.</p>
"#;

const FOOT: &str = r"</main>
<p>Full sync: from the last object read to the kernel's last acknowledgement; reading the manifests
(load) comes before it. CPU until then, memory right after it, both of the real daemon. Change: from
the event in the daemon's hand to the kernel's acknowledgement. Direct: to a pod on a node whose
daemon has no Service; bare: the same on a node without any daemon.</p>
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_hurts() {
        // 20 µs and 10 ns a Service.
        let line = [100.0, 1000.0, 5000.0].map(|n| (n, 20.0 + 0.01 * n));
        assert_eq!(hurts_at(&line).map(|n| n.round()), Some(1000.0));
        assert_eq!(hurts_at(&[(1.0, 20.0), (1000.0, 20.0)]), None);
        assert_eq!(hurts_at(&[(1000.0, 20.0)]), None);
        assert_eq!([1234.0, 98.7, 15_500.0].map(round), ["1200", "99", "16000"]);
    }
}
