//! The command line of the probe server; man page and completions are made from this definition.

use std::path::PathBuf;

use probe_server::config::{Config, ConfigError, LogFormat, LogLevel, Settings};

/// A STUN server with two addresses and two ports, for NAT behaviour diagnosis.
///
/// Answers Binding requests as RFC 8489, RFC 5780 and RFC 3489 say, from four endpoints in each address family.
/// When it is ready it prints a line "ready udp ADDRESS..." for each transport and family on standard output.
/// SIGHUP reads the configuration file again; SIGTERM and SIGINT end the server.
///
/// Exit codes: 0 asked to stop; 1 a socket or the self-check failed; 2 usage or configuration error.
#[derive(Clone, Debug, clap::Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub settings: Settings,
    /// TOML file with the same names as the flags; flags go before it
    #[arg(long, value_name = "FILE", help_heading = "Operation")]
    pub config: Option<PathBuf>,
    /// Serve 127.0.0.1 and 127.0.0.2, for tests and a first try
    #[arg(long, help_heading = "Addresses")]
    pub local: bool,
    /// Print a man page or a shell completion and end
    #[arg(long, value_name = "WHAT", hide = true)]
    pub generate: Option<Generate>,
}

/// What can be made from the definition of the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Generate {
    Man,
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

/// What the command line and the file say together.
pub(crate) struct Chosen {
    pub config: Config,
    pub log: LogLevel,
    pub log_format: LogFormat,
}

impl Args {
    /// Merges flags and file, and checks the whole.
    pub(crate) fn choose(&self) -> Result<Chosen, ConfigError> {
        let file = match &self.config {
            Some(path) => Settings::read(path)?,
            None => Settings::default(),
        };
        let settings = self.settings.clone().or(file);
        let config = settings.check(self.local)?;
        Ok(Chosen {
            config,
            log: settings.log.unwrap_or_default(),
            log_format: settings.log_format.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    /// Every flag that can be set in the file has the same name there.
    #[test]
    fn flags_and_keys_have_the_same_names() {
        for argument in Args::command().get_arguments() {
            let Some(name) = argument.get_long() else { continue };
            if ["config", "local", "generate", "help", "version"].contains(&name) {
                continue;
            }
            let error = Settings::read_text(&format!("{name} = {{ no = \"such value\" }}")).unwrap_err();
            assert!(!error.contains("unknown field"), "{error}");
        }
    }
}
