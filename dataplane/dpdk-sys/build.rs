//! Binds to the libdpdk that `pkg-config` finds: bindgen over an allow-list of what `capsule` uses, a C shim for DPDK's inline
//! functions and thread-locals, and the shared libraries to link.
//!
//! Without DPDK, or with one that is too old, the build stops with one message that names the packages to install.

use std::env;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// The oldest DPDK whose names this crate binds; see `ALLOWED_FUNCTIONS`.
const OLDEST: &str = "22.11";

/// The libraries of `ALLOWED_FUNCTIONS`. EAL itself opens the drivers' plug-ins; `rte_net_ring` is one of them and is linked
/// because ring ports are made by a call.
const LIBRARIES: &[&str] =
    &["rte_net_ring", "rte_ethdev", "rte_hash", "rte_mbuf", "rte_mempool", "rte_ring", "rte_eal"];

const ALLOWED_FUNCTIONS: &[&str] = &[
    "shim_.*",
    // EAL and threads
    "rte_eal_init",
    "rte_eal_hotplug_add",
    "rte_strerror",
    "rte_version",
    "rte_thread_register",
    "rte_thread_unregister",
    // memory
    "rte_pktmbuf_pool_create",
    "rte_mempool_avail_count",
    "rte_ring_create",
    "rte_ring_free",
    // hash tables, for the benchmark of flow tables alone: programs that do not use them are not linked to their library
    "rte_hash_(create|free|add_key_data|lookup_data|lookup_bulk_data)",
    "rte_malloc_get_socket_stats",
    // ports
    "rte_dev_remove",
    "rte_eth_from_rings",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_rss_hash_conf_get",
    "rte_eth_dev_rss_reta_query",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_enable",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_queue_setup",
];

const ALLOWED_TYPES: &[&str] = &["shim_mbuf_offset", "shim_mbuf_width", "rte_eth_rss_reta_entry64"];

const ALLOWED_CONSTANTS: &[&str] = &[
    "RTE_ETH_MQ_RX_NONE",
    "RTE_HASH_(ENTRIES_MAX|LOOKUP_BULK_MAX)",
    "RTE_MAX_NUMA_NODES",
    "RTE_ETH_MQ_RX_RSS",
    "RTE_ETH_NAME_MAX_LEN",
    "RTE_ETH_RETA_GROUP_SIZE",
    "RTE_ETH_RSS_(IPV4|FRAG_IPV4|NONFRAG_IPV4_(TCP|UDP)|IPV6|FRAG_IPV6|NONFRAG_IPV6_(TCP|UDP))",
    "RTE_ETH_RX_OFFLOAD_(RSS_HASH|SCATTER)",
    "RTE_ETH_TX_OFFLOAD_(MBUF_FAST_FREE|MULTI_SEGS)",
    "RTE_MAX_ETHPORTS",
    "RTE_MAX_LCORE",
    "RTE_MBUF_F_(EXTERNAL|INDIRECT|RX_RSS_HASH)",
    "RTE_MEMPOOL_CACHE_MAX_SIZE",
    "RTE_PKTMBUF_HEADROOM",
    "RING_F_(SP_ENQ|SC_DEQ)",
    "SHIM_.*",
];

fn main() {
    println!("cargo::rerun-if-changed=shim");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    let dpdk = pkg_config::Config::new()
        .atleast_version(OLDEST)
        .cargo_metadata(false)
        .probe("libdpdk")
        .unwrap_or_else(|why| stop(&missing(&why)));
    let flags = compiler_flags();
    compile_shim(&flags);
    link(&dpdk);
    bind(&flags);
    println!("cargo::rustc-env=DPDK_BUILD_VERSION={}", dpdk.version);
}

/// Everything `pkg-config --cflags` says: beside include paths also `-march=` and `-include rte_config.h`, which the headers need
/// and which the `pkg_config` crate leaves out.
fn compiler_flags() -> Vec<String> {
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = match Command::new(&tool).args(["--cflags", "libdpdk"]).output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => stop(&format!(
            "`{tool} --cflags libdpdk` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(why) => stop(&format!("cannot run {tool}: {why}; install it: apt-get install pkg-config")),
    };
    let mut flags: Vec<String> =
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect();
    flags.push("-D_GNU_SOURCE".into());
    flags
}

fn compile_shim(flags: &[String]) {
    let mut build = cc::Build::new();
    build.file("shim/shim.c").opt_level(3).warnings(true).cargo_warnings(false);
    for flag in flags {
        build.flag(flag);
    }
    if let Err(why) = build.try_compile("dpdk_sys_shim") {
        stop(&format!(
            "the C shim does not compile against the installed DPDK headers: {why}\n\
             A C compiler is needed: apt-get install build-essential"
        ));
    }
}

fn link(dpdk: &pkg_config::Library) {
    for path in &dpdk.link_paths {
        println!("cargo::rustc-link-search=native={}", path.display());
    }
    for library in LIBRARIES {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
}

fn bind(flags: &[String]) {
    let mut builder = bindgen::Builder::default()
        .header("shim/shim.h")
        .clang_args(flags)
        .clang_macro_fallback()
        .clang_macro_fallback_build_dir(out_dir())
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .derive_debug(false)
        .generate_comments(false)
        .layout_tests(true)
        .opaque_type("rte_hash")
        .opaque_type("rte_mbuf")
        .opaque_type("rte_mempool")
        .opaque_type("rte_ring")
        .opaque_type("rte_device");
    for name in ALLOWED_FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in ALLOWED_TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in ALLOWED_CONSTANTS {
        builder = builder.allowlist_var(name);
    }
    let bindings = generate(builder).unwrap_or_else(|why| {
        stop(&format!(
            "bindgen cannot read the DPDK headers: {why}. It needs libclang: apt-get install libclang-dev"
        ))
    });
    if let Err(why) = bindings.write_to_file(out_dir().join("bindings.rs")) {
        stop(&format!("cannot write the bindings: {why}"));
    }
}

/// Runs bindgen. It panics where it finds no libclang; that becomes an error like any other.
fn generate(builder: bindgen::Builder) -> Result<bindgen::Bindings, String> {
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| builder.generate()));
    drop(panic::take_hook());
    match outcome {
        Ok(generated) => generated.map_err(|why| why.to_string()),
        Err(message) => {
            Err(message.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".into()))
        }
    }
}

fn out_dir() -> PathBuf {
    env::var_os("OUT_DIR").map_or_else(|| Path::new(".").to_owned(), PathBuf::from)
}

/// What to do about a DPDK that is not there, too old, or cannot be asked for.
fn missing(why: &pkg_config::Error) -> String {
    let found = match why {
        pkg_config::Error::Command { .. } => "pkg-config itself cannot be run".into(),
        _ => match modversion() {
            Some(version) => format!("DPDK {version} is installed, {OLDEST} or newer is needed"),
            None => "DPDK is not installed (pkg-config finds no libdpdk.pc)".into(),
        },
    };
    format!(
        "{found}. Install it and what binds to it: apt-get install dpdk libdpdk-dev libclang-dev build-essential pkg-config. \
         If it is under another prefix, set PKG_CONFIG_PATH to the folder of its libdpdk.pc."
    )
}

fn modversion() -> Option<String> {
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = Command::new(tool).args(["--modversion", "libdpdk"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Fails the build with this one message: Cargo prints what `cargo::error` says, and fails although the script itself does not.
fn stop(message: &str) -> ! {
    println!("cargo::error={}", message.replace('\n', " "));
    exit(0);
}
