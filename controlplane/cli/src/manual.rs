//! `turnpike manual`: manual pages, one of the program and one of each verb, from the same words as its help.

use anyhow::{Context, Result};
use clap::Command;
use std::fs;
use std::path::Path;

/// Writes the pages into a folder, which is made if it is not there.
pub(crate) fn write(command: Command, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    // Each verb gets a page under its whole name, `turnpike-config-check`.
    let command = command.disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("cannot write manual pages into {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arguments;
    use clap::CommandFactory;

    #[test]
    fn every_verb_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let pages = folder.path().join("man1");
        write(Arguments::command(), &pages).unwrap();
        let main = fs::read_to_string(pages.join("turnpike.1")).unwrap();
        assert!(main.contains("Kubernetes Service gateway"), "{main}");
        for verb in Arguments::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = format!("turnpike-{}", verb.get_name());
            let page =
                fs::read_to_string(pages.join(format!("{name}.1"))).unwrap_or_else(|e| panic!("{name}: {e}"));
            let about = verb.get_about().unwrap().to_string();
            let word = about.split_whitespace().next().unwrap();
            assert!(page.contains(word), "{name} does not say what it is: {page}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let said = format!("{:#}", write(Arguments::command(), file.path()).unwrap_err());
        assert!(said.contains(&file.path().display().to_string()), "{said}");
    }
}
