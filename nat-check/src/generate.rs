//! What the program is packaged with, made from its own definitions: manual pages, completions, JSON Schemas.

use std::io;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use nat_check::args::{Args, Generate};
use nat_check_core::schema;

/// The text of one of them.
///
/// # Errors
/// When a manual page cannot be written, which memory always can.
pub(crate) fn text(what: Generate) -> io::Result<String> {
    match what {
        Generate::Man => page(Args::command()),
        Generate::PunchMan => page(punch()),
        Generate::Schema => Ok(format!("{:#}\n", schema::report())),
        Generate::PunchSchema => Ok(format!("{:#}\n", schema::punch())),
        Generate::Bash => Ok(completions(Shell::Bash)),
        Generate::Elvish => Ok(completions(Shell::Elvish)),
        Generate::Fish => Ok(completions(Shell::Fish)),
        Generate::Powershell => Ok(completions(Shell::PowerShell)),
        Generate::Zsh => Ok(completions(Shell::Zsh)),
    }
}

/// The subcommand under the name that its page has.
fn punch() -> Command {
    let mut whole = Args::command();
    whole.build();
    let found = whole.find_subcommand("punch").cloned().unwrap_or_default();
    found.name("nat-check-punch").bin_name("nat-check punch").version(env!("CARGO_PKG_VERSION"))
}

fn page(command: Command) -> io::Result<String> {
    let mut out = Vec::new();
    clap_mangen::Man::new(command).render(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn completions(shell: Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "nat-check", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn each_can_be_made_and_knows_the_options() {
        for &what in Generate::value_variants() {
            let text = text(what).unwrap();
            let schema = matches!(what, Generate::Schema | Generate::PunchSchema);
            assert!(schema || text.contains("server"), "{what:?}: {text}");
            assert!(text.ends_with('\n'), "{what:?}");
        }
    }

    #[test]
    fn the_page_of_punch_is_its_own() {
        let page = text(Generate::PunchMan).unwrap();
        assert!(page.contains(".TH nat-check-punch 1"), "{page}");
        assert!(page.contains("\\-\\-code") && !page.contains("lifetime"), "{page}");
    }
}
