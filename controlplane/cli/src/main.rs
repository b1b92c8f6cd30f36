//! `turnpike`: configures Turnpike and explains it. Talks to the control plane's Unix socket, or starts everything with `turnpike up`.
//!
//! Exit status: 0 success, 1 failure, 2 usage. Errors go to standard error, name the thing and the mend.
#![forbid(unsafe_code)]

mod bench;
mod beside;
mod capture;
mod dataplane;
mod describe;
mod doctor;
mod drops;
mod explain;
mod flows;
mod manifest;
mod manual;
mod pcapng;
mod plan;
mod print;
mod socket;
mod trace;
mod up;
mod watching;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use socket::Socket;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use turnpike_wire::admin::{ObjectName, Reply, Request, Resource};
use turnpike_wire::config::{Config, DEFAULT_PATH};

/// Configures Turnpike, a Kubernetes Service gateway, and explains it.
#[derive(Parser)]
#[command(name = "turnpike", version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run everything in the foreground: etcd if none is configured, the control plane, the dataplane.
    Up,
    /// Create or change objects from Kubernetes manifests (Service, Pod, Node, EndpointSlice); all are checked before any is written.
    Apply {
        /// A YAML or JSON file, a folder of them, or - for standard input; may be given more than once.
        #[arg(short, long = "filename", value_name = "FILE", required = true)]
        filename: Vec<PathBuf>,
        /// Let the control plane check and allocate everything, and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what applying manifests would change: fields, frontends, backends, and how many live flows that touches. Writes nothing.
    Plan {
        /// A YAML or JSON file, a folder of them, or - for standard input; may be given more than once.
        #[arg(short, long = "filename", value_name = "FILE", required = true)]
        filename: Vec<PathBuf>,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Delete objects, named by manifests or by kind and name.
    Delete {
        /// A YAML or JSON file, a folder of them, or - for standard input; may be given more than once.
        #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "kind")]
        filename: Vec<PathBuf>,
        /// What kind of object.
        #[arg(required_unless_present = "filename", requires = "names")]
        kind: Option<Kind>,
        /// Which.
        names: Vec<String>,
        /// The namespace of what is named.
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// Do not fail on objects that are not there.
        #[arg(long)]
        ignore_not_found: bool,
    },
    /// List objects, or what was made of them.
    Get {
        /// What to list.
        resource: Listing,
        /// One by its name.
        name: Option<String>,
        /// Of one namespace; without it, of all.
        #[arg(short, long)]
        namespace: Option<String>,
        /// Of all namespaces, as without --namespace.
        #[arg(short = 'A', long, conflicts_with = "namespace")]
        all_namespaces: bool,
        /// Frontends as this client meets them, e.g. a pod of the cluster or somebody outside the source ranges.
        #[arg(long, value_name = "ADDRESS")]
        client: Option<IpAddr>,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Everything about one object in one page.
    Describe {
        /// What it is.
        kind: Describable,
        /// Its name, or NAMESPACE/NAME.
        name: String,
        /// Its namespace, where the name does not say.
        #[arg(short, long)]
        namespace: Option<String>,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// How the gateway is: etcd revision → published → adopted, workers, objects that were skipped.
    Status {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Which packets got nowhere: by verdict, with rates, what each means and what to do about it.
    Drops(drops::Wanted),
    /// What would become of a packet: rule, flow, backend, address and port, next hop, or why it ends. Asks the dataplane; nothing is sent.
    Explain(explain::Arguments),
    /// Follow real packets through the stages of the path, with verdicts and rewrites, until Ctrl-C.
    Trace(trace::Arguments),
    /// Write packets into a pcapng file, before and after translation, with verdicts as comments, until Ctrl-C.
    Capture(capture::Arguments),
    /// List, count and end live flows; reading them disturbs no worker.
    Flows(flows::Arguments),
    /// Take the view of etcd that is held back because too much is gone from it; status shows what.
    Accept,
    /// Whether this host is fit for the configuration: cores, NUMA, huge pages, devices, MTU, clock, ports, etcd. Exit status 0 if it is, 1 if not.
    Doctor {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
        /// The same as --output json.
        #[arg(long, conflicts_with = "output")]
        json: bool,
        /// Look at the /sys, /proc, /dev and /run under this folder, such as a copy of another host's.
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
    },
    /// Measure what a packet costs on this host: over software rings, or through two of its NICs that a cable joins.
    Bench(bench::Arguments),
    /// Questions about the configuration file.
    Config {
        #[command(subcommand)]
        question: ConfigQuestion,
    },
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one for each verb, into a folder.
    Manual {
        /// The folder, e.g. `/usr/local/share/man/man1`; made if it is not there.
        folder: PathBuf,
    },
}

#[derive(Subcommand)]
enum ConfigQuestion {
    /// Check it and say what is wrong.
    Check,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Listing {
    #[value(alias = "service", alias = "svc")]
    Services,
    #[value(alias = "ep")]
    Endpoints,
    #[value(alias = "endpointslice")]
    Endpointslices,
    #[value(alias = "pod", alias = "po")]
    Pods,
    #[value(alias = "node", alias = "no")]
    Nodes,
    #[value(alias = "frontend")]
    Frontends,
    #[value(alias = "backend")]
    Backends,
    #[value(alias = "gateway")]
    Gateways,
    #[value(alias = "port")]
    Ports,
    #[value(alias = "worker")]
    Workers,
}

impl From<Listing> for Resource {
    fn from(listing: Listing) -> Self {
        match listing {
            Listing::Services => Self::Services,
            Listing::Endpoints => Self::Endpoints,
            Listing::Endpointslices => Self::EndpointSlices,
            Listing::Pods => Self::Pods,
            Listing::Nodes => Self::Nodes,
            Listing::Frontends => Self::Frontends,
            Listing::Backends => Self::Backends,
            Listing::Gateways => Self::Gateways,
            Listing::Ports => Self::Ports,
            Listing::Workers => Self::Workers,
        }
    }
}

/// What can be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Describable {
    #[value(alias = "services", alias = "svc")]
    Service,
}

/// Kinds of objects that can be deleted by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(alias = "services", alias = "svc")]
    Service,
    #[value(alias = "pods", alias = "po")]
    Pod,
    #[value(alias = "nodes", alias = "no")]
    Node,
    #[value(alias = "endpointslices")]
    Endpointslice,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Endpointslice => "EndpointSlice",
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // What is wrong has been printed as the answer.
        Err(error) if error.is::<doctor::NotFit>() => ExitCode::FAILURE,
        // Whoever read our output has seen enough.
        Err(error) if error.chain().any(is_closed_pipe) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

fn run(arguments: Arguments) -> Result<()> {
    let path = arguments.config;
    match arguments.verb {
        Verb::Doctor { output, json, root } => {
            doctor::run(&path, &root, if json { Format::Json } else { output })
        }
        Verb::Up => up::run(&path),
        Verb::Apply { filename, dry_run } => {
            let objects = manifest::read_all(&filename)?;
            changed(&ask(&path, &Request::Apply { objects, dry_run })?, dry_run)
        }
        Verb::Plan { filename, output } => {
            let objects = manifest::read_all(&filename)?;
            let Reply::Planned(planned) = ask(&path, &Request::Plan { objects })? else {
                bail!("the control plane gave another answer than asked for")
            };
            match output {
                Format::Table => Ok(std::io::stdout().write_all(plan::text(&planned)?.as_bytes())?),
                _ => print::encoded(&planned, output),
            }
        }
        Verb::Describe { kind: Describable::Service, name, namespace, output } => {
            let found = describe(&path, &name, namespace.as_deref())?;
            match output {
                Format::Table => Ok(std::io::stdout().write_all(found.text()?.as_bytes())?),
                _ => print::encoded(&found.value(), output),
            }
        }
        Verb::Delete { filename, kind, names, namespace, ignore_not_found } => {
            let objects = match kind {
                Some(kind) => by_name(kind, &names, &namespace),
                None => manifest::names(&manifest::read_all(&filename)?)?,
            };
            changed(&ask(&path, &Request::Delete { objects, ignore_not_found })?, false)
        }
        Verb::Get { client: Some(_), resource, .. } if resource != Listing::Frontends => {
            usage("--client is only for get frontends")
        }
        Verb::Get { resource, name, namespace, client, output, .. } => {
            let request = Request::Get { resource: resource.into(), namespace, name: name.clone(), client };
            let Reply::Items { items } = ask(&path, &request)? else {
                bail!("the control plane gave another answer than asked for")
            };
            if let Some(name) = name
                && items.is_empty()
            {
                bail!(
                    "there is no {name} among the {resource:?}; turnpike get {} lists them",
                    print::word(resource)
                );
            }
            print::items(resource, &items, output)
        }
        Verb::Status { output } => {
            let Reply::Status(status) = ask(&path, &Request::Status)? else {
                bail!("the control plane gave another answer than asked for")
            };
            print::status(&status, output)
        }
        Verb::Drops(wanted) => drops::run(wanted, || match ask(&path, &Request::Status)? {
            Reply::Status(status) => Ok(status.dataplane),
            _ => bail!("the control plane gave another answer than asked for"),
        }),
        Verb::Accept => {
            let Reply::Accepted(held) = ask(&path, &Request::AcceptView)? else {
                bail!("the control plane gave another answer than asked for")
            };
            writeln!(
                std::io::stdout(),
                "accepted: {} services (before: {}), {} endpoints (before: {})",
                held.services_now,
                held.services_before,
                held.endpoints_now,
                held.endpoints_before
            )?;
            Ok(())
        }
        Verb::Explain(arguments) => explain::run(&path, arguments),
        Verb::Trace(arguments) => trace::run(&path, arguments),
        Verb::Capture(arguments) => capture::run(&path, arguments),
        Verb::Flows(arguments) => flows::run(&path, arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Config { question: ConfigQuestion::Check } => {
            let config = Config::load(&path)?;
            config.require_dataplane(&path)?;
            writeln!(std::io::stdout(), "{}: in order", path.display())?;
            Ok(())
        }
        Verb::Manual { folder } => manual::write(Arguments::command(), &folder),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "turnpike", &mut script);
            std::io::stdout().write_all(&script)?;
            Ok(())
        }
    }
}

fn by_name(kind: Kind, names: &[String], namespace: &str) -> Vec<ObjectName> {
    let namespace = if kind == Kind::Node { "" } else { namespace };
    names
        .iter()
        .map(|name| ObjectName { kind: kind.name().into(), namespace: namespace.into(), name: name.clone() })
        .collect()
}

/// Refuses a command line that is wrong in a way the parser does not see.
fn usage(message: &str) -> Result<()> {
    Arguments::command().error(clap::error::ErrorKind::ArgumentConflict, message).exit()
}

/// Collects what there is to say about a Service.
fn describe(path: &Path, name: &str, namespace: Option<&str>) -> Result<describe::Description> {
    let (namespace, name) = match name.split_once('/') {
        Some((stated, _)) if namespace.is_some_and(|namespace| namespace != stated) => {
            bail!("{name} names the namespace {stated}, and --namespace another; leave one out")
        }
        Some((namespace, name)) => (namespace, name),
        None => (namespace.unwrap_or("default"), name),
    };
    let get = |resource: Resource| {
        let (namespace, name) = (Some(namespace.to_owned()), Some(name.to_owned()));
        match ask(path, &Request::Get { resource, namespace, name, client: None })? {
            Reply::Items { items } => Ok(items),
            _ => bail!("the control plane gave another answer than asked for"),
        }
    };
    let Some(service) = get(Resource::Services)?.pop() else {
        bail!("there is no Service {namespace}/{name}; turnpike get services lists them");
    };
    let Reply::Status(status) = ask(path, &Request::Status)? else {
        bail!("the control plane gave another answer than asked for")
    };
    let keys = [format!("Service {namespace}/{name}"), format!("/services/specs/{namespace}/{name}")];
    let mut problems = status.objects.skipped;
    problems.retain(|problem| problem.key == keys[0] || problem.key.ends_with(&keys[1]));
    let (frontends, endpoints) = (get(Resource::Frontends)?, get(Resource::Endpoints)?);
    Ok(describe::Description { service, frontends, endpoints, problems })
}

/// Asks the control plane; its errors become ours.
fn ask(path: &Path, request: &Request) -> Result<Reply> {
    let config = Config::load(path)?;
    match Socket::connect(&config.admin_socket())?.ask(request)? {
        Reply::Error { message } => bail!(message),
        reply => Ok(reply),
    }
}

/// Prints what happened to each object, as kubectl does.
fn changed(reply: &Reply, dry_run: bool) -> Result<()> {
    let Reply::Changed { results } = reply else {
        bail!("the control plane gave another answer than asked for")
    };
    let mut out = std::io::stdout().lock();
    for change in results {
        for warning in &change.warnings {
            // Nobody may be reading; what was done is done all the same.
            let _ = writeln!(std::io::stderr(), "warning: {}: {warning}", print::object(&change.object));
        }
        let suffix = if dry_run { " (dry run)" } else { "" };
        let object = print::object(&change.object);
        writeln!(out, "{object} {}{suffix}", change.outcome).context("standard output")?;
    }
    Ok(())
}
