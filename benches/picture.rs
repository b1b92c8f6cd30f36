//! A picture of a result: ns a packet against live flows, measured here and quoted from other runs, each drawn so that one sees which.

use anyhow::{Context, Result, anyhow, ensure};
use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::combinators::IntoLogRange;
use plotters::coord::{cartesian::Cartesian2d, combinators::LogCoord};
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, EmptyElement, PathElement, Text};
use plotters::series::{DashedLineSeries, LineSeries};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, Color, IntoFont, RGBColor, ShapeStyle, TextStyle, WHITE};
use serde::Deserialize;

/// What is quoted, with its sources.
const PEERS: &str = include_str!("peers.json");
const SIZE: (u32, u32) = (1_200, 760);
/// From how many to how many flows there is room.
const FLOWS: (f64, f64) = (0.5, 1.3e7);
/// The series that is what Turnpike is about, by its scenarios.
const IPV4: &[&str] =
    &["established/1", "established/1k", "established/100k", "established/1M", "established/10M"];
const IPV6: &[&str] = &["established/1k/ipv6", "established/1M/ipv6"];
const BLUE: RGBColor = RGBColor(0x0b, 0x55, 0xc4);
const LIGHT_BLUE: RGBColor = RGBColor(0x4a, 0x9b, 0xe8);
const GREY: RGBColor = RGBColor(0x44, 0x44, 0x44);
/// Of peers, in their order.
const COLOURS: &[RGBColor] = &[
    RGBColor(0x8c, 0x2d, 0x19),
    RGBColor(0xd9, 0x6c, 0x00),
    RGBColor(0x1e, 0x7d, 0x3c),
    RGBColor(0x7a, 0x3f, 0xa0),
    RGBColor(0xb0, 0x30, 0x7a),
    RGBColor(0x00, 0x7f, 0x86),
];

/// A result, as far as it is drawn.
#[derive(Clone, Debug, Deserialize)]
pub struct Drawn {
    /// What it was measured on.
    pub host: DrawnHost,
    floor: Option<DrawnFloor>,
    scenarios: Vec<DrawnScenario>,
}

/// The host of a result.
#[derive(Clone, Debug, Deserialize)]
pub struct DrawnHost {
    /// What hosts have in common whose figures can be compared.
    pub kind: String,
    cpu: String,
    cores: usize,
    kernel: String,
    dpdk: String,
    rustc: String,
    huge_pages: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct DrawnFloor {
    name: String,
    ns_per_packet_median: f64,
}

/// A scenario of forwarding. Those of changes in a file have no packets, and are not drawn.
#[derive(Clone, Debug, Deserialize)]
struct DrawnScenario {
    name: String,
    #[serde(default)]
    flows: u32,
    #[serde(default)]
    ns_per_packet_median: f64,
    #[serde(default)]
    runs: usize,
}

#[derive(Debug, Deserialize)]
struct Peers {
    machine: String,
    peers: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    name: String,
    ns_per_packet: Vec<(f64, f64)>,
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, LogCoord<f64>>>;

impl Drawn {
    /// Of a result of `./scripts/bench --json`.
    pub fn read(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("this is no result of ./scripts/bench --json")
    }

    fn series(&self, names: &[&str]) -> Vec<(f64, f64)> {
        let of_name = |name: &&str| self.scenarios.iter().find(|scenario| scenario.name == **name);
        names.iter().filter_map(of_name).map(|s| (f64::from(s.flows), s.ns_per_packet_median)).collect()
    }

