//! The manual page and the completions, made from the command line's own definition.

use std::io;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::{Cli, Generate};

/// The text of one of them.
pub(crate) fn text(what: Generate) -> io::Result<String> {
    let shell = match what {
        Generate::Man => return page(),
        Generate::Bash => Shell::Bash,
        Generate::Fish => Shell::Fish,
        Generate::Zsh => Shell::Zsh,
    };
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "natlab", &mut out);
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// One page for all: the subcommands follow, each with its options.
fn page() -> io::Result<String> {
    let mut whole = Cli::command();
    whole.build();
    let mut out = Vec::new();
    let man = Man::new(whole.clone());
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    for subcommand in whole.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        let name = subcommand.get_name().to_owned();
        let mut roff = roff::Roff::new();
        roff.control("SH", [&*name.to_uppercase()]).text([roff::roman(
            subcommand
                .get_long_about()
                .or(subcommand.get_about())
                .map(ToString::to_string)
                .unwrap_or_default(),
        )]);
        roff.to_writer(&mut out)?;
        let mut section = Vec::new();
        Man::new(subcommand.clone()).render_options_section(&mut section)?;
        out.extend(String::from_utf8_lossy(&section).replace(".SH OPTIONS", ".SS Options").bytes());
    }
    man.render_extra_section(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn each_can_be_made_and_knows_the_options() {
        for what in Generate::value_variants() {
            let text = text(*what).unwrap();
            assert!(text.replace('\\', "").contains("reorder") && text.contains("pcap"), "{what:?}: {text}");
        }
    }
}
