//! `turnpike doctor`: whether this host is fit for the configuration, and the mend for each thing that is not.
//!
//! Every check is a function of the configuration, of a [`Host`] and of what the control plane says if it runs; none changes anything. The kernel describes
//! the host in files, any of which may lack: then the check says that it does not know.

mod cores;
mod devices;
mod host;
mod memory;
mod software;

use crate::print::encoded;
use crate::{Format, socket::Socket};
use anyhow::Result;
pub use host::Host;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use turnpike_wire::admin::{Reply, Request, Status};
use turnpike_wire::config::Config;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// The host does not say.
    Unknown,
    /// It works, but slower or less safely than it could.
    Warning,
    /// It does not work.
    Failure,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub check: &'static str,
    /// How it ended.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub mend: Option<String>,
}

/// What is looked at.
pub struct Patient<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The host.
    pub host: &'a Host,
    /// What the control plane says, if it runs.
    pub status: Option<&'a Status>,
}

impl Patient<'_> {
    /// Whether the dataplane runs, and has what it needs.
    pub fn is_running(&self) -> bool {
        self.status.is_some_and(|status| status.dataplane.state == "serving")
    }
}

/// The result as scripts read it.
#[derive(Serialize)]
struct Report {
    fit: bool,
    failures: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

/// Findings of one check, as they come up.
pub struct Findings {
    check: &'static str,
    found: Vec<Finding>,
}

impl Findings {
    /// None so far.
    pub const fn of(check: &'static str) -> Self {
        Self { check, found: Vec::new() }
    }

    /// All is well.
    pub fn ok(&mut self, message: impl Into<String>) {
        self.add(Level::Ok, message.into(), None);
    }

    /// The host does not say.
    pub fn unknown(&mut self, message: impl Into<String>) {
        self.add(Level::Unknown, message.into(), None);
    }

    /// It could be better.
    pub fn warn(&mut self, message: impl Into<String>, mend: impl Into<String>) {
        self.add(Level::Warning, message.into(), Some(mend.into()));
    }

    /// It does not work.
    pub fn fail(&mut self, message: impl Into<String>, mend: impl Into<String>) {
        self.add(Level::Failure, message.into(), Some(mend.into()));
    }

    fn add(&mut self, level: Level, message: String, mend: Option<String>) {
        self.found.push(Finding { check: self.check, level, message, mend });
    }

    /// What was found; that all is well, if nothing was.
    pub fn or_ok(mut self, message: impl Into<String>) -> Vec<Finding> {
        if self.found.is_empty() {
            self.ok(message);
        }
        self.found
    }
}

/// Looks at everything, in the order in which it is best mended.
fn examine(patient: &Patient<'_>) -> Vec<Finding> {
    let checks: [fn(&Patient<'_>) -> Vec<Finding>; 14] = [
        cores::workers,
        cores::isolation,
        cores::speed,
        devices::binding,
        devices::iommu,
        devices::links,
        devices::mtu,
        devices::spreading,
        cores::numa,
        memory::hugepages,
        memory::shared,
        software::clock,
        software::listeners,
        software::etcd,
    ];
    checks.iter().flat_map(|check| check(patient)).collect()
}

/// The host is not fit. Why has been printed.
#[derive(Debug)]
pub struct NotFit;

impl std::fmt::Display for NotFit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this host is not fit for the configuration")
    }
}

impl std::error::Error for NotFit {}

/// Examines the host and prints what was found; an error that is [`NotFit`] if it is not.
pub fn run(config_path: &Path, root: &Path, output: Format) -> Result<()> {
    let config = Config::load(config_path)?;
    config.require_dataplane(config_path)?;
    let status = ask(&config);
    let patient = Patient { config: &config, host: &Host::at(root), status: status.as_ref() };
    let findings = examine(&patient);
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (failures, warnings) = (count(Level::Failure), count(Level::Warning));
    let report = Report { fit: failures == 0, failures, warnings, findings };
    match output {
        Format::Table => table(&report)?,
        _ => encoded(&report, output)?,
    }
    if report.fit { Ok(()) } else { Err(NotFit.into()) }
}

/// What the control plane says; none if it does not run, which is no failure here.
fn ask(config: &Config) -> Option<Status> {
    match Socket::connect(&config.admin_socket()).ok()?.ask(&Request::Status).ok()? {
        Reply::Status(status) => Some(*status),
        _ => None,
    }
}

fn table(report: &Report) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let wide = report.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    for Finding { check, level, message, mend } in &report.findings {
        let word = match level {
            Level::Ok => "ok",
            Level::Unknown => "?",
            Level::Warning => "warning",
            Level::Failure => "FAILURE",
        };
        writeln!(out, "{word:<8} {check:<wide$}  {message}")?;
        if let Some(mend) = mend {
            writeln!(out, "{:<8} {:<wide$}  → {mend}", "", "")?;
        }
    }
    let Report { failures, warnings, .. } = report;
    let verdict = if report.fit { "this host is fit" } else { "this host is not fit" };
    writeln!(out, "{verdict}: {failures} failures, {warnings} warnings")?;
    Ok(())
}