    /// The picture, as SVG.
    pub fn svg(&self) -> Result<String> {
        let measured = self.series(IPV4);
        ensure!(measured.len() > 1, "the result has fewer than two of {}", IPV4.join(", "));
        let peers: Peers = serde_json::from_str(PEERS).context("benches/peers.json")?;
        let mut svg = String::new();
        self.draw(&mut svg, &measured, &peers).map_err(|error| anyhow!("cannot draw: {error}"))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String, measured: &[(f64, f64)], peers: &Peers) -> Result<(), Failure> {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let floor = self.floor.as_ref().map(|floor| floor.ns_per_packet_median);
        let quoted = peers.peers.iter().flat_map(|peer| &peer.ns_per_packet);
        let costs = measured.iter().chain(quoted).map(|point| point.1).chain(floor);
        let (least, most) =
            costs.fold((f64::MAX, 0.0_f64), |(least, most), ns| (least.min(ns), most.max(ns)));
        let area = root.margin(104, 74, 20, 190);
        let mut chart = ChartBuilder::on(&area)
            .x_label_area_size(56)
            .y_label_area_size(74)
            .build_cartesian_2d((FLOWS.0..FLOWS.1).log_scale(), (least * 0.6..most * 1.5).log_scale())?;
        chart
            .configure_mesh()
            .bold_line_style(RGBColor(0xcc, 0xcc, 0xcc))
            .light_line_style(RGBColor(0xee, 0xee, 0xee))
            .x_desc("live flows")
            .y_desc("ns a packet, one core")
            .axis_desc_style(text(17, &BLACK))
            .label_style(text(16, &BLACK))
            .x_labels(8)
            .x_label_formatter(&|flows| short(*flows))
            .y_label_formatter(&|ns| format!("{ns:.0}"))
            .draw()?;

        for (peer, &colour) in peers.peers.iter().zip(COLOURS.iter().cycle()) {
            dashed(&mut chart, &peer.ns_per_packet, colour)?;
            let last =
                peer.ns_per_packet.last().map(|&(flows, ns)| (flows, ns, format!("{} {ns:.0}", peer.name)));
            label(&mut chart, last, colour, (12, 0), HPos::Left)?;
        }
        if let (Some(ns), Some(floor)) = (floor, &self.floor) {
            chart.draw_series(LineSeries::new([(FLOWS.0, ns), (FLOWS.1, ns)], GREY.stroke_width(2)))?;
            let name = floor.name.trim_start_matches("dpdk-");
            label(&mut chart, Some((FLOWS.1, ns, format!("{name} {ns:.1}"))), GREY, (6, 0), HPos::Left)?;
        }
        let ipv6 = self.series(IPV6);
        solid(&mut chart, &ipv6, LIGHT_BLUE, 2)?;
        let last = ipv6.last().map(|&(flows, ns)| (flows, ns, format!("Turnpike IPv6 {ns:.1}")));
        label(&mut chart, last, LIGHT_BLUE, (-6, -16), HPos::Right)?;
        solid(&mut chart, measured, BLUE, 3)?;
        for (at, &(flows, ns)) in measured.iter().enumerate() {
            let (words, offset, side) = match at + 1 == measured.len() {
                true => (format!("Turnpike {ns:.1}"), (12, 0), HPos::Left),
                false => (format!("{ns:.1}"), (0, 17), HPos::Center),
            };
            label(&mut chart, Some((flows, ns, words)), BLUE, offset, side)?;
        }
        self.header(&root)?;
        self.footer(&root, peers)?;
        root.present()?;
        Ok(())
    }

