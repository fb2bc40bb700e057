//! Draws the dashboard's panels from what their queries say: no Grafana is at hand. Lines, numbers
//! and a heat map, at the places that the dashboard gives them.

use std::fmt::Write;

use serde_json::Value;

/// Pixels of a column and of a row of the dashboard's grid.
const COLUMN: f64 = 56.0;
const ROW: f64 = 30.0;
const COLOURS: [&str; 8] = [
    "#1f6f8b", "#d9822b", "#5a9a3c", "#c23b5a", "#7a5fb5", "#8a6d3b", "#2aa198", "#5f6d7b",
];

/// One line of a panel: its name, and `(time, value)`.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// The lines of an answer of `query_range`.
pub(super) fn lines(answer: &Value, legend: &str) -> Vec<Line> {
    let result = answer["data"]["result"].as_array().unwrap();
    let line = |series: &Value| {
        let mut name = legend.to_owned();
        for (label, value) in series["metric"].as_object().unwrap() {
            name = name.replace(&format!("{{{{{label}}}}}"), value.as_str().unwrap());
        }
        if name.starts_with("{{") {
            name = "none".into();
        }
        let points = series["values"].as_array().unwrap().iter().map(|pair| {
            let value = pair[1].as_str().unwrap().parse::<f64>().unwrap();
            (pair[0].as_f64().unwrap(), value)
        });
        let points = points.filter(|(_, value)| value.is_finite()).collect();
        Line { name, points }
    };
    result.iter().map(line).collect()
}

