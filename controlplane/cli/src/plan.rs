//! `turnpike plan`: what applying would change, in lines that start with `+`, `~` and `-`.

use crate::print;
use anyhow::Result;
use serde_json::Value;
use std::fmt::Write;
use turnpike_wire::admin::{BackendView, Difference, FieldChange, FrontendView, Planned, PlannedBackend};

/// Most characters of a value that are shown.
const VALUE_CHARS_MAX: usize = 120;

/// The plan for people.
pub fn text(planned: &Planned) -> Result<String> {
    let mut out = String::new();
    for object in &planned.objects {
        writeln!(out, "{} {}", print::object(&object.object), object.outcome)?;
        for field in &object.fields {
            writeln!(out, "    {}", field_line(field))?;
        }
        for warning in &object.warnings {
            writeln!(out, "    warning: {warning}")?;
        }
    }
    section(&mut out, "frontends", planned.frontends.iter().map(|f| (f.change, frontend(&f.frontend))))?;
    section(&mut out, "backends", planned.backends.iter().map(|b| (b.change, backend(b))))?;
    if planned.frontends.is_empty() && planned.backends.is_empty() {
        writeln!(out, "\nNo frontend and no backend would change.")?;
    }
    match (&planned.flows, &planned.flows_unknown) {
        (Some(flows), _) => writeln!(
            out,
            "\nflows: {} live, {} touched: {} would end (UDP, whose clients reach another backend), {} stay until they are closed",
            flows.live, flows.touched, flows.ends, flows.stay
        )?,
        (None, reason) => {
            writeln!(out, "\nflows: unknown: {}", reason.as_deref().unwrap_or("nobody said why"))?;
        }
    }
    if planned.frontends.iter().any(|frontend| frontend.change == Difference::Appears) {
        writeln!(
            out,
            "Addresses and ports that the manifests do not ask for are examples; apply may choose others."
        )?;
    }
    Ok(out)
}

fn section(out: &mut String, title: &str, lines: impl Iterator<Item = (Difference, String)>) -> Result<()> {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        writeln!(out, "\n{title}")?;
    }
    for (change, line) in lines {
        let sign = match change {
            Difference::Appears => '+',
            Difference::Changes => '~',
            Difference::Goes => '-',
        };
        writeln!(out, "  {sign} {line}")?;
    }
    Ok(())
}

fn field_line(field: &FieldChange) -> String {
    match (&field.before, &field.after) {
        (Some(before), Some(after)) => format!("~ {}: {} → {}", field.path, short(before), short(after)),
        (None, Some(after)) => format!("+ {}: {}", field.path, short(after)),
        (Some(before), None) => format!("- {}: {}", field.path, short(before)),
        (None, None) => field.path.clone(),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn port(namespace: &str, service: &str, port_name: &str) -> String {
    let name = if port_name.is_empty() { String::new() } else { format!(":{port_name}") };
    format!("{namespace}/{service}{name}")
}

fn frontend(view: &FrontendView) -> String {
    let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
    let kind = word(serde_json::to_value(view.kind).unwrap_or_default());
    let action = word(serde_json::to_value(view.action).unwrap_or_default());
    let address = std::net::SocketAddr::new(view.address, view.port);
    let service = port(&view.namespace, &view.service, &view.port_name);
    format!("{} {address}  {kind} of {service}: {action}", view.protocol)
}

fn backend(planned: &PlannedBackend) -> String {
    let BackendView { address, port: number, weight, .. } = planned.backend;
    let state = serde_json::to_value(planned.backend.state).unwrap_or_default();
    let address = std::net::SocketAddr::new(address, number);
    let service = port(&planned.namespace, &planned.service, &planned.port_name);
    format!(
        "{} {address}  of {service}: {}, weight {weight}",
        planned.protocol,
        state.as_str().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::text;
    use serde_json::json;
    use turnpike_wire::admin::{FieldChange, ObjectName, Planned, PlannedFlows, PlannedObject};

    #[test]
    fn a_plan_reads_like_a_list_of_changes() {
        let object = |outcome: &str, fields| PlannedObject {
            object: ObjectName { kind: "Service".into(), namespace: "default".into(), name: "web".into() },
            outcome: outcome.into(),
            fields,
            warnings: Vec::new(),
        };
        let field = FieldChange {
            path: "spec.ports[0].port".into(),
            before: Some(json!(80)),
            after: Some(json!("x".repeat(300))),
        };
        let mut planned = Planned { objects: vec![object("configured", vec![field])], ..Planned::default() };
        planned.flows_unknown = Some("there is no dataplane to ask (absent)".into());
        let lines = text(&planned).unwrap();
        assert!(lines.starts_with("service/web configured\n    ~ spec.ports[0].port: 80 → \"xxx"), "{lines}");
        assert!(
            lines.contains("x…\n") && lines.contains("No frontend and no backend would change."),
            "{lines}"
        );
        assert!(lines.ends_with("flows: unknown: there is no dataplane to ask (absent)\n"), "{lines}");
        planned.flows = Some(PlannedFlows { live: 9, touched: 3, ends: 1, stay: 2 });
        let lines = text(&planned).unwrap();
        assert!(
            lines.contains("flows: 9 live, 3 touched: 1 would end (UDP") && lines.contains("2 stay"),
            "{lines}"
        );
    }
}