    /// The title, and which lines are what.
    fn header(&self, root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<(), Failure> {
        root.draw_text(
            "What a packet costs, by the number of live flows",
            &text(26, &BLACK).pos(middle(HPos::Left)),
            (74, 28),
        )?;
        let of_packets = self.scenarios.iter().filter(|scenario| scenario.flows > 0);
        let runs = of_packets.map(|scenario| scenario.runs).max().unwrap_or(0);
        let measured = format!("measured in this run: medians of {runs} runs, TCP, both directions, tracked");
        let quoted = "quoted: same kind of machine, other runs, the least of each";
        for (x, words, is_measured) in [(74, measured.as_str(), true), (650, quoted, false)] {
            let ends = [(x, 70), (x + 54, 70)];
            let colour = if is_measured { BLUE } else { COLOURS[2] };
            if is_measured {
                root.draw(&PathElement::new(ends.to_vec(), BLUE.stroke_width(3)))?;
                root.draw(&Circle::new((x + 27, 70), 5, colour.filled()))?;
            } else {
                for dash in [(x, x + 9), (x + 15, x + 19), (x + 35, x + 39), (x + 45, x + 54)] {
                    root.draw(&PathElement::new(vec![(dash.0, 70), (dash.1, 70)], colour.stroke_width(2)))?;
                }
                root.draw(&Circle::new((x + 27, 70), 5, colour.stroke_width(2)))?;
            }
            root.draw_text(words, &text(17, &BLACK).pos(middle(HPos::Left)), (x + 66, 70))?;
        }
        Ok(())
    }

    /// On what both were taken.
    fn footer(
        &self,
        root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        peers: &Peers,
    ) -> Result<(), Failure> {
        let DrawnHost { cpu, cores, kernel, dpdk, rustc, huge_pages, .. } = &self.host;
        let cpu = cpu.split(',').next().unwrap_or(cpu);
        let rustc = rustc.split(" (").next().unwrap_or(rustc);
        let pages = if *huge_pages { "2 MiB pages" } else { "4 KiB pages" };
        let machine = peers.machine.split(';').next().unwrap_or(&peers.machine);
        let lines = [
            format!(
                "Measured: {cpu}, {cores} cores, one of them used; Linux {kernel}; {dpdk}; {rustc}; {pages}; frames of 64 bytes (IPv6: 78) over a software ring."
            ),
            format!(
                "Quoted: {machine}. What each does for a packet, and how it was measured: benches/peers.json."
            ),
        ];
        for (y, line) in [712, 738].into_iter().zip(&lines) {
            root.draw_text(line, &text(14, &GREY).pos(middle(HPos::Left)), (74, y))?;
        }
        Ok(())
    }
}

/// Why a picture could not be drawn.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A line of what was measured: solid, its points filled.
fn solid(
    chart: &mut Chart<'_, '_>,
    points: &[(f64, f64)],
    colour: RGBColor,
    width: u32,
) -> Result<(), Failure> {
    chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(width)))?;
    chart.draw_series(points.iter().map(|&point| Circle::new(point, 5, colour.filled())))?;
    Ok(())
}

/// A line of what is quoted: dashed, its points hollow.
fn dashed(chart: &mut Chart<'_, '_>, points: &[(f64, f64)], colour: RGBColor) -> Result<(), Failure> {
    let line: ShapeStyle = colour.stroke_width(2);
    chart.draw_series(DashedLineSeries::new(points.iter().copied(), 9, 6, line))?;
    chart.draw_series(points.iter().map(|&point| Circle::new(point, 5, WHITE.filled())))?;
    chart.draw_series(points.iter().map(|&point| Circle::new(point, 5, line)))?;
    Ok(())
}

/// Words beside a point.
fn label(
    chart: &mut Chart<'_, '_>,
    point: Option<(f64, f64, String)>,
    colour: RGBColor,
    offset: (i32, i32),
    side: HPos,
) -> Result<(), Failure> {
    let style = text(16, &colour).pos(middle(side));
    chart.draw_series(
        point.into_iter().map(|(flows, ns, words)| {
            EmptyElement::at((flows, ns)) + Text::new(words, offset, style.clone())
        }),
    )?;
    Ok(())
}

fn middle(side: HPos) -> Pos {
    Pos::new(side, VPos::Center)
}

fn text(pixels: i32, colour: &RGBColor) -> TextStyle<'static> {
    ("sans-serif", pixels).into_font().color(colour)
}

