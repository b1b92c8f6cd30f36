//! [`Host`]: the files in which a kernel describes its host, under any folder, so that hosts can be made up or looked at from afar.

use std::path::{Path, PathBuf};

/// A host.
pub struct Host(PathBuf);

impl Host {
    /// The one whose `/sys`, `/proc`, `/dev` and `/run` are in this folder.
    pub fn at(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Where a file of its is, named without the leading slash.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Its `/sys`.
    pub fn sys(&self) -> PathBuf {
        self.path("sys")
    }

    /// The words of a file, without spaces around; none if it cannot be read.
    pub fn text(&self, name: impl AsRef<Path>) -> Option<String> {
        Some(std::fs::read_to_string(self.path(name)).ok()?.trim().to_owned())
    }

    /// The number a file holds.
    pub fn number(&self, name: impl AsRef<Path>) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// Whether there is such a file or folder.
    pub fn has(&self, name: impl AsRef<Path>) -> bool {
        self.path(name).exists()
    }

    /// Names in a folder, in order.
    pub fn names(&self, name: impl AsRef<Path>) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(name)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The last word of what a symbolic link points to, such as the driver's name.
    pub fn target(&self, name: impl AsRef<Path>) -> Option<String> {
        let target = std::fs::read_link(self.path(name)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// A line of `/proc/self/status`.
    pub fn of_this_process(&self, field: &str) -> Option<String> {
        let status = self.text("proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }
}
