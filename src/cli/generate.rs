//! `generate`.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;
use serde_json::json;

use super::session::{Outcome, Session};
use crate::{Error, Result};

/// Generate completions for a shell, or the man page
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk generate bash > /etc/bash_completion.d/seedwalk
  seedwalk generate man > seedwalk.1")]
pub(super) struct Generate {
    /// What to print
    #[arg(value_enum)]
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Bash,
    Zsh,
    Fish,
    #[value(name = "powershell")]
    PowerShell,
    Man,
}

impl Generate {
    pub fn run(self, _session: &Session) -> Result<Outcome> {
        let mut command = super::Cli::command();
        let mut bytes = Vec::new();
        let shell = match self.what {
            What::Bash => Some(Shell::Bash),
            What::Zsh => Some(Shell::Zsh),
            What::Fish => Some(Shell::Fish),
            What::PowerShell => Some(Shell::PowerShell),
            What::Man => None,
        };
        match shell {
            Some(shell) => clap_complete::generate(shell, &mut command, "seedwalk", &mut bytes),
            None => pages(command, &mut bytes).map_err(|e| Error::invalid(format!("cannot render: {e}")))?,
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = json!({ "text": text });
        Ok(Outcome::new(text, json))
    }
}

/// One page: the program, then each command with its flags as a section.
fn pages(mut command: clap::Command, out: &mut Vec<u8>) -> std::io::Result<()> {
    command.build();
    let page = clap_mangen::Man::new(command.clone());
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        let title = format!(".SH \"seedwalk {}\"\n", inner.get_name().to_uppercase());
        out.extend(title.as_bytes());
        // Sections of the command's own page, one level further down.
        let mut own = Vec::new();
        let page = clap_mangen::Man::new(
            inner.clone().mut_args(|a| if a.is_global_set() { a.hide(true) } else { a }),
        );
        page.render_synopsis_section(&mut own)?;
        page.render_description_section(&mut own)?;
        page.render_options_section(&mut own)?;
        page.render_extra_section(&mut own)?;
        let own = String::from_utf8_lossy(&own).replace(".SH ", ".SS ");
        out.extend(own.as_bytes());
    }
    Ok(())
}