/// 1000 as 1k.
fn short(flows: f64) -> String {
    match flows {
        f if f >= 1e6 => format!("{:.0}M", f / 1e6),
        f if f >= 1e3 => format!("{:.0}k", f / 1e3),
        f => format!("{f:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn result(scenarios: &[(&str, u32, f64)]) -> String {
        let scenarios: Vec<Value> = scenarios
            .iter()
            .map(|(name, flows, ns)| json!({ "name": name, "flows": flows, "ns_per_packet_median": ns, "runs": 15 }))
            // What the other benchmark puts beside them.
            .chain([json!({ "name": "sync/one-change", "runs": 500 })])
            .collect();
        json!({
            "host": {
                "kind": "made-up-2-cores", "cpu": "Made Up, family 1", "cores": 2, "kernel": "6.1", "dpdk": "DPDK 22.11", "rustc": "rustc 1.95.0 (x)",
                "huge_pages": true,
            },
            "floor": { "name": "dpdk-testpmd 5tswap", "ns_per_packet_median": 9.5 },
            "scenarios": scenarios,
        })
        .to_string()
    }

    const MADE_UP: &[(&str, u32, f64)] = &[
        ("established/1", 1, 11.5),
        ("established/1k", 1_000, 12.5),
        ("established/1M", 1_000_000, 22.5),
        ("established/10M", 10_000_000, 33.5),
        ("established/1M/ipv6", 1_000_000, 44.5),
        ("new/1M/syn", 1_000_000, 55.5),
    ];

    #[test]
    fn measured_and_quoted_are_told_apart_and_named() {
        let svg = Drawn::read(&result(MADE_UP)).unwrap().svg().unwrap();
        for words in [
            "measured in this run: medians of 15 runs",
            "quoted: same kind of machine, other runs",
            "Turnpike 33.5",
            "Turnpike IPv6 44.5",
            "testpmd 5tswap 9.5",
            "VPP nat44-ed 218",
            "Cilium XDP 2765",
            "Measured: Made Up, 2 cores",
            "benches/peers.json",
        ] {
            assert!(svg.contains(words), "{words}: {svg}");
        }
        assert!(svg.contains("11.5") && !svg.contains("55.5"), "{svg}");
        // A filled point for each measured one and the legend's; of quoted points nothing is filled but the ground below them, which is white.
        let circles: Vec<&str> = svg.lines().filter(|line| line.starts_with("<circle")).collect();
        let filled =
            |colour: &str| circles.iter().filter(|line| line.contains(&format!("fill=\"{colour}\""))).count();
        let peers: Peers = serde_json::from_str(PEERS).unwrap();
        let quoted: usize = peers.peers.iter().map(|peer| peer.ns_per_packet.len()).sum();
        assert_eq!(
            (filled("#0B55C4"), filled("#4A9BE8"), filled("#FFFFFF"), filled("none")),
            (5, 1, quoted, quoted + 1)
        );
    }

    #[test]
    fn without_figures_there_is_no_picture() {
        assert!(Drawn::read("{}").is_err());
        let few = Drawn::read(&result(&MADE_UP[..1])).unwrap().svg().unwrap_err().to_string();
        assert!(few.contains("established/1M"), "{few}");
    }

    #[test]
    fn what_is_quoted_has_its_source() {
        let peers: Value = serde_json::from_str(PEERS).unwrap();
        for peer in peers["peers"].as_array().unwrap() {
            for key in ["name", "system", "a_packet", "source"] {
                assert!(peer[key].as_str().is_some_and(|text| text.len() > 3), "{key} in {peer}");
            }
            let points: Vec<(f64, f64)> = serde_json::from_value(peer["ns_per_packet"].clone()).unwrap();
            assert!(points.len() > 1 && points.is_sorted_by(|a, b| a.0 < b.0), "{peer}");
            assert!(points.iter().all(|point| point.0 <= FLOWS.1 && point.1 > 1.0), "{peer}");
        }
    }

    #[test]
    fn flows_are_written_short() {
        assert_eq!([1.0, 100.0, 1_000.0, 100_000.0, 1e7].map(short), ["1", "100", "1k", "100k", "10M"]);
    }
}