fn told(value: f64, unit: &str) -> String {
    let short = |v: f64| match v.abs() {
        0.0 => "0".to_owned(),
        a if a < 1.0 => format!("{v:.2}"),
        a if a < 100.0 => format!("{v:.1}").replace(".0", ""),
        _ => format!("{v:.0}"),
    };
    match unit {
        "s" if value < 1.0 => format!("{} ms", short(value * 1e3)),
        "s" => format!("{} s", short(value)),
        "percentunit" => format!("{} %", short(value * 100.0)),
        "bytes" | "Bps" if value >= 1048576.0 => format!("{} MiB", short(value / 1048576.0)),
        "bytes" | "Bps" if value >= 1024.0 => format!("{} KiB", short(value / 1024.0)),
        "reqps" | "ops" => format!("{}/s", short(value)),
        "d" => format!("{} d", short(value)),
        _ => short(value),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// The whole dashboard as a page; `ask` gives the lines of each query.
pub(super) fn page(dashboard: &Value, ask: impl Fn(&str, &str) -> Vec<Line>) -> String {
    let mut body = String::new();
    let mut bottom = 0.0_f64;
    for panel in dashboard["panels"].as_array().unwrap() {
        let at = |key: &str| panel["gridPos"][key].as_f64().unwrap();
        let (x, y) = (at("x") * COLUMN, at("y") * ROW);
        let (w, h) = (at("w") * COLUMN - 8.0, at("h") * ROW - 8.0);
        bottom = bottom.max(y + h);
        let title = escaped(panel["title"].as_str().unwrap());
        let kind = panel["type"].as_str().unwrap();
        if kind == "row" {
            write!(body, "<text class=row x={x} y={}>{title}</text>", y + 20.0).unwrap();
            continue;
        }
        let defaults = &panel["fieldConfig"]["defaults"];
        let unit = [&defaults["unit"], &panel["options"]["yAxis"]["unit"]];
        let unit = unit.into_iter().find_map(Value::as_str).unwrap_or("short");
        let targets = panel["targets"].as_array().unwrap();
        let drawn: Vec<Line> = targets
            .iter()
            .flat_map(|target| {
                let word = |key: &str| target[key].as_str().unwrap();
                ask(word("expr"), word("legendFormat"))
            })
            .collect();
        write!(body, "<g transform=\"translate({x},{y})\"><rect width={w} height={h} rx=4 /><text class=title x=10 y=19>{title}</text>").unwrap();
        match kind {
            "stat" => stat(&mut body, &drawn, defaults, unit, h),
            "heatmap" => heat(&mut body, drawn, unit, w, h),
            _ => {
                let stacked = defaults["custom"]["stacking"]["mode"] == "normal";
                curves(&mut body, drawn, stacked, unit, w, h);
            }
        }
        body += "</g>";
    }
    let (width, height) = (24.0 * COLUMN + 8.0, bottom + 12.0);
    format!(
        "<!doctype html><meta charset=utf-8><style>body{{margin:0;background:#f0f2f4}}text{{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#33414f}}.row{{font-size:15px;font-weight:650}}.title{{font-weight:600;fill:#16202b}}.big{{font-size:30px;font-weight:650}}.small{{font-size:10.5px;fill:#5a6877}}rect{{fill:#fff;stroke:#dfe3e7}}rect.cell{{stroke:none}}polyline{{fill:none;stroke-width:1.4}}path.grid{{stroke:#e6eaed}}</style><svg width={width} height={height} viewBox=\"-8 0 {width} {height}\">{body}</svg>"
    )
}

fn stat(body: &mut String, drawn: &[Line], defaults: &Value, unit: &str, h: f64) {
    let last = drawn.first().and_then(|line| line.points.last());
    let value = last.map_or(f64::NAN, |(_, value)| *value);
    let mapped = &defaults["mappings"][0]["options"][format!("{value:.0}")];
    let text = mapped["text"]
        .as_str()
        .map_or_else(|| told(value, unit), str::to_owned);
    write!(
        body,
        "<text class=big x=10 y={}>{text}</text>",
        h / 2.0 + 22.0
    )
    .unwrap();
}

fn curves(body: &mut String, drawn: Vec<Line>, stacked: bool, unit: &str, w: f64, h: f64) {
    let (left, top, foot) = (58.0, 30.0, 34.0);
    let mut lines: Vec<_> = drawn.into_iter().filter(|l| !l.points.is_empty()).collect();
    if stacked {
        // Each on top of the ones before it, moment by moment.
        for i in 1..lines.len() {
            let below = lines[i - 1].points.clone();
            for (time, value) in &mut lines[i].points {
                let under = below.iter().rev().find(|(t, _)| t <= time);
                *value += under.map_or(0.0, |(_, v)| *v);
            }
        }
    }
    let all = || lines.iter().flat_map(|line| &line.points);
    let most = all().map(|(_, v)| *v).fold(0.0_f64, f64::max);
    let most = if most > 0.0 { most * 1.08 } else { 1.08 };
    let from = all().map(|(t, _)| *t).fold(f64::INFINITY, f64::min);
    let to = all()
        .map(|(t, _)| *t)
        .fold(0.0_f64, f64::max)
        .max(from + 1.0);
    for part in [0.0, 0.5, 1.0] {
        let y = top + (h - top - foot) * (1.0 - part);
        let label = told(most / 1.08 * part, unit);
        write!(body, "<path class=grid d=\"M{left},{y:.0} H{}\"/><text class=small x={} y={:.0} text-anchor=end>{label}</text>", w - 10.0, left - 6.0, y + 4.0).unwrap();
    }
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<_> = line
            .points
            .iter()
            .map(|(t, v)| {
                let x = left + (t - from) / (to - from) * (w - left - 10.0);
                let y = top + (h - top - foot) * (1.0 - v / most);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        write!(
            body,
            "<polyline stroke=\"{colour}\" points=\"{}\"/>",
            points.join(" ")
        )
        .unwrap();
    }
    let mut x = 10.0;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let name = if line.name.is_empty() {
            "all"
        } else {
            &line.name
        };
        let width = 16.0 + name.chars().count() as f64 * 6.2;
        if x + width > w - 4.0 {
            write!(body, "<text class=small x={x} y={}>…</text>", h - 10.0).unwrap();
            break;
        }
        write!(body, "<path stroke=\"{colour}\" stroke-width=3 d=\"M{x},{} h8\"/><text class=small x={} y={}>{}</text>", h - 14.0, x + 11.0, h - 10.0, escaped(name)).unwrap();
        x += width + 4.0;
    }
}

fn heat(body: &mut String, mut drawn: Vec<Line>, unit: &str, w: f64, h: f64) {
    let bound = |line: &Line| line.name.parse::<f64>().unwrap_or(f64::INFINITY);
    drawn.sort_by(|a, b| bound(a).total_cmp(&bound(b)));
    let (left, top, foot) = (58.0, 30.0, 12.0);
    let times = drawn.first().map_or(1, |line| line.points.len().max(1));
    let (cw, ch) = (
        (w - left - 10.0) / times as f64,
        (h - top - foot) / drawn.len() as f64,
    );
    let cell = |row: usize, i: usize| {
        let value = |row: usize| drawn[row].points.get(i).map_or(0.0, |(_, v)| *v);
        if row == 0 {
            value(0)
        } else {
            (value(row) - value(row - 1)).max(0.0)
        }
    };
    let cells = (0..drawn.len()).flat_map(|row| (0..times).map(move |i| (row, i)));
    let most = cells
        .clone()
        .map(|(row, i)| cell(row, i))
        .fold(1.0, f64::max);
    for (row, i) in cells {
        let part = (cell(row, i) / most).sqrt();
        if part > 0.0 {
            let y = top + ch * (drawn.len() - 1 - row) as f64;
            write!(body, "<rect class=cell x={:.1} y={y:.1} width={:.1} height={:.1} style=\"fill:rgba(217,110,30,{part:.2})\"/>", left + cw * i as f64, cw - 0.5, ch - 0.5).unwrap();
        }
    }
    for (row, line) in drawn.iter().enumerate() {
        let y = top + ch * (drawn.len() - row) as f64;
        let label = match bound(line) {
            b if b.is_finite() => told(b, unit),
            _ => "more".into(),
        };
        write!(
            body,
            "<text class=small x={} y={:.0} text-anchor=end>{label}</text>",
            left - 6.0,
            y - 2.0
        )
        .unwrap();
    }
}
