//! A line plot over the number of Services, as SVG. The horizontal axis is logarithmic, the vertical
//! one linear from zero.

use std::fmt::Write;

/// The plot's size, and the room for its axes.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 44.0;
/// Distances between a text and what it belongs to.
const GAP: f64 = 6.0;
/// The width of a letter, about.
const LETTER: f64 = 6.6;
/// The first line of the legend, and from one to the next; there is room for two.
const LEGEND: f64 = 34.0;
const LEGEND_STEP: f64 = 17.0;
/// How many steps the vertical axis has, about.
const STEPS: f64 = 5.0;

/// Told apart also by those who do not see all colours (Okabe and Ito).
const COLORS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"];

/// A plot.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) unit: &'a str,
    pub(super) lines: Vec<Line>,
}

/// One line of it.
pub(super) struct Line {
    pub(super) name: String,
    /// Lines of one colour belong together.
    pub(super) color: usize,
    pub(super) dashed: bool,
    /// By the first number.
    pub(super) points: Vec<(f64, f64)>,
}

/// From numbers to places.
struct Scale {
    /// The exponents of ten at both ends of the horizontal axis.
    decades: (f64, f64),
    step: f64,
    top: f64,
}

impl Scale {
    fn of(lines: &[Line]) -> Scale {
        let points = || lines.iter().flat_map(|line| &line.points);
        let least = points().map(|p| p.0).fold(f64::INFINITY, f64::min).max(1.0);
        let most = points().map(|p| p.0).fold(1.0, f64::max);
        let first = if least.is_finite() { least.log10().floor() } else { 0.0 };
        let decades = (first, most.log10().ceil().max(first + 1.0));
        let highest = points().map(|p| p.1).fold(0.0, f64::max);
        let step = nice(if highest > 0.0 { highest / STEPS } else { 1.0 });
        Scale { decades, step, top: (highest / step).ceil().max(1.0) * step }
    }

    fn x(&self, services: f64) -> f64 {
        let part = (services.max(1.0).log10() - self.decades.0) / (self.decades.1 - self.decades.0);
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, figure: f64) -> f64 {
        HEIGHT - BOTTOM - figure / self.top * (HEIGHT - TOP - BOTTOM)
    }
}

/// The next larger of 1, 2 and 5 times a power of ten.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * 0.999);
    factor.unwrap_or(10.0) * power
}

impl Plot<'_> {
    /// Draws it.
    pub(super) fn svg(&self) -> String {
        let scale = Scale::of(&self.lines);
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
        // Writing to a string cannot fail.
        let _ =
            write!(svg, "<text x=\"0\" y=\"14\" font-weight=\"600\">{}, {}</text>", self.title, self.unit);
        self.legend(&mut svg);
        axes(&scale, &mut svg);
        for line in &self.lines {
            draw(line, &scale, &mut svg);
        }
        svg + "</svg>"
    }

    fn legend(&self, svg: &mut String) {
        let (mut x, mut y) = (0.0, LEGEND);
        for line in &self.lines {
            let length = 22.0 + 3.0 * GAP + line.name.chars().count() as f64 * LETTER;
            if x > 0.0 && x + length > WIDTH {
                (x, y) = (0.0, y + LEGEND_STEP);
            }
            let middle = y - 4.0;
            let end = x + 22.0;
            let _ = write!(svg, "<path d=\"M{x} {middle}H{end}\" {}/>", stroke(line));
            let _ = write!(svg, "<text x=\"{}\" y=\"{y}\">{}</text>", end + GAP, line.name);
            x += length;
        }
    }
}

fn axes(scale: &Scale, svg: &mut String) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut figure = 0.0;
    while figure <= scale.top * 1.001 {
        let y = scale.y(figure);
        let _ = write!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"var(--faint)\"/>");
        let (x, y) = (LEFT - GAP, y + 4.0);
        let _ = write!(
            svg,
            "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>",
            spell(figure, scale.step)
        );
        figure += scale.step;
    }
    let mut exponent = scale.decades.0;
    while exponent <= scale.decades.1 {
        let services = 10_f64.powf(exponent);
        let x = scale.x(services);
        let _ = write!(svg, "<path d=\"M{x:.1} {bottom}v{GAP}\" stroke=\"var(--ink)\"/>");
        let y = bottom + 3.5 * GAP;
        let _ =
            write!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", thousands(services));
        exponent += 1.0;
    }
    let (x, y) = ((LEFT + right) / 2.0, HEIGHT - GAP);
    let _ = write!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">Services</text>");
}

fn draw(line: &Line, scale: &Scale, svg: &mut String) {
    let places: Vec<(f64, f64)> = line.points.iter().map(|(x, y)| (scale.x(*x), scale.y(*y))).collect();
    let points: String = places.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
    let _ = write!(svg, "<polyline points=\"{}\" {}/>", points.trim_end(), stroke(line));
    for ((x, y), (services, figure)) in places.iter().zip(&line.points) {
        let title = format!("{}: {figure} at {services} Services", line.name);
        let color = color(line);
        let _ = write!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{color}\"><title>{title}</title></circle>"
        );
    }
}

fn color(line: &Line) -> &'static str {
    COLORS.get(line.color % COLORS.len()).copied().unwrap_or("#000")
}

fn stroke(line: &Line) -> String {
    let dashes = if line.dashed { " stroke-dasharray=\"5 4\"" } else { "" };
    format!("fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{dashes}", color(line))
}

/// With as many decimals as the step has.
fn spell(figure: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    format!("{figure:.decimals$}")
}

fn thousands(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{}M", n / 1e6),
        n if n >= 1e3 => format!("{}k", n / 1e3),
        n => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_numbers() {
        for (step, expected) in
            [(0.021, 0.05), (0.02, 0.02), (1.3, 2.0), (0.99, 1.0), (7.0, 10.0), (430.0, 500.0)]
        {
            assert!((nice(step) - expected).abs() < 1e-9, "{step}: {}", nice(step));
        }
        assert_eq!(spell(0.15000000000000002, 0.05), "0.15");
        assert_eq!(spell(20.0, 10.0), "20");
        assert_eq!([1.0, 1e3, 1e6].map(thousands), ["1", "1k", "1M"]);
    }

    #[test]
    fn everything_is_inside() {
        let line = |points: &[(f64, f64)]| Line {
            name: "a".into(),
            color: 7,
            dashed: true,
            points: points.to_vec(),
        };
        for points in [&[][..], &[(1.0, 0.0)], &[(1.0, 1.02), (20_000.0, 1.05), (100_000.0, 1.04)]] {
            let lines = vec![line(points)];
            let scale = Scale::of(&lines);
            for (x, y) in points {
                assert!((LEFT..=WIDTH - RIGHT).contains(&scale.x(*x)), "{x}");
                assert!((TOP..=HEIGHT - BOTTOM).contains(&scale.y(*y)), "{y}");
            }
            let svg = Plot { title: "t", unit: "u", lines }.svg();
            assert_eq!(svg.matches("<circle").count(), points.len());
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
