//! What the program is packaged with, made from its own definitions: manual pages, completions, JSON Schemas.

use std::io;

use crate::prospects;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use nat_check::args::{Args, CHECK, Generate, MAP, PUNCH, ROOM, Reference};
use nat_check_core::schema;
use roff::{Roff, bold, roman};

/// The text of one of them.
///
/// # Errors
/// When a manual page cannot be written, which memory always can.
pub(crate) fn text(what: Generate) -> io::Result<String> {
    match what {
        Generate::Man => {
            let others = ["nat-check-punch(1)", "nat-check-map(1)", "nat-check-room(1)", "probe-server(1)"];
            page(Args::command(), &CHECK, &others)
        }
        Generate::PunchMan => {
            let command = subcommand("punch", "nat-check-punch", "nat-check punch");
            page(command, &PUNCH, &["nat-check(1)", "probe-server(1)"])
        }
        Generate::MapMan => {
            let command = subcommand("map", "nat-check-map", "nat-check map");
            page(command, &MAP, &["nat-check(1)", "probe-server(1)"])
        }
        Generate::RoomMan => {
            let command = subcommand("room", "nat-check-room", "nat-check room");
            page(command, &ROOM, &["nat-check(1)", "nat-check-punch(1)", "probe-server(1)"])
        }
        Generate::Schema => Ok(format!("{:#}\n", schema::report())),
        Generate::PunchSchema => Ok(format!("{:#}\n", schema::punch())),
        Generate::RoomSchema => Ok(format!("{:#}\n", schema::room())),
        Generate::Prospects => Ok(format!("{}\n", prospects::table())),
        Generate::BrowserPairs => Ok(format!("{}\n", prospects::browser_pairs())),
        Generate::Bash => Ok(completions(Shell::Bash)),
        Generate::Elvish => Ok(completions(Shell::Elvish)),
        Generate::Fish => Ok(completions(Shell::Fish)),
        Generate::Powershell => Ok(completions(Shell::PowerShell)),
        Generate::Zsh => Ok(completions(Shell::Zsh)),
    }
}

/// A subcommand under the name that its page has.
fn subcommand(name: &str, page: &'static str, program: &'static str) -> Command {
    let mut whole = Args::command();
    whole.build();
    let found = whole.find_subcommand(name).cloned().unwrap_or_default();
    found.name(page).bin_name(program).version(env!("CARGO_PKG_VERSION"))
}

fn page(command: Command, reference: &Reference, see_also: &[&str]) -> io::Result<String> {
    let subcommands = command.has_subcommands();
    let man = Man::new(command);
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if subcommands {
        man.render_subcommands_section(&mut out)?;
    }
    let mut rest = Roff::new();
    entries(&mut rest, "EXIT STATUS", reference.exit_status);
    entries(&mut rest, "ENVIRONMENT", reference.environment);
    entries(&mut rest, "EXAMPLES", reference.examples);
    rest.control("SH", ["SEE ALSO"]).text([roman(see_also.join(", "))]);
    rest.to_writer(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn entries(roff: &mut Roff, heading: &str, entries: &[(&str, &str)]) {
    roff.control("SH", [heading]);
    for (name, text) in entries {
        roff.control("TP", []).text([bold(*name)]).text([roman(*text)]);
    }
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
            let data = matches!(
                what,
                Generate::Schema
                    | Generate::PunchSchema
                    | Generate::RoomSchema
                    | Generate::Prospects
                    | Generate::BrowserPairs
            );
            assert!(data || text.contains("server"), "{what:?}: {text}");
            assert!(text.ends_with('\n'), "{what:?}");
        }
    }

    #[test]
    fn the_page_of_punch_is_its_own() {
        let page = text(Generate::PunchMan).unwrap();
        assert!(page.contains(".TH nat-check-punch 1"), "{page}");
        assert!(page.contains("\\-\\-code") && !page.contains("lifetime"), "{page}");
    }

    #[test]
    fn all_pages_are_complete() {
        for what in [Generate::Man, Generate::PunchMan, Generate::MapMan, Generate::RoomMan] {
            let page = text(what).unwrap();
            let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
            let wanted =
                ["NAME", "SYNOPSIS", "DESCRIPTION", "SERVERS", "EXIT STATUS", "ENVIRONMENT", "EXAMPLES"];
            for section in wanted {
                assert!(sections.iter().any(|s| s.trim_matches('"') == section), "{section}: {sections:?}");
            }
        }
    }
}
