//! Programs that are installed with this one.

use std::path::PathBuf;

/// Where a program of this name is: beside this one, where one build or package puts them; else wherever PATH says.
pub(crate) fn program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().map(|me| me.with_file_name(name)).filter(|path| path.is_file());
    beside.unwrap_or_else(|| name.into())
}
