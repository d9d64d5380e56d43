//! Plots as SVG: lines on two logarithmic scales, readable without colour and on a dark page.

use std::fmt::Write as _;

/// One line of a plot.
pub(super) struct Line {
    pub(super) name: &'static str,
    /// From left to right.
    pub(super) points: Vec<(f64, f64)>,
}

/// One plot.
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) across: &'static str,
    /// Marks on the axis, and what stands there.
    pub(super) marks: Vec<(f64, String)>,
    pub(super) lines: Vec<Line>,
}

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 76.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
const COLOURS: [&str; 6] = ["#0b62a4", "#c05000", "#3a7d34", "#8a3ea8", "#8a6d00", "#b0243a"];

/// Plots side by side in one picture.
pub(super) fn svg(plots: &[Plot]) -> String {
    let width = WIDTH * plots.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{width}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    for (index, plot) in plots.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate({} 0)\">", WIDTH * index as f64);
        draw(&mut out, plot);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, plot: &Plot) {
    let values = || plot.lines.iter().flat_map(|line| line.points.iter().copied());
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)))
    };
    let (x0, x1) = bounds(&mut values().map(|(x, _)| x));
    let (y0, y1) = bounds(&mut values().map(|(_, y)| y));
    if !(x0 > 0.0 && y0 > 0.0 && x1 >= x0) {
        return;
    }
    let (y0, y1) = (10f64.powf(y0.log10().floor()), 10f64.powf(y1.log10().ceil()));
    let share = |value: f64, least: f64, most: f64| {
        if most > least { (value.ln() - least.ln()) / (most.ln() - least.ln()) } else { 0.5 }
    };
    let x = |value: f64| LEFT + share(value, x0, x1) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - share(value, y0, y1) * (HEIGHT - TOP - BOTTOM);
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"18\" font-size=\"13\" font-weight=\"bold\">{}</text>", plot.title);
    let mut decade = y0;
    while decade <= y1 * 1.001 {
        let at = y(decade);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{} s</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            decade
        );
        decade *= 10.0;
    }
    for (value, mark) in &plot.marks {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{mark}</text>",
            x(*value),
            HEIGHT - BOTTOM + 16.0
        );
    }
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    let _ = writeln!(out, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>", HEIGHT - 8.0, plot.across);
    let mut ends: Vec<(f64, usize)> =
        plot.lines.iter().enumerate().filter_map(|(index, line)| Some((y(line.points.last()?.1), index))).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = f64::NEG_INFINITY;
    for (end, index) in ends {
        let (line, colour) = (&plot.lines[index], COLOURS[index % COLOURS.len()]);
        let path: Vec<String> = line.points.iter().map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
        let wide = if index == 0 { 3 } else { 1 };
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{wide}\"/>",
            path.join(" ")
        );
        for (px, py) in &line.points {
            let _ = writeln!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(*px), y(*py));
        }
        // Names stand at the ends of their lines, and not on each other.
        below = end.max(below + 13.0);
        let after = line.points.last().map_or(LEFT, |(px, _)| x(*px)) + 8.0;
        let _ = writeln!(out, "<text x=\"{after:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>", below + 4.0, line.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_points_and_its_name() {
        let line = |name, last| Line { name, points: vec![(1.0, 0.5), (10.0, last)] };
        let plot = Plot {
            title: "push".to_owned(),
            across: "files",
            marks: vec![(1.0, "1".to_owned()), (10.0, "10".to_owned())],
            lines: vec![line("sealift", 1.0), line("dvc", 1.0)],
        };
        let text = svg(&[plot]);
        assert_eq!(text.matches("<circle").count(), 4);
        assert_eq!((text.matches(">sealift<").count(), text.matches(">dvc<").count()), (1, 1));
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn nothing_measured_is_nothing_drawn() {
        let plot = Plot { title: String::new(), across: "", marks: Vec::new(), lines: Vec::new() };
        assert!(!svg(&[plot]).contains("polyline"));
    }
}
